"""TimeChat in other people's evaluation harnesses: each file is one harness's way of asking, `asking` is the model."""
