"""`timechat chat`: a conversation about one video."""

from typing import TYPE_CHECKING

import typer

from timechat.cli.console import CommandConsole
from timechat.cli.options import ChatOptions, expand_options
from timechat.cli.session import Session, Video

if TYPE_CHECKING:
    from timechat.pipeline import AnswerStream, EncodedVideo, TimeChat

Turn = tuple[str, str]
"""A question and its answer."""


@expand_options
def chat(video: Video, settings: ChatOptions) -> None:
    """Talk about a video: ask, ask again; an empty line or Ctrl-D ends."""
    from timechat.answers.events import format_time

    screen = CommandConsole(quiet=settings.quiet)
    with Session(video, settings, screen) as session:
        session.check("ask", "?")
        timechat, encoded = session.encode()
    length = format_time(encoded.duration)
    screen.info(f"{encoded.num_frames} frames of {length}; ask, or end with an empty line")
    history: list[Turn] = []
    while question := _read_question():
        stream = _ask(timechat, encoded, question, history, settings, screen)
        if stream is not None and (text := _print(stream)) is not None:
            history.append((question, text))


def _read_question() -> str:
    """Read a line; the end of input is the end of the conversation."""
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
    """Ask; where the conversation has become too long, forget its oldest turns. A question may be refused."""
    while True:
        try:
            return timechat.stream(
                "ask", encoded, question, history=history, decoding=settings.decoding(), preset=settings.preset
            )
        except ValueError as error:
            if not history or "the language model reads" not in str(error):
                console.info(f"timechat: {error}")
                return None
            history.pop(0)
            console.warn("the conversation is too long for the model: its oldest question is forgotten")


def _print(stream: "AnswerStream") -> str | None:
    """Show an answer while it is written; returns its text, or None where Ctrl-C stopped it."""
    from timechat.export import printable

    try:
        for piece in stream:
            typer.echo(printable(piece), nl=False)
    except KeyboardInterrupt:
        typer.echo(" [stopped]")
        return None
    typer.echo()
    return stream.answer.text
