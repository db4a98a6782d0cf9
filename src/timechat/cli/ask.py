"""`timechat ask` and the commands of the single tasks."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.screen import Screen
from timechat.cli.session import Session, Video
from timechat.cli.settings import Format, OutputSettings, TaskSettings, takes_settings

if TYPE_CHECKING:
    from timechat.events import Answer, Task
    from timechat.model.streaming import AnswerStream

Query = Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words.")]


@takes_settings
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words.")],
    settings: TaskSettings,
) -> None:
    """Ask anything about a video."""
    run_task("ask", video, question, settings)


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
) -> None:
    """Find when something happens."""
    run_task("grounding", video, query, settings)


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
) -> None:
    """Tell in a few sentences what happens."""
    run_task("summary", video, None, settings)


@takes_settings
def transcribe(
    video: Video,
    settings: TaskSettings,
) -> None:
    """Let the model write the speech that it believes to be there, with times."""
    run_task("transcribe", video, None, settings)


def run_task(task: "Task", video: str, words: str | None, settings: TaskSettings) -> None:
    """Check everything that can be checked, then load, look, answer and write."""
    form = Format.JSON if settings.as_json else settings.format
    screen = Screen(quiet=settings.quiet)
    with Session(video, settings, screen) as session:
        session.check(task, words)
        settings.check_output(video)
        timechat, encoded = session.look()
        is_streamed = form is Format.TEXT and settings.output is None and sys.stdout.isatty()
        stream = timechat.stream(task, encoded, words, decoding=settings.decoding(), preset=settings.preset)
        answer = print_stream(stream) if is_streamed else wait(stream, screen)
    for note in answer.notes:
        if note not in session.notes:
            screen.note(note)
    if form not in (Format.TEXT, Format.JSON) and not answer.events:
        screen.note(f"the answer names no times, so there is nothing to write as {form}")
    write_answer(answer, form, settings, is_on_screen=is_streamed)


def print_stream(stream: "AnswerStream") -> "Answer":
    """Show an answer while it is written."""
    from timechat.export import printable

    for piece in stream:
        typer.echo(printable(piece), nl=False)
    typer.echo()
    return stream.answer


def wait(stream: "AnswerStream", screen: Screen) -> "Answer":
    """Wait for an answer that will be shown whole."""
    with screen.working("writing the answer"):
        return stream.answer


def write_answer(answer: "Answer", form: Format, output: OutputSettings, *, is_on_screen: bool) -> None:
    """Write the answer in its form to where it should go; a page too, if wanted."""
    from timechat.export import FORMATS, event_lines, to_html, write_text_atomically

    if is_on_screen:
        for line in event_lines(answer):
            typer.echo(line)
    elif output.output is not None:
        write_text_atomically(output.output, FORMATS[form.value](answer))
    else:
        typer.echo(FORMATS[form.value](answer), nl=False)
    if output.html is not None:
        write_text_atomically(output.html, to_html(answer, page_folder=output.html.resolve().parent))
