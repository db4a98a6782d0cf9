"""`timechat models`: known video language models, what they need, and which to take."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from timechat.backbones.catalog import KnownModel

_NOT_LOOKED_UP = "see its page"


def models(
    memory: Annotated[
        float | None,
        typer.Option(min=0.5, metavar="GB", help="Memory of your device; without it, all models are listed."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List known video language models: size, memory, licence, published grounding metrics, and what was tried here."""
    from timechat.backbones.catalog import MODELS, models_within, recommended

    listed = list(MODELS) if memory is None else models_within(memory)
    chosen = None if memory is None else recommended(memory)
    if as_json:
        typer.echo(json.dumps({"models": [model.to_dict() for model in listed], "recommended": chosen}, indent=2))
        return
    for model in listed:
        typer.echo(_lines(model))
    if memory is not None and chosen is None:
        typer.echo(f"recommended for {memory:g} GB: none of these; give the address of a server, http://HOST/v1#NAME")
    elif chosen is not None:
        typer.echo(f"recommended for {memory:g} GB: {chosen[0]} for captions and questions, {chosen[1]} for grounding")


def _lines(model: "KnownModel") -> str:
    size = f"{model.download:g} GB download, about {model.memory:g} GB of memory" if model.download else "built in"
    lines = [model.name, f"  {size}; licence: {model.licence or _NOT_LOOKED_UP}", f"  for {model.good_at}"]
    if model.metrics is not None:
        charades, activitynet, highlights = model.metrics
        lines.append(
            f"  published mIoU on TimeLens-Bench: Charades {charades:g}, ActivityNet {activitynet:g}, QVHighlights "
            f"{highlights:g} ({model.source})"
        )
    return "\n".join([*lines, f"  tried: {model.tried}"])
