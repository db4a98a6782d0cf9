"""The application: routes, doors and the page, put together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from timechat import __version__
from timechat.errors import TimeChatError
from timechat.pipeline import TimeChat
from timechat.serving.errors import ApiError, as_api_error
from timechat.serving.http.database import Database, exclusive_lock
from timechat.serving.http.jobs import Jobs
from timechat.serving.http.metrics import Metrics
from timechat.serving.http.routes import chat, export, jobs, status, tasks
from timechat.serving.http.routes import files as file_routes
from timechat.serving.http.routes.state import ServerState
from timechat.serving.http.security import HEADERS, Keys, SecurityMiddleware
from timechat.serving.service import Service
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoStore

logger = logging.getLogger(__name__)

_CLEANUP_SECONDS = 60.0  # seconds
_NO_FIELDS = ("body", "InlineFrameList", "constrained-str")  # parts of a place that the request does not have


def create_app(timechat: TimeChat, settings: ServerSettings | None = None) -> FastAPI:
    """Make the application that serves a model.

    Args:
        timechat: The model; nobody else should use it meanwhile.
        settings: How the server behaves; None takes the defaults.
    """
    settings = ServerSettings() if settings is None else settings
    metrics = Metrics()
    keys = Keys(settings.api_keys)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        claim = ExitStack()
        claim.enter_context(exclusive_lock(settings.data))
        database = Database(settings.data / "server.sqlite3")
        films = VideoStore(settings, database)
        service = Service(timechat, settings, films)
        background = Jobs(service, settings, database)
        metrics.watch(service, background, films)
        app.state.server = ServerState(settings, service, films, background, keys, metrics)
        service.start()
        background.start()
        clearing = asyncio.create_task(_delete_expired_files(films))
        try:
            yield
        finally:
            clearing.cancel()
            await run_in_threadpool(background.stop)
            await run_in_threadpool(service.stop)
            database.close()
            claim.close()

    app = FastAPI(title="TimeChat", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(SecurityMiddleware, settings=settings, keys=keys, metrics=metrics)
    for part in (status, chat, tasks, file_routes, jobs, export):
        app.include_router(part.router)
    _add_page(app)
    _add_errors(app)
    return app


async def _delete_expired_files(films: VideoStore) -> None:
    """Remove again and again what is not needed any more."""
    while True:
        await asyncio.sleep(_CLEANUP_SECONDS)
        try:
            await run_in_threadpool(films.delete_expired)
        except OSError:
            logger.exception("fetched films could not be removed")


def _add_page(app: FastAPI) -> None:
    """The page at `/`, and its files."""
    folder = Path(str(files("timechat") / "serving" / "web"))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=folder), name="static")


def _add_errors(app: FastAPI) -> None:
    """Everything that goes wrong is told in OpenAI's shape."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        told = as_api_error(error)
        if told is None:
            raise error
        return told.response()

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # Of several, the deepest: a union complains about each of its kinds.
        first = max(error.errors(), key=lambda told: len(told["loc"]))
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", "").lower():
            return ApiError(
                415, "the body must be JSON, sent with the header Content-Type: application/json"
            ).response()
        if first["type"] == "json_invalid":
            return ApiError(400, f"the body is no JSON: {first['ctx']['error']}"[:500]).response()
        param = ".".join(str(part) for part in first["loc"] if part not in _NO_FIELDS) or None
        return ApiError(400, f"{param or 'the body'}: {first['msg']}"[:500], param).response()

    async def by_status(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        told = {404: "there is nothing at {path}", 405: "{method} is not what {path} takes"}
        message = told.get(error.status_code, str(error.detail))
        message = message.format(path=request.url.path[:200], method=request.method[:10])
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    async def unknown(_: Request, _error: Exception) -> JSONResponse:
        told = ApiError(500, "something went wrong inside of the server; its log says more", headers=HEADERS)
        return told.response()  # which does not pass the gate

    for kind in (ApiError, TimeChatError, ValueError, MemoryError, OSError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(Exception, unknown)
