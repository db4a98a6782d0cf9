"""The tools for agents, called by the client of the official library over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from tests.clips import X264, Recipe, draw_clip
from timechat.answers.events import Answer
from timechat.cli import main
from timechat.errors import AccessError
from timechat.pipeline import TimeChat
from timechat.serving.errors import CancelledRequestError, EngineStoppedError, RequestError
from timechat.serving.mcp.tools import TOOLS, CaptionVideo
from timechat.serving.mcp.worker import ToolWorker
from timechat.serving.progress import ProgressTracker, ProgressUpdate

mcp = pytest.importorskip("mcp")

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {"TIMECHAT_CACHE": "", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
QUERY = "the red moon bounces"  # happens in film.mp4, from 10 to 17 s
CALLS = [
    ("find_moments", {"query": QUERY, "top_k": 2}, ["ground", QUERY, "--best", "2"]),
    (
        "find_moments",
        {"query": QUERY, "find_all": True, "threshold": 0.1, "end": 10},
        ["ground", QUERY, "--all", "--threshold=.1", "--end", "10"],
    ),
    ("find_moments", {"query": QUERY, "start": 20, "end": 30.5}, ["ground", QUERY, "--start", "20", "--end", "30.5"]),
    ("caption_video", {"end": 10}, ["caption", "--end", "10"]),
    ("find_highlights", {"end": 10}, ["highlights", "--end", "10"]),
    ("find_highlights", {"query": QUERY, "end": 10}, ["highlights", QUERY, "--end", "10"]),
    ("list_steps", {"end": 10}, ["steps", "--end", "10"]),
    ("summarize_video", {"end": 10}, ["summarize", "--end", "10"]),
    ("summarize_video", {"cite": True, "end": 10}, ["summarize", "--cite", "--end", "10"]),
    ("transcribe_video", {"end": 10}, ["transcribe", "--guess", "--end", "10"]),
    ("ask_video", {"question": "What happens?", "end": 10}, ["ask", "What happens?", "--end", "10"]),
]
"""Tools with arguments, and the command with the same result."""


@pytest.fixture(scope="module")
def allowed(drawn_film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video, a long one, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("allowed")
    shutil.copy(drawn_film, folder / "film.mp4")
    seconds = [Fraction(i) for i in range(900)]
    draw_clip(Recipe(times=seconds, options=X264, rate=Fraction(1)), folder / "long.mp4")
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside") / "secret.mp4"
    draw_clip(Recipe(options=X264), path)
    return path


class Agent:
    """The client of the library, called from plain functions."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, client: Any) -> None:
        self.portal, self.client = portal, client

    def call(self, tool: str, /, **arguments: Any) -> Any:
        return self.portal.call(partial(self.client.call_tool, tool, arguments, read_timeout_seconds=120))

    def complaint(self, tool: str, /, **arguments: Any) -> str:
        """Call a tool and return its one-line error."""
        result = self.call(tool, **arguments)
        assert result.is_error
        assert result.structured_content is None
        (content,) = result.content
        assert "\n" not in content.text
        assert "Traceback" not in content.text
        return content.text


def server_command(*folders: Path) -> list[str]:
    allow = [argument for folder in folders for argument in ("--allow", str(folder))]
    return [sys.executable, "-m", "timechat", "mcp", *allow]


@pytest.fixture(scope="module")
def agent(allowed: Path) -> Iterator[Agent]:
    command, *arguments = server_command(allowed)
    source = str(ROOT / "src")
    parameters = mcp.StdioServerParameters(command=command, args=arguments, env={**ENVIRONMENT, "PYTHONPATH": source})
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(mcp.Client(parameters)) as client,
    ):
        yield Agent(portal, client)


# ------------------------------------------------------------------------------------------------------ the tools


def test_every_tool_describes_its_arguments_and_results(agent):
    tools = {tool.name: tool for tool in agent.portal.call(agent.client.list_tools).tools}
    assert list(tools) == list(TOOLS)
    for tool in tools.values():
        assert len(tool.description) > 60
        assert tool.annotations.read_only_hint
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["type"] == "object"
    taken = {name: list(tool.input_schema["properties"]) for name, tool in tools.items()}
    assert taken["find_moments"] == [
        "video",
        "start",
        "end",
        "limit",
        "offset",
        "query",
        "top_k",
        "find_all",
        "threshold",
    ]
    assert tools["find_moments"].input_schema["required"] == ["video", "query"]
    assert taken["summarize_video"] == ["video", "start", "end", "limit", "offset", "cite"]
    assert taken["ask_video"] == ["video", "start", "end", "limit", "offset", "question", "history"]
    assert set(tools["caption_video"].output_schema["properties"]) == set(Answer("").to_dict())


