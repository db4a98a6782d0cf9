"""`timechat convert`: convert checkpoints of the original into one folder."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from timechat.cli.session import CommandConsole


def convert(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Output folder.")],
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CKPT_DIR",
            help="Files of the original, in its layout; with --quantize also nano or a converted folder.",
        ),
    ] = None,
    vit: Annotated[Path | None, typer.Option(metavar="FILE", help="eva_vit_g.pth")] = None,
    qformer: Annotated[Path | None, typer.Option(metavar="FILE", help="instruct_blip_vicuna7b_trimmed.pth")] = None,
    llm: Annotated[Path | None, typer.Option(metavar="DIR", help="llama-2-7b-chat-hf")] = None,
    timechat: Annotated[
        Path | None, typer.Option(metavar="FILE", help="timechat_7b.pth or another fine-tuned checkpoint.")
    ] = None,
    video_llama: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="VL_LLaMA_2_7B_Finetuned.pth, for the start model of stage-2 training."),
    ] = None,
    bert_vocab: Annotated[Path | None, typer.Option(metavar="FILE", help="vocab.txt of bert-base-uncased.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Fields of TimeChatConfig that replace the detected ones.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the LoRA adapter into the weights.")] = False,
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option(help="Round the weights of vision tower (int8) and language model; half or a third of the size."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar and no report.")] = False,
) -> None:
    """Convert checkpoints of the original into OUT_DIR; give --from CKPT_DIR or single files.

    With --quantize, CKPT_DIR may also be nano or a converted folder.
    """
    if timechat is not None and video_llama is not None:
        raise ValueError("--timechat and --video-llama were both given; give one of them")
    screen = CommandConsole(quiet=quiet)
    if quantize is not None and from_dir is not None and _is_converted(from_dir):
        if merge or config or vit or qformer or llm or timechat or video_llama or bert_vocab:
            raise ValueError(f"{from_dir} is converted already: --quantize needs no other option than --from")
        _quantize(from_dir, out_dir, quantize, screen)
        return
    overrides = _read_overrides(config)
    with screen.working("reading the files"):
        from timechat.model.convert.write import OriginalFiles
        from timechat.model.convert.write import convert as convert_files

        files = OriginalFiles.find(
            from_dir,
            vit=vit,
            qformer=qformer,
            llm=llm,
            timechat=timechat,
            video_llama=video_llama,
            bert_vocab=bert_vocab,
        )
    with _ending_cleanly(), screen.progress() as progress:
        report = convert_files(
            files,
            out_dir,
            overrides=overrides,
            merge=merge,
            quantize=quantize,
            progress=lambda done, total: progress("write", done, total),
        )
    for line in report.lines():
        screen.info(line)
    screen.warn("the original weights are for research only, see `timechat info` for their terms")
    typer.echo(out_dir)


def _is_converted(folder: Path) -> bool:
    return str(folder) == "nano" or (folder / "config.json").is_file()


def _quantize(source: Path, out_dir: Path, method: Literal["int8", "int4"], screen: CommandConsole) -> None:
    """Write a quantized copy of a converted folder."""
    with screen.working("reading the files"):
        from timechat.model.convert.quantize import quantize_folder
        from timechat.model.loading import check_folder, find_folder

        folder = find_folder(str(source))
        check_folder(folder)
    with _ending_cleanly(), screen.progress() as progress:
        count = quantize_folder(folder, out_dir, method, lambda done, total: progress("write", done, total))
    screen.info(f"{count} layers are quantized ({method}; the vision tower has int8 layers only)")
    typer.echo(out_dir)


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """End the work by an exit on `kill` or a closed terminal, so that no incomplete files remain."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    numbers = (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
    before = {number: signal.getsignal(number) for number in numbers}
    # Ignored signals stay ignored, as with nohup.
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def end(number: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # no signal may interrupt the cleanup
        sys.exit(128 + number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_overrides(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        overrides = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--config {path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is not JSON: {error}") from error
    if not isinstance(overrides, dict):
        raise ValueError(
            f'--config {path} holds a {type(overrides).__name__}; expected an object like {{"window_size": 32}}'
        )
    return overrides
