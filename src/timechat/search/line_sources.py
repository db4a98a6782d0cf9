"""What a video says and shows in words, as lines with times: the readers that an index uses beside the frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from timechat.answers.events import Event
from timechat.search.records import Kind
from timechat.search.video_vectors import VideoVectors
from timechat.speech.subtitles import SUBTITLE_SUFFIXES
from timechat.video import probe_video

_SPEECH_VERSION = 1  # increased when the same video gives other lines


class LineSource(Protocol):
    """A reader of one kind of lines.

    Attributes:
        kind: Kind of the lines.
    """

    kind: Kind

    def choose(self, paths: Sequence[str]) -> str:
        """Return the path to read among all paths of a video, at least one."""

    def facts(self, path: str) -> dict[str, Any]:
        """Return everything that the lines depend on beside the content of the video, ready for JSON."""

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        """Return whether lines with these facts need not be read again."""

    def read(self, path: str, frames: VideoVectors, check: Callable[[], object]) -> tuple[list[Event], tuple[str, ...]]:
        """Read the lines of a video.

        Args:
            path: Path of the video.
            frames: Its frames, whose cuts tell where on-screen text may change.
            check: Function called repeatedly; an exception it raises ends the work.

        Returns:
            Lines on the clock of the video, sorted by time, and notes.

        Raises:
            VideoError: The video cannot be read.
        """


class SpeechLines:
    """Source of the lines of speech: subtitles, or if there are none, speech recognition if a model is given.

    Recognized lines stay in the library if a later scan gives no model.
    """

    kind: Kind = "speech"

    def __init__(
        self,
        model: str | None = None,
        *,
        language: str | None = None,
        device: str = "auto",
        may_read: Callable[[Path], bool] | None = None,
    ) -> None:
        """Make a source.

        Args:
            model: Folder or name of a Whisper model for faster-whisper; None reads subtitles only.
            language: Language of the speech and of the preferred subtitles.
            device: Device of the recognizer.
            may_read: Function that tells whether a file beside a video may be read; None allows all.

        Raises:
            ModuleNotFoundError: faster-whisper is missing.
            CheckpointError: The folder is not a model that faster-whisper can load.
        """
        self._language, self._may_read = language, may_read
        self._model = model
        self._recognizer = None
        if model is not None:
            from timechat.speech.recognition import SpeechRecognizer

            self._recognizer = SpeechRecognizer(model, language=language, device=device)
        self._subtitle_files: dict[Path, list[str]] = {}

    def choose(self, paths: Sequence[str]) -> str:
        """Return the first path with subtitles beside it; a copy without them does not replace its lines."""
        return next((path for path in paths if self._beside(Path(path))), paths[0])

    def facts(self, path: str) -> dict[str, Any]:
        """Return the subtitle files beside the video, with size and time, and the recognizer."""
        return {
            "version": _SPEECH_VERSION,
            "subtitles": [_size_and_time(file) for file in self._beside(Path(path))],
            "model": self._model,
            "language": self._language,
        }

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        """Return whether nothing has changed, or only that no recognizer is given this time."""
        now = self.facts(path)
        if any(facts.get(name) != now[name] for name in ("version", "subtitles")):
            return False
        if self._model is None and facts.get("model") is not None:
            return True
        is_same_language = self._language in (None, facts.get("language"))
        return is_same_language and self._model in (None, facts.get("model"))

    def read(self, path: str, frames: VideoVectors, check: Callable[[], object]) -> tuple[list[Event], tuple[str, ...]]:
        """Read the subtitles, or recognize the speech."""
        from timechat.speech.subtitles import find_subtitles

        info = replace(probe_video(path), duration=frames.duration)
        transcript = find_subtitles(path, info, language=self._language, may_read=self._may_read, check_caller=check)
        if (transcript is None or not transcript.lines) and self._recognizer is not None and info.has_audio:

            def report(*_: object) -> None:
                check()

            transcript = self._recognizer.transcribe(path, progress=report)
        if transcript is None:
            return [], ()
        notes = tuple(note for note in transcript.notes if not note.startswith("speech: "))
        return list(transcript.lines), notes

    def _beside(self, video: Path) -> list[Path]:
        """Return the subtitle files of a video; each folder is listed once."""
        if video.parent not in self._subtitle_files:
            try:
                with os.scandir(video.parent) as entries:
                    names = sorted(one.name for one in entries if one.name.lower().endswith(SUBTITLE_SUFFIXES))
            except OSError:
                names = []
            self._subtitle_files[video.parent] = names
        return [video.parent / name for name in self._subtitle_files[video.parent] if name.startswith(f"{video.stem}.")]


def _size_and_time(file: Path) -> list[Any]:
    try:
        status = file.stat()
    except OSError:
        return [file.name, 0, 0]
    return [file.name, status.st_size, status.st_mtime_ns]


def default_sources() -> tuple[LineSource, ...]:
    """Return the readers that need no extra: subtitles."""
    return (SpeechLines(),)
