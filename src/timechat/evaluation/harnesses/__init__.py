"""TimeChat in other evaluation harnesses: one adapter per harness, and `asking`, the model that they share."""
