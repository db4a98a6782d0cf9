"""`timechat watch`: a line when something that is waited for happens in a stream."""

import json
from typing import Annotated

import typer

from timechat.cli.console import CommandConsole
from timechat.cli.options import ModelOptions, expand_options
from timechat.cli.session import load_timechat


@expand_options
def watch(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, a pipe (/dev/stdin), or an rtsp or http(s) address.")
    ],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="What to wait for, in words.")],
    settings: ModelOptions,
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds of one window. Default: as the model was trained.")
    ] = None,
    overlap: Annotated[float | None, typer.Option(min=0, help="Seconds that windows share.")] = None,
    step: Annotated[float | None, typer.Option(help="Seconds from frame to frame.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of what is told. Default: the model's.")
    ] = None,
    drop_below: Annotated[
        float, typer.Option(min=0, help="Frames that differ less (of 255) are not looked at again; 0 looks at all.")
    ] = 2.0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait at a file's end for more.")] = False,
    idle_timeout: Annotated[float, typer.Option(help="Seconds without anything new that end a stream.")] = 30.0,
) -> None:
    """Watch a stream, and print a JSON line when something that is waited for has happened."""
    from timechat.answers.windows import WindowConfig
    from timechat.video.live import LiveVideo

    screen = CommandConsole(quiet=settings.quiet)
    looking = WindowConfig(window=window, overlap=overlap, step=step)
    with LiveVideo(source, follow=follow, idle_timeout=idle_timeout) as video:
        timechat = load_timechat(settings, screen)
        from timechat.pipeline.watch import StreamMonitor

        watcher = StreamMonitor(
            timechat, queries, window_config=looking, drop_below=drop_below or None, threshold=threshold
        )
        for note in timechat.notes:
            screen.warn(note)
        frames = video.frames(fps=1 / watcher.step, size=timechat.model.config.vision_config.image_size)
        for sighting in watcher.watch(frames):
            line = {**sighting.to_dict(), "seen_at": watcher.num_frames * watcher.step, "model": timechat.name}
            typer.echo(json.dumps(line, ensure_ascii=False))
        for note in video.notes:
            screen.warn(note)
    screen.info(
        f"{watcher.num_windows} windows, {watcher.num_frames} frames, {watcher.num_dropped} of them like the last"
    )
