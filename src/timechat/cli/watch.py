"""`timechat watch`: a JSON line for each detection in a stream."""

import json
from typing import IO, Annotated

import typer

from timechat.cli.model_options import ModelOptions
from timechat.cli.options import expand_options
from timechat.cli.retrieval import EncoderOptions, SourceOptions
from timechat.cli.session import CommandConsole, binary_stdin, load_timechat
from timechat.cli.times import parse_time, time_from
from timechat.cli.videos import STDIN


@expand_options
def watch(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A file, a pipe, - for standard input, or an rtsp or http(s) address."),
    ],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Descriptions of what to detect.")],
    settings: ModelOptions,
    source_of_answers: SourceOptions,
    encoder: EncoderOptions,
    window: Annotated[
        float | None,
        typer.Option(parser=time_from(0.1), metavar="TIME", help="Length of a window. Default: as in training."),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(parser=time_from(0), metavar="TIME", help="Overlap of neighboring windows.")
    ] = None,
    step: Annotated[float | None, typer.Option(parser=parse_time, metavar="TIME", help="Time between frames.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score of a detection. Default: the model's.")
    ] = None,
    drop_below: Annotated[
        float,
        typer.Option(min=0, help="Skip frames that differ less than this (of 255) from the one before; 0 skips none."),
    ] = 2.0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more data at the end of a file.")] = False,
    idle_timeout: Annotated[
        float,
        typer.Option(parser=parse_time, metavar="TIME", help="Time without new data after which a stream ends."),
    ] = 30.0,
) -> None:
    """Watch a stream and print a JSON line for each detection."""
    from timechat.answers.windows import WindowConfig
    from timechat.video.live import LiveVideo

    if follow and ("://" in source or source == STDIN):
        raise ValueError("--follow waits for more data of a file; leave it out for an address and for standard input")
    console = CommandConsole(quiet=settings.quiet)
    windows = WindowConfig(window=window, overlap=overlap, step=step)
    stream: str | IO[bytes] = source
    if source == STDIN:
        buffered = binary_stdin()
        stream = getattr(buffered, "raw", buffered)  # gives the bytes that are there, without waiting for a full buffer
    with LiveVideo(stream, follow=follow, idle_timeout=idle_timeout) as video:
        timechat = load_timechat(settings, console)
        from timechat.pipeline.watch import StreamMonitor

        retrieval = encoder.config(source_of_answers.by)
        monitor = StreamMonitor(
            timechat,
            queries,
            windows=windows,
            drop_below=drop_below or None,
            threshold=threshold,
            retrieval=retrieval,
        )
        for note in timechat.notes:
            console.warn(note)
        rate, size = 1 / monitor.step, timechat.backbone.frame_size
        frames = video.frames(fps=rate, size=size, search_size=monitor.search_size)
        for detection in monitor.watch(frames):
            name = timechat.name if detection.by == "model" else encoder.encoder
            line = {**detection.to_dict(), "seen_at": monitor.num_frames * monitor.step, "model": name}
            typer.echo(json.dumps(line, ensure_ascii=False))
        for note in (*monitor.notes, *video.notes):
            console.warn(note)
    console.info(
        f"{monitor.num_windows} windows, {monitor.num_frames} frames, {monitor.num_dropped} of them duplicates"
    )
