"""Number of threads with which a network computes."""

from timechat.model.modeling import TimeChatForConditionalGeneration

_ONE_THREAD_PARAMETERS = 20_000_000  # with fewer parameters, several threads are slower than one


def needs_one_thread(model: TimeChatForConditionalGeneration) -> bool:
    """Return whether a model is too small for several threads."""
    return int(model.num_parameters()) < _ONE_THREAD_PARAMETERS
