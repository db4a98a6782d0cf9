"""Clips of interlaced, HDR and RGB videos, and copies of codecs that MP4 cannot hold."""

from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc

from timechat.answers.events import Event
from timechat.errors import VideoError
from timechat.video import load_frames
from timechat.video.clips import extract_clip, extract_clips

HEIGHT, WIDTH, FPS = 48, 64, 25
BT709 = 1  # of ITU-T H.273, for the matrix, the primaries and the transfer function
QUADRANTS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)]


def quadrants():
    """A picture of four colours."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, colour in enumerate(QUADRANTS):
        top, left = i // 2 * HEIGHT // 2, i % 2 * WIDTH // 2
        picture[top : top + HEIGHT // 2, left : left + WIDTH // 2] = colour
    return picture


def draw(path, codec, pixel_format, picture, *, num_frames=10, options=None, prepare=lambda frame: frame, set_up=None):
    """Write a video of one picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        if set_up is not None:
            set_up(stream.codec_context)
        for number in range(num_frames):
            frame = prepare(VideoFrame.from_ndarray(picture, format="rgb24"))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def mark_interlaced(field_order):
    """Function that marks a frame as interlaced."""

    def mark(frame):
        frame = frame.reformat(format="yuv420p")
        graph = av.filter.Graph()
        source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=frame.format, time_base=Fraction(1, FPS))
        marker, sink = graph.add("setfield", field_order), graph.add("buffersink")
        source.link_to(marker)
        marker.link_to(sink)
        graph.configure()
        frame.pts, frame.time_base = 0, Fraction(1, FPS)
        graph.push(frame)
        return graph.pull()

    return mark


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def mean_colours(pixels):
    """Mean colours of the inner parts of the four quadrants."""
    parts = [pixels[6:18, 8:24], pixels[6:18, 40:56], pixels[30:42, 8:24], pixels[30:42, 40:56]]
    return np.array([part.reshape(-1, 3).mean(0) for part in parts])


@pytest.mark.parametrize("field_order", ["tff", "bff"])
def test_interlaced_frames_are_deinterlaced_in_exact_cuts(tmp_path, field_order):
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[::2] = 255  # one field is white, the other one black
    options = {"flags": "+ildct+ilme", "qscale": "1"}
    prepare = mark_interlaced(field_order)
    video = draw(tmp_path / "a.mkv", "mpeg2video", "yuv420p", stripes, options=options, prepare=prepare)
    assert decoded(video)[0].interlaced_frame
    extract_clip(video, 0.08, 0.32, tmp_path / "cut.mp4")
    frames = decoded(tmp_path / "cut.mp4")
    assert [round(frame.time, 3) for frame in frames] == [0.0, 0.04, 0.08, 0.12, 0.16, 0.2]
    for frame in frames:
        rows = frame.to_ndarray(format="gray")[4:-4].astype(int).mean(1)
        assert not frame.interlaced_frame
        assert np.abs(np.diff(rows)).max() < 8


def test_progressive_frames_keep_their_rows_in_exact_cuts(tmp_path):
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[::2] = 255
    video = draw(tmp_path / "a.mkv", "ffv1", "yuv420p", stripes)
    extract_clip(video, 0.0, 0.2, tmp_path / "cut.mp4")
    rows = decoded(tmp_path / "cut.mp4")[2].to_ndarray(format="gray")[4:-4].astype(int).mean(1)
    assert np.abs(np.diff(rows)).min() > 150


def test_exact_cuts_of_rgb_videos_have_the_matrix_of_bt709(tmp_path):
    video = draw(tmp_path / "a.mov", "png", "rgb24", quadrants())
    extract_clip(video, 0.0, 0.2, tmp_path / "cut.mp4")
    assert {int(frame.colorspace) for frame in decoded(tmp_path / "cut.mp4")} == {BT709}
    colours = mean_colours(load_frames(tmp_path / "cut.mp4").pixels[0])
    assert np.abs(colours - mean_colours(load_frames(video).pixels[0])).max() < 6
    assert np.abs(colours - QUADRANTS).max() < 8


