"""Number of threads with which a model computes."""

from timechat.pipeline.timechat import TimeChat

_ONE_THREAD_PARAMETERS = 20_000_000  # with fewer parameters, several threads are slower than one


def choose_threads(timechat: TimeChat) -> None:
    """Use one thread for a model that is too small for several."""
    from timechat.backbones.timechat.backbone import TimeChatBackbone

    if not isinstance(timechat.backbone, TimeChatBackbone):
        return
    import torch

    if timechat.model.num_parameters() < _ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
