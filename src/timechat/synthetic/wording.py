"""Wording of actions in synthetic videos, and of the questions about them.

An answer names each kind of action in one fixed way, so that it can be scored. A question may use other ways.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from timechat.answers.events import Task
from timechat.answers.tasks import build_question
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, Action, Kind, SyntheticVideo, is_unseen_pair
from timechat.synthetic.templates import GROUNDING

PRESET_SHARE = 0.65
"""Share of questions in the wording of the default preset."""
ORIGINAL_SHARE = 0.1
"""Share of questions in the wording of the original's fine-tuned checkpoints; the others use templates."""
CANONICAL_SHARE = 0.5
"""Share of queries that name their event in the words of the answers."""

_GROUNDING_END = "A specific example is : 20.8 - 30.0 seconds' ."  # of the original's prompt


@dataclass(frozen=True, slots=True)
class VerbForms:
    """Forms of a verb phrase; `{other}` stands for the object that is met.

    Attributes:
        bare: Bare infinitive, such as `"hop up and down"`.
        finite: Third person, such as `"hops up and down"`.
        ing: Participle, such as `"hopping up and down"`.
    """

    bare: str
    finite: str
    ing: str


def _verbs(*phrases: str) -> tuple[VerbForms, ...]:
    """Read phrases such as `"hop/hops/hopping up and down"`."""
    verbs = []
    for phrase in phrases:
        forms, _, rest = phrase.partition(" ")
        verbs.append(VerbForms(*(f"{form} {rest}".strip() for form in forms.split("/"))))
    return tuple(verbs)


ACTIONS: dict[Kind, tuple[VerbForms, ...]] = {
    "appear": _verbs(
        "appear/appears/appearing",
        "show/shows/showing up",
        "fade/fades/fading in",
        "come/comes/coming into view",
        "become/becomes/becoming visible",
    ),
    "leave": _verbs(
        "leave/leaves/leaving",
        "go/goes/going away",
        "leave/leaves/leaving the picture",
        "move/moves/moving out of view",
        "slide/slides/sliding out of the picture",
    ),
    "move": _verbs(
        "move/moves/moving to a new place",
        "go/goes/going to another place",
        "slide/slides/sliding to a new place",
        "move/moves/moving somewhere else",
        "travel/travels/traveling to another place",
    ),
    "bounce": _verbs(
        "bounce/bounces/bouncing",
        "hop/hops/hopping up and down",
        "jump/jumps/jumping",
        "jump/jumps/jumping up and down",
        "bounce/bounces/bouncing up and down",
    ),
    "spin": _verbs(
        "spin/spins/spinning",
        "rotate/rotates/rotating",
        "turn/turns/turning around",
        "go/goes/going round and round",
        "spin/spins/spinning around",
    ),
    "grow": _verbs(
        "grow/grows/growing",
        "get/gets/getting bigger",
        "become/becomes/becoming larger",
        "get/gets/getting larger",
        "become/becomes/becoming big",
    ),
    "shrink": _verbs(
        "shrink/shrinks/shrinking",
        "get/gets/getting smaller",
        "become/becomes/becoming smaller",
        "become/becomes/becoming small",
        "get/gets/getting less big",
    ),
    "blink": _verbs(
        "blink/blinks/blinking",
        "flash/flashes/flashing",
        "flash/flashes/flashing on and off",
        "blink/blinks/blinking on and off",
        "go/goes/going on and off",
    ),
    "recolor": _verbs(
        "change/changes/changing color",
        "take/takes/taking another color",
        "get/gets/getting a new color",
        "turn/turns/turning to another color",
        "show/shows/showing a different color",
    ),
    "meet": _verbs(
        "meet/meets/meeting {other}",
        "touch/touches/touching {other}",
        "visit/visits/visiting {other}",
        "come/comes/coming to {other}",
        "go/goes/going to {other} and back",
    ),
}
"""Verb phrases of each kind of action; answers use the first."""