def test_videos_of_the_folder_are_listed(agent, allowed, outside):
    result = agent.call("list_videos")
    names = ["broken.mp4", "film.mp4", "long.mp4"]
    assert result.structured_content == {
        "videos": [{"video": str(allowed / name), "bytes": (allowed / name).stat().st_size} for name in names],
        "total": 3,
        "folders": [str(allowed)],
        "hosts": [],
    }
    assert result.content[0].text.splitlines() == [str(allowed / name) for name in names]
    assert str(outside) not in result.content[0].text
    few = agent.call("list_videos", contains="M.MP4", limit=1).structured_content
    assert ([Path(one["video"]).name for one in few["videos"]], few["total"]) == (["film.mp4"], 1)
    assert "and 2 more" in agent.call("list_videos", limit=1).content[0].text


def test_a_video_is_found_by_path_name_and_file_address(agent, allowed):
    film = allowed / "film.mp4"
    facts = {
        "duration": 55.0,
        "width": 224,
        "height": 224,
        "fps": 12.0,
        "has_audio": False,
        "codec": "h264",
        "created": None,
    }
    for name in (str(film), "film.mp4", film.as_uri()):
        told = agent.call("video_info", video=name).structured_content
        assert told == {"video": name, "format": "mov,mp4,m4a,3gp,3g2,mj2", **facts}


@pytest.mark.parametrize(
    ("tool", "arguments", "command"), CALLS, ids=lambda value: value if str(value) == value else ""
)
def test_an_answer_is_the_object_that_the_command_prints(agent, allowed, tool, arguments, command, capsys, monkeypatch):
    film = str(allowed / "film.mp4")
    result = agent.call(tool, video=film, **arguments)
    assert not result.is_error
    monkeypatch.setattr(sys, "argv", ["timechat", command[0], film, *command[1:], "--json", "--quiet"])
    with pytest.raises(SystemExit):
        main()
    told, printed = result.structured_content, json.loads(capsys.readouterr().out)
    assert list(told) == list(printed)
    assert list(told.pop("timings")) == list(printed.pop("timings"))
    assert told == nearly(printed)
    assert result.content[0].text


def nearly(value: Any) -> Any:
    """Return an object that equals others with scores within 1e-6: the rounding of sums may differ between calls."""
    if isinstance(value, dict):
        return {key: nearly(each) for key, each in value.items()}
    if isinstance(value, list):
        return [nearly(each) for each in value]
    return pytest.approx(value, rel=0, abs=1e-6) if isinstance(value, float) else value


def spans(result: Any) -> list[tuple[float, float, str]]:
    """Return the events without their scores, which have float noise."""
    return [(event["start"], event["end"], event["caption"]) for event in result.structured_content["events"]]


def test_an_answer_is_read_page_by_page(agent, allowed):
    call = partial(agent.call, "caption_video", video=str(allowed / "film.mp4"))
    events = spans(call())
    num_events = len(events)
    assert num_events > 2
    page = call(limit=2)
    assert spans(page) == events[:2]
    first = page.structured_content
    assert first["notes"][-1] == f"the answer has {num_events} events; these are 1 to 2; offset 2 continues"
    assert len(first["text"].splitlines()) == 2
    assert spans(call(offset=2)) == events[2:]
    past = call(offset=num_events).structured_content
    assert past["events"] == []
    assert past["notes"][-1] == f"the answer has {num_events} events; there are none from offset {num_events} on"


