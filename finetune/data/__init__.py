"""Images in: scan a folder to a table, decode, split, audit, augment, load."""
