"""Events of an answer in tables, with a head that names the columns, and in XML, with attributes or elements."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from timechat.answers.events import Event
from timechat.answers.fields import Reading, Role, events_of_fields, is_description, role_of

# -------------------------------------------------------------------------------------------------- tables

_RULE = re.compile(r"[\s|:+=-]*-[\s|:+=-]*")
_UNESCAPED_BAR = re.compile(r"(?<!\\)\|")
_SEPARATORS = ("|", "\t", ";", ",")


def read_tables(text: str, reading: Reading) -> list[Event]:
    """Return the events of the rows of all tables whose head names a start and an end, or a time."""
    events: list[Event] = []
    lines = [line.strip().strip("`") for line in text.splitlines()]
    at = 0
    while at < len(lines):
        head = _head(lines[at]) if at + 1 < len(lines) else None
        at += 1
        if head is None:
            continue
        separator, names = head
        rows = []
        while at < len(lines) and (cells := _row(lines[at], separator, len(names))) is not None:
            rows += [cells] if cells else []
            at += 1
        events += _table_events(names, rows, reading)
    return events


def _head(line: str) -> tuple[str, list[str]] | None:
    """The separator and the names of a head; None for another line."""
    for separator in _SEPARATORS:
        if separator not in line or len(line) > 1000:
            continue
        names = [re.sub(r"[*_`\"]", "", name).strip() for name in _cells(line, separator)]
        kinds = [role_of(name).kind for name in names if len(name) <= 40]
        if len(kinds) == len(names) > 1 and ("time" in kinds or {"start", "end"} <= set(kinds)):
            return separator, names
    return None


def _cells(line: str, separator: str) -> list[str]:
    if separator == "|":
        cells = _UNESCAPED_BAR.split(line)
        cells = cells[not cells[0].strip() : len(cells) - (not cells[-1].strip())]
        return [cell.strip().replace("\\|", "|") for cell in cells]
    if separator in ",;" and '"' in line:
        return [cell.strip() for cell in _quoted_cells(line, separator)]
    return [cell.strip() for cell in line.split(separator)]


def _quoted_cells(line: str, separator: str) -> Iterator[str]:
    for match in re.finditer(rf'\s*(?:"((?:[^"]|"")*+)"?[^{separator}]*|([^{separator}]*))(?:{separator}|\Z)', line):
        if match[0] or match.start() < len(line):
            yield match[2] if match[1] is None else match[1].replace('""', '"')


def _row(line: str, separator: str, width: int) -> list[str] | None:
    """The cells of a row of a table, empty for a line between rows; None after the table."""
    if _RULE.fullmatch(line) and (separator == "|" or "|" not in line):
        return []
    if separator not in line:
        return None
    cells = _cells(line, separator)
    if len(cells) > width and separator != "|":  # a comma in the text of the last column
        cells = [cell.strip() for cell in line.split(separator, width - 1)]
    return cells


def _table_events(names: list[str], rows: list[list[str]], reading: Reading) -> Iterator[Event]:
    roles = [_column_role(role_of(name), [row[i] for row in rows if i < len(row)]) for i, name in enumerate(names)]
    kept = [name if role.kind != "none" else "" for name, role in zip(names, roles, strict=True)]
    for row in rows:
        fields = [(name, re.sub(r"\*\*|`", "", cell)) for name, cell in zip(kept, row, strict=False) if name and cell]
        yield from events_of_fields(fields, reading)


def _column_role(role: Role, cells: list[str]) -> Role:
    """The meaning of a column; a column of numbers is no text."""
    is_text = role.kind in ("caption", "text")
    return Role("none") if is_text and not any(map(is_description, cells)) else role


# ----------------------------------------------------------------------------------------------------- XML

_TAG = re.compile(
    r"""<(?P<close>/?)(?P<name>[A-Za-z][\w:.-]{0,40})
    (?P<attributes>(?:\s{1,9}[\w:.-]{1,40}\s?=\s?(?:"[^"<>]{0,2000}"|'[^'<>]{0,2000}'))*+)\s{0,9}(?P<empty>/?)>""",
    re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""([\w:.-]{1,40})\s?=\s?(?:"([^"<>]{0,2000})"|'([^'<>]{0,2000})')""")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def read_xml(text: str, reading: Reading) -> list[Event]:
    """Return the events of all elements with a start and an end, as attributes or as elements inside."""
    tags = list(_TAG.finditer(text))
    if not tags:
        return []
    return list(_attribute_events(text, tags, reading)) or list(_element_events(text, tags, reading))


def _attribute_events(text: str, tags: list[re.Match[str]], reading: Reading) -> Iterator[Event]:
    ends = [tag.start() for tag in tags[1:]] + [len(text)]
    for tag, end in zip(tags, ends, strict=True):
        fields: list[tuple[str, Any]] = [
            (name, _plain(double or single)) for name, double, single in _ATTRIBUTE.findall(tag["attributes"])
        ]
        if tag["close"] or not {"start", "end"} <= {role_of(name).kind for name, _ in fields}:
            continue
        content = "" if tag["empty"] else _plain(text[tag.end() : end]).strip()
        yield from events_of_fields([*fields, *([("text", content)] if content else [])], reading)


def _element_events(text: str, tags: list[re.Match[str]], reading: Reading) -> Iterator[Event]:
    """Events of groups of elements such as `<start>`, `<end>`, `<text>`; a name that returns begins the next group."""
    fields: list[tuple[str, Any]] = []
    for tag, closing in pairwise(tags):
        if (
            tag["close"]
            or not closing["close"]
            or tag["name"] != closing["name"]
            or role_of(tag["name"]).kind == "none"
        ):
            continue
        if tag["name"] in {name for name, _ in fields}:
            yield from events_of_fields(fields, reading)
            fields = []
        fields.append((tag["name"], _plain(text[tag.end() : closing.start()]).strip()))
    yield from events_of_fields(fields, reading)


def _plain(text: str) -> str:
    return re.sub(r"&(amp|lt|gt|quot|apos);", lambda entity: _ENTITIES[entity[1]], text)
