"""The run folder: every file name of a run, its typed record, its checkpoints, its history, the clock."""
