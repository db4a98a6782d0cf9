"""Instruction records from annotations and synthetic videos, and training batches from records."""
