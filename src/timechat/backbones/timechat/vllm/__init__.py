"""Answers of TimeChat's own model, written by vLLM; only `engine`, `processor` and `processor_v2` import vLLM."""
