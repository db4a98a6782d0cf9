"""Multiple-choice questions: the option that an answer in words means, and the accuracy."""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timechat.evaluation.metrics.answers import normalize_answer

PublishedRule = Literal["egoschema", "mvbench", "tempcompass", "video_mme"]
"""Rule of a benchmark's published metrics for reading answers."""

LETTERS = string.ascii_uppercase
_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):]|((?:option|sentence|caption) \w+):)\s+", re.IGNORECASE)
_END_OF_TEXT = re.compile(r"</s>.*", re.DOTALL)
_FIRST_LETTER = re.compile(r"\((\w)\)|(\w)(?=[.):\n]|\s*$)")
_BRACKET = re.compile(r"\(([A-Za-z])\)")
_ANNOUNCED = re.compile(r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is)?\s*:?\s*([A-Z])(?=[.):,;\n]|\s*$|\s+is\b)")


# ------------------------------------------------------------------------------------------- our reading


def read_choice(text: str, options: Sequence[str]) -> int | None:
    """Read the option that an answer means: by label, by letter, or by words.

    Args:
        text: Text of the answer.
        options: Options with labels ("B. a dog", "Option 2: a dog"), or without labels, which get letters from A.

    Returns:
        Index of the option, from 0; None if the answer names no option, or several without a clear choice.
    """
    text = _END_OF_TEXT.sub("", text).strip()
    labels, contents = _split(options)
    return next((choice for choice in _readings(text, contents, labels) if choice is not None), None)


def _readings(text: str, contents: Sequence[str], labels: Mapping[str, int]) -> Iterator[int | None]:
    """Result of each reading rule, the most reliable rule first."""
    is_yes_no = sorted(map(normalize_answer, contents)) == ["no", "yes"]
    yield _first_words(text, contents) if is_yes_no else _whole(text, contents)
    yield _label(text, labels)
    yield _found(_FIRST_LETTER.match(text), labels)
    yield _only(_found(match, labels) for match in _BRACKET.finditer(text))
    yield _only(_found(match, labels) for match in _ANNOUNCED.finditer(text))
    if not is_yes_no:  # "there is no dog" is neither
        yield _words(text, contents)


