"""`/v1/files`: upload once, ask many times; and the films of the server's own folders."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from starlette.requests import ClientDisconnect

from timechat.errors import VideoError
from timechat.serving.errors import CLIENT_CLOSED_REQUEST, ApiError, as_api_error
from timechat.serving.http.routes.state import CurrentServer
from timechat.serving.http.uploads import FileForm
from timechat.video.thumbnails import thumbnail

router = APIRouter()

_KEPT_THUMBNAILS = 1000
_RANGE = re.compile(r"\s*(\d{0,18})-(\d{0,18})\s*")


@router.post("/v1/files")
async def upload(request: Request, server: CurrentServer) -> dict[str, Any]:
    """Take a film in, as it arrives."""
    films, settings = server.videos, server.settings
    path = films.new_path()
    form = FileForm(request.headers.get("content-type", ""), path)
    room = settings.max_store_bytes - films.num_bytes
    held = 0

    async def arriving() -> AsyncIterator[bytes]:
        nonlocal held
        async for chunk in request.stream():
            held += len(chunk)
            films.num_arriving += len(chunk)
            if films.num_arriving > room:
                raise ApiError(507, "there is no room for this file; delete others first", "file")
            yield chunk

    try:
        if int(request.headers.get("content-length", "0")) + films.num_arriving > room:
            raise ApiError(507, "there is no room for this file; delete others first", "file")
        await form.read(arriving())
        if path.stat().st_size > settings.limits.max_bytes:
            raise ApiError(413, f"a file may have {settings.limits.max_bytes} bytes here", "file")
        filename, purpose = form.filename or "film", form.fields.get("purpose", "user_data")
        stored = await run_in_threadpool(films.store_upload, path, filename, purpose)
    except ClientDisconnect as error:
        raise ApiError(CLIENT_CLOSED_REQUEST, "the upload broke off") from error
    finally:
        films.num_arriving -= held
        path.unlink(missing_ok=True)
    return stored.to_dict()


@router.get("/v1/files")
async def listed(
    server: CurrentServer,
    purpose: str | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
    after: str | None = None,
) -> dict[str, Any]:
    """Uploads, the newest first, and the films of the folders; at most `limit` of those that come `after` an id."""
    records = await run_in_threadpool(server.videos.list_files)
    records = [record for record in records if purpose in (None, record["purpose"])]
    if after is not None:
        ids = [record["id"] for record in records]
        if after not in ids:
            raise ApiError(404, f"there is no file {after[:40]!r} to go on after", "after", "file_not_found")
        records = records[ids.index(after) + 1 :]
    return {"object": "list", "data": records[:limit], "has_more": len(records[:limit]) < len(records)}


@router.get("/v1/files/{file_id}")
async def record(file_id: str, server: CurrentServer) -> dict[str, Any]:
    """One of them, and what video it is."""
    return await run_in_threadpool(server.videos.record, file_id)


@router.delete("/v1/files/{file_id}")
async def delete(file_id: str, server: CurrentServer) -> dict[str, Any]:
    """Remove an upload."""
    await run_in_threadpool(server.videos.delete, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.head("/v1/files/{file_id}/content", include_in_schema=False)
@router.get("/v1/files/{file_id}/content", response_model=None)
async def content(file_id: str, request: Request, server: CurrentServer) -> Response:
    """The film itself, in parts where the client asks for `Range`; 304 where it has the film as it is."""
    film, filename = await run_in_threadpool(server.videos.by_id, file_id)
    assert film.path is not None
    media_type = await run_in_threadpool(server.videos.media_type, film)
    last, status = filename.rsplit("/", 1)[-1], await run_in_threadpool(film.path.stat)
    whole = FileResponse(
        film.path, media_type=media_type, filename=last, content_disposition_type="inline", stat_result=status
    )
    etag, known = whole.headers["etag"], request.headers.get("if-none-match", "")
    if known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        return Response(status_code=304, headers={"ETag": etag})
    if not _names_bytes(request.headers.get("range", "")):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return whole


def _names_bytes(ranges: str) -> bool:
    """Whether a `Range` is of bytes and well-formed; any other counts for nothing, as HTTP has it (RFC 9110, 14.2)."""
    unit, _, listed = ranges.partition("=")
    if unit.strip().lower() != "bytes":
        return False
    ends = [found.groups() if (found := _RANGE.fullmatch(part)) else ("", "") for part in listed.split(",")]
    return all((first or last) and (not (first and last) or int(first) <= int(last)) for first, last in ends)


@router.head("/v1/files/{file_id}/thumbnail", include_in_schema=False)
@router.get("/v1/files/{file_id}/thumbnail")
async def picture(
    file_id: str,
    server: CurrentServer,
    time: Annotated[float, Query(ge=0, le=1e7)] = 0.0,
    height: Annotated[int, Query(ge=16, le=720)] = 72,
) -> Response:
    """The keyframe before a time, as a small JPEG."""
    film, filename = await run_in_threadpool(server.videos.by_id, file_id)
    assert film.path is not None
    key = (film.key, time, height)
    if key not in server.thumbnails:
        async with server.drawing:
            await run_in_threadpool(server.videos.probe, film)
            try:
                server.thumbnails[key] = await run_in_threadpool(thumbnail, film.path, time, height)
            except VideoError as error:
                raise as_api_error(error, [(film.path, filename)]) or error from error
        while len(server.thumbnails) > _KEPT_THUMBNAILS:
            server.thumbnails.popitem(last=False)
    headers = {"Cache-Control": "private, max-age=86400"}
    return Response(server.thumbnails[key], media_type="image/jpeg", headers=headers)
