"""The server: an API that existing clients speak, and a page.

app          create_app: routes, doors and the page, put together
gate         who may come in: hosts, origins, keys, sizes; what is logged
connections  clients that hold a connection for nothing
routes/      one file a subject: chat, tasks, files, jobs, export, status
schemas      what requests look like           errors    what answers look like where something is wrong
films        a video that a request names ─▶ a file that may be opened: uploads, allowed folders, addresses
service      a question about a video ─▶ an answer: opened videos, bounded queues
jobs         questions that take long: in the background, through restarts
engine       the thread that owns the model
database     what must survive a restart      metrics    what Prometheus is told
"""

try:
    import fastapi as _fastapi  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('the server needs fastapi: pip install "timechat[server]"') from error

from timechat.serving.http.app import create_app
from timechat.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
