"""The TimeChat model as `transformers` classes, and the conversion of the original checkpoints."""

from pathlib import Path

NANO = "nano"
"""Name of the built-in model."""

NANO_FOLDER = Path(__file__).parent / "weights" / NANO
"""Folder of the built-in model."""
