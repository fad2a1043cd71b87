"""The story: one recipe from start to finish. Begin with `run.py`."""
