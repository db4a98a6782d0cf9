"""`timechat ask` and the commands of the single tasks."""

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.options import (
    EvidenceOptions,
    MomentOptions,
    OutputOptions,
    TaskOptions,
    expand_options,
)
from timechat.cli.session import CommandConsole, Session, Video

if TYPE_CHECKING:
    from timechat.answers.events import Answer, Task
    from timechat.pipeline.estimate import JobEstimate
    from timechat.pipeline.streaming import AnswerStream

Query = Annotated[str, typer.Argument(metavar="QUERY", help="Description of the moment to find.")]

_ESTIMATE_ABOVE_WINDOWS = 3  # jobs with more windows show an estimate before they start
_BEST_MOMENT = MomentOptions()
_NO_EVIDENCE = EvidenceOptions()


@expand_options
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Question about the video.")],
    settings: TaskOptions,
    evidence: EvidenceOptions,
) -> None:
    """Ask any question about a video; a long video is answered window by window."""
    run_task("ask", video, question, settings, evidence=evidence)


@expand_options
def caption(
    video: Video,
    settings: TaskOptions,
) -> None:
    """Describe all events of a video, each with start, end and caption."""
    run_task("dense_caption", video, None, settings)


@expand_options
def ground(
    video: Video,
    query: Query,
    settings: TaskOptions,
    moments: MomentOptions,
) -> None:
    """Find when something happens, or report that it does not happen."""
    run_task("grounding", video, query, settings, moments=moments)


@expand_options
def highlights(
    video: Video,
    settings: TaskOptions,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="Topic of the highlights.")] = None,
) -> None:
    """Find the moments worth seeing, with scores."""
    run_task("highlights", video, query, settings)


@expand_options
def steps(
    video: Video,
    settings: TaskOptions,
) -> None:
    """List the steps of an activity, with times."""
    run_task("steps", video, None, settings)


@expand_options
def summarize(
    video: Video,
    settings: TaskOptions,
    evidence: EvidenceOptions,
) -> None:
    """Summarize a video in a few sentences."""
    run_task("summary", video, None, settings, evidence=evidence)


@expand_options
def transcribe(
    video: Video,
    settings: TaskOptions,
) -> None:
    """Let the model write the speech that it expects in the video, with times; it does not hear the sound."""
    run_task("transcribe", video, None, settings)


def run_task(
    task: "Task",
    video: str,
    query: str | None,
    settings: TaskOptions,
    *,
    moments: MomentOptions = _BEST_MOMENT,
    evidence: EvidenceOptions = _NO_EVIDENCE,
) -> None:
    """Check the input, load the model, answer, and write the answer."""
    form = "json" if settings.as_json else settings.format
    console = CommandConsole(quiet=settings.quiet)
    with Session(video, settings, console) as session:
        session.check(task, query)
        settings.window_config().check_density(num_frames=settings.num_frames, fps=settings.fps)
        settings.check_output(video)
        transcript = session.load_transcript(settings)
        timechat, opened = session.open(settings, keep_in_memory=evidence.cite or evidence.verify)
        from timechat.pipeline import Request

        request = Request(
            task,
            query,
            decoding=settings.decoding(),
            preset=settings.preset,
            transcript=transcript.lines if transcript else None,
            moments=moments.selection(),
            cite=evidence.cite,
            verify=evidence.verify,
        )
        if settings.plan:
            typer.echo(_format_estimate(timechat.estimate(request, opened), as_json=form == "json"))
            return
        if len(opened.windows) > _ESTIMATE_ABOVE_WINDOWS and not settings.quiet:
            console.info(f"plan: {timechat.estimate(request, opened)}")
        is_streamed = form == "text" and settings.output is None and sys.stdout.isatty()
        is_streamed = is_streamed and len(opened.windows) == 1 and not (evidence.cite or evidence.verify)
        if is_streamed:
            answer = print_stream(timechat.stream(request, opened))
        else:
            with console.progress() as progress:
                answer = timechat.run(request, opened, progress=progress)
        answer = replace(answer, notes=(*(transcript.notes if transcript else ()), *answer.notes))
        for note in answer.notes:
            console.warn(note)
        if form not in ("text", "json") and not answer.events:
            console.warn(f"the answer names no times, so there is nothing to write as {form}")
        write_answer(answer, form, settings, console, is_on_screen=is_streamed, fps=opened.fps)
        cut_video(answer, session, settings, console)


def _format_estimate(estimate: "JobEstimate", *, as_json: bool) -> str:
    return json.dumps(estimate.to_dict(), indent=2) if as_json else str(estimate)


def print_stream(stream: "AnswerStream") -> "Answer":
    """Show an answer while it is written."""
    from timechat.export import printable

    for piece in stream:
        typer.echo(printable(piece), nl=False)
    typer.echo()
    return stream.answer


def write_answer(
    answer: "Answer",
    form: str,
    output: OutputOptions,
    console: CommandConsole,
    *,
    is_on_screen: bool,
    fps: float | None,
) -> None:
    """Write the answer to stdout or to its file, and the HTML page if one is requested.

    Args:
        answer: Answer to write.
        form: Name of the output format, see `FORMATS`.
        output: Output files.
        console: Console for notes about what the format cannot express.
        is_on_screen: Whether the text of the answer was shown already.
        fps: Frames per second of the video; None if they are not known.
    """
    from timechat.export import event_lines, export_notes, to_html, to_text, write_as, write_text_atomically

    try:
        text = write_as(answer, form, fps=fps)
    except ValueError:
        console.info(to_text(answer).rstrip("\n"))  # an answer that the format cannot express is shown, not lost
        raise
    for note in export_notes(answer, form, fps=fps):
        console.warn(note)
    if is_on_screen:
        for line in event_lines(answer):
            typer.echo(line)
    elif output.output is not None:
        write_text_atomically(output.output, text)
    else:
        typer.echo(text, nl=False)
    if output.html is not None:
        write_text_atomically(output.html, to_html(answer, page_folder=output.html.resolve().parent))


def cut_video(answer: "Answer", session: Session, settings: TaskOptions, console: CommandConsole) -> None:
    """Cut the events out of the video, if the options ask for it, and report the clips."""
    if settings.clips is None and settings.reel is None:
        return

    if not answer.events:
        console.warn("the answer names no times, so there is nothing to cut")
        return
    from timechat.video.clips import concat_clips, extract_clips

    options: dict[str, Any] = {"mode": settings.cut.value, "timeout": settings.timeout}
    reports = []
    with console.working("cutting the video"):
        if settings.clips is not None:
            reports = extract_clips(session.source, answer.events, settings.clips, **options)
            if past := len(answer.events) - len(reports):
                console.warn(f"not cut, as they lie past the video's end: {past} of {len(answer.events)} events")
        if settings.reel is not None:
            reports += concat_clips(session.source, answer.events, settings.reel, **options)
    for report in reports:
        console.warn(str(report))
