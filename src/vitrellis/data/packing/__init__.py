"""Datasets packed into one file, or a few, from which images are read as fast as the disk allows."""
