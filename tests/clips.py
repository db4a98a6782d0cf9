"""Clock clips: synthetic videos whose frames show their own numbers, so that tests can check exact times."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet
from numpy.typing import NDArray

ROWS, COLUMNS = 3, 4  # one bit in each block: numbers up to 4095
WIDTH, HEIGHT = 160, 96

CONSTANT_25 = [Fraction(i, 25) for i in range(75)]
NTSC = [Fraction(i * 1001, 30000) for i in range(90)]
VARIABLE = [
    Fraction(ms, 1000)
    for ms in itertools.accumulate([0] + [(7 * i * i) % 90 + 10 for i in range(40)] + [900] + [5] * 20)
]


@dataclass(frozen=True)
class Clip:
    """A video file and its true times.

    Attributes:
        path: Path of the file.
        times: Time of each frame in seconds on the video's clock; None for a frame that is trimmed away.
        duration: Duration in seconds.
    """

    path: Path
    times: Sequence[Fraction | None]
    duration: Fraction

    @property
    def shown(self) -> list[tuple[Fraction, int]]:
        """`(time, number)` of all displayed frames in display order."""
        return sorted((time, number) for number, time in enumerate(self.times) if time is not None)

    def on_screen(self, time: float | Fraction) -> int:
        """Return the number of the frame on screen at a time, by a search through all frames."""
        return max((pair for pair in self.shown if pair[0] <= time), default=self.shown[0])[1]


def clock_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return a frame of black and white blocks that show `number` in binary, `(height, width, 3)`."""
    bits = (number >> np.arange(ROWS * COLUMNS) & 1).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = np.where(bits[rows][:, columns] == 1, 220, 30).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def read_numbers(pixels: NDArray[np.uint8]) -> list[int]:
    """Return the numbers that frames `(frames, height, width, 3)` of any size show."""
    height, width = pixels.shape[1:3]
    centre_rows = (2 * np.arange(ROWS) + 1) * height // (2 * ROWS)
    centre_columns = (2 * np.arange(COLUMNS) + 1) * width // (2 * COLUMNS)
    bits = pixels[:, centre_rows][:, :, centre_columns].mean(axis=-1) > 125
    return [int((b.ravel() << np.arange(ROWS * COLUMNS)).sum()) for b in bits]


@dataclass(frozen=True)
class Recipe:
    """Settings of a clip.

    Attributes:
        times: Time of each frame in seconds.
        trimmed: Seconds cut from the start by an edit list; earlier frames are in the file but not shown.
        offset: Container time of the first frame in seconds.
        rotation: Clockwise rotation of the stored frames by players in degrees.
    """

    suffix: str = ".mp4"
    times: Sequence[Fraction] = field(default_factory=lambda: CONSTANT_25)
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    width: int = WIDTH
    height: int = HEIGHT
    time_base: Fraction = Fraction(1, 90000)
    trimmed: Fraction = Fraction(0)
    offset: Fraction = Fraction(0)
    rotation: int = 0
    muxer: str | None = None
    b_frames: int | None = None
    rate: Fraction = Fraction(25)


X264 = {"preset": "veryfast", "crf": "20", "g": "24", "sc_threshold": "0"}

