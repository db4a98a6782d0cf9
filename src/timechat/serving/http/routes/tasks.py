"""One route per task; the response is the JSON of the command's `--json`."""

from typing import Any

from fastapi import APIRouter, Request

from timechat.answers.events import Task
from timechat.serving.http.routes.state import CurrentServer, ServerState, wait_for_disconnect
from timechat.serving.http.schemas import TaskRequest

router = APIRouter()


@router.post("/v1/moments")
async def moments(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Find when the event of `query` happens."""
    return await _answer("grounding", body, request, server)


@router.post("/v1/captions")
async def captions(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Describe all events, each with start, end and caption."""
    return await _answer("dense_caption", body, request, server)


@router.post("/v1/highlights")
async def highlights(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Find highlights, with scores."""
    return await _answer("highlights", body, request, server)


@router.post("/v1/steps")
async def steps(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """List the steps of an activity."""
    return await _answer("steps", body, request, server)


@router.post("/v1/summary")
async def summary(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Summarize the video in a few sentences."""
    return await _answer("summary", body, request, server)


@router.post("/v1/transcription")
async def transcription(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Return the subtitles of the video; guess the speech if it has none, or with `"subtitles": false`."""
    return await _answer("transcribe", body, request, server)


async def _answer(task: Task, body: TaskRequest, request: Request, server: ServerState) -> dict[str, Any]:
    service = server.service
    with service.admitted():
        context = service.new_context(server.keys.client(request))
        answer = await service.in_thread(
            lambda: service.answer(body.to_request(task), context), context, wait_for_disconnect(request)
        )
    return answer.to_dict()