def _split(options: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Labels of the options in lower case ("b", or "option 2" and "2"), and their texts without labels."""
    matches = [match for option in options if (match := _LABEL.match(option))]
    if len(matches) < len(options):  # a text can start like a label: "C. elegans"
        return {letter.lower(): i for i, letter in enumerate(LETTERS[: len(options)])}, list(options)
    labels: dict[str, int] = {}
    for i, match in enumerate(matches):
        label = (match[1] or match[2] or match[3]).lower()
        labels |= {label: i, label.rpartition(" ")[2]: i}
    return labels, [match.string[match.end() :] for match in matches]


def _found(match: re.Match[str] | None, labels: Mapping[str, int]) -> int | None:
    """The option whose letter is in the matched group of the pattern."""
    return None if match is None or match.lastindex is None else labels.get(match[match.lastindex].lower())


def _only(found: Iterable[int | None]) -> int | None:
    """The single option that is found; None if there is not exactly one."""
    choices = set(found)
    return choices.pop() if len(choices) == 1 else None


def _first_words(text: str, contents: Sequence[str]) -> int | None:
    """The option at the start of the answer."""
    words = f"{normalize_answer(text)} "
    return next((i for i, one in enumerate(contents) if words.startswith(f"{normalize_answer(one)} ")), None)


def _whole(text: str, contents: Sequence[str]) -> int | None:
    """The option whose words are the whole answer."""
    words = normalize_answer(text)
    return _only(i for i, one in enumerate(contents) if words and words == normalize_answer(one))


def _label(text: str, labels: Mapping[str, int]) -> int | None:
    """The option of a label of several words, such as "Option 1": at the start, or as the only label in the text."""
    names = [label for label in labels if " " in label]
    if not names:
        return None
    found = [labels[match[0].lower()] for match in re.finditer(rf"\b(?:{'|'.join(names)})\b", text, re.IGNORECASE)]
    return found[0] if found and text.lower().startswith(tuple(names)) else _only(found)


def _words(text: str, contents: Sequence[str]) -> int | None:
    """The single option whose words the answer contains; options inside a longer such option are ignored."""
    words = f" {normalize_answer(text)} "
    plain = [f" {normalize_answer(one)} " for one in contents]
    there = [i for i, one in enumerate(plain) if one.strip() and one in words]
    return _only(i for i in there if not any(plain[i] != plain[j] and plain[i] in plain[j] for j in there))


# ------------------------------------------------------------------- reading of the published metrics


def read_choice_as_published(text: str, options: Sequence[str], rule: PublishedRule) -> int | None:
    """Read an answer by the rule of a benchmark's published metrics.

    - `egoschema`: the first capital letter from A to E anywhere, also inside a word.
    - `mvbench`: the letter in the first brackets of the first line; A if there is none.
    - `video_mme`: the first capital letter from A to D in brackets.
    - `tempcompass`: the benchmark's own script without its language model: the answer is an option or its label.

    Returns:
        Index of the option, which is past the end for a letter without option; None if the rule finds no option.
    """
    return _tempcompass(text, options) if rule == "tempcompass" else _LETTER_RULES[rule](text)


def _egoschema(text: str) -> int | None:
    match = re.search("[A-E]", text)
    return LETTERS.index(match[0]) if match else None


def _mvbench(text: str) -> int | None:
    lines = text.strip().splitlines() or [""]
    match = re.search(r"\(([^()]*)\)", lines[0])
    letter = match[1].strip().upper() if match else ""
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS else 0


def _video_mme(text: str) -> int | None:
    match = re.search(r"\(([A-D])\)", text)
    return LETTERS.index(match[1]) if match else None


def _tempcompass(text: str, options: Sequence[str]) -> int | None:
    text = text.replace("</s>", "")
    if list(options) == ["yes", "no"]:
        return next((i for i, option in enumerate(options) if text.lower().startswith(option)), None)
    if not re.match(r"\w+ \w+: ", options[0]):
        return _tempcompass_letter(text, options)
    for i, option in enumerate(options):
        label, _, said = option.partition(": ")
        if text in (option, said) or text.replace(".", "") == label or text.partition(") ")[2] == said:
            return i
    return None


def _tempcompass_letter(text: str, options: Sequence[str]) -> int | None:
    if text in options:
        return options.index(text)
    match = re.match(r"([A-D])(?:[.)]|$)", text)
    return LETTERS.index(match[1]) if match else None


_LETTER_RULES: dict[PublishedRule, Callable[[str], int | None]] = {
    "egoschema": _egoschema,
    "mvbench": _mvbench,
    "video_mme": _video_mme,
}
_GUESSES = ("egoschema", "video_mme")
"""Rules that replace an unreadable answer by a random option."""


# ------------------------------------------------------------------------------------------------- metrics


def choice_metrics(
    texts: Sequence[str | None],
    options: Sequence[Sequence[str]],
    answers: Sequence[str],
    *,
    published_rule: PublishedRule | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Score answers to questions with options, one value per question.

    Args:
        texts: Text of each answer; None if a question was not answered.
        options: Options of each question.
        answers: Correct option of each question.
        published_rule: Rule of the benchmark's published metrics; None omits the published metric.

    Returns:
        `accuracy` with the answers of `read_choice`, 0 for unreadable answers; `unparsed`, 1 for unreadable answers;
        with a rule, `accuracy_as_published`, in which an answer that a random option replaces counts as the share of
        correct options. A missing answer is wrong in both.
    """
    if not len(texts) == len(options) == len(answers):
        raise ValueError(
            f"got {len(texts)} answers and {len(answers)} right ones to {len(options)} questions; give one per question"
        )
    choices = [None if text is None else read_choice(text, some) for text, some in zip(texts, options, strict=True)]
    hits = [
        _is_right(choice, some, reference) for choice, some, reference in zip(choices, options, answers, strict=True)
    ]
    metrics = {"accuracy": hits, "unparsed": [choice is None for choice in choices]}
    if published_rule is not None:
        metrics["accuracy_as_published"] = [
            _published_hit(text, some, reference, published_rule)
            for text, some, reference in zip(texts, options, answers, strict=True)
        ]
    return {name: np.array(values, dtype=np.float64) for name, values in metrics.items()}


def _published_hit(text: str | None, options: Sequence[str], reference: str, rule: PublishedRule) -> float:
    if text is None:
        return 0.0
    choice = read_choice_as_published(text, options, rule)
    if choice is None and rule in _GUESSES:
        return sum(option == reference for option in options) / len(options)
    return _is_right(choice, options, reference)


def _is_right(choice: int | None, options: Sequence[str], reference: str) -> float:
    """Whether a choice is correct; of two identical options either one is."""
    return float(choice is not None and choice < len(options) and options[choice] == reference)
