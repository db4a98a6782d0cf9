"""Times in options: seconds, `m:ss` or `h:mm:ss`."""

import math
import re
from collections.abc import Callable

_CLOCK = re.compile(r"(?:(\d+):([0-5]?\d)|(\d+)):([0-5]?\d(?:\.\d*)?)")


def parse_time(text: str | float) -> float:
    """Return seconds, from a number or from `m:ss` or `h:mm:ss`, both with any decimals.

    Raises:
        ValueError: The text is not a time.
    """
    if found := _CLOCK.fullmatch(str(text).strip()):
        hours, minutes = int(found[1] or 0), int(found[2] or found[3])
        return 3600.0 * hours + 60.0 * minutes + float(found[4])
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError("must be a time in seconds, m:ss or h:mm:ss")
    return seconds


def time_from(minimum: float) -> Callable[[str | float], float]:
    """Return a parser of times that are at least `minimum` seconds."""

    def parse(text: str | float) -> float:
        seconds = parse_time(text)
        if seconds < minimum:
            raise ValueError(f"must be a time of at least {minimum:g} s")
        return seconds

    return parse
