"""Synthetic videos with known events, questions about them with answers, their benchmark and validation."""
