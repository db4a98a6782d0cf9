"""The application: routes, middleware, error handlers and the page."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from timechat import __version__
from timechat.pipeline import TimeChat
from timechat.search.encoder import FrameTextEncoder
from timechat.serving.database import DATABASE, Database, exclusive_lock
from timechat.serving.http.errors import add_error_handlers
from timechat.serving.http.jobs import Jobs
from timechat.serving.http.metrics import Metrics
from timechat.serving.http.routes import chat, export, jobs, responses, search, status, tasks
from timechat.serving.http.routes import files as file_routes
from timechat.serving.http.routes.state import ServerState
from timechat.serving.http.security import Keys, SecurityMiddleware
from timechat.serving.library import ServedLibrary
from timechat.serving.service import Service
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoStore

logger = logging.getLogger(__name__)

_CLEANUP_SECONDS = 60.0


def create_app(
    timechat: TimeChat, settings: ServerSettings | None = None, *, encoder: FrameTextEncoder | None = None
) -> FastAPI:
    """Create the application that serves a model.

    Args:
        timechat: Pipeline with the model; nothing else should use it while the server runs.
        settings: Settings of the server; None takes the defaults.
        encoder: Loaded encoder of the library; None loads it for the first search.
    """
    settings = ServerSettings() if settings is None else settings
    metrics = Metrics()
    keys = Keys(settings.api_keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lock = ExitStack()
        lock.enter_context(exclusive_lock(settings.data))
        database = Database(settings.data / DATABASE)
        videos = VideoStore(settings, database)
        service = Service(timechat, settings, videos)
        library = ServedLibrary(settings, videos, encoder)
        job_queue = Jobs(service, settings, database, library)
        metrics.watch(service, job_queue, videos)
        app.state.server = ServerState(settings, service, videos, library, job_queue, keys, metrics)
        service.start()
        job_queue.start()
        cleanup = asyncio.create_task(_delete_expired_files(videos))
        try:
            yield
        finally:
            cleanup.cancel()
            await run_in_threadpool(job_queue.stop)
            await run_in_threadpool(service.stop)
            library.close()
            database.close()
            lock.close()

    app = FastAPI(title="TimeChat", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(SecurityMiddleware, settings=settings, keys=keys, metrics=metrics)
    for part in (status, chat, responses, tasks, search, file_routes, jobs, export):
        app.include_router(part.router)
    _add_page(app)
    add_error_handlers(app)
    return app


async def _delete_expired_files(videos: VideoStore) -> None:
    """Delete expired files at regular intervals."""
    while True:
        await asyncio.sleep(_CLEANUP_SECONDS)
        try:
            await run_in_threadpool(videos.delete_expired)
        except OSError:
            logger.exception("fetched videos could not be deleted")


def _add_page(app: FastAPI) -> None:
    """Serve the page at `/`, and its files."""
    folder = Path(str(files("timechat") / "serving" / "web"))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=folder), name="static")
