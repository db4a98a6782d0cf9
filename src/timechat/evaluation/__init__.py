"""Evaluation: ask a model about a set of videos and score its answers, beside baselines without a model."""