@pytest.mark.parametrize("transfer", [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67])
def test_exact_cuts_of_hdr_videos_are_sdr_and_say_so(tmp_path, transfer):
    def set_up(context):
        context.color_trc, context.color_primaries = transfer, ColorPrimaries.BT2020

    grey = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    video = draw(tmp_path / "a.mkv", "ffv1", "yuv420p10le", grey, set_up=set_up)
    loaded = load_frames(video)
    assert any("HDR" in note for note in loaded.notes)
    extract_clip(video, 0.0, 0.2, tmp_path / "cut.mp4")
    frame = decoded(tmp_path / "cut.mp4")[0]
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (BT709, BT709, BT709)
    cut = load_frames(tmp_path / "cut.mp4")
    assert not any("HDR" in note for note in cut.notes)
    assert np.abs(cut.pixels[0].astype(int) - loaded.pixels[0]).max() <= 3


@pytest.mark.parametrize(
    ("codec", "pixel_format", "source", "copied"),
    [
        ("libx264", "yuv420p", "a.mov", ".mp4"),
        ("mpeg4", "yuv420p", "a.mp4", ".mp4"),
        ("prores_ks", "yuv422p10le", "a.mov", ".mov"),
        ("qtrle", "rgb24", "a.mov", ".mov"),
        ("png", "rgb24", "a.mov", ".mov"),
        ("ffv1", "yuv420p", "a.mkv", ".mkv"),
    ],
)
def test_copies_go_into_a_container_that_can_hold_them(tmp_path, codec, pixel_format, source, copied):
    video = draw(tmp_path / source, codec, pixel_format, quadrants())
    (report,) = extract_clips(video, [Event(0.0, 0.2, "colours")], tmp_path / "clips", mode="copy")
    assert report.path.suffix == copied
    assert np.array_equal(load_frames(report.path).pixels[0], load_frames(video).pixels[0])


def test_copies_of_hevc_have_the_tag_that_all_players_read(tmp_path):
    draw(tmp_path / "a.mkv", "libx265", "yuv420p", quadrants(), options={"x265-params": "log-level=none"})
    for suffix in (".mp4", ".mov"):
        extract_clip(tmp_path / "a.mkv", 0.0, 0.2, tmp_path / f"cut{suffix}", mode="copy")
        with av.open(str(tmp_path / f"cut{suffix}")) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize(("start", "end", "copied"), [(0.0, 2.0, (0, 51)), (1.3, 2.6, (24, 65))])
def test_packed_frames_of_avi_are_copied_into_packets_of_their_own(tmp_path, suffix, start, end, copied):
    source = Path(__file__).parents[1] / "data" / "clock" / "packed.avi"
    report = extract_clip(source, start, end, tmp_path / f"copy{suffix}", mode="copy")
    assert (report.start, report.end) == pytest.approx((copied[0] / FPS, copied[1] / FPS))
    with av.open(str(report.path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert sum(bytes(packet).count(b"\0\0\1\xb6") for packet in packets) == len(packets) == copied[1] - copied[0]
    whole, part = load_frames(source, num_frames=100), load_frames(report.path, num_frames=100)
    assert (part.pixels == whole.pixels[slice(*copied)]).all()
    assert part.timestamps == pytest.approx(np.arange(len(packets)) / FPS)


def test_a_ts_copy_of_a_codec_that_ts_cannot_hold_is_refused(tmp_path):
    source = draw(tmp_path / "source.mkv", "ffv1", "yuv420p", quadrants())
    with pytest.raises(VideoError, match=r"cannot hold its streams: MPEG-TS has no ffv1; choose \.mkv"):
        extract_clip(source, 0, 0.2, tmp_path / "copy.ts", mode="copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.mkv"]


def test_codecs_that_quicktime_cannot_hold_are_copied_to_matroska(tmp_path):
    source = draw(tmp_path / "source.mp4", "ffv1", "yuv420p", quadrants())
    assert [clip.path.suffix for clip in extract_clips(source, [Event(0, 0.2)], tmp_path / "clips", mode="copy")] == [
        ".mkv"
    ]
