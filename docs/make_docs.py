"""Regenerate the pages that quote the program: `python docs/make_docs.py` (or `make docs`).

Writes `docs/cli.md` (what each `--help` says), `docs/gallery.md` (example outputs) and `docs/timeline.svg` (the picture
of the README).
"""

import base64
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from unittest import mock

import torch

from timechat.answers.events import Answer, Event, format_time
from timechat.export import FORMATS, to_html
from timechat.pipeline import TimeChat
from timechat.synthetic.scene import SyntheticVideo
from timechat.synthetic.write import write_video

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "examples"))
import demo  # noqa: E402

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
    "watch": 'timechat watch recording.ts "the light turns on" --follow',
    "serve": "timechat serve --allow films --port 8000",
    "mcp": "timechat mcp --allow films --model OUT_DIR --preload",
    "info": "timechat info film.mp4",
    "download": "timechat download CKPT_DIR",
    "convert": "timechat convert --from CKPT_DIR OUT_DIR",
    "data draw": "timechat data draw films --clips 100 --seed 1 --level 1",
    "data check": "timechat data check instruct_time.json --videos videos --strict",
    "data encode": "timechat data encode films/records.jsonl --model OUT_DIR --out features",
    "cache": "timechat cache --json",
    "cache prune": "timechat cache prune --to 2GB",
    "cache clear": "timechat cache clear",
    "train": "timechat train recipes/stage2_finetune_charades.yaml --set model.checkpoint=OUT_DIR",
    "evaluate": "timechat evaluate recipes/eval_drawn.yaml --report",
    "score": "timechat score fmt_youcook_val_f96_result.json val.caption_coco_format.json --task dvc --json",
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
  `score`), `model`, `found` (whether what was looked for happens), `score` (how sure that is), `step` (resolution),
  `timings` (of each stage), `notes`. Times are seconds. Notes, such as "untrained weights", stand there as well.
- What was made of a video is kept on disk, see `timechat cache`: the same command after an interruption goes on where
  it was.
"""

# ----------------------------------------------------------------------------------------------------- the gallery


def gallery_page(timechat: TimeChat, video: Path, film: SyntheticVideo) -> str:
    """Return `docs/gallery.md`, with the built-in model's answers about the demo film."""
    encoded = replace(timechat.encode(video), name="demo.mp4")
    query = demo.true_records(film, "grounding")[0].query or ""
    captions = timechat.dense_caption(encoded)
    answers = {
        f'ask demo.mp4 "When does this happen? {query}"': timechat.ask(encoded, f"When does this happen? {query}"),
        "caption demo.mp4": captions,
        f'ground demo.mp4 "{query}"': timechat.ground(encoded, query),
        "highlights demo.mp4": timechat.highlights(encoded),
        "steps demo.mp4": timechat.steps(encoded),
        "summarize demo.mp4": timechat.summarize(encoded),
        "transcribe demo.mp4": timechat.transcribe(encoded),
    }
    return "\n".join([_GALLERY_INTRODUCTION, *_truth(film), *_answers(answers), *_formats(captions)])


def _truth(film: SyntheticVideo) -> Iterator[str]:
    yield "\n| what happens | seconds |\n|---|---|"
    for event in demo.true_events(demo.true_records(film, "dense_caption")[0]):
        yield f"| {event.caption} | {event.start:g} - {event.end:g} |"


def _answers(answers: Mapping[str, Answer]) -> Iterator[str]:
    yield "\n| `timechat ...` | what it wrote | events |\n|---|---|---|"
    for command, answer in answers.items():
        yield f"| `{command}` | {_cell(answer.text)} | {len(answer.events)} |"
    command = next(command for command in answers if command.startswith("ground"))
    yield f"\nThe whole of one, `timechat {command} --json`:\n"
    yield _block(FORMATS["json"].write(answers[command]), "json")


def _formats(answer: Answer) -> Iterator[str]:
    yield _FORMATS_INTRODUCTION
    languages = {"application/json": "json", "application/jsonl": "json", "text/csv": "csv"}
    for name, form in FORMATS.items():
        if name != "html":  # below: the page with its video
            yield f"\n### `--format {name}`\n"
            yield _block(_beginning(form.write(answer)), languages.get(form.media_type, "text"))
    yield "\n### `--html PAGE`\n"
    yield "A page of its own: the video, a timeline and the events, which play when clicked. The list in its source:\n"
    rows = re.search(r"<ol>.*?</ol>", to_html(replace(answer, video=None)), re.DOTALL)
    assert rows is not None
    yield _block(rows[0].replace("<li>", "\n  <li>").replace("</ol>", "\n</ol>"), "html")


def _beginning(text: str, most: int = 40) -> str:
    """The first lines of a long text."""
    lines = text.splitlines()
    return text if len(lines) <= most else "\n".join([*lines[:most], f"... ({len(lines)} lines)"])


