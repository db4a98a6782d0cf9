import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from tests.clips import RECIPES, draw_audio, draw_clip, draw_video_with_audio
from timechat.errors import AccessError, VideoError
from timechat.files.system import child_environment
from timechat.serving.access import Limits, Probed, probe_safely, probing


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    return draw_video_with_audio(folder / "film.mp4", video_start=0, audio_start=0, beep=1, seconds=2)


def refusal(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(VideoError) as caught:
        probe_safely(path, limits or Limits())
    message = str(caught.value)
    assert message.startswith("the video cannot be read: ")
    assert path.name not in message
    assert str(path.parent) not in message
    return message


def test_the_properties_of_a_video_are_read(film: Path) -> None:
    probed = probe_safely(film, Limits())
    assert probed == Probed(probed.duration, 160, 96, 25.0, True, "mov,mp4,m4a,3gp,3g2,mj2", "h264", 0.0, "aac")
    assert probed.duration == pytest.approx(2, abs=0.1)
    assert json.loads(json.dumps(probed.to_dict())) == {
        "duration": probed.duration,
        "width": 160,
        "height": 96,
        "fps": 25.0,
        "has_audio": True,
        "format": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "player_offset": 0.0,
        "start_timecode": None,
        "created": None,
        "audio_codec": "aac",
    }


@pytest.mark.parametrize(
    "name", ["variable rate in Matroska", "transport stream", "VP9 of odd size", "motion JPEG", "MPEG-2"]
)
def test_all_codecs_are_loaded_before_files_are_forbidden(name: str, tmp_path: Path) -> None:
    if RECIPES[name].codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {RECIPES[name].codec}")
    clip = draw_clip(RECIPES[name], tmp_path / f"clip{RECIPES[name].suffix}")
    assert probe_safely(clip.path, Limits()).width == RECIPES[name].width


def test_other_streams_beside_the_video_are_accepted(film: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "all.mkv"), "w") as output, av.open(str(film)) as source:
        pictures = output.add_stream_from_template(source.streams.video[0])
        output.add_attachment("font.ttf", "font/ttf", b"font")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                output.mux(packet)
    assert not probe_safely(tmp_path / "all.mkv", Limits()).has_audio


