"""Metrics of predictions against the ground truth, one file per task. They use only numbers: no model and no torch."""