def _cell(text: str, most: int = 400) -> str:
    """Write any text into a cell of a table."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= most else text[:most] + "…"
    return f"<code>{escape(text).replace('|', '&#124;')}</code>"


def _block(text: str, language: str = "text") -> str:
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"~~~~{language}\n{lines}\n~~~~"


_GALLERY_INTRODUCTION = f"""\
{GENERATED}

# Gallery

Regenerated by `make docs`. The video is the film that `make demo` draws (`examples/demo.py`), of the test split: no
training has seen it. The answers are `nano`'s, right or wrong; on another machine, where sums are rounded another
way, a word or a time may differ.

## What the built-in model answers

The truth:
"""

_FORMATS_INTRODUCTION = """
## The formats

The dense captions above in every format."""

# ----------------------------------------------------------------------------------------------------- the picture

_WIDTH, _MARGIN, _GAP = 960, 24, 4  # pixels
_INNER = _WIDTH - 2 * _MARGIN
_PICTURES = 8
_PICTURE_WIDTH = (_INNER - (_PICTURES - 1) * _GAP) / _PICTURES
_PICTURE_HEIGHT = round(_PICTURE_WIDTH * 3 / 4)
_RULER = _MARGIN + _PICTURE_HEIGHT + 22  # where its text stands
_LANE, _BAR = 34, 26
_HUES = ("#2f6fdb", "#c2410c", "#0e8a6a", "#8a4fd0")


def timeline_svg(timechat: TimeChat, video: Path, film: SyntheticVideo) -> str:
    """Return `docs/timeline.svg`: frames of the demo film, and when the model finds what happens."""
    duration = film.duration
    encoded = timechat.encode(video)
    rows = []
    for lane, record in enumerate(record for record in demo.true_records(film, "grounding") if record.events):
        query = record.query or ""
        found = next(iter(timechat.ground(encoded, query).events), None)
        rows.append(_answer_row(query, found, demo.true_events(record)[0], lane, duration))
    body = "\n  ".join([*_pictures(video), *_ticks(duration), *rows])
    height = _RULER + 14 + len(rows) * _LANE + _MARGIN - 8
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">
  <title>Frames of a film; when the built-in model finds what happens (wide), and when it does (grey)</title>
  <style>
    text {{ font: 15px system-ui, sans-serif }} .tick {{ font-size: 12px; fill: #62666f }}
    .beside {{ fill: #1d1f23 }} .truth {{ fill: #7a7f89 }} .lane {{ fill: #eceae5 }} .page {{ fill: #f5f4f1 }}
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
    step = 2 if duration <= 30 else 5
    for second in range(0, int(duration) + 1, step):
        anchor = "start" if second == 0 else "end" if second == duration else "middle"
        x = _x(second, duration)
        yield f'<text class="tick" x="{x:.1f}" y="{_RULER}" text-anchor="{anchor}">{format_time(second)}</text>'


def _answer_row(query: str, found: Event | None, truth: Event, lane: int, duration: float) -> str:
    """Draw what was found for a query above what is true, with the query where there is most room."""
    y = _RULER + 14 + lane * _LANE
    bars = [(truth, y + 17, 6, "truth", "")]
    if found is not None:
        bars.append((found, y + 3, 13, "found", f' fill="{_HUES[lane % 4]}"'))
    edges = [_MARGIN, *(x for event, *_ in sorted(bars, key=lambda bar: bar[0].start) for x in _ends(event, duration))]
    gaps = list(zip(edges[::2], [*edges[1::2], _MARGIN + _INNER], strict=True))
    x = sum(max(gaps, key=lambda gap: gap[1] - gap[0])) / 2
    return (
        f'<rect class="lane" x="{_MARGIN}" y="{y}" width="{_INNER}" height="{_BAR}" rx="5"/>'
        + "".join(
            f'<rect class="{kind}" x="{_x(event.start, duration):.1f}" y="{top}" '
            f'width="{_x(event.end, duration) - _x(event.start, duration):.1f}" height="{height}" rx="3"{fill}/>'
            for event, top, height, kind, fill in bars
        )
        + f'<text class="beside" x="{x:.1f}" y="{y + 18}" text-anchor="middle">{escape(query)}</text>'
    )


def _ends(event: Event, duration: float) -> tuple[float, float]:
    return _x(event.start, duration), _x(event.end, duration)


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
    """Draw the demo film."""
    write_video(demo.demo_film(), path)


def main() -> None:
    """Write all pages."""
    torch.set_num_threads(1)  # threads cost a tiny model more than they give
    timechat, film = TimeChat.from_pretrained("nano"), demo.demo_film()
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "demo.mp4"
        draw_demo(video)
        pages = {
            "cli.md": cli_page() + "\n",
            "gallery.md": gallery_page(timechat, video, film) + "\n",
            "timeline.svg": timeline_svg(timechat, video, film),
        }
    for name, text in pages.items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS.relative_to(ROOT) / name)


if __name__ == "__main__":
    main()
