"""`timechat info`: describe a checkpoint or a video."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.session import binary_stdin
from timechat.cli.videos import STDIN

if TYPE_CHECKING:
    from timechat.model.summary import ModelSummary
    from timechat.video import VideoInfo


def info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_VIDEO", help="nano, a converted folder, or a video; - is a video on standard input."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model whose frames of the video are described: nano, a folder, a hub id, or the address of a server.",
            show_default="nano",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a checkpoint, or a video and the frames that a model would sample from it."""
    if target == "nano" or Path(target).is_dir():
        if model is not None:
            raise ValueError(f"--model says which model samples a video, but {target} is a model; leave out --model")
        from timechat.backbones.transformers.loading import is_transformers_model

        if target != "nano" and is_transformers_model(target):
            facts, lines = _other_model_facts(target), _other_model_lines
        else:
            from timechat.model.summary import summarize_model

            facts, lines = _model_facts(summarize_model(target)), _model_lines
    else:
        from timechat.video import probe_video

        video = probe_video(binary_stdin() if target == STDIN else target)
        facts, lines = _video_facts(video, model or "nano"), _video_lines
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for line in lines(facts):
        typer.echo(line)


def _model_facts(summary: "ModelSummary") -> dict[str, Any]:
    from timechat.model.domain import domain_limits

    config = summary.config
    parts = [asdict(part) for part in summary.parts]
    return {
        "parts": parts,
        "parameters": sum(part.parameters for part in summary.parts),
        "bytes": sum(part.num_bytes for part in summary.parts),
        "quantization": summary.quantization,
        "num_frames": None if config.fps else config.max_frame_positions,
        "fps": config.fps,
        "max_frames": config.max_frames,
        "image_size": config.vision_config.image_size,
        "frame_interpolation": config.frame_interpolation,
        "window_size": config.window_size,
        "stride": config.stride,
        "num_video_query_tokens": config.num_video_query_tokens,
        "num_video_tokens": None if config.fps else config.num_video_tokens(config.max_frame_positions),
        "timestamp_tokenizer": config.timestamp_tokenizer,
        "lora_alpha": config.lora_alpha,
        "is_trained": summary.is_trained,
        "limits": list(domain_limits(config.domain)),
        "terms": _original_terms() if summary.is_original else [],
    }


def _other_model_facts(target: str) -> dict[str, Any]:
    """Return by which frames, windows and prompts a model of `transformers` is used."""
    from timechat.backbones.loading import load_backbone_config

    config = load_backbone_config(target)
    return {
        "kind": "transformers",
        "fps": config.rate.fps,
        "max_frames": config.rate.max_frames,
        "window_seconds": config.window_seconds,
        "context": config.context,
        "preset": config.preset,
    }


def _other_model_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield "kind            a video language model of transformers"
    yield f"sampling        {facts['fps']:g} frames per second, at most {facts['max_frames']} in a window"
    yield f"window          {facts['window_seconds']:g} s"
    yield f"context         {facts['context'] or 'not stated'} tokens of prompt and answer"
    yield f"prompts         preset {facts['preset']}"


def _original_terms() -> list[str]:
    from timechat.model.download import original_parts

    return list(dict.fromkeys(f"{part.licence.title}: {part.licence.terms}" for part in original_parts()))


def _model_lines(facts: dict[str, Any]) -> Iterator[str]:
    for part in facts["parts"]:
        dtypes = ", ".join(part["dtypes"])
        yield f"{part['name']:<15} {part['parameters']:>14,} parameters  {_size(part['num_bytes']):>9}  {dtypes}"
    yield f"{'total':<15} {facts['parameters']:>14,} parameters  {_size(facts['bytes']):>9}"
    if facts["quantization"]:
        yield f"quantized       {facts['quantization']} linear layers of vision tower (int8) and language model"
    size = f"{facts['image_size']}x{facts['image_size']} pixels ({facts['frame_interpolation']})"
    if facts["fps"]:
        limit = f", at most {facts['max_frames']}" if facts["max_frames"] else ""
        yield f"sampling        {facts['fps']:g} frames of {size} per second{limit}"
    else:
        number = facts["num_frames"]
        yield f"sampling        {number} frames of {size}, uniform in time"
    window = f"window          {facts['window_size']} frames every {facts['stride']}: "
    if facts["fps"]:
        yield f"{window}{facts['num_video_query_tokens']} video tokens each"
    else:
        yield f"{window}{facts['num_video_tokens']} video tokens for {facts['num_frames']} frames"
    yield f"time sentences  in the {facts['timestamp_tokenizer']} vocabulary"
    if not facts["is_trained"]:
        yield "weights         untrained (random): answers have no meaning"
    for limit in facts["limits"]:
        yield f"limits          {limit}"
    for terms in facts["terms"]:
        yield f"terms           {terms}"


def _video_facts(video: "VideoInfo", model: str) -> dict[str, Any]:
    """Return the facts about a video, and the frames and windows by which a model reads it without other options."""
    from timechat.answers.windows import WindowConfig
    from timechat.backbones.loading import load_backbone_config
    from timechat.pipeline.request import plan_windows
    from timechat.video import FrameSampling

    plan = plan_windows(load_backbone_config(model), video.duration, WindowConfig(), FrameSampling())
    interval = plan.frame_interval or video.duration
    if video.num_frames:  # a video is never sampled more densely than it has frames
        interval = max(interval, video.duration / video.num_frames)
    sampled = sum(max(1, round(window.duration / interval)) for window in plan.windows)
    properties = asdict(video)
    del properties["max_pixels"]
    return properties | {
        "created": None if video.created is None else video.created.isoformat(),
        "model": model,
        "windows": len(plan.windows),
        "sampled_frames": sampled,
        "seconds_between_samples": interval,
    }


def _video_lines(facts: dict[str, Any]) -> Iterator[str]:
    from timechat.answers.events import format_time

    yield f"{facts['name']}: {facts['format']}, {format_time(facts['duration'])} long"
    rate = f"{facts['fps']:.3f} frames per second on average" if facts["fps"] else "rate unknown"
    frames = f", {facts['num_frames']} frames" if facts["num_frames"] else ""
    rotation = f", rotated by {facts['rotation']} degrees" if facts["rotation"] else ""
    frame_format = f"{facts['codec']} {facts['width']}x{facts['height']} {facts['pixel_format']}"
    yield f"frames    {frame_format}, {rate}{frames}{rotation}"
    if facts["created"]:
        yield f"created   {facts['created']}"
    for stream in facts["streams"]:
        chosen = " (sampled)" if stream["index"] == facts["stream"] else ""
        language = f", {stream['language']}" if stream["language"] else ""
        yield f"stream {stream['index']}  {stream['kind']}: {stream['codec']}{language}{chosen}"
    gap, windows = facts["seconds_between_samples"], facts["windows"]
    parts = "1 window" if windows == 1 else f"{windows} windows"
    yield f"sampling  by {facts['model']}: {facts['sampled_frames']} frames in {parts}, one every {gap:.2f} s"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
