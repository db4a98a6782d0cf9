"""The TimeChat model as `transformers` classes, and the way from the original checkpoints to it."""
