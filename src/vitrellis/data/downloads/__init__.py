"""Published datasets fetched from where their authors, or torchvision's, serve them."""
