"""Out of the run folder: a trained network in the formats of other programs, each checked on real files."""
