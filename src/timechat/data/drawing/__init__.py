"""A world to learn from: short films whose every moment is known, and what can be asked about them."""
