"""Annotations and drawn films → instruction records → batches."""
