"""`timechat ask` and the commands of the single tasks."""

from collections.abc import Sequence
from typing import Annotated

import typer

from timechat.cli.answers import run_task
from timechat.cli.options import EvidenceOptions, MomentOptions, TaskOptions, expand_options
from timechat.cli.retrieval import DomainOptions, RetrievalOptions, SourceOptions
from timechat.cli.videos import names_a_video

_VIDEOS_HELP = "Videos: files, folders, patterns or addresses; - is a video on standard input."
Videos = Annotated[list[str], typer.Argument(metavar="VIDEO...", help=_VIDEOS_HELP)]
OptionalVideos = Annotated[list[str] | None, typer.Argument(metavar="VIDEO...", help=_VIDEOS_HELP)]


@expand_options
def ask(
    settings: TaskOptions,
    evidence: EvidenceOptions,
    retrieval: RetrievalOptions,
    domain: DomainOptions,
    videos: OptionalVideos = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Question about the video.")] = None,
) -> None:
    """Ask any question about a video; a long video is answered window by window."""
    run_task(
        "ask",
        _given(videos, question, "QUESTION"),
        question,
        settings,
        evidence=evidence,
        retrieval=retrieval,
        domain=domain,
    )


@expand_options
def caption(videos: Videos, settings: TaskOptions, domain: DomainOptions) -> None:
    """Describe all events of a video, each with start, end and caption."""
    run_task("dense_caption", videos, None, settings, domain=domain)


@expand_options
def ground(
    settings: TaskOptions,
    moments: MomentOptions,
    retrieval: RetrievalOptions,
    source: SourceOptions,
    videos: OptionalVideos = None,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Description of the moment to find.")] = None,
) -> None:
    """Find when something happens, or report that it does not happen."""
    run_task(
        "grounding",
        _given(videos, query, "QUERY"),
        query,
        settings,
        moments=moments,
        retrieval=retrieval,
        source=source,
    )


@expand_options
def highlights(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO... [QUERY]", help=f"{_VIDEOS_HELP} After one video: the topic of the highlights."
        ),
    ],
    settings: TaskOptions,
    domain: DomainOptions,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="QUERY", help="Topic of the highlights, of several videos too."),
    ] = None,
) -> None:
    """Find the moments worth seeing, with scores."""
    if query is None and len(videos) == 2 and not names_a_video(videos[1]):
        videos, query = videos[:1], videos[1]
    run_task("highlights", videos, query, settings, domain=domain)


@expand_options
def steps(videos: Videos, settings: TaskOptions, domain: DomainOptions) -> None:
    """List the steps of an activity, with times."""
    run_task("steps", videos, None, settings, domain=domain)


@expand_options
def summarize(videos: Videos, settings: TaskOptions, evidence: EvidenceOptions, domain: DomainOptions) -> None:
    """Summarize a video in a few sentences."""
    run_task("summary", videos, None, settings, evidence=evidence, domain=domain)


@expand_options
def transcribe(
    videos: Videos,
    settings: TaskOptions,
    domain: DomainOptions,
    guess: Annotated[
        bool,
        typer.Option(
            "--guess",
            help="Let the video model guess the words, also if there are subtitles; it does not hear the audio.",
        ),
    ] = False,
) -> None:
    """Write the speech in a video with times.

    The words come from the subtitles of the video (VIDEO.srt, VIDEO.vtt or a track), from --transcript or from --asr.
    With --guess the model guesses them.
    """
    is_known = settings.transcript is not None or settings.asr is not None
    if is_known and guess:
        raise ValueError("--guess lets the video model write the words; leave out --transcript and --asr, or --guess")
    if settings.plan and not guess:
        raise ValueError(
            "--plan estimates the work of the video model, which subtitles, --transcript and --asr do not use; "
            "leave out --plan, or add --guess"
        )
    run_task("transcribe", videos, None, settings, domain=domain, reads_subtitles=not is_known and not guess)


def _given(videos: Sequence[str] | None, question: str | None, name: str) -> Sequence[str]:
    """Return the videos; the question is the last argument, so a single argument is the video."""
    if videos:
        return videos
    raise ValueError(f"Missing argument {'VIDEO' if question is None else name!r} (try --help)")
