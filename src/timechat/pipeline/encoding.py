"""A whole video encoded as one window, as the original does."""

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from timechat.files import without_scheme
from timechat.model.configuration import TimeChatConfig
from timechat.model.domain import outside_domain_notes
from timechat.pipeline.answering import Answerer, check_prompt_length
from timechat.pipeline.session import EncodedVideo, ProgressCallback, Video, compress_frames, encode_frames
from timechat.video import Frames, FrameSampling, sample_video

if TYPE_CHECKING:
    from timechat.pipeline.cache import WindowCache


@torch.inference_mode()
def encode_video(
    video: Video,
    sampling: FrameSampling,
    answerer: Answerer,
    *,
    cache: "WindowCache | None" = None,
    timeout: float = 600.0,
    progress: ProgressCallback | None = None,
) -> EncodedVideo:
    """Decode the frames of a whole video and encode them as one window.

    Args:
        video: Path, address, bytes, open file, or `Frames`, which are taken as they are unless an option chooses some.
        sampling: Frame options; without any, those of the model's configuration.
        answerer: Model, processor and executor.
        cache: Windows of this video on disk; None for no cache.
        timeout: Maximum wall time in seconds for reading the file.
        progress: Callback for finished parts of the work.

    Raises:
        VideoError: The video cannot be read.
    """
    model, processor, executor = answerer.model, answerer.processor, answerer.executor
    chosen = _choose_frames(model.config, sampling)
    if cache is not None and isinstance(video, str | os.PathLike) and (found := cache.load(None, chosen)) is not None:
        return replace(found, name=without_scheme(os.fspath(video)), model=answerer.name)
    report = progress or _ignore
    report("decode", 0, 1)
    if isinstance(video, Frames) and replace(sampling, sampling="exact") == FrameSampling():
        frames = video
    else:
        frames = sample_video(video, chosen, size=model.config.frame_size, timeout=timeout)
    report("decode", 1, 1)
    shortest_prompt = processor.render_prompt(frames.timestamps, "")
    check_prompt_length(model, len(processor.encode_prompt(shortest_prompt, len(frames))), max_new_tokens=1)
    tokens = encode_frames(model, processor, frames, partial(report, "encode"), encode=executor.encode_frames)
    video_tokens = executor.call(partial(compress_frames, model, tokens))
    name = frames.source.name if frames.source else None
    notes = (*frames.notes, *outside_domain_notes(model.config.domain, tokens[0]))
    offset = frames.source.player_offset if frames.source else 0.0
    encoded = EncodedVideo(
        video_tokens,
        frames.timestamps,
        frames.duration,
        name,
        notes,
        answerer.name,
        player_offset=offset,
    )
    if cache is not None:
        cache.save(None, chosen, encoded)
    return encoded


def _choose_frames(config: TimeChatConfig, sampling: FrameSampling) -> FrameSampling:
    """Fill in the model's frame options where none says how many frames are taken."""
    if sampling.has_rate:
        return sampling
    default = config.default_sampling()
    if sampling.max_frames is not None:
        default["max_frames"] = sampling.max_frames
    return replace(sampling, **default)


def _ignore(stage: str, done: int, total: int) -> None:
    """Do nothing with a progress report."""
