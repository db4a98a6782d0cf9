"""`/v1/export`: an answer, perhaps edited by hand, as a file."""

import json
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from timechat.answers.events import Answer, Event, Task
from timechat.export import FORMATS, export_notes, write_as
from timechat.files import portable_name
from timechat.serving.errors import RequestError
from timechat.serving.http.messages import Seconds

router = APIRouter()

_MAX_EVENTS = 100_000
_MAX_NAME = 100
"""Maximum number of characters of a video's name in the name of a file."""
_MAX_NOTE = 300
_MAX_NOTES_HEADER = 3000
"""Maximum length of a note and of the header `X-Notes`, in characters; proxies refuse long headers."""


class ExportEvent(BaseModel):
    """An event as answers have it."""

    start: Seconds
    end: Seconds
    caption: str = ""
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    saliency: Annotated[float, Field(allow_inf_nan=False)] | None = None


class ExportAnswer(BaseModel):
    """An answer as the API gives it; what is not known may be left out."""

    model_config = ConfigDict(extra="ignore")

    text: str = ""
    events: list[ExportEvent] = Field(default_factory=list, max_length=_MAX_EVENTS)
    task: Task = "ask"
    question: str = ""
    video: str | None = None
    duration: Seconds | None = None
    player_offset: Seconds = 0.0
    model: str | None = None
    notes: list[str] = Field(default_factory=list)

    def answer(self) -> Answer:
        """The answer that is meant."""
        events = [Event(**event.model_dump()) for event in self.events]
        return Answer(
            self.text,
            events,
            task=self.task,
            question=self.question,
            video=self.video,
            duration=self.duration,
            player_offset=self.player_offset,
            model=self.model,
            notes=tuple(self.notes),
        )


class ExportRequest(BaseModel):
    """An answer and the form that it shall have."""

    answer: ExportAnswer
    format: str
    fps: float | None = Field(None, ge=0.1, le=1000)
    start_timecode: Annotated[str, Field(max_length=16)] | None = None


@router.get("/v1/export/formats")
async def formats() -> dict[str, Any]:
    """All forms that there are."""
    return {
        "data": [
            {"format": name, "title": form.title, "extension": form.extension, "media_type": form.media_type}
            for name, form in FORMATS.items()
        ]
    }


@router.post("/v1/export", response_model=None)
async def export(body: ExportRequest) -> Response:
    """An answer as a file; the header `X-Notes` tells what it says otherwise than the answer."""
    if body.format not in FORMATS:
        raise RequestError(
            400, f"there is no format {body.format[:40]!r}; choose one of {', '.join(FORMATS)}", "format"
        )
    text, notes = await run_in_threadpool(_written, body)
    form = FORMATS[body.format]
    name = ((body.answer.video or "answer").rsplit("/", 1)[-1].rsplit(".", 1)[0] or "answer")[:_MAX_NAME]
    name = portable_name(f"{name}.{body.answer.task}{form.extension}")
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    headers = {"Content-Disposition": disposition, "X-Notes": _notes_header(notes)}
    return Response(text.encode("utf-8", "backslashreplace"), media_type=form.media_type, headers=headers)


def _written(body: ExportRequest) -> tuple[str, list[str]]:
    answer, form, fps, start_timecode = body.answer.answer(), body.format, body.fps, body.start_timecode
    text = write_as(answer, form, fps=fps, start_timecode=start_timecode, is_local=False)
    return text, export_notes(answer, form, fps=fps, start_timecode=start_timecode)


def _notes_header(notes: list[str]) -> str:
    """The notes as a JSON list in ASCII, short enough for a header: long notes are cut, and too many are counted."""
    kept: list[str] = []
    left = _MAX_NOTES_HEADER - 60
    for note in notes:
        shown = note if len(note) <= _MAX_NOTE else f"{note[: _MAX_NOTE - 3]}..."
        left -= len(json.dumps(shown)) + 2
        if left < 0:
            return json.dumps([*kept, f"{len(notes) - len(kept)} more notes"])
        kept.append(shown)
    return json.dumps(kept)
