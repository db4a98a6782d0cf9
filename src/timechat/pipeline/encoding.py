"""A whole video encoded as one window, as the original does."""

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from timechat.backbones.backbone import Backbone, BackboneConfig, EncodedVideo
from timechat.files import without_scheme
from timechat.pipeline.session import ProgressCallback, Video
from timechat.video import Frames, FrameSampling, VideoReader, sample_video

if TYPE_CHECKING:
    from timechat.pipeline.cache import WindowCache


def encode_video(
    video: Video,
    sampling: FrameSampling,
    backbone: Backbone,
    *,
    cache: "WindowCache | None" = None,
    timeout: float = 600.0,
    progress: ProgressCallback | None = None,
) -> EncodedVideo:
    """Decode the frames of a whole video and encode them as one window.

    Args:
        video: Path, address, bytes, open file, or `Frames`, which are taken as they are unless an option chooses some.
        sampling: Frame options; without any, those of the model's configuration.
        backbone: The model.
        cache: Windows of this video on disk; None for no cache.
        timeout: Maximum wall time in seconds for reading the file.
        progress: Callback for finished parts of the work.

    Raises:
        VideoError: The video cannot be read.
    """
    chosen = _choose_frames(backbone.config, sampling)
    if cache is not None and isinstance(video, str | os.PathLike) and (found := cache.load(None, chosen)) is not None:
        return replace(found, name=without_scheme(os.fspath(video)), model=backbone.name)
    report = progress or _ignore
    report("decode", 0, 1)
    if isinstance(video, Frames):
        is_chosen = replace(sampling, sampling="exact") == FrameSampling()
        size = backbone.frame_size(*video.pixels.shape[1:3])
        frames = video if is_chosen else sample_video(video, chosen, size=size)
    else:
        with VideoReader(video, timeout=timeout, loads_once=True) as reader:
            size = backbone.frame_size(reader.info.height, reader.info.width)
            frames = reader.load(chosen, size=size)
    report("decode", 1, 1)
    content, notes = backbone.encode(frames, progress=partial(report, "encode"))
    name = frames.source.name if frames.source else None
    offset = frames.source.player_offset if frames.source else 0.0
    encoded = EncodedVideo(
        content,
        frames.timestamps,
        frames.duration,
        name,
        (*frames.notes, *notes),
        backbone.name,
        player_offset=offset,
    )
    if cache is not None:
        cache.save(None, chosen, encoded)
    return encoded


def _choose_frames(config: BackboneConfig, sampling: FrameSampling) -> FrameSampling:
    """Fill in the model's frame options where none says how many frames are taken."""
    if sampling.has_rate:
        return sampling
    default = config.default_sampling()
    if sampling.max_frames is not None:
        default["max_frames"] = sampling.max_frames
    return replace(sampling, **default)


def _ignore(stage: str, done: int, total: int) -> None:
    """Do nothing with a progress report."""
