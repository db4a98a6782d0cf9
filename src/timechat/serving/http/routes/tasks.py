"""The tasks, each a route: the same JSON as the command line's `--json`."""

from typing import Any

from fastapi import APIRouter, Request

from timechat.answers.events import Task
from timechat.serving.http.routes.state import CurrentServer, ServerState, wait_for_disconnect
from timechat.serving.http.schemas import TaskRequest

router = APIRouter()


@router.post("/v1/moments")
async def moments(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """When something happens: `query` says what."""
    return await _answer("grounding", body, request, server)


@router.post("/v1/captions")
async def captions(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """All that happens, each event with start, end and caption."""
    return await _answer("dense_caption", body, request, server)


@router.post("/v1/highlights")
async def highlights(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Moments worth seeing, with scores."""
    return await _answer("highlights", body, request, server)


@router.post("/v1/steps")
async def steps(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """The steps of what is being done."""
    return await _answer("steps", body, request, server)


@router.post("/v1/summary")
async def summary(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """What happens, in a few sentences."""
    return await _answer("summary", body, request, server)


@router.post("/v1/transcription")
async def transcription(body: TaskRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """The speech that the model believes to be there."""
    return await _answer("transcribe", body, request, server)


async def _answer(task: Task, body: TaskRequest, request: Request, server: ServerState) -> dict[str, Any]:
    service = server.service
    with service.admitted():
        ticket = service.new_context()
        answer = await service.in_thread(
            lambda: service.answer(body.to_request(task), ticket), ticket, wait_for_disconnect(request)
        )
    return answer.to_dict()
