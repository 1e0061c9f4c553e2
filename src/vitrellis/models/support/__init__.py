"""What all models share: making them, their heads, feature taps and weights."""
