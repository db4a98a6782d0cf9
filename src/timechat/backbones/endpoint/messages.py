"""Frames with their true times as the messages of a chat: a text part with the time before each picture.

Times are written here, from the timestamps of the frames, and never by the server: servers compute a time from the
index of a frame and an average rate.
"""

import base64
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from timechat.answers.prompts import Message, frame_message
from timechat.backbones.endpoint.pictures import EncodedPictures

DEFAULT_WORDING = "<{time:.1f} seconds>"
"""Time before a picture in the words of Qwen3-VL."""

Placement = Literal["before each", "in one sentence"]
"""Place of the times: a text before each picture, or one sentence behind all pictures.

Some servers move all pictures to the front, such as vLLM for models whose chat template takes no lists. There, only the
sentence keeps pictures and times together.
"""

_CONTROL_WORD = re.compile(
    r"<\|[^<>|]{1,40}\|?>|</?(?:s|image|video|img|start_of_turn|end_of_turn|start_of_image|end_of_image)>"
    r"|<(?:bos|eos|pad|image_soft_token|end_of_utterance)>|\[/?INST\]",
    re.IGNORECASE,
)

Part = dict[str, Any]


def frame_time(wording: str, seconds: float) -> str:
    """Write the time of a frame.

    Args:
        wording: Format of `str.format` with `{time}` in seconds, such as `{time:.1f}`, or with `{clock}`, `mm:ss.s`.
        seconds: Time of the frame.

    Raises:
        ValueError: The wording contains no time, or something else in braces.
    """
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(wording) if name is not None}
        if not names or not names <= {"time", "clock"}:
            raise ValueError
        minutes, tenths = divmod(round(float(f"{seconds:.1f}") * 10), 600)
        return wording.format(time=float(seconds), clock=f"{minutes:02d}:{tenths // 10:02d}.{tenths % 10}")
    except ValueError:
        raise ValueError(
            f"the wording of a time must contain {{time:.1f}} or {{clock}} and no other braces, got {wording!r}"
        ) from None


def chat_messages(
    pictures: EncodedPictures,
    question: str,
    *,
    system: str | None = None,
    history: Sequence[Message] = (),
    wording: str = DEFAULT_WORDING,
    placement: Placement = "before each",
) -> list[dict[str, Any]]:
    """Return the messages of a question about a window: pictures and times belong to the first turn of the user.

    Args:
        pictures: Pictures of the window with their times.
        question: Question of the last turn.
        system: Text of the system; None or a blank text sends none.
        history: Turns before the question, first the user's, then the assistant's, and so on.
        wording: Format of the time before each picture, see `frame_time`.
        placement: Place of the times.

    Raises:
        ValueError: The turns before the question do not alternate.
    """
    encoded = [_picture(jpeg) for jpeg in pictures.jpegs]
    if placement == "in one sentence":
        parts = [*encoded, _text(frame_message(pictures.times).rstrip())]
    else:
        texts = [_text(frame_time(wording, seconds)) for seconds in pictures.times]
        parts = [part for both in zip(texts, encoded, strict=True) for part in both]
    return _with_turns(parts, question, system, history)


def native_video_messages(
    pictures: EncodedPictures, question: str, *, system: str | None = None, history: Sequence[Message] = ()
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return messages with all frames as one video, and the `media_io_kwargs` that keep its times.

    Only for vLLM with `--trust-request-mm-kwargs`: another server drops frames, or invents their times, without an
    error. The times are indices of frames on a clock of milliseconds.

    Args:
        pictures: Pictures of the window with their times.
        question: Question of the last turn.
        system: Text of the system; None or a blank text sends none.
        history: Turns before the question, as in `chat_messages`.
    """
    encoded = ",".join(base64.b64encode(jpeg).decode() for jpeg in pictures.jpegs)
    indices = [round(seconds * 1000) for seconds in pictures.times]
    num_indices = max(round(pictures.duration * 1000), indices[-1] + 1)
    video = {
        "num_frames": -1,
        "fps": 1000,
        "frames_indices": indices,
        "total_num_frames": num_indices,
        "duration": num_indices / 1000,
        "do_sample_frames": False,
    }
    part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{encoded}"}}
    return _with_turns([part], question, system, history), {"video": video}


def plain_words(text: str) -> str:
    """Return a text in which no control word of a chat template is left: a space breaks each of them.

    Servers tokenize a prompt as one string, so such a word in a question would forge a turn or a picture.
    """
    return _CONTROL_WORD.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _with_turns(
    parts: Iterable[Part], question: str, system: str | None, history: Sequence[Message]
) -> list[dict[str, Any]]:
    turns = [replace(turn, text=plain_words(turn.text or "")) for turn in (*history, Message("user", question))]
    if [turn.role for turn in turns] != ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]:
        raise ValueError("the turns before a question must be of the user and the assistant by turns, the user first")
    messages: list[dict[str, Any]] = [{"role": turn.role, "content": turn.text or ""} for turn in turns]
    messages[0]["content"] = [*parts, _text(turns[0].text or "")]
    return ([{"role": "system", "content": system}] if system and system.strip() else []) + messages


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _picture(jpeg: bytes) -> Part:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}}
