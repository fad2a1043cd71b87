"""The file names of a model bundle; apart from `bundle.py`, so that naming them loads no torch."""

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "README.md"
IN_RUN = "model"
"""Where the bundle lies in a run folder."""
