"""`timechat ask` and the commands of the single tasks."""

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.console import CommandConsole
from timechat.cli.options import (
    EvidenceOptions,
    MomentOptions,
    OutputOptions,
    TaskOptions,
    expand_options,
)
from timechat.cli.session import Session, Video

if TYPE_CHECKING:
    from timechat.answers.events import Answer, Event, Task
    from timechat.pipeline import TimeChat, VideoSession
    from timechat.pipeline.encoded import ProgressCallback
    from timechat.pipeline.estimate import JobEstimate
    from timechat.pipeline.streaming import AnswerStream

Query = Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words.")]

_ESTIMATE_ABOVE_WINDOWS = 3  # what takes more of them tells first how long it will be
_BEST_MOMENT = MomentOptions()
_NO_EVIDENCE = EvidenceOptions()


@expand_options
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words.")],
    settings: TaskOptions,
    evidence: EvidenceOptions,
) -> None:
    """Ask anything about a video; about a long one, each of its windows answers."""
    run_task("ask", video, question, settings, evidence=evidence)


@expand_options
def caption(
    video: Video,
    settings: TaskOptions,
) -> None:
    """Tell all that happens, each event with start, end and a caption."""
    run_task("dense_caption", video, None, settings)


@expand_options
def ground(
    video: Video,
    query: Query,
    settings: TaskOptions,
    moments: MomentOptions,
) -> None:
    """Find when something happens, or that it does not."""
    run_task("grounding", video, query, settings, moments=moments)


@expand_options
def highlights(
    video: Video,
    settings: TaskOptions,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="What the highlights are about.")] = None,
) -> None:
    """Find the moments worth seeing, with scores."""
    run_task("highlights", video, query, settings)


@expand_options
def steps(
    video: Video,
    settings: TaskOptions,
) -> None:
    """List the steps of what is being done."""
    run_task("steps", video, None, settings)


@expand_options
def summarize(
    video: Video,
    settings: TaskOptions,
    evidence: EvidenceOptions,
) -> None:
    """Tell in a few sentences what happens."""
    run_task("summary", video, None, settings, evidence=evidence)


@expand_options
def transcribe(
    video: Video,
    settings: TaskOptions,
) -> None:
    """Let the model write the speech that it believes to be there, with times."""
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
    """Check everything that can be checked, then load, look, answer and write."""
    form = "json" if settings.as_json else settings.format
    screen = CommandConsole(quiet=settings.quiet)
    with Session(video, settings, screen) as session:
        session.check(task, query)
        settings.window_config().check_density(num_frames=settings.num_frames, fps=settings.fps)
        settings.check_output(video)
        heard = session.load_transcript(settings)
        timechat, opened = session.open(settings, keep_in_memory=evidence.cite or evidence.verify)
        job = _Task(task, query, settings, moments, evidence, heard.lines if heard else None)
        if settings.plan:
            typer.echo(_format_estimate(job.plan(timechat, opened), as_json=form == "json"))
            return
        is_long = len(opened.windows) > _ESTIMATE_ABOVE_WINDOWS
        if is_long and not settings.quiet:
            screen.info(f"plan: {job.plan(timechat, opened)}")
        is_streamed = form == "text" and settings.output is None and sys.stdout.isatty()
        is_streamed = is_streamed and len(opened.windows) == 1 and not (evidence.cite or evidence.verify)
        if is_streamed:
            answer = print_stream(job.stream(timechat, opened))
        else:
            with screen.progress() as progress:
                answer = job.run(timechat, opened, progress)
        answer = replace(answer, notes=(*(heard.notes if heard else ()), *answer.notes))
        for note in answer.notes:
            screen.warn(note)
        if form not in ("text", "json") and not answer.events:
            screen.warn(f"the answer names no times, so there is nothing to write as {form}")
        write_answer(answer, form, settings, screen, is_on_screen=is_streamed, fps=opened.fps)
        cut_video(answer, session, settings, screen)


@dataclass(frozen=True)
class _Task:
    """One question and all that was said about how to answer it."""

    task: "Task"
    query: str | None
    settings: TaskOptions
    moments: MomentOptions
    evidence: EvidenceOptions
    speech: "tuple[Event, ...] | None"

    def plan(self, timechat: "TimeChat", video: "VideoSession") -> "JobEstimate":
        """What the job will take."""
        return timechat.plan(self.task, video, self.query, **self._options())

    def stream(self, timechat: "TimeChat", video: "VideoSession") -> "AnswerStream":
        """The answer while it is written."""
        return timechat.stream(self.task, video, self.query, moments=self.moments.selection(), **self._options())

    def run(self, timechat: "TimeChat", video: "VideoSession", progress: "ProgressCallback") -> "Answer":
        """The whole answer."""
        return timechat.run(
            self.task,
            video,
            self.query,
            moments=self.moments.selection(),
            cite=self.evidence.cite,
            verify=self.evidence.verify,
            progress=progress,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        return {"decoding": self.settings.decoding(), "preset": self.settings.preset, "speech": self.speech}


def _format_estimate(plan: "JobEstimate", *, as_json: bool) -> str:
    return json.dumps(plan.to_dict(), indent=2) if as_json else str(plan)


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
    """Write the answer in its form to where it should go; a page too, if wanted.

    Args:
        answer: The answer.
        form: Name of its format, see `FORMATS`.
        output: Where to.
        console: Told what the form says otherwise than the answer.
        is_on_screen: Whether the answer's text was shown already.
        fps: Frames per second of the video, None where they are not known.
    """
    from timechat.export import event_lines, export_notes, to_html, to_text, write_as, write_text_atomically

    try:
        text = write_as(answer, form, fps=fps)
    except ValueError:
        console.info(to_text(answer).rstrip("\n"))  # an answer that does not fit the form is not lost
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
    """Cut the events out of the video, if wanted, and say what came out."""
    if settings.clips is None and settings.reel is None:
        return
    from timechat.video.clips import concat_clips, extract_clips

    if not answer.events:
        console.warn("the answer names no times, so there is nothing to cut")
        return
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
