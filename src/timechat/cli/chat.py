"""`timechat chat`: a conversation about one video."""

from typing import TYPE_CHECKING

import typer

from timechat.cli.options import ChatOptions, expand_options
from timechat.cli.retrieval import DomainOptions, check_domain
from timechat.cli.session import CommandConsole, Session, Video, check_request
from timechat.cli.videos import STDIN

if TYPE_CHECKING:
    from timechat.pipeline import EncodedVideo, TimeChat
    from timechat.pipeline.streaming import AnswerStream

Turn = tuple[str, str]
"""A question and its answer."""


@expand_options
def chat(video: Video, settings: ChatOptions, domain: DomainOptions) -> None:
    """Ask questions about a video in a conversation; an empty line or Ctrl-D ends it."""
    from timechat.answers.events import format_time

    console = CommandConsole(quiet=settings.quiet)
    if video == STDIN:
        raise ValueError("chat reads the questions from standard input; give the video as a file, not as -")
    check_request("ask", "?", settings)
    with Session(video, settings, console) as session:
        session.probe()
        timechat, encoded = session.encode()
    if not domain.force:
        check_domain(video, timechat, encoded)
    for note in (*timechat.notes, *encoded.notes):
        console.warn(note)
    length = format_time(encoded.duration)
    console.info(f"{encoded.num_frames} frames of {length}; ask a question, or end with an empty line")
    history: list[Turn] = []
    while question := _read_question():
        stream = _ask(timechat, encoded, question, history, settings, console)
        if stream is not None and (text := _print(stream)) is not None:
            history.append((question, text))


def _read_question() -> str:
    """Read a line; the end of the input ends the conversation."""
    typer.echo("> ", nl=False, err=True)
    try:
        return input().strip()
    except EOFError:
        return ""


def _ask(
    timechat: "TimeChat",
    encoded: "EncodedVideo",
    question: str,
    history: list[Turn],
    settings: ChatOptions,
    console: CommandConsole,
) -> "AnswerStream | None":
    """Ask a question; drop the oldest turns of a conversation that is too long. Returns None for a bad question."""
    from timechat.errors import PromptTooLongError
    from timechat.pipeline import Request

    while True:
        try:
            request = Request("ask", question, history, settings.decoding(), settings.preset)
            return timechat.stream(request, encoded)
        except ValueError as error:
            if not (history and isinstance(error, PromptTooLongError)):
                console.info(f"timechat: {error}")
                return None
            history.pop(0)
            console.warn("the conversation is too long for the model: its oldest question is forgotten")


def _print(stream: "AnswerStream") -> str | None:
    """Show an answer while it is written; return its text, or None if Ctrl-C stopped it."""
    from timechat.export import printable

    try:
        for piece in stream:
            typer.echo(printable(piece), nl=False)
    except KeyboardInterrupt:
        typer.echo(" [stopped]")
        return None
    typer.echo()
    return stream.answer.text
