"""Several runs compared, and the demo."""
