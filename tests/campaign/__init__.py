"""Faults by the thousand: `make campaign`. See `tests/campaign/__main__.py`."""
