"""What has been made of a video's windows, kept on disk for every later call: tokens and answers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timechat.pipeline.encoded import EncodedVideo
from timechat.windows import Window


class WindowStore:
    """Keeps nothing yet."""

    def load(
        self, window: Window, arguments: Mapping[str, Any], device: torch.device
    ) -> tuple[Tensor, NDArray[np.float64], tuple[str, ...]] | None:
        return None

    def save(self, window: Window, arguments: Mapping[str, Any], encoded: EncodedVideo) -> None:
        pass
