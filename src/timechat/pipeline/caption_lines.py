"""Captions of a video language model as lines of the index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from timechat.answers.events import Event
from timechat.files.cache import cache_key
from timechat.pipeline.request import Request
from timechat.search.records import Kind
from timechat.search.video_vectors import VideoVectors

if TYPE_CHECKING:
    from timechat.pipeline.timechat import TimeChat

VERSION = 2
"""Increased when the same model gives other lines for the same video."""


class CaptionLines:
    """Source of the dense captions of a model for the index.

    A video that is unlike the videos that the model was trained on gets no captions: they would be guesses.
    """

    kind: Kind = "caption"

    def __init__(self, timechat: TimeChat) -> None:
        """Make a source.

        Args:
            timechat: Model that writes the captions.
        """
        self._timechat = timechat

    def choose(self, paths: Sequence[str]) -> str:
        """Return the first path: all have the same frames."""
        return paths[0]

    def facts(self, path: str) -> dict[str, Any]:  # noqa: ARG002 - the interface of all sources
        """Return the name of the model and a hash of everything that its answers depend on."""
        return {"model": self._timechat.name, "weights": self._answers, "version": VERSION}

    @cached_property
    def _answers(self) -> str:
        return cache_key(**self._timechat.backbone.facts("answer"))

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        """Return whether the same model has written the captions."""
        return facts == self.facts(path)

    def read(
        self,
        path: str,
        frames: VideoVectors,  # noqa: ARG002 - the interface of all sources
        check: Callable[[], object],
    ) -> tuple[list[Event], tuple[str, ...]]:
        """Write dense captions of the whole video, window by window."""

        def report(*_: object) -> None:
            check()

        with self._timechat.open(path, keep_in_memory=False) as video:
            if self._timechat.answerer().is_outside_domain(video):
                return [], (f"no captions by {self._timechat.name}: the video is unlike its training videos",)
            answer = self._timechat.run(Request("dense_caption"), video, progress=report)
        lines = [Event(event.start, event.end, event.caption) for event in answer.events if event.caption.strip()]
        privacy_note = self._timechat.backbone.config.privacy_note
        notes = tuple(note for note in answer.notes if note != privacy_note)
        return sorted(lines, key=lambda line: (line.start, line.end)), notes
