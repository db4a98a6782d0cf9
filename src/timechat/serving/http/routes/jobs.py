"""`/v1/jobs`: requests in the background."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from timechat.serving.http.jobs import Job
from timechat.serving.http.responses import KEEPALIVE, KEEPALIVE_SECONDS, STREAM_HEADERS, format_event
from timechat.serving.http.routes.paging import list_page
from timechat.serving.http.routes.state import CurrentServer, ServerState
from timechat.serving.http.schemas import JobRequest

router = APIRouter()

_POLL_SECONDS = 0.2


@router.post("/v1/jobs", status_code=202)
async def add(body: JobRequest, server: CurrentServer) -> dict[str, Any]:
    """Add a job to the queue."""
    filename = None
    if isinstance(body.video, str) and body.video.startswith(("file-", "film-")):
        filename = (await run_in_threadpool(server.videos.by_id, body.video))[1]
    return (await run_in_threadpool(server.jobs.add, body, filename)).to_dict()


@router.get("/v1/jobs")
async def listed(
    server: CurrentServer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    video: str | None = None,
) -> dict[str, Any]:
    """List jobs without their results, the newest first: at most `limit`, those `after` an id, those about a video."""
    jobs = [job for job in server.jobs.list_jobs() if video in (None, job.request.video)]
    return list_page([job.to_dict(with_result=False) for job in jobs], after, limit, "job")


@router.get("/v1/jobs/{job_id}")
async def one(job_id: str, server: CurrentServer) -> dict[str, Any]:
    """Return one job."""
    return server.jobs.get(job_id).to_dict()


@router.post("/v1/jobs/{job_id}/cancel")
async def cancel(job_id: str, server: CurrentServer) -> dict[str, Any]:
    """Cancel a job."""
    return (await run_in_threadpool(server.jobs.cancel, job_id)).to_dict()


@router.delete("/v1/jobs/{job_id}")
async def delete(job_id: str, server: CurrentServer) -> dict[str, Any]:
    """Delete a finished job."""
    await run_in_threadpool(server.jobs.delete, job_id)
    return {"id": job_id, "object": "job", "deleted": True}


@router.get("/v1/jobs/{job_id}/events")
async def events(job_id: str, server: CurrentServer) -> StreamingResponse:
    """Stream the progress of a job until it has ended."""
    job = server.jobs.get(job_id)
    return StreamingResponse(_events(job, server), media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(job: Job, server: ServerState) -> AsyncIterator[str]:
    sent_status, sent_progress, silent = None, None, 0.0
    while server.service.engine.is_alive and not server.service.is_stopping:
        if job.is_over:
            yield format_event(job.to_dict(), "done")
            return
        status, progress = job.status, job.progress
        if status != sent_status:
            yield format_event(job.to_dict(), "status")
        if progress != sent_progress:
            yield format_event(progress, "progress")
        silent = 0.0 if (status, progress) != (sent_status, sent_progress) else silent + _POLL_SECONDS
        sent_status, sent_progress = status, progress
        if silent >= KEEPALIVE_SECONDS:
            silent = 0.0
            yield KEEPALIVE
        await asyncio.sleep(_POLL_SECONDS)
