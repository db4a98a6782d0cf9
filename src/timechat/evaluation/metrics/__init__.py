"""Scores of predictions against the truth, one file a task: numbers in, numbers out, no model and no torch."""
