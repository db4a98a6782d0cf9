"""What lmms-eval needs to know of the tasks about drawn films: where the video is, and what is right."""

from typing import Any

from timechat.answers.tasks import parse_events
from timechat.evaluation.metrics.answers import answer_hits
from timechat.evaluation.metrics.grounding import answered_iou, per_query


def video_of(doc: dict[str, Any]) -> list[str]:
    """Return the path of the film, from the folder in which the harness runs."""
    return [doc["video"]]


def score_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 for an answer that says the same as the true one, up to case, articles and punctuation."""
    return {"accuracy": float(answer_hits(results[:1], [doc["answer"]])[0])}


def score_span(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return how far the span that is named overlaps with the true one; 0 where none can be read."""
    events = parse_events(results[0], task="grounding").events
    spans = [(events[0].start, events[0].end) if events else None]
    figures = per_query(answered_iou(spans, [(doc["start"], doc["end"])]))
    return {name: float(figures[name][0]) for name in ("miou", "r1_iou_0.5")}


def ask_round(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, Any] | None = None,  # noqa: ARG001 - the harness's signature
    previous_output: list[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """Return the first question, then what belongs to each further round, as the harness wants it."""
    if round_idx is None:
        return doc["questions"][0]
    is_over = round_idx == len(doc["questions"])
    question = "" if is_over else doc["questions"][round_idx]
    return None, question, is_over, previous_output, previous_round_info


def score_rounds(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """Return the share of right answers among all rounds."""
    answers = results[0] if isinstance(results[0], list) else results
    return {"accuracy": float(answer_hits(answers, doc["answers"]).mean())}