_NAMES = ("the {color} {shape}", "the {shape} in {color}", "the {shape} that is {color}", "{a} {color} {shape}")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
)  # fmt: skip
NUMBERS = (
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen",
)  # fmt: skip
NOTHING = "Nothing happens."
TIMES = ("never", "once", "twice", *(f"{number} times" for number in NUMBERS[3:]))


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause about an action, in lower case and without a full stop.

    Attributes:
        subject: Subject, such as `"the red circle"`.
        bare: Predicate with a bare infinitive, such as `"bounce for the second time"`.
        finite: Predicate in the third person, such as `"bounces for the second time"`.
        ing: Predicate with a participle, such as `"bouncing for the second time"`.
    """

    subject: str
    bare: str
    finite: str
    ing: str

    @property
    def text(self) -> str:
        """The whole clause, such as `"the red circle bounces for the second time"`."""
        return f"{self.subject} {self.finite}"


@dataclass(frozen=True, slots=True)
class ActionPhrase:
    """Description of an action that may or may not happen in a video.

    Attributes:
        kind: Kind of action.
        object: Color and shape of the object.
        other: For `meet`, color and shape of the object that it meets.
        ordinal: 0 for the first of several equal actions, 1 for the second, and so on; None for a single action.
    """

    kind: Kind
    object: tuple[str, str]
    other: tuple[str, str] | None = None
    ordinal: int | None = None

    def clause(self, rng: random.Random | None = None) -> Clause:
        """Return a clause in the words of answers; with `rng`, in randomly chosen words."""
        number = 0 if rng is None else rng.randrange(len(ACTIONS[self.kind]))
        verb = ACTIONS[self.kind][number]
        subject = _name(self.object, rng)
        tail = "" if self.ordinal is None else f" for the {ORDINALS[self.ordinal]} time"
        if self.other is None:
            return Clause(subject, verb.bare + tail, verb.finite + tail, verb.ing + tail)
        other = _name(self.other, rng)
        bare, finite, ing = (form.replace("{other}", other) for form in (verb.bare, verb.finite, verb.ing))
        return Clause(subject, bare + tail, finite + tail, ing + tail)

    def any_clause(self, rng: random.Random) -> Clause:
        """Return a clause in the words of answers or, in one half of the cases, in randomly chosen words."""
        return self.clause(None if rng.random() < CANONICAL_SHARE else rng)


def _name(look: tuple[str, str], rng: random.Random | None) -> str:
    form = _NAMES[0] if rng is None or rng.random() < 0.5 else rng.choice(_NAMES[1:])
    return form.format(a="an" if look[0] == "orange" else "a", color=look[0], shape=look[1])


def caption(phrase: ActionPhrase) -> str:
    """Return the caption that every answer uses for an action, such as `"The red circle bounces."`."""
    return sentence(ActionPhrase(phrase.kind, phrase.object, phrase.other).clause().text)


def sentence(text: str) -> str:
    """Return a clause as a sentence, with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def narrate_in_order(captions: Sequence[str]) -> str:
    """Join captions into a text."""
    first, *rest = captions
    return " ".join([first, *(f"Then {text[0].lower()}{text[1:]}" for text in rest)])


def action_key(action: Action) -> tuple[Kind, frozenset[int]]:
    """Return a key that is equal for two actions of the same kind and objects; meeting has no direction."""
    return action.kind, frozenset(action.actors)


def action_phrases(video: SyntheticVideo) -> dict[str, ActionPhrase]:
    """Describe every action of a video, by its id; no two descriptions are equal."""
    count: dict[tuple[Kind, frozenset[int]], int] = {}
    for action in video.actions:
        count[action_key(action)] = count.get(action_key(action), 0) + 1
    seen: dict[tuple[Kind, frozenset[int]], int] = {}
    phrases = {}
    for action in video.actions:
        key = action_key(action)
        ordinal = seen.get(key, 0) if count[key] > 1 else None
        seen[key] = seen.get(key, 0) + 1
        look, *others = ((video.objects[i].color, video.objects[i].shape) for i in action.actors)
        phrases[action.id] = ActionPhrase(action.kind, look, others[0] if others else None, ordinal)
    return phrases


def absent_action(video: SyntheticVideo, rng: random.Random) -> ActionPhrase:
    """Describe an action that does not happen in a video but resembles one that does.

    Either an object of another color does it, or the object does something else. A color and shape that training must
    not know are named only for videos that show one.
    """
    has_other_color = rng.random() < 0.3
    phrases = _by_absent_objects(video, rng) if has_other_color else _by_present_objects(video, rng)
    return next(phrases, None) or next(_by_absent_objects(video, rng))


def action_of_wrong_shape(video: SyntheticVideo, rng: random.Random) -> ActionPhrase:
    """Describe an action of a video with the right color and a wrong shape, so that it does not happen."""
    return next(_by_absent_objects(video, rng, has_wrong_shape=True))


def _by_absent_objects(
    video: SyntheticVideo, rng: random.Random, *, has_wrong_shape: bool = False
) -> Iterator[ActionPhrase]:
    """Describe actions of the video with the right shape and a wrong color, or the right color and a wrong shape."""
    present = {(obj.color, obj.shape) for obj in video.objects}
    for action in rng.sample(video.actions, len(video.actions)):
        obj, *others = (video.objects[i] for i in action.actors)
        looks = (
            [(obj.color, shape) for shape in SHAPES] if has_wrong_shape else [(color, obj.shape) for color in COLORS]
        )
        for look in rng.sample(looks, len(looks)):
            is_allowed = video.part == "unseen_pairs" or not is_unseen_pair(*look)
            if is_allowed and look not in present:
                other = (others[0].color, others[0].shape) if others else None
                yield ActionPhrase(action.kind, look, other)


