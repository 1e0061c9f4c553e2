"""The command line: one small file for each command, which loads what it needs when it runs."""
