"""Synthetic videos with known events, and questions about them with answers."""
