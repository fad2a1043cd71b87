"""Learning: optimizer and schedule, checkpoints, the trainer."""
