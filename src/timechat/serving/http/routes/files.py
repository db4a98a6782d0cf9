"""`/v1/files`: uploads, and the videos of the allowed folders."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from starlette.requests import ClientDisconnect

from timechat.errors import VideoError
from timechat.serving.errors import CLIENT_CLOSED_REQUEST, RequestError, as_request_error
from timechat.serving.http.routes.paging import list_page
from timechat.serving.http.routes.state import CurrentServer
from timechat.serving.http.uploads import FileForm
from timechat.video.thumbnails import thumbnail

router = APIRouter()

_KEPT_THUMBNAIL_BYTES = 32 << 20
_RANGE = re.compile(r"\s*(\d{0,18})-(\d{0,18})\s*")


@router.post("/v1/files")
async def upload(request: Request, server: CurrentServer) -> dict[str, Any]:
    """Receive an upload and write it to the disk as it arrives."""
    videos, settings = server.videos, server.settings
    path = videos.new_path()
    form = FileForm(request.headers.get("content-type", ""), path)
    num_bytes = num_reserved = 0

    def reserve(num_missing: int) -> None:
        nonlocal num_reserved
        videos.reserve(num_missing)
        num_reserved += num_missing

    async def arriving() -> AsyncIterator[bytes]:
        nonlocal num_bytes
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > num_reserved:
                reserve(num_bytes - num_reserved)
            yield chunk

    try:
        reserve(int(request.headers.get("content-length", "0")))
        await form.read(arriving())
        if path.stat().st_size > settings.limits.max_bytes:
            raise RequestError(413, f"a file may have {settings.limits.max_bytes} bytes here", "file")
        filename, purpose = form.filename or "video", form.fields.get("purpose", "user_data")
        stored = await run_in_threadpool(videos.store_upload, path, filename, purpose)
    except ClientDisconnect as error:
        raise RequestError(CLIENT_CLOSED_REQUEST, "the upload was interrupted") from error
    finally:
        videos.reserve(-num_reserved)
        path.unlink(missing_ok=True)
    return stored.to_dict()


@router.get("/v1/files")
async def listed(
    server: CurrentServer,
    purpose: str | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
    after: str | None = None,
) -> dict[str, Any]:
    """List uploads, the newest first, and the videos of the folders: at most `limit`, those `after` an id."""
    records = await run_in_threadpool(server.videos.list_files)
    records = [record for record in records if purpose in (None, record["purpose"])]
    return list_page(records, after, limit, "file")


@router.get("/v1/files/{file_id}")
async def record(file_id: str, server: CurrentServer) -> dict[str, Any]:
    """Return one file, with the properties of its video."""
    return await run_in_threadpool(server.videos.record, file_id)


@router.delete("/v1/files/{file_id}")
async def delete(file_id: str, server: CurrentServer) -> dict[str, Any]:
    """Delete an upload."""
    await run_in_threadpool(server.videos.delete, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.head("/v1/files/{file_id}/content", include_in_schema=False)
@router.get("/v1/files/{file_id}/content", response_model=None)
async def content(file_id: str, request: Request, server: CurrentServer) -> Response:
    """Send the video, or a part of it for `Range`; 304 if the client has the current version."""
    file, filename = await run_in_threadpool(server.videos.by_id, file_id)
    assert file.path is not None
    media_type = await run_in_threadpool(server.videos.media_type, file)
    last, status = filename.rsplit("/", 1)[-1], await run_in_threadpool(file.path.stat)
    whole = FileResponse(
        file.path, media_type=media_type, filename=last, content_disposition_type="inline", stat_result=status
    )
    etag, known = whole.headers["etag"], request.headers.get("if-none-match", "")
    if known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        return Response(status_code=304, headers={"ETag": etag})
    if not _names_bytes(request.headers.get("range", "")):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return whole


def _names_bytes(ranges: str) -> bool:
    """Whether a `Range` is a well-formed range of bytes; any other is ignored (RFC 9110, 14.2)."""
    unit, _, listed = ranges.partition("=")
    if unit.strip().lower() != "bytes":
        return False
    ends = [found.groups() if (found := _RANGE.fullmatch(part)) else ("", "") for part in listed.split(",")]
    return all((first or last) and (not (first and last) or int(first) <= int(last)) for first, last in ends)


@router.head("/v1/files/{file_id}/thumbnail", include_in_schema=False)
@router.get("/v1/files/{file_id}/thumbnail")
async def get_thumbnail(
    file_id: str,
    server: CurrentServer,
    time: Annotated[float, Query(ge=0, le=1e7)] = 0.0,
    height: Annotated[int, Query(ge=16, le=720)] = 72,
) -> Response:
    """Send the keyframe before a time as a small JPEG."""
    file, filename = await run_in_threadpool(server.videos.by_id, file_id)
    assert file.path is not None
    key = (file.key, time, height)
    if key not in server.thumbnails:
        async with server.thumbnail_slots:
            await run_in_threadpool(server.videos.probe, file)
            try:
                image = await run_in_threadpool(thumbnail, file.path, time, height)
            except VideoError as error:
                raise as_request_error(error, [(file.path, filename)]) or error from error
        server.thumbnails[key] = image
        num_bytes = sum(map(len, server.thumbnails.values()))
        while num_bytes > _KEPT_THUMBNAIL_BYTES:
            num_bytes -= len(server.thumbnails.popitem(last=False)[1])
    else:
        image = server.thumbnails[key]
    headers = {"Cache-Control": "private, max-age=86400"}
    return Response(image, media_type="image/jpeg", headers=headers)
