"""`/v1/search`, `/v1/library` and `/v1/index`: search in the videos of the server's folders."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from timechat.serving.http.routes.state import CurrentServer, ServerState, wait_for_disconnect
from timechat.serving.http.search_requests import CurveRequest, IndexRequest, SearchRequest

router = APIRouter()


@router.get("/v1/library")
async def library(server: CurrentServer) -> dict[str, Any]:
    """Say whether there is a library, and how many videos of the server's folders it holds."""
    return await run_in_threadpool(server.library.state)


@router.post("/v1/search")
async def search(body: SearchRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Find moments by `query`, or frames that look like the picture `like`."""
    return await _in_thread(lambda: server.library.search(body.to_query()), request, server)


@router.post("/v1/search/curve")
async def curve(body: CurveRequest, request: Request, server: CurrentServer) -> dict[str, Any]:
    """Return how probably each frame of one video shows the `query`: at most 500 times and scores."""
    return await _in_thread(lambda: server.library.curve(body.query, body.video), request, server)


@router.post("/v1/index", status_code=202)
async def index(body: IndexRequest, server: CurrentServer) -> dict[str, Any]:
    """Add a job that brings the library up to date with videos of the server's folders."""
    return (await run_in_threadpool(server.jobs.add_index, body)).to_dict()


async def _in_thread(work: Callable[[], dict[str, Any]], request: Request, server: ServerState) -> dict[str, Any]:
    service = server.service
    with service.admitted():
        return await service.in_thread(work, service.new_context(), wait_for_disconnect(request))