def test_the_message_for_a_broken_video_has_no_path(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"Only words.\n" * 100,
        "page.html": b"<!doctype html><title>A video</title>" * 50,
        "noise.mp4": os.urandom(10_000),
        "head.mp4": data[:200],
        "zeros.mp4": data[:100] + bytes(len(data) - 100),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    refusal(draw_audio(tmp_path / "sound.m4a"))
    refusal(tmp_path / "nothing.mp4")
    refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is not a regular file" in refusal(tmp_path / "pipe.mp4")


def test_damage_anywhere_gives_a_video_or_an_error(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    for number in range(12):
        damaged = bytearray(data)
        start = number * len(data) // 12
        damaged[start : start + 200] = os.urandom(200)
        (tmp_path / "damaged.mp4").write_bytes(damaged)
        try:
            width = probe_safely(tmp_path / "damaged.mp4", Limits()).width
        except (VideoError, AccessError):
            continue
        assert width > 0


# ── Limits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_video_that_is_too_long_is_refused(film: Path) -> None:
    with pytest.raises(AccessError, match="lasts 2 s, longer than the 1 s") as caught:
        probe_safely(film, Limits(max_duration=1.0))
    assert caught.value.reason == "too_large"


def test_frames_that_are_too_large_are_refused(film: Path) -> None:
    assert probe_safely(film, Limits(max_pixels=160 * 96))
    with pytest.raises(AccessError, match="160x96") as caught:
        probe_safely(film, Limits(max_pixels=160 * 96 - 1))
    assert caught.value.reason == "too_large"


def test_a_header_with_a_huge_frame_does_no_harm(tmp_path: Path) -> None:
    """Return an AVI file of uncompressed frames of 30000x30000 pixels that has only a header."""
    side = 30_000
    stream = b"vids" + bytes(16) + struct.pack("<IIIIII", 1, 25, 0, 1000, 0, 0xFFFFFFFF) + bytes(12)
    picture = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0xFFFFFFFF, 0, 0, 0, 0)
    main = struct.pack("<14I", 40_000, 0, 0, 0x10, 1000, 0, 1, 0, side, side, 0, 0, 0, 0)
    frame = b"00db" + struct.pack("<I", 4096) + bytes(4096)

    def block(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body

    header = b"hdrl" + block(b"avih", main)
    header += block(b"LIST", b"strl" + block(b"strh", stream) + block(b"strf", picture))
    (tmp_path / "huge.avi").write_bytes(
        block(b"RIFF", b"AVI " + block(b"LIST", header) + block(b"LIST", b"movi" + frame * 3))
    )
    with pytest.raises((VideoError, AccessError)):
        probe_safely(tmp_path / "huge.avi", Limits())


def test_the_memory_of_the_child_is_limited(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = (
        "from timechat.files.system import limit_this_process; limit_this_process(2 << 30, 20)\n"
        "try:\n bytearray(3 * 2**30)\nexcept MemoryError:\n print('refused')"
    )
    answer = probing.run_bounded([sys.executable, "-c", program], 20)
    assert answer == b"refused\n" or sys.platform == "darwin"


def test_limits_apply_to_reading_a_file(film: Path) -> None:
    pytest.importorskip("resource")
    program = f"""
import resource
from timechat.serving.access import probing
probing.main([{str(film)!r}, "7"])
names = ("RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_AS")
print([resource.getrlimit(getattr(resource, name)) for name in names])
"""
    told, limits = (probing.run_bounded([sys.executable, "-c", program], 20) or b"").splitlines()
    assert json.loads(told)["width"] == 160
    bounds = [8, 0, 0, 0, probing.MAX_MEMORY]
    if sys.platform != "darwin":
        assert json.loads(limits.replace(b"(", b"[").replace(b")", b"]")) == [[each, each] for each in bounds]


def test_the_child_writes_nothing_and_opens_nothing_more(tmp_path: Path) -> None:
    program = f"""
import socket
from timechat.files.system import forbid_opening_files, limit_this_process
limit_this_process(2 << 30, 20)
with open({str(tmp_path / "new")!r}, "wb", buffering=0) as file:
    try: file.write(b"x")
    except OSError: print("no writing")
forbid_opening_files()
for attempt in (lambda: open("/etc/passwd"), socket.socket):
    try: attempt()
    except OSError: print("no opening")
"""
    before = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    answer = probing.run_bounded([sys.executable, "-c", before + program], 20)
    assert answer == b"no writing\nno opening\nno opening\n"
    assert (tmp_path / "new").read_bytes() == b""


# ── Files that refer to others ──────────────────────────────────────────────────────────────────────────────────


def playlists(folder: Path, film: Path) -> dict[str, bytes]:
    segment = draw_clip(RECIPES["transport stream"], folder / "segment.ts").path
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:3.0,\n{}\n#EXT-X-ENDLIST\n"
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{film}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    return {
        "hls.mp4": hls.format("file:///etc/passwd").encode(),
        "relative.m3u8": hls.format(segment.name).encode(),
        "absolute.m3u8": hls.format(segment).encode(),
        "web.m3u8": hls.format("http://127.0.0.1:9/segment.ts").encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{film.name}'\n".encode(),
        "dash.mpd": mpd.encode(),
        "call.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "names.idx": b"# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
    }


def test_playlists_are_refused_and_their_files_not_opened(film: Path, tmp_path: Path) -> None:
    for name, content in playlists(tmp_path, film).items():
        (tmp_path / name).write_bytes(content)
        message = refusal(tmp_path / name)
        assert "passwd" not in message
        assert "segment" not in message


@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="needs strace to see what is opened")
def test_the_child_opens_the_one_file_and_no_socket(film: Path, tmp_path: Path) -> None:
    for name in ("absolute.m3u8", "web.m3u8", "concat.mp4"):
        (tmp_path / name).write_bytes(playlists(tmp_path, film)[name])
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat,socket,connect", *probing._command()]
        seen = subprocess.run(
            [*command, str(tmp_path / name)],
            env=child_environment() | {"PATH": os.environ["PATH"]},
            capture_output=True,
        ).stderr.decode()
        if "ptrace" in seen:
            pytest.skip("this system does not let strace look")
        after = seen.partition(f'"{tmp_path / name}"')[2]
        assert after
        opened = re.findall(r'open(?:at)?\(.*?"([^"]*)".*?= (\d+)', after.partition("\n")[2])
        assert opened == []
        assert "socket(" not in after


# ── A child that hangs, crashes or talks too much ───────────────────────────────────────────────────────────────


GRANDCHILD = """
import fcntl, pathlib, subprocess, sys, time
held, code = pathlib.Path(sys.argv[1]), "import time; time.sleep(60)"
with held.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, pass_fds=[file.fileno()])
"""


def is_let_go(held: Path) -> bool:
    """Whether no process holds the lock of a file any more."""
    fcntl = pytest.importorskip("fcntl")
    with held.open() as file:
        for _ in range(20):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.1)
            else:
                return True
    return False


def test_a_child_that_hangs_is_killed_with_its_processes(tmp_path: Path) -> None:
    began = time.monotonic()
    program = GRANDCHILD + "time.sleep(60)"
    assert probing.run_bounded([sys.executable, "-c", program, str(tmp_path / "held")], 2) is None
    assert time.monotonic() - began < 10
    assert is_let_go(tmp_path / "held")


def test_processes_of_the_child_are_killed_when_it_answers(tmp_path: Path) -> None:
    program = GRANDCHILD + "print('done')"
    assert probing.run_bounded([sys.executable, "-c", program, str(tmp_path / "held")], 20) == b"done\n"
    assert is_let_go(tmp_path / "held")


def test_a_child_with_endless_output_is_ended() -> None:
    assert probing.run_bounded([sys.executable, "-c", "while True: print('x' * 1000)"], 20) is None


def test_the_child_gets_no_input_and_an_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "abc")
    program = "import os, sys; print(os.environ.get('SECRET_KEY'), repr(sys.stdin.read()), os.getcwd())"
    assert probing.run_bounded([sys.executable, "-c", program], 20) == b"None '' /\n"


