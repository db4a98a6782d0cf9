"""Pictures between texts that end with their times, as clients of other video language models send frames."""

import re
from collections.abc import Mapping
from typing import Any

from timechat.serving.errors import RequestError

_TAIL = 80  # characters of a text that can contain a time
_NUMBER = r"\d{1,8}(?:\.\d{1,9})?"
_CLOCK = r"(?:\d{1,4}:)?\d{1,6}:\d{2}(?:\.\d{1,9})?"
_TIME = re.compile(
    rf"(?:<\s*(?P<tag>{_NUMBER})\s*(?:seconds?|s)?\s*>"
    rf"|(?:\b(?:frame\s+(?:from|at)|frame|time)\s+)?(?<![\w.:])(?:(?P<clock>{_CLOCK})|(?P<unit>{_NUMBER})\s*(?:seconds?|s))\s*:?"
    rf"|\A\s*(?P<bare>{_NUMBER})\s*:?)\s*\Z",
    re.IGNORECASE,
)


def split_time(text: str) -> tuple[str, float] | None:
    """Return a text without the time at its end, and the time in seconds; None if it ends with no time.

    Times are `<12.3 seconds>`, `12.3s:`, `12.3 seconds`, `Frame from 00:12.3:`, `00:12.3` and `1:02:03.4`, and `12.3`
    alone.
    """
    head, tail = text[:-_TAIL], text[-_TAIL:]
    found = _TIME.search(tail)
    if found is None or (found["bare"] and head):
        return None
    value = found["tag"] or found["clock"] or found["unit"] or found["bare"]
    seconds = 0.0
    for part in value.split(":"):
        seconds = 60 * seconds + float(part)
    return head + tail[: found.start()], seconds


class TimedImages:
    """The pictures of a message with their times.

    Attributes:
        frames: `url` and `time` of each picture.
    """

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    @property
    def duration(self) -> float | None:
        """Duration in seconds of a video with one picture; None takes the average interval of several."""
        return self.frames[0]["time"] + 1.0 if len(self.frames) == 1 else None

    def add(self, part: Mapping[str, Any], text: str | None, where: str) -> str:
        """Add a picture.

        Args:
            part: Part of a message with the picture.
            text: Text part directly before it; None if there is none.
            where: Location of the picture in the request.

        Returns:
            The text without the time.

        Raises:
            RequestError: The part has no address, the text does not end with a time, or the times fall.
        """
        inside = part.get("image_url")
        url = inside.get("url") if isinstance(inside, Mapping) else inside
        if not isinstance(url, str):
            raise RequestError(400, 'a picture needs {"image_url": {"url": "data:image/jpeg;base64,…"}}', where)
        split = None if text is None else split_time(text)
        if split is None:
            raise RequestError(
                400,
                "a picture is a frame of the video here and needs its time: end the text part before it with the time, "
                "such as <12.3 seconds>",
                where,
            )
        rest, seconds = split
        if self.frames and seconds < self.frames[-1]["time"]:
            last = self.frames[-1]["time"]
            raise RequestError(400, f"the times of pictures must rise, got {last:g} s and then {seconds:g} s", where)
        self.frames.append({"url": url, "time": seconds})
        return rest
