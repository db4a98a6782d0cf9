"""The tools on the Model Context Protocol: calls in, results out, over stdin and stdout."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from pydantic import ValidationError

from timechat import __version__
from timechat.answers.events import Answer, format_time
from timechat.answers.tasks import TASKS
from timechat.errors import TimeChatError, describe_error, is_out_of_memory, missing_extra, plain_mistake
from timechat.export import to_text
from timechat.export.text import event_lines
from timechat.serving.access import FolderVideo, Probed
from timechat.serving.mcp.arguments import Arguments
from timechat.serving.mcp.search_tool import SearchVideos
from timechat.serving.mcp.tools import (
    TOOLS,
    ListedVideo,
    ListVideos,
    ListVideosResult,
    Tool,
    VideoInfoArguments,
    VideoInfoResult,
    VideoTask,
)
from timechat.serving.mcp.worker import ToolWorker
from timechat.serving.progress import ProgressTracker, ProgressUpdate

try:
    import mcp_types as types
    from mcp import MCPError
    from mcp.server import Server, ServerRequestContext
    from mcp.server.stdio import stdio_server
except ModuleNotFoundError as error:
    raise missing_extra("the MCP tools need mcp", "server") from error

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "TimeChat watches videos and finds when things happen; all times are seconds from the start of the video. "
    "list_videos lists the videos, and search_videos finds moments in all that are indexed. A question about a "
    "long video takes long: start and end limit it to a part of the video. A second question about the same part is "
    "much faster."
)

_Context = ServerRequestContext[Any, Any]
_Report = Callable[[ProgressUpdate], object]


async def serve(worker: ToolWorker) -> None:
    """Serve one client over stdin and stdout until it disconnects."""
    server = build_server(worker)
    async with stdio_server() as (received, sent):
        await server.run(received, sent, server.create_initialization_options())


def build_server(worker: ToolWorker) -> Server[Any]:
    """Return a protocol server whose tools `worker` carries out."""
    sent = () if worker.privacy_note is None else (worker.privacy_note,)
    return Server(
        "timechat",
        title="TimeChat",
        version=__version__,
        instructions=" ".join((INSTRUCTIONS, *(f"The model is {limit}." for limit in worker.limits), *sent)),
        on_list_tools=partial(_list_tools, sends_frames=bool(sent)),
        on_call_tool=ToolCalls(worker),
    )


async def _list_tools(
    _: _Context, __: types.PaginatedRequestParams | None, *, sends_frames: bool
) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_describe(tool, sends_frames=sends_frames) for tool in TOOLS.values()])


def _describe(tool: Tool, *, sends_frames: bool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.input_schema(),
        output_schema=tool.result.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=sends_frames),
    )


class ToolCalls:
    """Carries out tool calls; an error of the caller is a result with one line of text."""

    def __init__(self, worker: ToolWorker) -> None:
        """Use a worker for all calls."""
        self._worker = worker

    async def __call__(self, context: _Context, call: types.CallToolRequestParams) -> types.CallToolResult:
        """Carry out a call and report its progress.

        Raises:
            MCPError: There is no such tool.
        """
        if (tool := TOOLS.get(call.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {call.name}; there are {', '.join(TOOLS)}")
        updates: asyncio.Queue[ProgressUpdate | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            group.start_soon(_report, context, updates)
            result = await self._run(
                tool, call.arguments or {}, lambda update: loop.call_soon_threadsafe(updates.put_nowait, update)
            )
            updates.put_nowait(None)
        return result

    async def _run(self, tool: Tool, values: dict[str, Any], report: _Report) -> types.CallToolResult:
        try:
            return await self._call(tool.arguments.model_validate(values), report)
        except ValidationError as error:
            return _failed(_validation_message(error))
        except (TimeChatError, ValueError, OSError, ModuleNotFoundError) as error:
            return _failed(describe_error(error))
        except Exception as error:
            if is_out_of_memory(error):
                return _failed("out of memory; ask about a shorter part of the video (start, end)")
            logger.exception("%s failed", tool.name)
            return _failed("this is a fault of the server; its log says more")

    async def _call(self, arguments: Arguments, report: _Report) -> types.CallToolResult:
        match arguments:
            case ListVideos():
                return _listed(await anyio.to_thread.run_sync(self._worker.list_videos), self._worker, arguments)
            case SearchVideos():
                return _moments(await self._worker.search(arguments.to_query()))
            case VideoInfoArguments():
                return _probed(await self._worker.probe(arguments.video), arguments)
            case VideoTask():
                arguments.check()
                answer = await self._worker.answer(arguments, ProgressTracker(arguments.num_passes, report))
                page = _page(answer, arguments)
                return _succeeded(_answer_text(page), page.to_dict())
        raise AssertionError(f"{type(arguments).__name__} belongs to no tool")


async def _report(context: _Context, updates: "asyncio.Queue[ProgressUpdate | None]") -> None:
    """Report updates until there is None."""
    while (update := await updates.get()) is not None:
        await context.session.report_progress(update.done, update.total, update.message)


# -------------------------------------------------------------------------------------------------------- results


def _succeeded(text: str, content: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=content)


def _failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)


def _validation_message(error: ValidationError) -> str:
    """Return the errors of the arguments in one line."""
    errors = [(".".join(map(str, one["loc"])), plain_mistake(one["msg"])) for one in error.errors(include_url=False)]
    return describe_error(ValueError("; ".join(f"{place}: {message}" for place, message in errors)))


def _page(answer: Answer, arguments: VideoTask) -> Answer:
    """Return the answer with the events from `offset`, at most `limit`; a note states which ones they are."""
    first, num_events = arguments.offset, len(answer.events)
    last = min(first + arguments.limit, num_events)
    if not first and last == num_events:
        return answer
    note = f"the answer has {num_events} events; "
    note += f"these are {first + 1} to {last}" if first < last else f"there are none from offset {first} on"
    if last < num_events:
        note += f"; offset {last} continues"
    page = replace(answer, events=answer.events[first:last], notes=(*answer.notes, note))
    # The text of these tasks repeats all events.
    return page if TASKS[answer.task].is_free else replace(page, text="\n".join(event_lines(page)))


def _answer_text(answer: Answer) -> str:
    return "\n".join([to_text(answer).rstrip("\n"), *(f"note: {note}" for note in answer.notes)])


def _listed(videos: Sequence[FolderVideo], worker: ToolWorker, arguments: ListVideos) -> types.CallToolResult:
    videos = [video for video in videos if arguments.contains.casefold() in str(video.path).casefold()]
    listed = [
        ListedVideo(video=str(video.path), bytes=video.num_bytes)
        for video in videos[arguments.offset :][: arguments.limit]
    ]
    result = ListVideosResult(
        videos=listed, total=len(videos), folders=list(map(str, worker.folders)), hosts=list(worker.hosts)
    )
    lines = [one.video for one in listed] or ["there is no such video"]
    if (num_left := len(videos) - arguments.offset - len(listed)) > 0:
        lines.append(
            f"and {num_left} more; offset {arguments.offset + len(listed)} continues, and contains lists those whose "
            "path contains a text"
        )
    return _succeeded("\n".join(lines), result.model_dump())


def _moments(found: dict[str, Any]) -> types.CallToolResult:
    lines = [
        f"{moment['video']} {format_time(moment['start'])} - {format_time(moment['end'])} "
        + " ".join([f"score {moment['score']:.2f}", *moment["by"], *([moment["text"]] if moment["text"] else [])])
        for moment in found["moments"]
    ]
    if not found["found"]:
        lines.insert(0, "not found; the nearest moments:" if lines else "not found")
    return _succeeded("\n".join([*lines, *(f"note: {note}" for note in found["notes"])]), found)


def _probed(video: Probed, arguments: VideoInfoArguments) -> types.CallToolResult:
    result = VideoInfoResult(video=arguments.video, **video.to_dict())
    length = f"{video.duration:.3f} seconds ({format_time(video.duration)})"
    rate = f"{video.fps:.3f} frames per second" if video.fps else "frame rate unknown"
    sound = "with sound" if video.has_audio else "no sound"
    text = f"{arguments.video}: {length}, {video.width}x{video.height} pixels, {rate}, {sound}"
    return _succeeded(text, result.model_dump())
