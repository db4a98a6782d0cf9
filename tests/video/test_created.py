"""The date of a video, as its container states it."""

import json
from datetime import UTC, datetime
from fractions import Fraction

import av
import numpy as np
import pytest

from timechat.serving.access import Limits, probe_safely
from timechat.video import probe_video


def draw(path, stated=None, *, of_stream=None):
    """Write a video of one frame whose container or stream states a date."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if stated is not None:
            container.metadata["creation_time"] = stated
        if of_stream is not None:
            stream.metadata["creation_time"] = of_stream
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("stated", ["2021-05-03T10:20:30Z", "2021-05-03T12:20:30+02:00", "2021-05-03 10:20:30"])
def test_the_date_of_the_container_is_read_in_utc(tmp_path, suffix, stated):
    assert probe_video(draw(tmp_path / f"a{suffix}", stated)).created == datetime(2021, 5, 3, 10, 20, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "stated",
    [None, "1904-01-01T00:00:00Z", "1903-12-31T23:00:00Z", "1970-01-01T00:00:01Z", "2001-01-01T00:00:00Z", "yesterday"],
)
def test_a_clock_that_was_not_set_gives_no_date(tmp_path, stated):
    assert probe_video(draw(tmp_path / "a.mkv", stated)).created is None


def test_the_stream_may_state_the_date(tmp_path):
    video = draw(tmp_path / "a.nut", of_stream="2021-05-03T10:20:30Z")
    assert probe_video(video).created == datetime(2021, 5, 3, 10, 20, 30, tzinfo=UTC)


def test_a_date_is_text_in_json(tmp_path):
    probed = probe_safely(draw(tmp_path / "a.mp4", "2021-05-03T10:20:30Z"), Limits())
    assert json.loads(json.dumps(probed.to_dict()))["created"] == "2021-05-03T10:20:30+00:00"
