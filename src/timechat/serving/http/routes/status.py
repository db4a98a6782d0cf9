"""Health, readiness and metrics; and the sessions of browsers."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from timechat.serving.errors import RequestError
from timechat.serving.http.routes.state import CurrentServer
from timechat.serving.http.security import COOKIE, is_secure

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(server: CurrentServer) -> dict[str, Any]:
    """The model is loaded and answers requests."""
    if not server.service.engine.is_alive:
        raise RequestError(
            503, "the model is not ready, or has stopped", code="not_ready", headers={"Retry-After": "5"}
        )
    return {"status": "ready", "model": server.service.timechat.name}


@router.get("/metrics", response_model=None)
async def metrics(server: CurrentServer) -> Response:
    """Metrics for Prometheus."""
    return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.post("/v1/session", response_model=None)
async def open_session(request: Request, server: CurrentServer) -> Response:
    """Let a browser that has sent a key load videos and images, for which it cannot send headers."""
    response = JSONResponse({"object": "session"})
    response.set_cookie(
        COOKIE,
        server.keys.open_session(),
        max_age=12 * 3600,
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )
    return response


@router.delete("/v1/session", response_model=None)
async def close_session(request: Request, server: CurrentServer) -> Response:
    """Close the session."""
    server.keys.close_session(request.cookies.get(COOKIE, ""))
    response = JSONResponse({"object": "session", "deleted": True})
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=is_secure(request))
    return response