def test_no_file_descriptor_stays_open(film: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list what a process has open")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        probe_safely(film, Limits())
        refusal(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "answer",
    [
        *("", "nonsense", "[]", "3", "null", "{}", '{"duration": 1}', '{"error"', "\xff"),
        '{"duration": NaN, "width": 1, "height": 1, "fps": 1, "has_audio": true, "format": "a", "codec": "b"}',
        '{"duration": -1, "width": 1, "height": 1, "fps": 1, "has_audio": true, "format": "a", "codec": "b"}',
        '{"duration": 1, "width": 0, "height": 1, "fps": 1, "has_audio": true, "format": "a", "codec": "b"}',
        '{"duration": 1, "width": 1, "height": 1, "fps": Infinity, "has_audio": true, "format": "a", "codec": "b"}',
    ],
)
def test_output_of_the_child_that_is_not_valid_is_an_error(
    answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probing, "run_bounded", lambda *_: answer.encode("latin-1"))
    refusal(tmp_path)


def test_a_probe_that_takes_too_long_says_so(film: Path) -> None:
    assert "probing took over 0.02 s" in refusal(film, Limits(probe_timeout=0.02))


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGKILL", "SIGXCPU"])
def test_a_crash_is_an_error(signal: str, monkeypatch: pytest.MonkeyPatch, film: Path) -> None:
    program = f"import os, signal; os.kill(os.getpid(), signal.{signal})"
    monkeypatch.setattr(probing, "_command", lambda: [sys.executable, "-c", program])
    assert "the decoder crashed" in refusal(film)


# ── What is loaded ──────────────────────────────────────────────────────────────────────────────────────────────


def test_neither_the_child_nor_the_package_loads_torch(film: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "timechat.serving.access.probing", str(film)]
    loaded = subprocess.run(command, capture_output=True, text=True, env=child_environment()).stderr
    names = {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
    assert "timechat.video" in names
    assert not names & {"torch", "transformers", "fastapi", "timechat.serving.access.fetching"}


def test_importing_the_package_loads_only_what_it_needs() -> None:
    program = (
        "import sys; from timechat.serving.access import *; "
        "print([name for name in ('torch', 'av', 'numpy', 'transformers', 'PIL') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=child_environment()).stdout
        == "[]\n"
    )