def test_null_is_the_default_of_an_optional_argument(agent, allowed):
    names = ["start", "end", "limit", "offset", "top_k", "find_all", "threshold"]
    video = str(allowed / "film.mp4")
    plain = agent.call("find_moments", video=video, query=QUERY)
    nulls = agent.call("find_moments", video=video, query=QUERY, **dict.fromkeys(names))
    assert spans(nulls) == spans(plain) != []
    assert agent.call("list_videos", contains=None, limit=None, offset=None).structured_content["total"] == 3
    assert agent.call("find_moments", video=video, query=None).is_error
    tools = {tool.name: tool for tool in agent.portal.call(agent.client.list_tools).tools}
    assert {"type": "null"} in tools["find_moments"].input_schema["properties"]["top_k"]["anyOf"]
    assert tools["find_moments"].input_schema["properties"]["query"]["type"] == "string"


def test_a_question_may_follow_others(agent, allowed):
    before = [{"question": "What moves?", "answer": "The ball."}]
    result = agent.call("ask_video", video=str(allowed / "film.mp4"), question="When?", history=before)
    assert result.structured_content["question"] == "When?"
    assert not result.is_error


def test_the_second_question_about_a_video_does_no_vision_work(agent, allowed):
    part = {"video": str(allowed / "film.mp4"), "start": 1.0, "end": 50.0}
    first = agent.call("caption_video", **part).structured_content["timings"]
    second = agent.call("list_steps", **part).structured_content["timings"]
    assert first["encode"] > 0
    assert (second["decode"], second["encode"]) == (0, 0)


# --------------------------------------------------------------------------------------------------- what is wrong


def test_a_video_outside_is_refused(agent, allowed, outside):
    line = "only files in the allowed folders may be opened"
    assert agent.complaint("caption_video", video=str(outside)) == line
    assert agent.complaint("video_info", video=outside.as_uri()) == line
    assert line in agent.complaint("video_info", video=f"{allowed}/../{outside.parent.name}/secret.mp4")
    (allowed / "link.mp4").symlink_to(outside)
    try:
        assert agent.complaint("video_info", video=str(allowed / "link.mp4")) == line
        assert len(agent.call("list_videos").structured_content["videos"]) == 3
    finally:
        (allowed / "link.mp4").unlink()


def test_an_address_is_refused_unless_its_host_is_allowed(agent):
    line = agent.complaint("caption_video", video="http://127.0.0.1:9/film.mp4")
    assert "the address may not be fetched" in line


def test_a_file_that_is_not_a_video_is_one_clear_line(agent, allowed):
    assert "there is no such file" in agent.complaint("caption_video", video=str(allowed / "nothing.mp4"))
    assert "the video cannot be read" in agent.complaint("caption_video", video=str(allowed / "broken.mp4"))


def test_wrong_arguments_are_one_clear_line(agent, allowed):
    film = str(allowed / "film.mp4")
    assert agent.complaint("find_moments", video=film) == "query: Field required"
    assert agent.complaint("find_moments", video=film, query="x", top_k=0).startswith("top_k: ")
    assert agent.complaint("caption_video", video=film, speed=2).startswith("speed: ")
    assert "start must be before end" in agent.complaint("caption_video", video=film, start=5, end=3)
    assert "before the start" in agent.complaint("caption_video", video=film, start=500)
    assert "; " in agent.complaint("ask_video")


def test_there_is_no_other_tool(agent):
    with pytest.raises(mcp.MCPError, match="there is no tool delete_video; there are list_videos"):
        agent.call("delete_video")


# ---------------------------------------------------------------------------------------- progress and cancellation


def test_progress_rises_to_its_total(agent, allowed):
    reports: list[tuple[float, float, str]] = []

    async def take(*report: Any) -> None:
        reports.append(report)

    arguments = {"video": str(allowed / "long.mp4"), "query": QUERY, "end": 500}
    agent.portal.call(partial(agent.client.call_tool, "find_moments", arguments, progress_callback=take))
    done = [report[0] for report in reports]
    assert done == sorted(set(done))
    assert {report[1] for report in reports} == {2.0}
    assert (done[0], done[-1]) == (0.0, 2.0)
    messages = [report[2] for report in reports]
    assert [text for text in messages if text.endswith(" windows")] == [f"{n} of 10 windows" for n in (0, 8, 10)]
    # Four of the windows were encoded before, by the test whether the video is of the kind that nano knows.
    assert sum(f"looking at window {n} of 10" in messages for n in range(1, 11)) == 6


