"""Training of the built-in nano model: first single frames, then label scripts, then videos."""
