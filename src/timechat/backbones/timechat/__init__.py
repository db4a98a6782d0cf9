"""TimeChat's own model as a backbone."""
