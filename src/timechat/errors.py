"""The errors that a caller may want to catch; misuse raises Python's own."""


class TimeChatError(Exception):
    """Base of every error that TimeChat raises for the state of the world rather than for misuse."""


class VideoError(TimeChatError):
    """A video that cannot be read: missing, empty, damaged, without pictures, or too slow to decode."""


class CheckpointError(TimeChatError):
    """Weights that cannot be used: a file is missing, unreadable, or does not fit the model."""


class DownloadError(TimeChatError):
    """A file that could not be fetched whole."""
