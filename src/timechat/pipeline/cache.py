"""Encoded windows and answers kept on disk for later calls.

Every entry is found under the hash of everything that it depends on, which includes the content of the video. So a job
that was interrupted needs no record of its progress: the same command reuses the windows that are done.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as numpy_files

from timechat.answers.merging import WindowAnswer
from timechat.answers.windows import Window
from timechat.backbones.backbone import Backbone, EncodedVideo, Facts
from timechat.files.cache import DiskCache, cache_key, file_digest
from timechat.pipeline.request import Request
from timechat.pipeline.session import Video
from timechat.video import Frames, FrameSampling

if TYPE_CHECKING:
    from torch import Tensor

_CHECKSUM = "sha256"
_OF_WINDOW = ("timestamps", "facts")  # entries of a saved window beside the content of the backbone


class TokenCache:
    """Tensors and texts in a `DiskCache`, each as a safetensors file with a checksum; texts need no torch.

    Attributes:
        disk: Cache on disk that holds the files.
    """

    def __init__(self, disk: DiskCache) -> None:
        self.disk = disk

    def load(self, key: str) -> "dict[str, Tensor] | None":
        """Return the tensors of a key, on the CPU, as they were saved; None if they are missing or damaged."""
        content = self._read(key)
        if content is None:
            return None
        from safetensors.torch import load

        from timechat.model.fingerprint import tensors_fingerprint

        try:
            tensors: dict[str, Tensor] = load(content)
            if _checksum(content) == tensors_fingerprint(tensors):
                return tensors
        except (SafetensorError, ValueError):
            pass
        self.disk.discard(key)
        return None

    def save(self, key: str, tensors: "Mapping[str, Tensor]") -> None:
        """Save tensors from any device in their own number formats."""
        if not self.disk.is_on:
            return
        import torch
        from safetensors.torch import save

        from timechat.model.fingerprint import tensors_fingerprint

        # Copies, since safetensors takes no two views of one memory.
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        content = save(copies, metadata={_CHECKSUM: tensors_fingerprint(copies)})
        self.disk.put(key, lambda unfinished: unfinished.write_bytes(content))

    def load_text(self, key: str, name: str) -> str | None:
        """Return the text that was saved under a name; None if it is missing or damaged."""
        content = self._read(key)
        if content is None:
            return None
        try:
            data: bytes = numpy_files.load(content)[name].tobytes()
            if _checksum(content) == _text_fingerprint(name, data):
                return data.decode()
        except (SafetensorError, ValueError, KeyError):
            pass
        self.disk.discard(key)
        return None

    def save_text(self, key: str, name: str, text: str) -> None:
        """Save a text under a name, as the tensor of its bytes."""
        if not self.disk.is_on:
            return
        data = text.encode()
        metadata = {_CHECKSUM: _text_fingerprint(name, data)}
        content = numpy_files.save({name: np.frombuffer(data, np.uint8)}, metadata=metadata)
        self.disk.put(key, lambda unfinished: unfinished.write_bytes(content))

    def _read(self, key: str) -> bytes | None:
        path = self.disk.get(key)
        if path is None:
            return None
        try:
            return path.read_bytes()  # no memory mapping: it can fail on a network disk
        except OSError:  # another process has removed the file
            return None


def _text_fingerprint(name: str, data: bytes) -> str:
    """Return the `tensors_fingerprint` of one tensor with these bytes."""
    return hashlib.sha256(f"{name} torch.uint8 ({len(data)},)".encode() + data).hexdigest()


def _checksum(content: bytes) -> str | None:
    """Return the checksum in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {}).get(_CHECKSUM)  # type: ignore[no-any-return]