RECIPES = {
    "constant rate": Recipe(options=X264),
    "constant rate without B-frames": Recipe(options={**X264, "bf": "0"}),
    "constant rate, one long group": Recipe(options={**X264, "g": "500", "bf": "3"}),
    "29.97 fps": Recipe(times=NTSC, options={**X264, "bf": "3"}, rate=Fraction(30000, 1001)),
    "29.97 fps in Matroska's milliseconds": Recipe(
        ".mkv", NTSC, options={**X264, "bf": "3"}, time_base=Fraction(1, 1000), rate=Fraction(30000, 1001)
    ),
    "variable rate": Recipe(times=VARIABLE, options=X264),
    "variable rate in Matroska": Recipe(".mkv", VARIABLE, options={**X264, "bf": "3"}, time_base=Fraction(1, 1000)),
    "starts at 7 s": Recipe(".mkv", options=X264, offset=Fraction(7)),
    "starts at 7 s, in MP4": Recipe(options=X264, offset=Fraction(7)),
    "transport stream": Recipe(".ts", options={**X264, "bf": "3"}, offset=Fraction(3)),
    "many B-frames": Recipe(options={**X264, "bf": "8", "b_strategy": "0", "x264-params": "b-pyramid=normal"}),
    "open groups of pictures": Recipe(options={**X264, "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}),
    "open groups of pictures, variable rate, in Matroska": Recipe(
        ".mkv", VARIABLE, options={**X264, "bf": "3", "x264-params": "open-gop=1"}, time_base=Fraction(1, 1000)
    ),
    "intra refresh": Recipe(options={**X264, "bf": "0", "x264-params": "intra-refresh=1"}),
    "edit list trims the start": Recipe(options={**X264, "bf": "3"}, trimmed=Fraction(14, 25)),
    "edit list trims past a keyframe": Recipe(options={**X264, "bf": "3"}, trimmed=Fraction(31, 25)),
    "variable rate and edit list": Recipe(times=VARIABLE, options={**X264, "bf": "3"}, trimmed=VARIABLE[9]),
    "turned by 90 degrees": Recipe(options=X264, rotation=90),
    "turned by 180 degrees": Recipe(options=X264, rotation=180),
    "turned by 270 degrees": Recipe(options=X264, rotation=270),
    "odd size": Recipe(options=X264, pixel_format="yuv444p", width=161, height=97),
    "10 bit": Recipe(options=X264, pixel_format="yuv420p10le"),
    "HEVC": Recipe(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0:keyint=24:bframes=3"}),
    "HEVC 10 bit, variable rate": Recipe(
        times=VARIABLE,
        codec="libx265",
        pixel_format="yuv420p10le",
        options={"preset": "ultrafast", "x265-params": "log-level=0:keyint=24:bframes=3"},
    ),
    "VP9 of odd size": Recipe(
        ".webm",
        VARIABLE,
        "libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8", "g": "24"},
        width=161,
        height=97,
        time_base=Fraction(1, 1000),
    ),
    "VP9 with hidden frames": Recipe(
        ".webm",
        codec="libvpx-vp9",
        options={"deadline": "good", "cpu-used": "5", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"},
        time_base=Fraction(1, 1000),
    ),
    "VP8 with hidden frames": Recipe(
        ".webm",
        codec="libvpx",
        options={"deadline": "good", "cpu-used": "5", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"},
        time_base=Fraction(1, 1000),
    ),
    "AV1": Recipe(".mkv", codec="libsvtav1", options={"preset": "12", "g": "24"}, time_base=Fraction(1, 1000)),
    "MPEG-4 in AVI, B-frames without times": Recipe(
        ".avi", codec="mpeg4", options={"g": "24", "b": "2000000"}, time_base=Fraction(1, 25), b_frames=2
    ),
    "MPEG-2": Recipe(
        ".mpg", codec="mpeg2video", options={"g": "12", "b": "4000000"}, time_base=Fraction(1, 25), b_frames=2
    ),
    "raw H.264 without times": Recipe(".h264", options={**X264, "bf": "3"}, muxer="h264", time_base=Fraction(1, 25)),
    "motion JPEG": Recipe(".mov", codec="mjpeg", pixel_format="yuvj420p", options={"q": "3"}),
    "fragmented MP4": Recipe(options={**X264, "bf": "3"}, muxer="mp4"),
}


def draw_clip(recipe: Recipe, path: Path) -> Clip:
    """Encode a clip; return it with the times of its frames."""
    if recipe.codec != "libsvtav1":
        return _draw(recipe, path)
    # As root, this encoder turns its caller and all later threads of the caller into real-time threads (SCHED_FIFO).
    # A spinning thread then starves the threads that it waits for. So the encoder runs in a separate process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_draw, recipe, path).result()


def _draw(recipe: Recipe, path: Path) -> Clip:
    flags = {"movflags": "frag_keyframe+empty_moov"} if recipe.muxer == "mp4" else {}
    with av.open(str(path), "w", format=recipe.muxer, options={"avoid_negative_ts": "disabled", **flags}) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=recipe.options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = recipe.width, recipe.height
        stream.pix_fmt = recipe.pixel_format
        stream.codec_context.time_base = recipe.time_base
        stream.time_base = recipe.time_base
        stream.codec_context.thread_count = 1
        if recipe.b_frames is not None:
            stream.codec_context.max_b_frames = recipe.b_frames
        ticks = [round((time + recipe.offset - recipe.trimmed) / recipe.time_base) for time in recipe.times]
        gaps = dict(zip(ticks, np.diff([*ticks, 2 * ticks[-1] - ticks[-2]]).tolist(), strict=True))
        frames = [av.VideoFrame.from_ndarray(_stored(i, recipe), format="rgb24") for i in range(len(ticks))]
        for frame, pts in zip([*frames, None], [*ticks, None], strict=True):
            if frame is not None:
                frame.pts, frame.time_base = pts, recipe.time_base
            for packet in stream.encode(frame):
                packet.duration = gaps[packet.pts]
                container.mux(packet)
    if recipe.rotation:
        _turn(path, recipe.rotation)
    zero = round(recipe.offset / recipe.time_base)
    times = [(pts - zero) * recipe.time_base if pts >= zero else None for pts in ticks]
    return Clip(path, times, (ticks[-1] + gaps[ticks[-1]] - zero) * recipe.time_base)


def _stored(number: int, recipe: Recipe) -> NDArray[np.uint8]:
    """Return a frame as stored in the file, so that it is upright on display."""
    if recipe.rotation % 180:
        upright = clock_frame(number, recipe.height, recipe.width)
    else:
        upright = clock_frame(number, recipe.width, recipe.height)
    return np.ascontiguousarray(np.rot90(upright, recipe.rotation // 90))


def _turn(path: Path, degrees_clockwise: int) -> None:
    """Write a display rotation into the track header of an MP4 file (ISO 14496-12, 8.3.2)."""
    one = 1 << 16
    cos, sin = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees_clockwise]
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = matrix
    path.write_bytes(data)


def draw_audio(path: Path, seconds: float = 1.0, cover: NDArray[np.uint8] | None = None) -> Path:
    """Write an audio file, with cover art if an image `(height, width, 3)` is given."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac" if path.suffix in (".m4a", ".mp4") else "mp3", rate=44100)
        if cover is not None:
            art = container.add_stream("png", rate=1)
            art.width, art.height, art.pix_fmt = cover.shape[1], cover.shape[0], "rgb24"
            art.disposition = av.stream.Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            container.mux(art.encode(None))
        tone = np.sin(np.arange(int(44100 * seconds)) / 20).astype(np.float32)[None]
        for start in range(0, tone.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts = 44100, start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


def draw_video_with_audio(
    path: Path, *, video_start: float, audio_start: float, beep: float, seconds: float, gap: float = 0.0
) -> Path:
    """Write a video of clock frames whose audio is silent except for a beep of 0.5 s.

    Args:
        path: Path of the file; MP4 gets AAC, other formats get PCM.
        video_start: Time of the first frame in seconds on the file's clock.
        audio_start: Time of the first audio sample in seconds on the file's clock.
        beep: Start of the beep in seconds of audio.
        seconds: Duration of the frames and of the audio.
        gap: Length of a gap in the audio track just before the beep, in seconds.
    """
    rate, tick = 44100, Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options=X264)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = tick
        audio = container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=rate, layout="mono")
        sample_format = audio.codec_context.format.name
        for number in range(int(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")
            frame.pts, frame.time_base = round((video_start + number / 25) / tick), tick
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        times = np.arange(int(rate * seconds)) / rate
        tone = np.where((times >= beep) & (times < beep + 0.5), np.sin(times * 3000) * 0.5, 0)
        for start in range(0, len(tone), 1024):
            wave = tone[None, start : start + 1024]
            wave = (wave * 32767).astype(np.int16) if sample_format == "s16" else wave.astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave, format=sample_format, layout="mono")
            passed = gap if start / rate >= beep - 0.1 else 0.0
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = round((audio_start + passed) * rate) + start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


@dataclass(frozen=True)
class Subtitles:
    """A subtitle track of a test video.

    Attributes:
        lines: Start and end in seconds on the file's clock, and text in the form of ASS; bytes are a raw packet.
        codec: Name of the encoder.
        language: Language tag; None writes none.
        disposition: Marks of the track.
    """

    lines: Sequence[tuple[float, float, str | bytes]]
    codec: str = "subrip"
    language: str | None = None
    disposition: Disposition = Disposition(0)  # noqa: RUF009 - a constant


_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Bold, Italic, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,0,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def draw_video_with_subtitles(path: Path, *tracks: Subtitles, video_start: float = 0.0, seconds: float = 5.0) -> Path:
    """Write a grey video of 5 frames per second with subtitle tracks.

    Args:
        path: Path of the file; MP4 takes the codec `mov_text` only.
        tracks: Subtitle tracks, the streams after the video.
        video_start: Time of the first frame in seconds on the file's clock.
        seconds: Duration of the frames.
    """
    tick = Fraction(1, 1000)
    grey = np.full((48, 64, 3), 128, np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5, options=X264)
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = 64, 48, "yuv420p", tick
        streams = []
        for track in tracks:
            stream = container.add_stream(track.codec)
            stream.codec_context.subtitle_header = _ASS_HEADER
            stream.codec_context.time_base = stream.time_base = tick
            stream.disposition = track.disposition
            if track.language is not None:
                stream.metadata["language"] = track.language
            streams.append(stream)
        for number in range(round(5 * seconds)):
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round((video_start + number / 5) / tick), tick
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track, stream in zip(tracks, streams, strict=True):
            for start, end, text in track.lines:
                container.mux(_subtitle_packet(stream, round(start * 1000), round((end - start) * 1000), text))
    return path


def _subtitle_packet(stream: SubtitleStream, start_ms: int, duration_ms: int, text: str | bytes) -> Packet:
    if isinstance(text, bytes):
        packet = Packet(text)
        packet.pts = packet.dts = start_ms
        packet.duration = duration_ms
    else:
        event = f"0,0,Default,,0,0,0,,{text}".encode()
        packet = stream.codec_context.encode_subtitle(SubtitleSet.create(event, 0, duration_ms, pts=start_ms))
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    return packet