def _by_present_objects(video: SyntheticVideo, rng: random.Random) -> Iterator[ActionPhrase]:
    """Describe wrong actions of objects of the video; first those actions that other objects do in it."""
    done = {action_key(action) for action in video.actions}
    own = {i: {action.kind for action in video.actions if i in action.actors} for i in range(len(video.objects))}
    shown = {action.kind for action in video.actions}
    pairs = [(kind, i) for kind in KINDS for i in own]
    rng.shuffle(pairs)
    if rng.random() < 0.7:
        pairs.sort(key=lambda pair: pair[0] not in shown)
    for kind, i in pairs:
        obj = video.objects[i]
        if kind == "meet":
            j = rng.choice([j for j in own if j != i])
            if ("meet", frozenset((i, j))) not in done and not {"move", "leave"} & (own[i] | own[j]):
                yield ActionPhrase(kind, (obj.color, obj.shape), (video.objects[j].color, video.objects[j].shape))
        elif kind not in own[i] and not own[i] & _LOOKS_ALIKE.get(kind, set()) and _would_be_visible(video, i, kind):
            yield ActionPhrase(kind, (obj.color, obj.shape))


_LOOKS_ALIKE: dict[Kind, set[Kind]] = {
    "move": {"leave", "meet"},
    "leave": {"blink", "move"},
    "appear": {"blink"},
}
"""Kinds of action that can be mistaken for the key. An object that does one of them is never said not to do the key."""


def is_shown(video: SyntheticVideo, phrase: ActionPhrase) -> bool:
    """Whether a video shows an action, or one that can be mistaken for it."""
    looks = [(obj.color, obj.shape) for obj in video.objects]
    actors = {look for look in (phrase.object, phrase.other) if look is not None}
    seen = [action for action in video.actions if actors & {looks[i] for i in action.actors}]
    if phrase.kind == "meet":
        are_present = actors <= set(looks)
        return are_present and any(
            action.kind in ("move", "leave") or (action.kind == "meet" and actors == {looks[i] for i in action.actors})
            for action in seen
        )
    return any(action.kind == phrase.kind or action.kind in _LOOKS_ALIKE.get(phrase.kind, set()) for action in seen)


def _would_be_visible(video: SyntheticVideo, index: int, kind: Kind) -> bool:
    return kind != "spin" or video.objects[index].shows_turning


def ask_preset_or(rng: random.Random, task: Task, templates: Sequence[str], query: str | None = None) -> str:
    """Word a question as the default preset, as the original, or with one of `templates`, by the shares above."""
    draw = rng.random()
    if draw < PRESET_SHARE + ORIGINAL_SHARE:
        return _ask_preset(task, query, is_original=draw >= PRESET_SHARE)
    return rng.choice(templates).format(query=query)


def ask_grounding(rng: random.Random, phrase: ActionPhrase) -> tuple[str, str]:
    """Word a question about the time of an action.

    Returns:
        Question and its query.
    """
    clause = phrase.any_clause(rng)
    draw = rng.random()
    if draw >= PRESET_SHARE + ORIGINAL_SHARE:
        return fill_template(rng.choice(GROUNDING), clause), clause.text
    query = clause.text
    if draw > 0.8 * PRESET_SHARE:
        query = f"the moment when {query}" if rng.random() < 0.5 else f"{clause.subject} {clause.ing}"
    return _ask_preset("grounding", query, is_original=draw >= PRESET_SHARE), query


def _ask_preset(task: Task, query: str | None, *, is_original: bool) -> str:
    preset = "original-finetuned@1" if is_original else "timechat@1"
    return drawn_prompt(build_question(task, query, preset=preset))


def drawn_prompt(text: str) -> str:
    """Return a prompt as it was when the first synthetic videos were drawn and nano was trained.

    Names of data sets had capitals, and the original's prompt for grounding ended in a blank. The records of a set do
    not change with the presets, so that earlier sets and trainings are resumed.
    """
    for name in ("Charades", "QVHighlights"):
        text = text.replace(f"the {name.lower()} dataset", f"the {name} dataset")
    return f"{text} " if text.endswith(_GROUNDING_END) else text


def fill_template(template: str, clause: Clause, **more: str) -> str:
    """Fill a template with the forms of a clause."""
    return template.format(
        text=clause.text, subject=clause.subject, bare=clause.bare, finite=clause.finite, ing=clause.ing, **more
    )


def with_speech(question: str, sentences: Iterable[tuple[float, float, str]]) -> str:
    """Put a transcript of (start, end, text) before a question, as the original does."""
    transcript = "".join(f"{start:.1f} - {end:.1f} seconds, {text} " for start, end, text in sentences) or "None."
    return f"Transcribed speech: {transcript} Based on the video content and possible transcribed speech, {question}"
