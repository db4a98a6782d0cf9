"""Regenerate the pages that quote the program: `python docs/make_docs.py` (or `make docs`).

Writes `docs/cli.md` (what each `--help` says), `docs/gallery.md` (example outputs) and `docs/timeline.svg` (the picture
of the README).
"""

import base64
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from unittest import mock

from timechat.events import Answer, Event, format_time
from timechat.export import FORMATS, to_html

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = "<!-- made by docs/make_docs.py: change that, then run `make docs` -->"
HELP_WIDTH = 110  # columns

COMMANDS = {
    "ask": 'timechat ask film.mp4 "When does the light turn on?" --html answer.html',
    "chat": "timechat chat film.mp4 --model OUT_DIR",
    "caption": "timechat caption film.mp4 --format srt --output film.srt",
    "ground": 'timechat ground film.mp4 "the light turns on" --json',
    "highlights": 'timechat highlights film.mp4 "a goal" --format csv',
    "steps": "timechat steps cooking.mp4 --start 60 --end 300",
    "summarize": "timechat summarize film.mp4 --keyframes",
    "transcribe": "timechat transcribe film.mp4 --format vtt",
    "info": "timechat info film.mp4",
    "download": "timechat download CKPT_DIR",
    "convert": "timechat convert --from CKPT_DIR OUT_DIR",
    "data draw": "timechat data draw films --clips 100 --seed 1 --level 1",
    "data check": "timechat data check instruct_time.json --videos videos --strict",
    "data encode": "timechat data encode films/records.jsonl --model OUT_DIR --out features",
    "train": "timechat train recipes/stage2_finetune_charades.yaml --set model.checkpoint=OUT_DIR",
}

# ---------------------------------------------------------------------------------------------------- the commands


def help_text(command: str | None = None) -> str:
    """Return what `timechat COMMAND --help` prints on a terminal of `HELP_WIDTH` columns, without colours."""
    import typer.rich_utils

    from timechat.cli import app

    arguments = [*command.split(), "--help"] if command else ["--help"]
    output = io.StringIO()
    plain = {"MAX_WIDTH": HELP_WIDTH, "FORCE_TERMINAL": False}
    with (
        mock.patch.multiple(typer.rich_utils, **plain),
        mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH)}),
        contextlib.redirect_stdout(output),
    ):
        app(arguments, prog_name="timechat", standalone_mode=False)
    return "\n".join(line.rstrip() for line in output.getvalue().strip("\n").splitlines())


def cli_page() -> str:
    """Return `docs/cli.md`."""
    return "\n".join([_CLI_INTRODUCTION, _block(help_text()), *(_command_section(command) for command in COMMANDS)])


def _command_section(command: str) -> str:
    return f"\n## `timechat {command}`\n\n{_block(COMMANDS[command], 'sh')}\n\n{_block(help_text(command))}"


_CLI_INTRODUCTION = f"""\
{GENERATED}

# The `timechat` command

- The result goes to stdout, everything else (progress, notes) to stderr. Progress bars appear on a terminal only;
  `--quiet` silences them and the notes.
- The video is looked into before any model is loaded, so a wrong path costs nothing.
- Bad input: one line on stderr and exit status 2. `timechat --debug COMMAND ...` shows where it comes from.
  Ctrl-C: exit status 130.
- A file named by `--output` or `--html` is written whole or not at all.
- `--json` prints one object: `video`, `duration`, `task`, `question`, `text`, `events` (each `start`, `end`, `caption`,
  `score`), `model`, `notes`. Times are seconds. Notes, such as "untrained weights", stand there as well.
"""

# ----------------------------------------------------------------------------------------------------- the gallery

EXAMPLE = Answer(
    "3.0 - 8.0 seconds, A red circle is there.  10.0 - 15.0 seconds, A blue square crosses the picture.  "
    "18.0 - 22.0 seconds, The light turns on.",
    [
        Event(3.0, 8.0, "A red circle is there."),
        Event(10.0, 15.0, "A blue square crosses the picture."),
        Event(18.0, 22.0, "The light turns on."),
    ],
    task="dense_caption",
    video="demo.mp4",
    duration=22.0,
    model="written by hand",
    notes=("written by hand, to show the formats",),
)
"""What a trained model could say about the demo clip. No model said it."""


