"""How good a model is: ranking tasks, metrics, and their report."""
