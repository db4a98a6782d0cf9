"""The tools on the Model Context Protocol: calls in, results out, over stdin and stdout."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from pydantic import ValidationError

from timechat import __version__
from timechat.answers.events import Answer, format_time
from timechat.answers.tasks import build_question
from timechat.errors import TimeChatError, describe_error, is_out_of_memory, plain_mistake
from timechat.export import to_text
from timechat.serving.access import FolderVideo, Probed
from timechat.serving.mcp.library import VideoLibrary
from timechat.serving.mcp.tools import (
    TOOLS,
    About,
    Arguments,
    ListedVideo,
    ListVideos,
    ListVideosResult,
    Tool,
    ToolRequest,
    VideoInfoArguments,
    VideoInfoResult,
)
from timechat.serving.mcp.worker import ProgressUpdate, Worker
from timechat.video.sampling import FrameSampling

try:
    import mcp_types as types
    from mcp import MCPError
    from mcp.server import Server, ServerRequestContext
    from mcp.server.stdio import stdio_server
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('the MCP tools need mcp: pip install "timechat[server]"') from error

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "TimeChat looks at videos and tells when things happen; all times are seconds from the start of the video. "
    "list_videos says which videos there are. One question is answered at a time, and a long video takes long: start "
    "and end limit a question to a part of it. A second question about the same part is much quicker."
)

_Context = ServerRequestContext[Any, Any]
_Report = Callable[[ProgressUpdate], object]


async def serve(worker: Worker, library: VideoLibrary) -> None:
    """Serve one client over stdin and stdout until it goes away."""
    server = build_server(worker, library)
    async with stdio_server() as (received, sent):
        await server.run(received, sent, server.create_initialization_options())


def build_server(worker: Worker, library: VideoLibrary) -> Server[Any]:
    """Put the tools on the protocol.

    Args:
        worker: Answers questions.
        library: Knows the videos.
    """
    return Server(
        "timechat",
        title="TimeChat",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=_list_tools,
        on_call_tool=ToolCalls(worker, library),
    )


async def _list_tools(_: _Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS.values()])


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        output_schema=tool.result.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    )


class ToolCalls:
    """Turns a call into work, and its outcome into a result; what the caller did wrong is a result too."""

    def __init__(self, worker: Worker, library: VideoLibrary) -> None:
        """Take what the work is done with."""
        self._desk, self._library = worker, library

    async def __call__(self, context: _Context, call: types.CallToolRequestParams) -> types.CallToolResult:
        """Do what a call asks for, and report how far it is.

        Raises:
            MCPError: There is no such tool.
        """
        if (tool := TOOLS.get(call.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {call.name}; there are {', '.join(TOOLS)}")
        steps: asyncio.Queue[ProgressUpdate | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            group.start_soon(_report, context, steps)
            result = await self._outcome(
                tool, call.arguments or {}, lambda step: loop.call_soon_threadsafe(steps.put_nowait, step)
            )
            steps.put_nowait(None)
        return result

    async def _outcome(self, tool: Tool, values: dict[str, Any], tell: _Report) -> types.CallToolResult:
        try:
            return await self._work(tool.arguments.model_validate(values), tell)
        except ValidationError as error:
            return _failed(_validation_message(error))
        except (TimeChatError, ValueError, OSError, ModuleNotFoundError) as error:
            return _failed(describe_error(error))
        except Exception as error:
            if is_out_of_memory(error):
                return _failed("out of memory; ask about a shorter part of the video (start, end)")
            logger.exception("%s failed", tool.name)
            return _failed("this is a fault of the server; its log says more")

    async def _work(self, arguments: Arguments, tell: _Report) -> types.CallToolResult:
        match arguments:
            case ListVideos():
                return _listed(await anyio.to_thread.run_sync(self._library.list_videos), self._library, arguments)
            case VideoInfoArguments():
                return _looked_up((await self._open(arguments.video))[1], arguments)
            case About():
                return await self._answer(arguments.job(), tell)
        raise AssertionError(f"{type(arguments).__name__} belongs to no tool")

    async def _answer(self, job: ToolRequest, tell: _Report) -> types.CallToolResult:
        """Find bad input while it is still cheap: before the model is loaded, and before others are waited for."""
        build_question(job.task, job.query)
        FrameSampling(1, None, None, job.start, job.end, None, "exact")
        path, _ = await self._open(job.video)
        answer = await self._desk.answer(job, path, tell)
        return _succeeded(_progress_message(answer), answer.to_dict())

    async def _open(self, name: str) -> tuple[Path, Probed]:
        """Find a video that may be opened, and make sure that it is one."""
        stop = threading.Event()

        def look() -> tuple[Path, Probed]:
            path = self._library.find(name, is_cancelled=stop.is_set)
            return path, self._library.probe(path)

        try:
            return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
        finally:
            stop.set()


async def _report(context: _Context, steps: "asyncio.Queue[ProgressUpdate | None]") -> None:
    """Report steps as they come, until there is none."""
    while (step := await steps.get()) is not None:
        await context.session.report_progress(step.done, step.total, step.message)


# -------------------------------------------------------------------------------------------------------- results


def _succeeded(text: str, content: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=content)


def _failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)


def _validation_message(error: ValidationError) -> str:
    """What is wrong with the arguments, in one line."""
    mistakes = [(".".join(map(str, one["loc"])), plain_mistake(one["msg"])) for one in error.errors(include_url=False)]
    return describe_error(ValueError("; ".join(f"{place}: {message}" for place, message in mistakes)))


def _progress_message(answer: Answer) -> str:
    return "\n".join([to_text(answer).rstrip("\n"), *(f"note: {note}" for note in answer.notes)])


def _listed(films: Sequence[FolderVideo], library: VideoLibrary, wanted: ListVideos) -> types.CallToolResult:
    films = [film for film in films if wanted.contains.casefold() in str(film.path).casefold()]
    listed = [ListedVideo(video=str(film.path), bytes=film.num_bytes) for film in films[: wanted.limit]]
    result = ListVideosResult(
        videos=listed, total=len(films), folders=list(map(str, library.folders)), hosts=list(library.hosts)
    )
    lines = [one.video for one in listed] or ["there is no such video"]
    if len(films) > len(listed):
        lines.append(f"and {len(films) - len(listed)} more; ask for those whose path contains some words")
    return _succeeded("\n".join(lines), result.model_dump())


def _looked_up(video: Probed, wanted: VideoInfoArguments) -> types.CallToolResult:
    result = VideoInfoResult(video=wanted.video, **video.to_dict())
    length = f"{video.duration:.3f} seconds ({format_time(video.duration)})"
    rate = f"{video.fps:.3f} frames a second" if video.fps else "rate unknown"
    sound = "with sound" if video.has_audio else "no sound"
    text = f"{wanted.video}: {length}, {video.width}x{video.height} pixels, {rate}, {sound}"
    return _succeeded(text, result.model_dump())
