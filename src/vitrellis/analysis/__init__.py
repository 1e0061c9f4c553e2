"""What a trained model does: metrics and inference."""