def test_a_cancelled_call_makes_room_for_the_next(agent, allowed):
    begun = threading.Event()

    async def take(done: float, *_: Any) -> None:
        if done >= 1:
            begun.set()

    async def give_up() -> str:
        call = asyncio.ensure_future(
            agent.client.call_tool("caption_video", {"video": str(allowed / "long.mp4")}, progress_callback=take)
        )
        await asyncio.to_thread(begun.wait, 60)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return "cancelled"
        return "answered"

    assert agent.portal.call(give_up) == "cancelled"
    assert not agent.call("caption_video", video=str(allowed / "film.mp4")).is_error


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """Let every question run until it is cancelled; returns the errors that ended them."""
    errors: list[type[BaseException]] = []

    def run(*_: object, progress: Callable[[str, int, int], None], **__: object) -> Answer:
        try:
            for done in range(6000):
                progress("windows", done, 6000)
                time.sleep(0.01)
        except BaseException as error:
            errors.append(type(error))
            raise
        return Answer("never cancelled")

    monkeypatch.setattr(TimeChat, "run", run)
    return errors


def ask(worker: ToolWorker, video: Path, updates: list[ProgressUpdate]) -> asyncio.Future[Answer]:
    tracker = ProgressTracker(1, updates.append)
    return asyncio.ensure_future(worker.answer(CaptionVideo(video=str(video)), tracker))


def test_work_ends_when_the_call_is_cancelled(allowed, endless):
    worker = ToolWorker(TimeChat.from_pretrained, [allowed])

    async def cancel(updates: list[ProgressUpdate]) -> None:
        calls = [ask(worker, allowed / "film.mp4", updates) for _ in range(6)]  # more than run at the same time
        while len(updates) < 20:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 6

    asyncio.run(cancel([]))
    worker.close()
    assert set(endless) == {CancelledRequestError}
    assert len(endless) <= 4  # the others waited and never began


def test_closing_the_worker_ends_its_work(allowed, endless):
    worker = ToolWorker(TimeChat.from_pretrained, [allowed])

    async def close(updates: list[ProgressUpdate]) -> None:
        call = ask(worker, allowed / "film.mp4", updates)
        while len(updates) < 5:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(worker.close)
        with pytest.raises(RequestError, match="shutting down"):
            await call

    asyncio.run(close([]))
    assert endless == [EngineStoppedError]


def test_two_passes_over_a_video_are_one_progress():
    updates: list[ProgressUpdate] = []
    tracker = ProgressTracker(2, updates.append)
    tracker.start("opening the video")
    tracker("windows", 0, 2)
    for done in (30, 60, 60):
        tracker("encode", done, 60)  # of two windows, the second of them short
    tracker("windows", 2, 2)
    tracker("windows", 0, 2)  # the second pass, which encodes nothing
    tracker("windows", 2, 2)
    assert [update.done for update in updates] == [0, 1, 1.125, 1.25, 1.5, 2, 3]
    assert {update.total for update in updates} == {3}
    assert updates[-2].message == "2 of 2 windows"


# ------------------------------------------------------------------------------------------------------- the videos


def test_an_address_is_fetched_once_and_deleted_at_the_end(allowed, monkeypatch):
    fetched: list[Path] = []

    def fetch(_: str, into: Path, *__: object, **___: object) -> None:
        shutil.copy(allowed / "film.mp4", into)
        fetched.append(into)

    monkeypatch.setattr("timechat.serving.videos.fetch", fetch)
    worker = ToolWorker(pytest.fail, [allowed], ["example.org"])
    for _ in range(2):
        assert asyncio.run(worker.probe("https://example.org/a.mp4")).duration == 55.0
    assert len(fetched) == 1
    assert fetched[0].exists()
    worker.close()
    assert not fetched[0].exists()
    assert not fetched[0].parents[1].exists()


def test_a_private_address_is_refused_though_its_host_is_allowed(tmp_path):
    with (
        contextlib.closing(ToolWorker(pytest.fail, [tmp_path], ["127.0.0.1"])) as worker,
        pytest.raises(AccessError, match="private network"),
    ):
        asyncio.run(worker.probe("http://127.0.0.1:9/film.mp4"))


