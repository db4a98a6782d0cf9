"""A corpus of all sentences about synthetic videos, from which a vocabulary is learned."""

from __future__ import annotations

import random
from collections.abc import Iterator

from timechat.answers.prompts import NOT_FOUND_ANSWER, SYSTEM_PROMPT, TIMECHAT_PRESETS
from timechat.synthetic import templates
from timechat.synthetic.scene import COLORS, KINDS, SHAPES
from timechat.synthetic.wording import (
    ACTIONS,
    NOTHING,
    NUMBERS,
    ORDINALS,
    TIMES,
    ActionPhrase,
    Clause,
    caption,
    drawn_prompt,
    fill_template,
    sentence,
    with_speech,
)

_QUESTIONS = (
    *templates.GROUNDING, *templates.HIGHLIGHTS, *templates.DENSE_CAPTION, *templates.STEPS, *templates.STEPS_OF_ONE,
    *templates.MOMENTS, *templates.SUMMARY, *templates.TRANSCRIBE, *templates.WHAT_AT, *templates.WHAT_AFTER,
    *templates.HOW_OFTEN, *templates.HOW_MANY, *templates.HOW_LONG, *templates.DOES_HAPPEN, *templates.WHICH_FIRST,
    *templates.WHAT_COLOR, *templates.WHAT_SHAPE, *templates.NARRATION,
)  # fmt: skip


def all_sentences() -> Iterator[str]:
    """Yield every form of question and answer, the same sentences in every call.

    They are the questions of the presets and of `templates`, and every event in every wording, with each color and
    shape. The chat format and the sentences about the times of frames are not included.
    """
    rng = random.Random("all sentences")
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    for preset in TIMECHAT_PRESETS:
        if preset.system != SYSTEM_PROMPT:  # another preset has the same wording
            continue
        yield from map(drawn_prompt, preset.prompts.values())
    phrases = [ActionPhrase(kind, pair, pairs[(i * 7 + 3) % len(pairs)] if kind == "meet" else None)
             for i, pair in enumerate(pairs) for kind in KINDS]  # fmt: skip
    for phrase in phrases:
        yield caption(phrase)
        yield phrase.clause(rng).text
        yield f"The moment when {phrase.clause(rng).text}"
    for kind, pair in zip(KINDS, pairs, strict=False):
        for verb in ACTIONS[kind]:
            forms = (form.replace("{other}", "the blue square") for form in (verb.bare, verb.finite, verb.ing))
            clause = Clause(f"the {pair[0]} {pair[1]}", *forms)
            yield from (fill_template(template, clause) for template in templates.GROUNDING)
    for template in _QUESTIONS:
        for phrase in rng.sample(phrases, 8):
            clause, other = phrase.clause(rng), rng.choice(phrases).clause().text
            yield fill_template(
                template, clause, query=clause.text, object=clause.subject, time="7.5", other=other, noun="thing"
            )
    yield from templates.SMALL_TALK
    for ordinal in ORDINALS:
        yield f"the red circle bounces for the {ordinal} time"
    for word in (*NUMBERS, *TIMES, *COLORS, *SHAPES, "yes", "no", "something", "anything"):
        yield sentence(word)
    yield NOT_FOUND_ANSWER
    yield NOTHING
    yield with_speech("What happens?", [(1.0, 3.0, "Now the red circle bounces.")])
    yield "The given query happens in 3.5 - 9.0 seconds."
    yield "There are 4 highlight moments in the 2.0, 4.0 second. Their saliency scores are 1.3, 2.7."
    yield "The highlight timestamps are in the 2, 4 seconds. Their saliency scores are 1.3, 2.7."
    yield "3.5 - 9.0 seconds, The red circle bounces.  10.0 - 12.5 seconds, The blue square leaves."
    yield "The red circle bounces. Then the blue square leaves. Then the blue square appears."
