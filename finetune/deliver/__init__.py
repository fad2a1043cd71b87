"""Using what was learnt: predictions on files."""
