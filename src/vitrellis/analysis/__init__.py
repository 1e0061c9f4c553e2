"""Figures of trained models: accuracy, cost, attention, rank."""
