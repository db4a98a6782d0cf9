"""Number of threads with which a model computes."""

from timechat.pipeline.timechat import TimeChat


def choose_threads(timechat: TimeChat) -> None:
    """Use one thread for a model that is too small for several."""
    from timechat.backbones.timechat.backbone import TimeChatBackbone

    if not isinstance(timechat.backbone, TimeChatBackbone):
        return
    import torch

    from timechat.backbones.timechat.threads import needs_one_thread

    if needs_one_thread(timechat.model):
        torch.set_num_threads(1)
