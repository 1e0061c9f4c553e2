"""Datasets packed into one file, or a few, that are read as fast as the disk allows."""
