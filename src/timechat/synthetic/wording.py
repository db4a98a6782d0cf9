"""Every sentence about drawn films: names of what happens, and the questions that are put about it.

An answer says each kind of event in one fixed way, so that it can be scored; a question may say it in several ways.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from timechat.answers.events import Task
from timechat.answers.prompts import NOT_FOUND_ANSWER, PRESETS, SYSTEM_PROMPT
from timechat.answers.tasks import build_question
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, Action, Kind, SyntheticVideo, is_unseen_pair

PRESET_SHARE = 0.65
"""Share of questions in the wording of the preset that the command line uses."""
ORIGINAL_SHARE = 0.1
"""Share in the wording of the original's fine-tuned checkpoints; the rest is said in other words."""
CANONICAL_SHARE = 0.5
"""Share of queries that name their event just as the answers do."""

# ------------------------------------------------------------------------------------------- what things do


@dataclass(frozen=True, slots=True)
class VerbForms:
    """A way to say what a thing does; `{other}` stands for whom it meets.

    Attributes:
        bare: `"hop up and down"`.
        finite: `"hops up and down"`.
        ing: `"hopping up and down"`.
    """

    bare: str
    finite: str
    ing: str


def _actions(*phrases: str) -> tuple[VerbForms, ...]:
    """Read `"hop/hops/hopping up and down"`."""
    actions = []
    for phrase in phrases:
        verb, _, rest = phrase.partition(" ")
        actions.append(VerbForms(*(f"{form} {rest}".strip() for form in verb.split("/"))))
    return tuple(actions)


ACTIONS: dict[Kind, tuple[VerbForms, ...]] = {
    "appear": _actions(
        "appear/appears/appearing",
        "show/shows/showing up",
        "fade/fades/fading in",
        "come/comes/coming into view",
        "become/becomes/becoming visible",
    ),
    "leave": _actions(
        "leave/leaves/leaving",
        "go/goes/going away",
        "leave/leaves/leaving the picture",
        "move/moves/moving out of view",
        "slide/slides/sliding out of the picture",
    ),
    "move": _actions(
        "move/moves/moving to a new place",
        "go/goes/going to another place",
        "slide/slides/sliding to a new place",
        "move/moves/moving somewhere else",
        "travel/travels/traveling to another place",
    ),
    "bounce": _actions(
        "bounce/bounces/bouncing",
        "hop/hops/hopping up and down",
        "jump/jumps/jumping",
        "jump/jumps/jumping up and down",
        "bounce/bounces/bouncing up and down",
    ),
    "spin": _actions(
        "spin/spins/spinning",
        "rotate/rotates/rotating",
        "turn/turns/turning around",
        "go/goes/going round and round",
        "spin/spins/spinning around",
    ),
    "grow": _actions(
        "grow/grows/growing",
        "get/gets/getting bigger",
        "become/becomes/becoming larger",
        "get/gets/getting larger",
        "become/becomes/becoming big",
    ),
    "shrink": _actions(
        "shrink/shrinks/shrinking",
        "get/gets/getting smaller",
        "become/becomes/becoming smaller",
        "become/becomes/becoming small",
        "get/gets/getting less big",
    ),
    "blink": _actions(
        "blink/blinks/blinking",
        "flash/flashes/flashing",
        "flash/flashes/flashing on and off",
        "blink/blinks/blinking on and off",
        "go/goes/going on and off",
    ),
    "recolor": _actions(
        "change/changes/changing color",
        "take/takes/taking another color",
        "get/gets/getting a new color",
        "turn/turns/turning to another color",
        "show/shows/showing a different color",
    ),
    "meet": _actions(
        "meet/meets/meeting {other}",
        "touch/touches/touching {other}",
        "visit/visits/visiting {other}",
        "come/comes/coming to {other}",
        "go/goes/going to {other} and back",
    ),
}
"""Ways to say each kind; the first is the one that answers use."""

_NAMES = ("the {color} {shape}", "the {shape} in {color}", "the {shape} that is {color}", "{a} {color} {shape}")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
)  # fmt: skip
NUMBERS = (
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen",
)  # fmt: skip
TIMES = ("never", "once", "twice", *(f"{number} times" for number in NUMBERS[3:]))


