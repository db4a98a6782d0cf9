"""Change valid media files, answers and request bodies at random, and report crashes, hangs and internal errors.

    python perf/fuzz.py media --count 10000
    python perf/fuzz.py answers --count 10000
    python perf/fuzz.py requests --count 3000

Each case depends on `--seed` and its number only; `--first` starts at a number, to repeat a case. A case fails if it
ends the process, takes longer than `--seconds`, raises an error that is not for users, gives an impossible result, or
is answered with 500. The last line is JSON; the exit status is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

_PART = 200  # cases of one process
_Case = Callable[[random.Random], str]
"""A case: returns a word for the statistics, or raises."""


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def changed_bytes(content: bytes, rnd: random.Random) -> bytes:
    """Return a file with one to eight changes: bytes, numbers, parts cut out, repeated, moved or set to zero."""
    data = bytearray(content)
    for _ in range(rnd.choice((1, 1, 2, 4, 8))):
        if len(data) < 16:
            break
        start = (
            min(rnd.randrange(len(data)), rnd.randrange(len(data))) if rnd.random() < 0.5 else rnd.randrange(len(data))
        )
        length = min(len(data) - start, rnd.choice((1, 2, 4, 16, 100, 1000)))
        kind = rnd.randrange(7)
        if kind == 0:
            data[start : start + length] = rnd.randbytes(length)
        elif kind == 1:
            data[start] ^= 1 << rnd.randrange(8)
        elif kind == 2:
            data[start : start + 4] = rnd.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = data[start : start + length] * rnd.choice((1, 2, 50))
        elif kind == 5:
            del data[start:]
        else:
            data[start : start + length] = bytes(length)
    return bytes(data)


_TEXTS = [
    "",
    "\x00",
    "\ud800",
    "{",
    '"',
    "[",
    "<",
    "٣",
    "½",
    "9" * 50,
    "-",
    ",",
    "1e309",
    "NaN",
    "../",
    "file:///",
    "a" * 5000,
]
_VALUES: list[Any] = [None, True, -1, 0, 1e308, 10**40, 0.5, "x", "", [], {}, [[]], [None], {"a": 1}, "١", *_TEXTS]


def changed_text(text: str, others: list[str], rnd: random.Random) -> str:
    """Return an answer joined with another, or with signs inserted, repeated, turned or shuffled."""
    other = rnd.choice(others)
    i, j = rnd.randint(0, len(text)), rnd.randint(0, len(other))
    kind = rnd.randrange(5)
    if kind == 0:
        return text[:i] + other[j:]
    if kind == 1:
        return text[:i] + rnd.choice(_TEXTS) + text[i:]
    if kind == 2:
        return text * rnd.randint(1, 30)
    return text[i:] + text[:i] if kind == 3 else "".join(rnd.sample(text, len(text)))


def changed_value(value: Any, rnd: random.Random) -> Any:
    """Return JSON in which one part is replaced, removed, renamed, nested or repeated."""
    if isinstance(value, dict) and value and rnd.random() < 0.8:
        name = rnd.choice(list(value))
        kind = rnd.randrange(6)
        if kind == 0:
            return {key: each for key, each in value.items() if key != name}
        if kind == 1:
            return value | {rnd.choice((name + "x", *_TEXTS)): rnd.choice(_VALUES)}
        return value | {name: changed_value(value[name], rnd)}
    if isinstance(value, list) and value and rnd.random() < 0.8:
        i = rnd.randrange(len(value))
        return (
            value * rnd.choice((0, 2, 200))
            if rnd.random() < 0.2
            else [*value[:i], changed_value(value[i], rnd), *value[i + 1 :]]
        )
    if isinstance(value, str) and rnd.random() < 0.5:
        return changed_text(value, [value, "0 - 1 seconds, x."], rnd)
    if rnd.random() < 0.1:
        for _ in range(rnd.choice((5, 500))):
            value = [value] if rnd.random() < 0.5 else {"a": value}
        return value
    return rnd.choice(_VALUES)


# ── media ───────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def clips() -> list[bytes]:
    """Return small videos of usual containers and codecs, with and without audio."""
    kinds = [
        *(
            ("mp4", "libx264", "aac"),
            ("mp4", "mpeg4", None),
            ("mov", "mjpeg", "pcm_s16le"),
            ("matroska", "libx264", "libopus"),
        ),
        *(("webm", "libvpx", "libopus"), ("webm", "libvpx-vp9", None), ("avi", "mpeg4", "mp3"), ("avi", "mjpeg", None)),
        *(("mpegts", "libx264", "aac"), ("mpegts", "mpeg2video", "mp2"), ("flv", "flv", None), ("gif", "gif", None)),
        *(("h264", "libx264", None), ("ogg", "libtheora", None), ("matroska", "ffv1", None), ("asf", "wmv2", None)),
    ]
    found = [written_clip(*kind) for kind in kinds]
    return [clip for clip in found if clip is not None]


def written_clip(container_format: str, codec: str, audio_codec: str | None) -> bytes | None:
    """Return a video of 12 frames of 48x32 pixels; None if this FFmpeg cannot write it."""
    import io

    import av
    import numpy as np

    content = io.BytesIO()
    try:
        with av.open(content, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
            stream: Any = container.add_stream(codec, rate=12)
            stream.width, stream.height, stream.gop_size = 48, 32, 5
            stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
            sound: Any = container.add_stream(audio_codec, rate=48_000) if audio_codec else None
            for number in range(12):
                pixels = np.full((32, 48, 3), 20 * number, np.uint8)
                pixels[:, : 4 * number] = 200
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound is not None:
                samples = np.zeros((1, 48_000), np.int16)
                audio = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                audio.sample_rate = 48_000
                container.mux([*sound.encode(audio), *sound.encode()])
    except (av.error.FFmpegError, ValueError):
        return None
    return content.getvalue()


def media_case(rnd: random.Random) -> str:
    """Read a damaged video: properties, frames, audio."""
    from timechat.errors import VideoError
    from timechat.video import load_frames
    from timechat.video.audio import read_audio

    content = changed_bytes(rnd.choice(clips()), rnd)
    word = "read"
    try:
        frames = load_frames(content, num_frames=6, size=16, timeout=20, workers=1)
        times = frames.timestamps
        assert (times >= 0).all(), times
        assert (times[1:] >= times[:-1]).all(), times
        assert times[-1] <= frames.duration + 1e-6, (times, frames.duration)
        word = "read with notes" if frames.notes else "read"
        for segment in read_audio(content, timeout=20):
            assert segment.end - segment.start < 3600, segment
    except VideoError:
        word = "refused"
    return word


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def answers() -> list[str]:
    """Return the answers of the parser's tests."""
    cases = Path(__file__).parents[1] / "tests" / "answers" / "parsing_cases.json"
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str) and len(value) > 9:
            found.append(value)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(each)

    collect(json.loads(cases.read_text(encoding="utf-8")))
    return found


