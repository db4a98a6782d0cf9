"""`timechat cache`: the disk cache of frame and video tokens."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.help import HelpCommand, HelpGroup, name_values

if TYPE_CHECKING:
    from timechat.files.cache import CacheEntry, DiskCache

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(cls=HelpGroup)


@app.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show or clear the disk cache of frame tokens, video tokens and answers.

    Its folder is $TIMECHAT_CACHE, by default a folder in the user's cache directory. Its limit is
    $TIMECHAT_CACHE_LIMIT, such as 5GB, by default 10 GB. A limit of 0 disables the cache.
    """
    if context.invoked_subcommand is not None:
        return
    from timechat.files.cache import DiskCache

    facts = _facts(DiskCache())
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from timechat.files.cache import readable_size

    limit = readable_size(facts["max_bytes"]) if facts["is_on"] else "0: the cache is disabled"
    typer.echo(f"folder   {facts['folder']}")
    typer.echo(f"size     {readable_size(facts['bytes'])} in {_count(facts['entries'])}")
    typer.echo(f"limit    {limit}")
    if facts["entries"]:
        typer.echo(f"used     from {facts['oldest']} to {facts['newest']}")


@app.command(cls=HelpCommand)
@name_values
def clear(as_json: AsJson = False) -> None:
    """Remove all entries of the cache."""
    from timechat.files.cache import DiskCache

    _report(DiskCache().clear(), as_json=as_json)


@app.command(cls=HelpCommand)
@name_values
def prune(
    to: Annotated[str, typer.Option("--to", metavar="SIZE", help="Maximum remaining size, such as 2GB.")],
    as_json: AsJson = False,
) -> None:
    """Remove the least recently used entries until the cache has at most the given size."""
    from timechat.files.cache import DiskCache, parse_size

    _report(DiskCache().prune(parse_size(to)), as_json=as_json)


def _facts(cache: "DiskCache") -> dict[str, Any]:
    entries = cache.entries()
    return {
        "folder": str(cache.folder),
        "is_on": cache.is_on,
        "bytes": sum(entry.num_bytes for entry in entries),
        "max_bytes": cache.max_bytes,
        "entries": len(entries),
        "oldest": _time(entries[0]) if entries else None,
        "newest": _time(entries[-1]) if entries else None,
    }


def _count(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"


def _time(entry: "CacheEntry") -> str:
    return datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds")


def _report(removed: "list[CacheEntry]", *, as_json: bool) -> None:
    """Print the number and size of removed entries."""
    from timechat.files.cache import readable_size

    num_bytes = sum(entry.num_bytes for entry in removed)
    if as_json:
        typer.echo(json.dumps({"removed_entries": len(removed), "removed_bytes": num_bytes}))
    else:
        typer.echo(f"removed {_count(len(removed))}, {readable_size(num_bytes)}")