@dataclass(frozen=True, slots=True)
class Clause:
    """Something that happens, in words; lower-case, without a full stop.

    Attributes:
        subject: `"the red circle"`.
        bare: `"bounce for the second time"`.
        finite: `"bounces for the second time"`.
        ing: `"bouncing for the second time"`.
    """

    subject: str
    bare: str
    finite: str
    ing: str

    @property
    def text(self) -> str:
        """`"the red circle bounces for the second time"`."""
        return f"{self.subject} {self.finite}"


@dataclass(frozen=True, slots=True)
class ActionPhrase:
    """What could happen, whether it does or not: a kind, who, with whom, and which time of several.

    Attributes:
        object: Colour and shape.
        other: Colour and shape of whom it meets.
        ordinal: 0 for the first time, and so on; None where there is one time only.
    """

    kind: Kind
    object: tuple[str, str]
    other: tuple[str, str] | None = None
    ordinal: int | None = None

    def clause(self, rng: random.Random | None = None) -> Clause:
        """Say it: in the words of answers, or with `rng` in any words."""
        number = 0 if rng is None else rng.randrange(len(ACTIONS[self.kind]))
        action = ACTIONS[self.kind][number]
        subject = _name(self.object, rng)
        tail = "" if self.ordinal is None else f" for the {ORDINALS[self.ordinal]} time"
        if self.other is None:
            return Clause(subject, action.bare + tail, action.finite + tail, action.ing + tail)
        other = _name(self.other, rng)
        bare, finite, ing = (form.replace("{other}", other) for form in (action.bare, action.finite, action.ing))
        return Clause(subject, bare + tail, finite + tail, ing + tail)

    def any_clause(self, rng: random.Random) -> Clause:
        """Say it in the words of answers, or (one time in two) in others."""
        return self.clause(None if rng.random() < CANONICAL_SHARE else rng)


def _name(thing: tuple[str, str], rng: random.Random | None) -> str:
    form = _NAMES[0] if rng is None or rng.random() < 0.5 else rng.choice(_NAMES[1:])
    return form.format(a="an" if thing[0] == "orange" else "a", color=thing[0], shape=thing[1])


def caption(deed: ActionPhrase) -> str:
    """Say what happens as every answer says it, `"The red circle bounces."`."""
    return sentence(ActionPhrase(deed.kind, deed.object, deed.other).clause().text)


