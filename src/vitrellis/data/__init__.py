"""Images: sources, splits, counted randomness, batched augmentation, loaders."""
