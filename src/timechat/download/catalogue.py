"""What there is to fetch: the parts of the original checkpoint and their licences."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from timechat.download.sizes import readable_size


@dataclass(frozen=True)
class Licence:
    """The terms under which a part is published."""

    title: str
    terms: str
    accept_at: str | None
    """Where the terms must be accepted before the files are given out; None where nowhere."""


@dataclass(frozen=True)
class Part:
    """One part of the original checkpoint: a published file, or a folder of them."""

    name: str
    """As `timechat convert` names the option that takes it."""
    purpose: str
    licence: Licence
    repository: str | None
    """`owner/name` on the hub; None where `source` is a full address."""
    source: str
    """A path inside `repository`, whose last step may hold a `*`, or a full address."""
    destination: str
    """Path inside the checkpoint folder; ends in `/` for a folder."""
    known_files: tuple[str, ...]
    """File names beside `source` to ask for where the hub lists nothing."""
    about_gb: float

    @property
    def origin(self) -> str:
        """The repository, or the address where there is none."""
        return self.repository or self.source


def original_parts() -> tuple[Part, ...]:
    """Every part of the original checkpoint, in the order in which they are fetched."""
    catalogue = json.loads((files("timechat.download") / "original_files.json").read_text(encoding="utf-8"))
    licences = {name: Licence(**licence) for name, licence in catalogue["licences"].items()}
    return tuple(
        Part(**{**part, "licence": licences[part["licence"]], "known_files": tuple(part["known_files"])})
        for part in catalogue["parts"]
    )


def choose_parts(only: Sequence[str] = (), *, paper: bool = False, without_stage2: bool = False) -> tuple[Part, ...]:
    """The parts to fetch.

    Args:
        only: Names of parts; empty for all of the original layout.
        paper: Take the weights that the paper measured in place of the released ones.
        without_stage2: Leave out what only the start of stage-2 training needs.
    """
    parts = {part.name: part for part in original_parts()}
    unknown = [name for name in only if name not in parts]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r}; choose from {', '.join(parts)}")
    if only:
        chosen = {"timechat-paper" if paper and name == "timechat" else name for name in only}
    else:
        chosen = set(parts) - {"timechat" if paper else "timechat-paper"}
    if without_stage2:
        chosen -= {"video-llama"}
    if not chosen:
        raise ValueError("nothing is left to fetch: --only video-llama and --without-stage2 exclude each other")
    return tuple(part for part in parts.values() if part.name in chosen)


def describe_parts(parts: Sequence[Part]) -> str:
    """What would be fetched, from where, what for and under which terms, as text for people."""
    lines = []
    for part in parts:
        lines += [
            f"{part.name}: {part.destination} (about {readable_size(part.about_gb * 1e9)})",
            f"  {part.purpose}",
            f"  from    {part.origin}" + (f": {part.source}" if part.repository else ""),
            f"  licence {part.licence.title}. {part.licence.terms}",
        ]
        if part.licence.accept_at:
            lines.append(f"  accept  {part.licence.accept_at}")
    total = sum(part.about_gb for part in parts)
    return "\n".join([*lines, f"about {readable_size(total * 1e9)} in all"])