def answer_case(rnd: random.Random) -> str:
    """Parse a changed answer as the answer of every task, for videos of known and unknown length."""
    from timechat.answers.events import Task
    from timechat.answers.parsing import move_times
    from timechat.answers.tasks import parse_events

    text = changed_text(rnd.choice(answers()), answers(), rnd)
    num_events = 0
    for task in get_args(Task):
        for duration in (None, 0.0, 50.0):
            events = parse_events(text, task=task, duration=duration).events
            assert all(0 <= event.start <= event.end for event in events), text
            assert duration is None or all(event.end <= duration for event in events), text
            num_events += len(events)
    move_times(text, lambda time_s: time_s + 1)
    return "with events" if num_events else "without events"


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

_SPAN = {"start": 0.0, "end": 1.5, "caption": "a ball rolls", "score": 0.5}
_CHAT = {
    "max_tokens": 4,
    "temperature": 0,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}],
}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-c]{1,9}$"}}, "required": ["a"]}
_TRANSCRIPT = [{"start": 0.0, "end": 1.0, "caption": "hello"}]
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGOMqtBgwAaYsIoOWgkAyJ"
    "YBCqPbnWUAAAAASUVORK5CYII="
)


def bodies(video: str) -> list[tuple[str, dict[str, Any]]]:
    """Return valid request bodies with their routes."""
    part = {"type": "video_url", "video_url": {"url": video}}
    chat = _CHAT | {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}}
    answer = {"text": "x", "task": "dense_caption", "video": "a.mp4", "duration": 5.0, "events": [_SPAN, _SPAN]}
    few = {"video": video, "max_new_tokens": 4}
    return [
        ("/v1/captions", few | {"transcript": _TRANSCRIPT, "num_frames": 4, "start": 0.0, "end": 2.0}),
        ("/v1/moments", few | {"query": "a ball", "num_frames": 4, "top_k": 2}),
        ("/v1/highlights", few | {"query": "a ball", "fps": 1.0, "max_frames": 4}),
        (
            "/v1/captions",
            {"video": {"frames": [{"url": _PIXEL, "time": 0.0}, {"url": _PIXEL, "time": 1.0}]}, "max_new_tokens": 4},
        ),
        ("/v1/chat/completions", chat | {"stream": False, "seed": 3}),
        ("/v1/chat/completions", chat | {"response_format": form}),
        (
            "/v1/responses",
            {
                "input": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_video", "video_url": video},
                            {"type": "input_text", "text": "What?"},
                        ],
                    }
                ],
                "max_output_tokens": 4,
            },
        ),
        ("/v1/jobs", few | {"task": "dense_caption"}),
        *(
            ("/v1/export", {"answer": answer, "format": name})
            for name in ("srt", "csv", "otio", "edl", "html", "qvhighlights")
        ),
    ]


