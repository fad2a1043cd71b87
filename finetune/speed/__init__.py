"""Work-arounds of PyTorch that make steps and inference faster on particular processors, behind one door: `api`."""
