"""`timechat ask` and the commands of the single tasks."""

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.screen import Screen
from timechat.cli.session import Session, Video
from timechat.cli.settings import (
    EvidenceSettings,
    Format,
    MomentSettings,
    OutputSettings,
    TaskSettings,
    takes_settings,
)

if TYPE_CHECKING:
    from timechat.events import Answer, Event, Task
    from timechat.model.streaming import AnswerStream
    from timechat.pipeline import LongVideo, TimeChat
    from timechat.pipeline.encoded import Progress
    from timechat.pipeline.plan import JobPlan

Query = Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words.")]

_FEW_WINDOWS = 3  # what takes more of them tells first how long it will be
_BEST_MOMENT = MomentSettings()
_NO_EVIDENCE = EvidenceSettings()


@takes_settings
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words.")],
    settings: TaskSettings,
    evidence: EvidenceSettings,
) -> None:
    """Ask anything about a video; about a long one, each of its windows answers."""
    run_task("ask", video, question, settings, evidence=evidence)


@takes_settings
def caption(
    video: Video,
    settings: TaskSettings,
) -> None:
    """Tell all that happens, each event with start, end and a caption."""
    run_task("dense_caption", video, None, settings)


@takes_settings
def ground(
    video: Video,
    query: Query,
    settings: TaskSettings,
    moments: MomentSettings,
) -> None:
    """Find when something happens, or that it does not."""
    run_task("grounding", video, query, settings, moments=moments)


@takes_settings
def highlights(
    video: Video,
    settings: TaskSettings,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="What the highlights are about.")] = None,
) -> None:
    """Find the moments worth seeing, with scores."""
    run_task("highlights", video, query, settings)


@takes_settings
def steps(
    video: Video,
    settings: TaskSettings,
) -> None:
    """List the steps of what is being done."""
    run_task("steps", video, None, settings)


@takes_settings
def summarize(
    video: Video,
    settings: TaskSettings,
    evidence: EvidenceSettings,
) -> None:
    """Tell in a few sentences what happens."""
    run_task("summary", video, None, settings, evidence=evidence)


@takes_settings
def transcribe(
    video: Video,
    settings: TaskSettings,
) -> None:
    """Let the model write the speech that it believes to be there, with times."""
    run_task("transcribe", video, None, settings)


def run_task(
    task: "Task",
    video: str,
    words: str | None,
    settings: TaskSettings,
    *,
    moments: MomentSettings = _BEST_MOMENT,
    evidence: EvidenceSettings = _NO_EVIDENCE,
) -> None:
    """Check everything that can be checked, then load, look, answer and write."""
    form = Format.JSON if settings.as_json else settings.format
    screen = Screen(quiet=settings.quiet)
    with Session(video, settings, screen) as session:
        session.check(task, words)
        settings.looking()
        settings.check_output(video)
        heard = session.listen(settings)
        timechat, opened = session.open(settings, keeps_tokens=evidence.cite or evidence.verify)
        job = _Job(task, words, settings, moments, evidence, heard.lines if heard else None)
        if settings.plan:
            typer.echo(_told_plan(job.plan(timechat, opened), as_json=form is Format.JSON))
            return
        is_long = len(opened.windows) > _FEW_WINDOWS
        if is_long and not settings.quiet:
            screen.say(f"plan: {job.plan(timechat, opened)}")
        is_streamed = form is Format.TEXT and settings.output is None and sys.stdout.isatty()
        is_streamed = is_streamed and len(opened.windows) == 1 and not (evidence.cite or evidence.verify)
        if is_streamed:
            answer = print_stream(job.stream(timechat, opened))
        else:
            with screen.progress() as progress:
                answer = job.run(timechat, opened, progress)
        answer = replace(answer, notes=(*(heard.notes if heard else ()), *answer.notes))
        for note in answer.notes:
            screen.note(note)
        if form not in (Format.TEXT, Format.JSON) and not answer.events:
            screen.note(f"the answer names no times, so there is nothing to write as {form}")
        write_answer(answer, form, settings, screen, is_on_screen=is_streamed, fps=opened.fps)
        cut_video(answer, session, settings, screen)


@dataclass(frozen=True)
class _Job:
    """One question and all that was said about how to answer it."""

    task: "Task"
    words: str | None
    settings: TaskSettings
    moments: MomentSettings
    evidence: EvidenceSettings
    speech: "tuple[Event, ...] | None"

    def plan(self, timechat: "TimeChat", video: "LongVideo") -> "JobPlan":
        """What the job will take."""
        return timechat.plan(self.task, video, self.words, **self._options())

    def stream(self, timechat: "TimeChat", video: "LongVideo") -> "AnswerStream":
        """The answer while it is written."""
        return timechat.stream(self.task, video, self.words, wanted=self.moments.wanted(), **self._options())

    def run(self, timechat: "TimeChat", video: "LongVideo", progress: "Progress") -> "Answer":
        """The whole answer."""
        return timechat.run(
            self.task,
            video,
            self.words,
            wanted=self.moments.wanted(),
            cites=self.evidence.cite,
            verifies=self.evidence.verify,
            progress=progress,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        return {"decoding": self.settings.decoding(), "preset": self.settings.preset, "speech": self.speech}


def _told_plan(plan: "JobPlan", *, as_json: bool) -> str:
    return json.dumps(plan.to_dict(), indent=2) if as_json else str(plan)


def print_stream(stream: "AnswerStream") -> "Answer":
    """Show an answer while it is written."""
    from timechat.export import printable

    for piece in stream:
        typer.echo(printable(piece), nl=False)
    typer.echo()
    return stream.answer


def write_answer(
    answer: "Answer", form: Format, output: OutputSettings, screen: Screen, *, is_on_screen: bool, fps: float | None
) -> None:
    """Write the answer in its form to where it should go; a page too, if wanted.

    Args:
        answer: The answer.
        form: Its form.
        output: Where to.
        screen: Told what the form says otherwise than the answer.
        is_on_screen: Whether the answer's text was shown already.
        fps: Frames per second of the video, None where they are not known.
    """
    from timechat.export import event_lines, export_notes, to_html, to_text, write_as, write_text_atomically

    try:
        text = write_as(answer, form.value, fps=fps)
    except ValueError:
        screen.say(to_text(answer).rstrip("\n"))  # an answer that does not fit the form is not lost
        raise
    for note in export_notes(answer, form.value, fps=fps):
        screen.note(note)
    if is_on_screen:
        for line in event_lines(answer):
            typer.echo(line)
    elif output.output is not None:
        write_text_atomically(output.output, text)
    else:
        typer.echo(text, nl=False)
    if output.html is not None:
        write_text_atomically(output.html, to_html(answer, page_folder=output.html.resolve().parent))


def cut_video(answer: "Answer", session: Session, settings: TaskSettings, screen: Screen) -> None:
    """Cut the events out of the video, if wanted, and say what came out."""
    from timechat.video import cut_clips, join_reel

    if settings.clips is None and settings.reel is None:
        return
    if not answer.events:
        screen.note("the answer names no times, so there is nothing to cut")
        return
    options: dict[str, Any] = {"mode": settings.cut.value, "timeout": settings.timeout}
    reports = []
    with screen.working("cutting the video"):
        if settings.clips is not None:
            reports = cut_clips(session.source, answer.events, settings.clips, **options)
            if past := len(answer.events) - len(reports):
                screen.note(f"not cut, as they lie past the video's end: {past} of {len(answer.events)} events")
        if settings.reel is not None:
            reports += join_reel(session.source, answer.events, settings.reel, **options)
    for report in reports:
        screen.note(str(report))
