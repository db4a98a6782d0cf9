"""What has been made of a video's windows, kept on disk for every later call: tokens and answers.

Everything is found under the hash of all that it depends on, the video's own content among it. So nothing has to be
told when a job was interrupted: the same command takes up the windows that are done.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timechat.answers.windows import Window
from timechat.cache import DiskCache, cache_key, file_digest
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.token_cache import TokenCache, TokenKind, model_fingerprint
from timechat.pipeline.encoded import EncodedVideo, Video
from timechat.video import Frames

_ANSWERS = 1  # raised when the same question is to be answered anew


class WindowCache:
    """The windows of one video as one model sees them, in a cache on disk.

    Without a cache, and for a video whose content cannot be told (an address, ready-made frames), it keeps nothing.
    """

    def __init__(
        self, disk: DiskCache, video: Video, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor
    ) -> None:
        self._tokens = TokenCache(disk)
        self._model, self._processor = model, processor
        self._video = file_digest(video, disk) if disk.is_on and not isinstance(video, Frames) else None

    @property
    def is_on(self) -> bool:
        """Whether it keeps anything."""
        return self._video is not None

    def load(self, window: Window | None, frames: Mapping[str, Any]) -> EncodedVideo | None:
        """Return a window that was encoded before, without the names of video and model; None for any other.

        Args:
            window: None for a video that is looked at as one.
            frames: Arguments of `load_frames`.
        """
        found = self._load("video", window, frames)
        if found is None:
            return None
        facts = json.loads(bytes(found["facts"].tolist()))
        return EncodedVideo(
            found["tokens"].to(self._model.device),
            found["timestamps"].numpy(),
            facts["duration"],
            notes=tuple(facts["notes"]),
            window=window,
        )

    def save(self, window: Window | None, frames: Mapping[str, Any], encoded: EncodedVideo) -> None:
        """Keep an encoded window."""
        facts = json.dumps({"duration": encoded.duration, "notes": list(encoded.notes)}).encode()
        tensors = {
            "tokens": encoded.video_tokens,
            "timestamps": torch.from_numpy(encoded.timestamps.copy()),
            "facts": torch.from_numpy(np.frombuffer(facts, np.uint8).copy()),
        }
        self._save("video", window, frames, tensors)

    def load_frame_tokens(self, window: Window | None, frames: Mapping[str, Any]) -> Tensor | None:
        """Return the frame tokens of a window, `(1, frames, tokens, hidden)`, if they were made before."""
        found = self._load("frames", window, frames)
        return None if found is None else found["tokens"].to(self._model.device)

    def save_frame_tokens(self, window: Window | None, frames: Mapping[str, Any], tokens: Tensor) -> None:
        """Keep frame tokens."""
        self._save("frames", window, frames, {"tokens": tokens})

    def load_answer(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what was answered before to what these facts ask."""
        found = self._tokens.load(self._answer_key(facts)) if self._video else None
        return None if found is None else json.loads(bytes(found["answer"].tolist()))

    def save_answer(self, facts: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer, ready for JSON."""
        if self._video:
            content = np.frombuffer(json.dumps(answer).encode(), np.uint8).copy()
            self._tokens.save(self._answer_key(facts), {"answer": torch.from_numpy(content)})

    def _load(self, kind: TokenKind, window: Window | None, frames: Mapping[str, Any]) -> dict[str, Tensor] | None:
        return self._tokens.load(self._key(kind, window, frames)) if self._video else None

    def _save(
        self, kind: TokenKind, window: Window | None, frames: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        if self._video:
            self._tokens.save(self._key(kind, window, frames), tensors)

    def _key(self, kind: TokenKind, window: Window | None, frames: Mapping[str, Any]) -> str:
        clock = None if window is None else [window.start, window.end, window.time_scale]
        facts = model_fingerprint(self._model, self._processor, kind)
        return cache_key(video=self._video, clock=clock, frames=dict(frames), **facts)

    def _answer_key(self, facts: Mapping[str, Any]) -> str:
        return cache_key(kind="answer", version=_ANSWERS, video=self._video, **facts)
