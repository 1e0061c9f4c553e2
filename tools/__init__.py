"""Scripts that make files of the repository; each is run by hand."""
