"""The HTTP server: an OpenAI-compatible API and a web page.

app          create_app: routes, middleware, error handlers and page
routes/      one file per subject: chat, tasks, files, jobs, export, status
schemas      requests                       messages   videos, transcripts and conversations in them
security     hosts, origins, keys, sizes    errors     error handlers
uploads      forms with a file              responses  headers, errors and events of responses
jobs         requests in the background, resumed after a restart
metrics      counters for Prometheus        connections  time limits of idle connections
"""

from timechat.errors import missing_extra

try:
    import fastapi as _fastapi  # noqa: F401
except ModuleNotFoundError as error:
    raise missing_extra("the server needs fastapi", "server") from error

from timechat.serving.http.app import create_app
from timechat.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