class WindowCache:
    """The encoded windows and the answers of one video and one model, in a cache on disk.

    Attributes:
        disk: Cache on disk.
        digest: Hash of the video's content.
    """

    def __init__(self, disk: DiskCache, digest: str, backbone: Backbone) -> None:
        """Make the cache of a video.

        Args:
            disk: Cache on disk.
            digest: Hash of the video's content.
            backbone: Model that encodes the video and answers.
        """
        self.disk, self.digest = disk, digest
        self._tokens = TokenCache(disk)
        self._backbone = backbone

    @classmethod
    def open(cls, disk: DiskCache, video: Video, backbone: Backbone) -> "WindowCache | None":
        """Return the cache of a video; None for a video without a known content: an address, or ready-made frames."""
        digest = None if isinstance(video, Frames) else file_digest(video, disk)
        return None if digest is None else cls(disk, digest, backbone)

    def load(self, window: Window | None, sampling: FrameSampling) -> EncodedVideo | None:
        """Return a window that was encoded earlier, without the names of video and model; None if it is not there.

        Args:
            window: Window of the video; None for a whole video.
            sampling: Frame options of the window.
        """
        found = self._tokens.load(self._key("video", window, sampling))
        if found is None:
            return None
        saved = json.loads(bytes(found["facts"].tolist()))
        return EncodedVideo(
            self._backbone.unpack({name: tensor for name, tensor in found.items() if name not in _OF_WINDOW}),
            found["timestamps"].numpy(),
            saved["duration"],
            notes=tuple(saved["notes"]),
            player_offset=saved.get("player_offset", 0.0),
            window=window,
        )

    def save(self, window: Window | None, sampling: FrameSampling, encoded: EncodedVideo) -> None:
        """Save an encoded window, unless the backbone finds that it is not worth the space."""
        content = self._backbone.pack(encoded.content)
        if content is None:
            return
        import torch

        facts_of_video = {"duration": encoded.duration, "notes": list(encoded.notes)}
        saved = json.dumps(facts_of_video | {"player_offset": encoded.player_offset}).encode()
        tensors = {
            **content,
            "timestamps": torch.from_numpy(encoded.timestamps.copy()),
            "facts": torch.from_numpy(np.frombuffer(saved, np.uint8).copy()),
        }
        self._tokens.save(self._key("video", window, sampling), tensors)

    def load_frames(self, window: Window | None, sampling: FrameSampling) -> "dict[str, Tensor] | None":
        """Return what was saved of the frames of a window, on the CPU; None if it is not there."""
        return self._tokens.load(self._key("frames", window, sampling))

    def save_frames(self, window: Window | None, sampling: FrameSampling, tensors: "Mapping[str, Tensor]") -> None:
        """Save what a backbone computes of the frames of a window before it joins them."""
        self._tokens.save(self._key("frames", window, sampling), tensors)

    def load_answer(self, request: Request, window: Window, sampling: FrameSampling) -> WindowAnswer | None:
        """Return the answer to a request about a window with these frames; None if it is not there."""
        found = self._tokens.load_text(self._answer_key(request, window, sampling), "answer")
        return None if found is None else WindowAnswer.from_dict(window, json.loads(found))

    def save_answer(self, request: Request, sampling: FrameSampling, answer: WindowAnswer) -> None:
        """Save the answer to a request about a window with these frames.

        An empty answer is not saved: a server that gives one often gives a text to the next request.
        """
        if not answer.text.strip():
            return
        key = self._answer_key(request, answer.window, sampling)
        self._tokens.save_text(key, "answer", json.dumps(answer.to_dict()))

    def _key(self, kind: Facts, window: Window | None, sampling: FrameSampling) -> str:
        return cache_key(**self._frame_facts(window, sampling), **self._backbone.facts(kind))

    def _frame_facts(self, window: Window | None, sampling: FrameSampling) -> dict[str, Any]:
        """Return the video, the window and all frame options."""
        return {
            "video": self.digest,
            "window": None if window is None else asdict(window),
            "sampling": asdict(sampling),
        }

    def _answer_key(self, request: Request, window: Window, sampling: FrameSampling) -> str:
        facts = self._frame_facts(window, sampling)
        return cache_key(
            kind="answer", request=request.cache_facts(window), model=self._backbone.facts("answer"), **facts
        )


class WindowFrameCache:
    """The frame tokens of one window in the cache of its video; a `FrameCache`."""

    def __init__(self, cache: WindowCache, window: Window, sampling: FrameSampling) -> None:
        """Name the window.

        Args:
            cache: Cache of the video.
            window: Window of the video.
            sampling: Frame options of the window.
        """
        self._cache, self._window, self._sampling = cache, window, sampling

    def load(self) -> "Mapping[str, Tensor] | None":
        """Return the tensors, on the CPU; None if they are not there."""
        return self._cache.load_frames(self._window, self._sampling)

    def save(self, tensors: "Mapping[str, Tensor]") -> None:
        """Save the tensors."""
        self._cache.save_frames(self._window, self._sampling, tensors)
