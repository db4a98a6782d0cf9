"""The parts of the original checkpoint: where they are published, under which licence, and where they are stored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timechat.files.cache import readable_size


@dataclass(frozen=True)
class Licence:
    """The terms under which a part is published."""

    title: str
    terms: str
    accept_at: str | None
    """Where the terms must be accepted before a download; None if nowhere."""


@dataclass(frozen=True)
class Part:
    """One part of the original checkpoint: a published file, or a folder of files."""

    name: str
    """Name of the `timechat convert` option that takes the part."""
    purpose: str
    licence: Licence
    repository: str | None
    """`owner/name` on the hub; None if `source` is a full address."""
    source: str
    """Path inside `repository`, whose last step may contain `*`; or a full address."""
    destination: str
    """Path inside the checkpoint folder; ends in `/` for a folder."""
    about_gb: float

    @property
    def origin(self) -> str:
        """The repository, or the address of a part without one."""
        return self.repository or self.source


def original_parts() -> tuple[Part, ...]:
    """Return every part of the original checkpoint, in download order."""
    catalogue = json.loads(Path(__file__).with_name("original_files.json").read_text(encoding="utf-8"))
    licences = {name: Licence(**licence) for name, licence in catalogue["licences"].items()}
    return tuple(Part(**{**part, "licence": licences[part["licence"]]}) for part in catalogue["parts"])


def choose_parts(only: Sequence[str] = (), *, paper: bool = False, without_stage2: bool = False) -> tuple[Part, ...]:
    """Choose the parts to download.

    Args:
        only: Names of parts. Empty for the whole original layout.
        paper: Take the weights that the paper measured instead of the released weights.
        without_stage2: Leave out the part that only the start of stage-2 training needs.
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
        raise ValueError("no part remains: --only video-llama and --without-stage2 exclude each other")
    return tuple(part for part in parts.values() if part.name in chosen)


def describe_parts(parts: Sequence[Part]) -> str:
    """Describe each part as text: destination, size, purpose, origin and licence."""
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
