"""The table for drawn films: a model's figures on every task, each beside the baselines that it has to beat."""

from collections.abc import Mapping, Sequence
from typing import Any

from timechat.evaluation.baselines import training_spans
from timechat.evaluation.films import DrawnFilm
from timechat.evaluation.report import Report, Table, estimate_row
from timechat.evaluation.scoring import (
    Figures,
    caption_figures,
    grounding_figures,
    highlight_figures,
    question_figures,
)
from timechat.evaluation.store import AnswerStore

_R1 = {"r1_iou_0.3": "R@1 IoU 0.3", "r1_iou_0.5": "R@1 IoU 0.5", "r1_iou_0.7": "R@1 IoU 0.7", "miou": "mIoU"}
_GROUNDING = {
    "asked": "**model**",
    "asked_without_speech": "model, questions that do not tell what is said",
    "different_event": "its answers, scored on a different event",
    "gap": "asked minus different event",
    "random_event": "a random event of the same film (expected)",
    "lead": "asked minus random event",
    "random_span": "a random span of the training distribution (expected)",
    "constant_span": "best constant span (tuned on these questions, for each figure)",
    "blank": "model, frames blank",
    "shuffled": "model, frames in random order",
}
_PARTS = {"standard": "standard", "unseen_pairs": "unseen pairs", "longer": "longer films"}
_CAPTIONS = {"model": "**model**", "other_film": "true events of another film, stretched"}
_HIGHLIGHTS = {
    "model": "**model**",
    "random_event": "middle of a random event of the film (expected)",
    "random_clip": "a random clip (expected)",
}


def report_drawn(
    films: Sequence[DrawnFilm], store: AnswerStore, *, heading: str, facts: Mapping[str, Any] | None = None
) -> Report:
    """Score all answers that are there and put them into tables.

    Args:
        films: With their records.
        store: The answers.
        heading: What was evaluated on what.
        facts: The same for programs.

    Raises:
        ValueError: There is no film, or the films are of several levels.
    """
    levels = {film.level for film in films}
    if len(levels) != 1:
        raise ValueError(f"give films of exactly one level, got the levels {sorted(levels)}")
    answers = store.shown("film")
    tables = [
        *_grounding_tables(films, store),
        *_caption_tables(films, answers),
        *_highlight_tables(films, answers),
        *_question_tables(films, answers),
    ]
    return Report(heading, {**(facts or {}), "level": levels.pop(), "films": len(films)}, tuple(tables))


def _grounding_tables(films: Sequence[DrawnFilm], store: AnswerStore) -> list[Table]:
    spans = training_spans(films[0].level)
    rows, absent = grounding_figures(films, store.shown("film"), spans)
    if not len(rows["asked"]):
        return []
    for control in ("blank", "shuffled"):
        controlled = grounding_figures(films, store.shown(control))[0]["asked"]
        if len(controlled):
            rows[control] = controlled
    if len(rows["asked_without_speech"]) in (0, len(rows["asked"])):
        del rows["asked_without_speech"]
    columns = _R1 | {"unread": "no span"}
    tables = [_table("grounding", "Grounding", columns, {n: (h, rows[n]) for n, h in _GROUNDING.items() if n in rows})]
    if len(parts := _parts(rows["asked"])) > 1:
        by_part = {
            f"{part}_{name}": (f"{_PARTS[part]}: {head}", rows[name].only(part=part))
            for part in parts
            for name, head in _GROUNDING.items()
            if name in rows
        }
        tables.append(_table("grounding_by_part", "Grounding, part by part", columns, by_part))
    tables.append(_by_kind(rows))
    if len(absent):
        note = "Share of queries for something that does not happen that were answered without a span."
        tables.append(
            _table("grounding_absent", "Absent events", {"refused": "refused"}, {"model": ("model", absent)}, note)
        )
    return tables


def _by_kind(rows: Mapping[str, Figures]) -> Table:
    """One row a kind of event, with the controls beside the model."""
    joined = Figures(rows["asked"].films, rows["asked"].parts, rows["asked"].kinds, dict(rows["asked"].values))
    for name in ("different_event", "random_event"):
        joined.values[name] = rows[name].values["r1_iou_0.5"]
    columns = {
        **_R1,
        "different_event": "on a different event, IoU 0.5",
        "random_event": "random event, IoU 0.5",
        "unread": "no span",
    }
    kinds = sorted(set(joined.kinds))
    return _table(
        "grounding_by_kind", "Grounding, by kind of event", columns, {k: (k, joined.only(kind=k)) for k in kinds}
    )


def _caption_tables(films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]) -> list[Table]:
    found, words = caption_figures(films, answers)
    if not len(found["model"]):
        return []
    columns = {"precision": "precision", "recall": "recall", "f1": "F1", "unread": "no event"}
    rows = _with_parts(found, _CAPTIONS)
    note = "Means over IoU above 0.3, 0.5, 0.7 and 0.9, video by video; n counts films."
    tables = [_table("dense_caption", "Dense captioning", columns, rows, note)]
    if any(len(figures) for figures in words.values()):
        columns = {"object": "object", "color": "color", "action": "action", "all": "all three"}
        note = "Of events that a caption overlaps with IoU 0.5 or more, each paired once; n counts pairs."
        rows = {name: row for name, row in _with_parts(words, _CAPTIONS).items() if len(row[1])}
        tables.append(_table("matched_captions", "Matched captions: share that is right", columns, rows, note))
    return tables


def _highlight_tables(films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]) -> list[Table]:
    rows = highlight_figures(films, answers)
    if not len(rows["model"]):
        return []
    columns = {
        "hit1_relevant": "HIT@1",
        "hit1_good": "HIT@1, rated 3 or more",
        "map_relevant": "mAP",
        "map_good": "mAP, rated 3 or more",
        "unread": "no moment",
    }
    note = (
        "Clips of 2 s. HIT@1: the highest scored clip belongs to the query. A query about an event so short that no "
        "clip is rated 3 counts as missed in the figures of that rating."
    )
    return [_table("highlights", "Highlights", columns, _with_parts(rows, _HIGHLIGHTS), note)]


def _question_tables(films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]) -> list[Table]:
    figures = question_figures(films, answers)
    if not len(figures):
        return []
    rows = {"all": ("**all**", figures)}
    if len(parts := _parts(figures)) > 1:
        rows |= {part: (f"all, {_PARTS[part]}", figures.only(part=part)) for part in parts}
    rows |= {kind: (kind.replace("_", " "), figures.only(kind=kind)) for kind in sorted(set(figures.kinds))}
    columns = {"accuracy": "**model**", "majority": "most frequent answer of the kind"}
    return [_table("qa", "Question answering: accuracy", columns, rows)]


def _with_parts(rows: Mapping[str, Figures], heads: Mapping[str, str]) -> dict[str, tuple[str, Figures]]:
    """Rows over everything, and below them those of each part where there are several."""
    result = {name: (head, rows[name]) for name, head in heads.items()}
    parts = _parts(rows["model"])
    for part in parts if len(parts) > 1 else []:
        for name, head in heads.items():
            result[f"{part}_{name}"] = (f"{_PARTS[part]}: {head}", rows[name].only(part=part))
    return result


def _parts(figures: Figures) -> list[str]:
    return [part for part in _PARTS if part in figures.parts]


def _table(
    name: str, title: str, columns: Mapping[str, str], rows: Mapping[str, tuple[str, Figures]], note: str = ""
) -> Table:
    cells = {key: (head, estimate_row(figures, list(columns))) for key, (head, figures) in rows.items()}
    return Table(name, title, columns, cells, note)
