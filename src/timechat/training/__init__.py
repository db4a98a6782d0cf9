"""Training: a recipe, a loop in plain sight, and what it leaves behind."""
