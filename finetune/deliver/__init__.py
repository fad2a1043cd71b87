"""Using what was learned: predictions on files."""
