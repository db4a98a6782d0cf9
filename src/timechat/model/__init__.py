"""The TimeChat model as `transformers` classes, and the conversion of the original checkpoints."""