@functools.cache
def server() -> tuple[Any, str]:
    """Return a client of an application in this process, and the id of its video."""
    from fastapi.testclient import TestClient

    from timechat.pipeline import TimeChat
    from timechat.serving.http import ServerSettings, create_app

    folder = Path(tempfile.mkdtemp(prefix="timechat-fuzz-"))
    (folder / "films").mkdir()
    (folder / "films" / "film.mp4").write_bytes(clips()[0])
    settings = ServerSettings(data=folder / "data", folders=(folder / "films",), names=("*",), request_timeout=20)
    client = TestClient(create_app(TimeChat.from_pretrained(), settings), raise_server_exceptions=False)
    client.__enter__()
    return client, client.get("/v1/files").json()["data"][0]["id"]


def request_case(rnd: random.Random) -> str:
    """Send a changed body."""
    client, video = server()
    route, body = rnd.choice(bodies(video))
    for _ in range(rnd.choice((1, 1, 2, 5))):
        body = changed_value(body, rnd)
    try:
        content = json.dumps(body).encode()
    except RecursionError:
        content = b'{"a":' * 5000 + b"1" + b"}" * 5000
    if rnd.random() < 0.15:
        content = changed_bytes(content, rnd)
    answer = client.post(route, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500 or answer.status_code in (503, 504, 507), (answer.status_code, route, content[:500])
    answer.json() if "json" in answer.headers.get("content-type", "") else answer.content
    return str(answer.status_code)


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────

_CASES: dict[str, _Case] = {"media": media_case, "answers": answer_case, "requests": request_case}


def run_part(kind: str, seed: int, first: int, count: int, results: Any) -> None:
    """Run cases in this process and send the number of each before it, then its word and its seconds."""
    for number in range(first, first + count):
        results.send(("begin", number, 0.0))
        began = time.monotonic()
        try:
            word = _CASES[kind](random.Random(f"{seed} {number}"))
        except Exception as error:  # any error that is not for users is a failure
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            word = f"FAILED {type(error).__name__} in {place}: {str(error)[:600]}"
        results.send((word, number, time.monotonic() - began))
    results.close()


def fuzz(kind: str, *, seed: int, first: int, count: int, seconds: float) -> tuple[Counter[str], list[str], float]:
    """Run cases in child processes; a child that crashes or hangs is replaced.

    Returns:
        Number of cases by word, failures, and the longest time of a case in seconds.
    """
    words: Counter[str] = Counter()
    failures: list[str] = []
    longest, number, stop = 0.0, first, first + count
    context = multiprocessing.get_context("spawn")
    while number < stop:
        receiving, sending = context.Pipe(duplex=False)
        arguments = (kind, seed, number, min(stop - number, 5000 if kind == "requests" else _PART), sending)
        process = context.Process(target=run_part, args=arguments)
        process.start()
        sending.close()
        has_begun = False
        try:
            while True:
                if not receiving.poll(seconds if has_begun else seconds + 120):  # the first case loads the model
                    failures.append(f"case {number}: took longer than {seconds:g} s")
                    break
                word, number, spent = receiving.recv()
                if word == "begin":
                    continue
                has_begun = True
                longest, number = max(longest, spent), number + 1
                words[word.split(" ")[0] if word.startswith("FAILED") else word] += 1
                if word.startswith("FAILED"):
                    failures.append(f"case {number - 1}: {word}")
        except EOFError:
            process.join(10)
            if process.exitcode:
                failures.append(f"case {number}: the process ended with {process.exitcode}")
                number += 1
            continue
        process.kill()
        process.join()
        number += 1
    return words, failures, longest


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(_CASES))
    parser.add_argument("--count", type=int, default=1000, help="Number of cases.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--seconds", type=float, default=60.0, help="Maximum time of one case in seconds.")
    options = parser.parse_args()
    began = time.monotonic()
    words, failures, longest = fuzz(
        options.kind, seed=options.seed, first=options.first, count=options.count, seconds=options.seconds
    )
    for failure in failures[:50]:
        print(failure, file=sys.stderr)
    summary = {"kind": options.kind, "count": options.count, "seed": options.seed, "failed": len(failures)}
    print(
        json.dumps(
            summary | {"results": dict(words), "longest_s": round(longest, 2), "s": round(time.monotonic() - began)}
        )
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
