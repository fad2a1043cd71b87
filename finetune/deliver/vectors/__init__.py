"""Vectors of images, kept in a database and searched."""
