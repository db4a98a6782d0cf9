"""The errors that a caller may want to catch; misuse raises Python's own."""


class TimeChatError(Exception):
    """Base of every error that TimeChat raises for the state of the world rather than for misuse."""


class VideoError(TimeChatError):
    """A video that cannot be read: missing, empty, damaged, without pictures, or too slow to decode."""


class CheckpointError(TimeChatError):
    """Weights that cannot be used: a file is missing, unreadable, or does not fit the model."""


class DownloadError(TimeChatError):
    """A file that could not be fetched whole."""


class TrainingError(TimeChatError):
    """A training run that cannot go on: its loss is no number, or what it left behind does not fit."""


class DataError(TimeChatError):
    """Training data that cannot be used: a malformed record, or too many videos that cannot be read."""
