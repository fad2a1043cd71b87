"""Several processes on one run: who is which rank, what they tell each other, and how they are started."""
