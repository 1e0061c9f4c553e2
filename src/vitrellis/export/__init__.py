"""A trained model as one file for other programs, checked against the run that it came from."""