def test_a_name_that_looks_like_an_id_is_a_path(tmp_path, allowed):
    for name in ("film-1.mp4", "file-1.mp4"):
        shutil.copy(allowed / "film.mp4", tmp_path / name)
        with contextlib.closing(ToolWorker(pytest.fail, [tmp_path])) as worker:
            assert asyncio.run(worker.probe(name)).duration == 55.0
            with pytest.raises(AccessError):
                asyncio.run(worker.probe("data:video/mp4;base64,AAAA"))


def test_the_tools_start_without_torch_and_fastapi():
    program = """
import pathlib, sys
from timechat.serving.mcp.protocol import build_server
from timechat.serving.mcp.worker import ToolWorker
worker = ToolWorker(None, [pathlib.Path()])
build_server(worker)
worker.close()
print({"torch", "transformers", "fastapi"} & set(sys.modules))
"""
    source = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=source, check=True)
    assert done.stdout == "set()\n"


# ---------------------------------------------------------------------------------------------------- the command


def request(number: int, method: str, **parameters: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}


def test_stdout_holds_the_protocol_and_nothing_else(allowed):
    hello = request(
        1, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "test", "version": "1"}
    )
    lines = [
        hello,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        request(2, "tools/call", name="caption_video", arguments={"video": "film.mp4", "end": 20}),
    ]
    process = subprocess.Popen(
        [*server_command(allowed), "--preload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    )
    with process:
        process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, errors = process.communicate(timeout=60)
    assert rest == ""
    assert process.returncode == 0
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "timechat"
    assert answers[1]["result"]["structuredContent"]["task"] == "dense_caption"
    assert errors.splitlines()[-1] == f"serving tools on stdin and stdout; videos in {allowed}"


def test_ctrl_c_ends_the_command_at_once(allowed):
    process = subprocess.Popen(
        server_command(allowed),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    )
    with process:
        assert process.stderr.readline().startswith("serving tools")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--allow", "nowhere"], "timechat: nowhere is not a folder; allow folders that exist"),
        (["--allow-host", "a b/c"], "timechat: 'a b/c' cannot be allowed as a host: "),
        (["--preload", "--model", "nothing/here"], "timechat: "),
    ],
)
def test_bad_options_are_one_line(arguments, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["timechat", "mcp", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


def test_a_missing_library_names_the_extra(capsys, monkeypatch):
    for name in [
        name for name in sys.modules if name == "timechat.serving.mcp.protocol" or name.partition(".")[0] == "mcp"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setattr(sys, "argv", ["timechat", "mcp"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        'timechat: the MCP tools need mcp; install the extra "server": pip install ".[server]" in a checkout, or pip '
        'install "WHEEL[server]"\n'
    )


def test_configurations_on_the_page_start_the_command(monkeypatch):
    served: list[Path] = []

    async def serve(worker: ToolWorker) -> None:
        served.extend(worker.folders)

    monkeypatch.setattr("timechat.serving.mcp.protocol.serve", serve)
    page = (ROOT / "docs" / "mcp.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"^~~~~json\n(.*?)^~~~~", page, re.DOTALL | re.MULTILINE)]
    assert [list(block) for block in blocks] == [["mcpServers"], ["servers"]]
    for (server,) in (block[key].values() for block in blocks for key in block):
        there = [str(ROOT) if "/" in word or "$" in word else word for word in server["args"] if word != "--preload"]
        monkeypatch.setattr(sys, "argv", [server["command"], *there])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
    assert served == [ROOT, ROOT]


def test_the_page_names_every_tool_and_what_it_takes():
    page = (ROOT / "docs" / "mcp.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    assert list(rows) == list(TOOLS)
    for name, row in rows.items():
        taken = set(TOOLS[name].arguments.model_fields) - {"video"}
        assert set(re.findall(r"`(\w+)`", row)) - {"video"} == taken


def test_a_model_elsewhere_is_named_in_the_instructions(tmp_path):
    from timechat.serving.mcp.protocol import build_server

    note = "Frames of the video leave this machine to example.com."
    with contextlib.closing(ToolWorker(pytest.fail, [tmp_path], privacy_note=note)) as worker:
        server = build_server(worker)
        assert server.instructions.endswith(note)
    with contextlib.closing(ToolWorker(pytest.fail, [tmp_path])) as worker:
        assert "leave this machine" not in build_server(worker).instructions
