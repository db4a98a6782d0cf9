"""Metrics with their intervals as tables: Markdown for people, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from timechat.evaluation.metrics.intervals import Estimate, bootstrap_mean

Cell = Estimate | None


@dataclass
class MetricTable:
    """Values of some metrics, one row for each question.

    Attributes:
        videos: Video of each row.
        groups: Parts of the benchmark that each row belongs to.
        values: Values by metric, one for each row.
    """

    videos: list[str] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, video: str, groups: tuple[str, ...], values: Mapping[str, float]) -> None:
        """Add a row; every row has the same metrics."""
        self.videos.append(video)
        self.groups.append(groups)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.videos)

    def only(self, group: str) -> "MetricTable":
        """The rows of one group."""
        kept = [i for i in range(len(self)) if group in self.groups[i]]
        return MetricTable(
            [self.videos[i] for i in kept],
            [self.groups[i] for i in kept],
            {name: [values[i] for i in kept] for name, values in self.values.items()},
        )

    def estimates(self, columns: Sequence[str], *, resamples: int = 2000) -> tuple[Cell, ...]:
        """Mean and interval of each metric; None if the table has no such metric or no row."""
        return tuple(
            bootstrap_mean(self.values[column], self.videos, resamples=resamples) if self.values.get(column) else None
            for column in columns
        )


def group_names(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Groups that hold some of the rows but not all, in alphabetical order.

    Args:
        groups: Groups of each row.
    """
    counts: dict[str, int] = {}
    for row in groups:
        for group in dict.fromkeys(row):
            counts[group] = counts.get(group, 0) + 1
    return sorted(group for group, count in counts.items() if count < len(groups))


@dataclass(frozen=True, slots=True)
class Table:
    """Estimates of some metrics in some rows.

    Attributes:
        name: Name in JSON.
        title: Title in Markdown.
        columns: Column heads in Markdown by the metrics' names in JSON.
        rows: Head in Markdown and cells of each row, by the row's name in JSON; None for a missing metric.
        note: Explanation below the table.
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
            texts = ["" if cell is None else str(cell) for cell in cells]
            lines.append(f"| {' | '.join([head, *texts, str(items)])} |")
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
        heading: Heading in Markdown.
        facts: Facts about the run for JSON, such as model and benchmark.
        tables: Tables in reading order.
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
