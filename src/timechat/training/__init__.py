"""Training: recipes, the training loop, checkpoints and exports."""
