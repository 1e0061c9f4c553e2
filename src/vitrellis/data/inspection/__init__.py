"""What is wrong with a set of images, and what is in it, found before training begins."""
