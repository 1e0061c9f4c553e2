"""The parts that all models share: their factory, heads, feature taps, weights and contract."""
