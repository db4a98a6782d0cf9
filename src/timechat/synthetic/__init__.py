"""Synthetic videos: their benchmark, and the validation of a model that is trained."""