def gallery_page(video: Path) -> str:
    """Return `docs/gallery.md`, with the built-in model's answers about a video."""
    return "\n".join([_GALLERY_INTRODUCTION, *_nano_sections(video), *_format_sections()])


def _nano_sections(video: Path) -> Iterator[str]:
    from timechat.pipeline import Decoding, TimeChat

    timechat = TimeChat.from_pretrained("nano")
    encoded = replace(timechat.encode(video), name="demo.mp4")
    short = Decoding(max_new_tokens=24)
    light = "the light turns on"
    answers = {
        'ask demo.mp4 "When does the light turn on?"': timechat.ask(
            encoded, "When does the light turn on?", decoding=short
        ),
        "caption demo.mp4": timechat.dense_caption(encoded, decoding=short),
        f'ground demo.mp4 "{light}"': timechat.ground(encoded, light, decoding=short),
        "highlights demo.mp4": timechat.highlights(encoded, decoding=short),
        "steps demo.mp4": timechat.steps(encoded, decoding=short),
        "summarize demo.mp4": timechat.summarize(encoded, decoding=short),
        "transcribe demo.mp4": timechat.transcribe(encoded, decoding=short),
    }
    yield "\n| `timechat ... --max-new-tokens 24` | what it wrote | events |\n|---|---|---|"
    for command, answer in answers.items():
        yield f"| `{command}` | {_cell(answer.text)} | {len(answer.events)} |"
    yield f'\nThe whole of one, `timechat ground demo.mp4 "{light}" --max-new-tokens 24 --json`:\n'
    yield _block(FORMATS["json"](answers[f'ground demo.mp4 "{light}"']), "json")


def _format_sections() -> Iterator[str]:
    yield _FORMATS_INTRODUCTION
    languages = {"json": "json", "jsonl": "json", "csv": "csv"}
    for name, write in FORMATS.items():
        yield f"\n### `--format {name}`\n"
        yield _block(write(EXAMPLE), languages.get(name, "text"))
    yield "\n### `--html PAGE`\n"
    yield "A page of its own: the video, a timeline and the events, which play when clicked. The list in its source:\n"
    rows = re.search(r"<ol>.*?</ol>", to_html(replace(EXAMPLE, video=None)), re.DOTALL)
    assert rows is not None
    yield _block(rows[0].replace("<li>", "\n  <li>").replace("</ol>", "\n</ol>"), "html")


def _cell(text: str, most: int = 60) -> str:
    """Write any text into a cell of a table: random weights write anything."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= most else text[:most] + "…"
    return f"<code>{escape(text).replace('|', '&#124;')}</code>"


def _block(text: str, language: str = "text") -> str:
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"~~~~{language}\n{lines}\n~~~~"


_GALLERY_INTRODUCTION = f"""\
{GENERATED}

# Gallery

Regenerated by `make docs`. The video is the clip that `examples/draw_demo.py` draws and `make demo` asks about.

## What the built-in model answers

**`nano` has random weights: these texts are gibberish, and mean nothing.** They show that every task runs from a file
to an answer, and what happens when no event can be read from one: the text is kept, `events` is empty, and a note
says so. The letters may differ on another machine, where sums are rounded another way."""

_FORMATS_INTRODUCTION = """
## The formats

