"""Figures with their intervals as tables: Markdown for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from timechat.evaluation.metrics.intervals import Estimate, bootstrap_mean
from timechat.evaluation.scoring import Figures

Cell = Estimate | None


@dataclass(frozen=True, slots=True)
class Table:
    """Some figures of some rows.

    Attributes:
        name: In JSON.
        title: For people.
        columns: Names of the figures in JSON with their heads for people.
        rows: Head and cells of each row, by its name in JSON; a cell is None where a row has no such figure.
        note: What a reader must know.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, tuple[Cell, ...]]]
    note: str = ""

    def to_markdown(self) -> str:
        """The table under its title; each cell with its 95 % interval."""
        lines = [f"### {self.title}", ""]
        lines += [f"| {' | '.join(['', *self.columns.values(), 'n'])} |", f"|{' --- |' * (len(self.columns) + 2)}"]
        for head, cells in self.rows.values():
            items = max((cell.items for cell in cells if cell), default=0)
            told = ["" if cell is None else str(cell) for cell in cells]
            lines.append(f"| {' | '.join([head, *told, str(items)])} |")
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])

    def to_dict(self) -> dict[str, Any]:
        """The table as `{row: {column: {"value", "low", "high", "items", "groups"}}}`."""
        return {
            name: {column: asdict(cell) for column, cell in zip(self.columns, cells, strict=True) if cell is not None}
            for name, (_, cells) in self.rows.items()
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All tables of one evaluation.

    Attributes:
        heading: What was evaluated on what.
        facts: The same for programs.
        tables: In the order in which they are read.
    """

    heading: str
    facts: Mapping[str, Any]
    tables: tuple[Table, ...]

    def to_markdown(self) -> str:
        """Heading and tables."""
        return "\n".join([f"## {self.heading}", "", *(table.to_markdown() for table in self.tables)])

    def to_dict(self) -> dict[str, Any]:
        """Facts, and the tables by name."""
        return {**self.facts, "tables": {table.name: table.to_dict() for table in self.tables}}


def estimate_row(figures: Figures, columns: Sequence[str]) -> tuple[Cell, ...]:
    """Mean and interval of each figure; None where there is no such figure or no question."""
    return tuple(
        bootstrap_mean(figures.values[column], figures.films) if figures.values.get(column) else None
        for column in columns
    )
