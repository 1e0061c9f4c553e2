"""Readers of file formats, which execute nothing."""