def sentence(text: str) -> str:
    """Write words as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def narrate_in_order(captions: Sequence[str]) -> str:
    """Join captions into a short story."""
    first, *rest = captions
    return " ".join([first, *(f"Then {text[0].lower()}{text[1:]}" for text in rest)])


def same_action(happening: Action) -> tuple[Kind, frozenset[int]]:
    """Return what two happenings share that are the same thing done twice; meeting has no direction."""
    return happening.kind, frozenset(happening.actors)


def action_phrases(film: SyntheticVideo) -> dict[str, ActionPhrase]:
    """Name every happening of a film, by its id; no two have the same name."""
    count: dict[tuple[Kind, frozenset[int]], int] = {}
    for happening in film.actions:
        count[same_action(happening)] = count.get(same_action(happening), 0) + 1
    seen: dict[tuple[Kind, frozenset[int]], int] = {}
    deeds = {}
    for happening in film.actions:
        key = same_action(happening)
        ordinal = seen.get(key, 0) if count[key] > 1 else None
        seen[key] = seen.get(key, 0) + 1
        thing, *others = ((film.objects[i].color, film.objects[i].shape) for i in happening.actors)
        deeds[happening.id] = ActionPhrase(happening.kind, thing, others[0] if others else None, ordinal)
    return deeds


def absent_action(film: SyntheticVideo, rng: random.Random) -> ActionPhrase:
    """Name something that does not happen in a film but nearly does: another does it, or the thing does others.

    A colour and shape that training must not know are named only about films that show one.
    """
    strangers = rng.random() < 0.3
    deeds = _strangers(film, rng) if strangers else _idle(film, rng)
    return next(deeds, None) or next(_strangers(film, rng))


def _strangers(film: SyntheticVideo, rng: random.Random) -> Iterator[ActionPhrase]:
    """Right action and shape, wrong colour."""
    here = {(thing.color, thing.shape) for thing in film.objects}
    for happening in rng.sample(film.actions, len(film.actions)):
        thing, *others = (film.objects[i] for i in happening.actors)
        for color in rng.sample(list(COLORS), len(COLORS)):
            is_allowed = film.part == "unseen_pairs" or not is_unseen_pair(color, thing.shape)
            if is_allowed and (color, thing.shape) not in here:
                other = (others[0].color, others[0].shape) if others else None
                yield ActionPhrase(happening.kind, (color, thing.shape), other)


def _idle(film: SyntheticVideo, rng: random.Random) -> Iterator[ActionPhrase]:
    """A thing of the film, wrong action; first those actions that others do in the film."""
    done = {same_action(happening) for happening in film.actions}
    own = {i: {happening.kind for happening in film.actions if i in happening.actors} for i in range(len(film.objects))}
    shown = {happening.kind for happening in film.actions}
    pairs = [(kind, i) for kind in KINDS for i in own]
    rng.shuffle(pairs)
    if rng.random() < 0.7:
        pairs.sort(key=lambda pair: pair[0] not in shown)
    for kind, i in pairs:
        thing = film.objects[i]
        if kind == "meet":
            j = rng.choice([j for j in own if j != i])
            if ("meet", frozenset((i, j))) not in done and not {"move", "leave"} & (own[i] | own[j]):
                yield ActionPhrase(kind, (thing.color, thing.shape), (film.objects[j].color, film.objects[j].shape))
        elif kind not in own[i] and not own[i] & _LOOKS_ALIKE.get(kind, set()) and _could_be_seen(film, i, kind):
            yield ActionPhrase(kind, (thing.color, thing.shape))


_LOOKS_ALIKE: dict[Kind, set[Kind]] = {
    "move": {"leave", "meet"},
    "leave": {"blink", "move"},
    "appear": {"blink"},
}
"""What is not said to be absent of a thing that does one of these, as one may see it so."""


def is_shown(film: SyntheticVideo, deed: ActionPhrase) -> bool:
    """Whether something happens in a film, or something that one may see as it."""
    looks = [(thing.color, thing.shape) for thing in film.objects]
    wanted = {look for look in (deed.object, deed.other) if look is not None}
    seen = [h for h in film.actions if wanted & {looks[i] for i in h.actors}]
    if deed.kind == "meet":
        are_there = wanted <= set(looks)
        return are_there and any(
            h.kind in ("move", "leave") or (h.kind == "meet" and wanted == {looks[i] for i in h.actors}) for h in seen
        )
    return any(h.kind == deed.kind or h.kind in _LOOKS_ALIKE.get(deed.kind, set()) for h in seen)


def _could_be_seen(film: SyntheticVideo, thing: int, kind: Kind) -> bool:
    return kind != "spin" or film.objects[thing].shows_turning


# -------------------------------------------------------------------------------------- questions and speech

GROUNDING = (
    "When does this happen: {text}?",
    "When does {subject} {bare}?",
    "Find the moment when {text}.",
    "At what time does {subject} {bare}?",
    "Find {subject} {ing}.",
    "In which part of the video can you see {subject} {ing}?",
    "Give the start and end of this event: {text}.",
    "From when to when does {subject} {bare}?",
)
HIGHLIGHTS = (
    "Show me the best moments of this: {query}.",
    "Which moments fit best to this: {query}? Give a score for each.",
    "Find the highlight moments of '{query}' with their saliency scores.",
    "At which seconds can this be seen best: {query}?",
    "Give the highlights about this, with scores: {query}.",
    "Rate the moments of this event: {query}.",
)
DENSE_CAPTION = (
    "What happens in the video, and when?",
    "Describe all events with their start and end times.",
    "List everything that happens, with times.",
    "Tell me each event of the video with its start and end.",
    "Write a caption for each event and say when it happens.",
    "Find all events in the video and describe them.",
    "Who does what, and when?",
)
STEPS = (
    "What are the steps in this video, and when?",
    "List the steps with their start and end times.",
    "Tell me step by step what is done, with times.",
    "Find each step and describe it.",
    "Which actions are done one after the other, and when?",
    "Give the steps in order, each with its time.",
)
STEPS_OF_ONE = (
    "What does {thing} do, step by step?",
    "List the steps of {thing} with their start and end times.",
    "Tell me what {thing} does, and when.",
    "Describe all actions of {thing} in order, with times.",
    "When does {thing} do what?",
    "Follow {thing} and say what it does, with times.",
)
MOMENTS = (
    "Which moments of the video are the most important?",
    "Find the highlights of the video with their scores.",
    "At which seconds is the most going on?",
    "Give the best moments of the video and rate them.",
    "Sum the video up by its most important moments.",
    "Choose the moments to keep, with a saliency score for each.",
)
SUMMARY = (
    "What is the video about?",
    "Sum up the video.",
    "Tell in a few sentences what happens.",
    "Describe the video in short.",
    "Give a short summary of the video.",
    "What happens in the video, in a few words?",
)
TRANSCRIBE = (
    "What is said in the video, and when?",
    "Write down the speech with times.",
    "Tell me every spoken sentence with its start and end.",
    "What does the speaker say?",
    "Transcribe what you hear.",
    "Give the spoken words and their times.",
)

NARRATION = ("Now {text}.", "Look, {text}.", "Here {text}.", "You can see that {text}.", "I think {text}.")
"""What is said about an event; a narrator always takes the first."""
SMALL_TALK = (
    "Hello and welcome.",
    "Let us see what comes next.",
    "This is my favorite part.",
    "I like these colors.",
    "Please watch closely.",
    "What a nice day.",
    "We are not done yet.",
    "Thank you for watching.",
    "Let me think about that.",
    "That was fun.",
)

WHAT_AT = (
    "What happens at {time} seconds?",
    "What is going on at {time} seconds?",
    "What can be seen at {time} seconds?",
    "At {time} seconds, what happens?",
    "Which event is shown at {time} seconds?",
)
WHAT_AFTER = (
    "What happens right after {text}?",
    "What comes next after {text}?",
    "What is the first thing to happen after {text}?",
    "After {text}, what happens next?",
    "Which event starts first after this one ends: {text}?",
)
HOW_OFTEN = (
    "How often does {subject} {bare}?",
    "How many times does {subject} {bare}?",
    "Count how often {subject} {finite}.",
    "How many times can you see {subject} {ing}?",
    "Tell me how many times {subject} {finite}.",
)
HOW_MANY = (
    "How many things {bare}?",
    "Count the things that {bare}.",
    "How many different things can you see {ing}?",
    "Tell me how many things {bare}.",
    "What is the number of things that {bare}?",
)
HOW_LONG = (
    "How long does {subject} {bare}?",
    "For how many seconds does {subject} {bare}?",
    "How long does this last: {text}?",
    "How many seconds does this event take: {text}?",
    "How long can you see {subject} {ing}?",
)
DOES_HAPPEN = (
    "Does {subject} {bare}?",
    "Does this happen in the video: {text}?",
    "Is it true that {text}?",
    "Can you see {subject} {ing}?",
    "Does {subject} {bare} at any time?",
)
WHICH_FIRST = (
    "Which comes first: {text}, or {other}?",
    "What happens first, {text} or {other}?",
    "Which event is earlier: {text}, or {other}?",
    "Which of these starts first: {text}, or {other}?",
    "Tell me what comes first: {text}, or {other}.",
)
WHAT_COLOR = (
    "What color is the {noun} that {finite}?",
    "What is the color of the {noun} that {finite}?",
    "The {noun} that {finite}: what color is it?",
    "Tell me the color of the {noun} that {finite}.",
    "One {noun} {finite}. What color is it?",
)
WHAT_SHAPE = (
    "What shape is the {noun} that {finite}?",
    "What is the shape of the {noun} that {finite}?",
    "The {noun} that {finite}: what shape is it?",
    "Tell me the shape of the {noun} that {finite}.",
    "One {noun} {finite}. What shape is it?",
)


def ask_preset_or(rng: random.Random, task: Task, templates: Sequence[str], query: str | None = None) -> str:
    """Ask in the command line's words, in the original's, or in one of `templates`; the shares are stated above."""
    draw = rng.random()
    if draw < PRESET_SHARE + ORIGINAL_SHARE:
        return build_question(task, query, preset="timechat@1" if draw < PRESET_SHARE else "original-finetuned@1")
    return rng.choice(templates).format(query=query)


def ask_grounding(rng: random.Random, deed: ActionPhrase) -> tuple[str, str]:
    """Ask when something happens.

    Returns:
        The question and its query.
    """
    clause = deed.any_clause(rng)
    draw = rng.random()
    if draw >= PRESET_SHARE + ORIGINAL_SHARE:
        return fill_template(rng.choice(GROUNDING), clause), clause.text
    query = clause.text
    if draw > 0.8 * PRESET_SHARE:
        query = f"the moment when {query}" if rng.random() < 0.5 else f"{clause.subject} {clause.ing}"
    preset = "timechat@1" if draw < PRESET_SHARE else "original-finetuned@1"
    return build_question("grounding", query, preset=preset), query


def fill_template(template: str, clause: Clause, **more: str) -> str:
    """Put a clause into a template."""
    return template.format(
        text=clause.text, subject=clause.subject, bare=clause.bare, finite=clause.finite, ing=clause.ing, **more
    )


def with_speech(question: str, sentences: Iterable[tuple[float, float, str]]) -> str:
    """Put what is said before a question, as the original does."""
    heard = "".join(f"{start:.1f} - {end:.1f} seconds, {text} " for start, end, text in sentences) or "None."
    return f"Transcribed speech: {heard} Based on the video content and possible transcribed speech, {question}"


# ------------------------------------------------------------------------------------ words for a vocabulary


def all_sentences() -> Iterator[str]:
    """Give every way of asking and answering, as a corpus that a vocabulary can be learned from.

    Every question of the presets and of this file, and every event in every wording, each colour with each shape;
    without the chat format and the sentences about frames' times. It is the same each time.
    """
    rng = random.Random("all sentences")
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    for preset in PRESETS.values():
        if preset.system != SYSTEM_PROMPT:  # words tasks as another one does
            continue
        yield from preset.prompts.values()
    deeds = [ActionPhrase(kind, pair, pairs[(i * 7 + 3) % len(pairs)] if kind == "meet" else None)
             for i, pair in enumerate(pairs) for kind in KINDS]  # fmt: skip
    for deed in deeds:
        yield caption(deed)
        yield deed.clause(rng).text
        yield f"The moment when {deed.clause(rng).text}"
    for kind, pair in zip(KINDS, pairs, strict=False):
        for action in ACTIONS[kind]:
            forms = (form.replace("{other}", "the blue square") for form in (action.bare, action.finite, action.ing))
            clause = Clause(f"the {pair[0]} {pair[1]}", *forms)
            yield from (fill_template(template, clause) for template in GROUNDING)
    templates = [
        *GROUNDING, *HIGHLIGHTS, *DENSE_CAPTION, *STEPS, *STEPS_OF_ONE, *MOMENTS, *SUMMARY, *TRANSCRIBE, *WHAT_AT,
        *WHAT_AFTER, *HOW_OFTEN, *HOW_MANY, *HOW_LONG, *DOES_HAPPEN, *WHICH_FIRST, *WHAT_COLOR, *WHAT_SHAPE, *NARRATION,
    ]  # fmt: skip
    for template in templates:
        for deed in rng.sample(deeds, 8):
            clause, other = deed.clause(rng), rng.choice(deeds).clause().text
            yield fill_template(
                template, clause, query=clause.text, thing=clause.subject, time="7.5", other=other, noun="thing"
            )
    yield from SMALL_TALK
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


NOTHING = "Nothing happens."