One answer in every format. **It was written by hand**, not by a model."""

# ----------------------------------------------------------------------------------------------------- the picture

_WIDTH, _MARGIN, _GAP = 960, 24, 4  # pixels
_INNER = _WIDTH - 2 * _MARGIN
_PICTURES = 8
_PICTURE_WIDTH = (_INNER - (_PICTURES - 1) * _GAP) / _PICTURES
_PICTURE_HEIGHT = round(_PICTURE_WIDTH * 3 / 4)
_RULER = _MARGIN + _PICTURE_HEIGHT + 22  # where its text stands
_LANE, _BAR = 34, 26
_LETTER = 8  # about
_HUES = ("#2f6fdb", "#c2410c", "#0e8a6a", "#8a4fd0")


def timeline_svg(video: Path) -> str:
    """Return `docs/timeline.svg`: frames of a video, a ruler, and the events of `EXAMPLE` below it."""
    duration = EXAMPLE.duration or 1.0
    rows = [_event_bar(event, i, duration) for i, event in enumerate(EXAMPLE.events)]
    body = "\n  ".join([*_pictures(video), *_ticks(duration), *rows])
    height = _RULER + 14 + len(rows) * _LANE + _MARGIN - 8
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">
  <title>Frames of the demo clip and, below them, its events on a timeline</title>
  <style>
    text {{ font: 15px system-ui, sans-serif }} .tick {{ font-size: 12px; fill: #62666f }}
    .beside {{ fill: #1d1f23 }} .inside {{ fill: #fff }} .lane {{ fill: #eceae5 }} .page {{ fill: #f5f4f1 }}
    @media (prefers-color-scheme: dark) {{
      .tick {{ fill: #a0a6b1 }} .beside {{ fill: #eceef2 }} .lane {{ fill: #2a2e35 }} .page {{ fill: #15171b }}
    }}
  </style>
  <rect class="page" width="{_WIDTH}" height="{height}" rx="12"/>
  {body}
</svg>
"""


def _x(seconds: float, duration: float) -> float:
    return _MARGIN + _INNER * seconds / duration


def _ticks(duration: float) -> Iterator[str]:
    last = int(duration) - int(duration) % 2
    for second in range(0, last + 1, 2):
        anchor = "start" if second == 0 else "end" if second == duration else "middle"
        x = _x(second, duration)
        yield f'<text class="tick" x="{x:.1f}" y="{_RULER}" text-anchor="{anchor}">{format_time(second)}</text>'


def _event_bar(event: Event, lane: int, duration: float) -> str:
    """Draw one event in a lane of its own, its words inside the bar or else on the side with more room."""
    y = _RULER + 14 + lane * _LANE
    start, end = _x(event.start, duration), _x(event.end, duration)
    label = escape(f"{format_time(event.start)} – {format_time(event.end)}  {event.caption}")
    if end - start > _LETTER * len(label):
        kind, anchor, x = "inside", "start", start + 10
    elif end + _LETTER * len(label) > _MARGIN + _INNER:
        kind, anchor, x = "beside", "end", start - 8
    else:
        kind, anchor, x = "beside", "start", end + 8
    return (
        f'<rect class="lane" x="{_MARGIN}" y="{y}" width="{_INNER}" height="{_BAR}" rx="5"/>'
        f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{_BAR}" rx="5" fill="{_HUES[lane % 4]}"/>'
        f'<text class="{kind}" x="{x:.1f}" y="{y + 18}" text-anchor="{anchor}">{label}</text>'
    )


def _pictures(video: Path) -> Iterator[str]:
    """Yield frames of a video as pictures inside the drawing."""
    from PIL import Image

    from timechat.video import load_frames

    size = (round(_PICTURE_HEIGHT * 1.5), round(_PICTURE_WIDTH * 1.5))
    for i, pixels in enumerate(load_frames(video, num_frames=_PICTURES, size=size).pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        data = base64.b64encode(file.getvalue()).decode()
        x = _MARGIN + i * (_PICTURE_WIDTH + _GAP)
        yield (
            f'<image x="{x:.1f}" y="{_MARGIN}" width="{_PICTURE_WIDTH:.1f}" height="{_PICTURE_HEIGHT}" '
            f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
        )


# ------------------------------------------------------------------------------------------------------------ all


def draw_demo(path: Path) -> None:
    """Draw the demo clip."""
    subprocess.run([sys.executable, ROOT / "examples" / "draw_demo.py", path], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Write all pages."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads cost a tiny model more than they give
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "demo.mp4"
        draw_demo(video)
        pages = {
            "cli.md": cli_page() + "\n",
            "gallery.md": gallery_page(video) + "\n",
            "timeline.svg": timeline_svg(video),
        }
    for name, text in pages.items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS.relative_to(ROOT) / name)


if __name__ == "__main__":
    main()
