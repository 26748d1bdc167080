"""Measuring a model on ranking tasks."""
