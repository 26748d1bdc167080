"""The trainer: what makes models."""
