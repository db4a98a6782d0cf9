"""`timechat recipes`: the recipes of training and evaluation that are part of the package."""

from pathlib import Path
from typing import Annotated

import typer


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Recipe to print; without it, all recipes are listed.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Copy the recipe to this file.")
    ] = None,
) -> None:
    """List the recipes of training and evaluation, print one, or copy one to change it."""
    found = {path.stem: path for path in sorted(_folder().glob("*.yaml"))}
    if name is None:
        if output is not None:
            raise ValueError("-o FILE copies one recipe; name it: timechat recipes NAME -o FILE")
        width = max(map(len, found))
        for each, path in found.items():
            typer.echo(f"{each:<{width}}  {_summary(path)}")
        return
    if name.removesuffix(".yaml") not in found:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(found)}")
    text = found[name.removesuffix(".yaml")].read_text(encoding="utf-8")
    if output is None:
        typer.echo(text, nl=False)
        return
    if output.exists():
        raise ValueError(f"{output} exists; name a new file, so that your changes are not lost")
    from timechat.files import write_text_atomically

    write_text_atomically(output, text)


def _folder() -> Path:
    """Return the folder of the recipes: in the installed package, or in the checkout that is in use."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{package / 'recipes'}: the recipes are missing; install timechat again")


def _summary(path: Path) -> str:
    """Return the first sentence of a recipe's comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    sentence, dot, _ = " ".join(lines).partition(". ")
    return sentence.rstrip(".") + "." if dot or sentence else ""
