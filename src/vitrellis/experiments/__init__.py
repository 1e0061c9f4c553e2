"""Comparisons of several runs, and the demo."""
