"""Answers of a model that chooses its tokens at random, in every form: whether each is valid, ordered and closed.

    python perf/forms.py --count 10000

The vocabulary is a byte-level BPE that is trained here on answers in JSON, so that its tokens join marks, names and
numbers as those of Qwen do (`"}, {"`, ` "caption": "`). The forms take turns; each answer has a random duration,
maximum number of tokens, and preference for the end and for marks. An answer has a fault if it is not closed, if it
does not have its form, if its parser has a note, or if its events are not in order or not in the video. Prints a table
in Markdown; the exit status is 1 if an answer has a fault.
"""

import argparse
import random
import sys
import time
from collections import Counter
from itertools import pairwise
from typing import get_args

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from timechat.answers.events import Task
from timechat.answers.forms import FORMS, AnswerForm
from timechat.answers.parsing import states_none
from timechat.answers.prompts import FormName
from timechat.answers.tasks import parse_events
from timechat.model.generation.grammar_state import GrammarCompiler

DURATIONS = (0.0, 0.1, 0.3, 1.0, 7.25, 31.1, 64.0, 599.9, 18000.0, 99999.9)
TASKS: dict[FormName, Task] = {
    "captions": "dense_caption",
    "speech": "transcribe",
    "grounding": "grounding",
    "highlights": "highlights",
    "event_sentence": "grounding",
    "answer_tags": "grounding",
    "json_spans": "grounding",
    "json_events": "dense_caption",
    "json_moments": "highlights",
}
BUDGETS: dict[FormName, tuple[int, ...]] = {
    **dict.fromkeys(TASKS, (160, 256)),  # a sentence can take a token for each of its letters
    "highlights": (512,),
    "json_spans": (4, 12, 40, 160),
    "json_events": (4, 12, 64, 160, 256),
    "json_moments": (4, 12, 64, 160),
}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="number of answers in all")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    return parser.parse_args()


def json_compiler() -> GrammarCompiler:
    """Return a compiler of grammars for a byte-level vocabulary that knows answers in JSON and in sentences."""
    lines = []
    for i in range(40):
        time = f"{i * 7 % 90}.{i % 10}"
        lines.append(f'[{{"start": {time}, "end": {time}, "caption": "A man sits."}}, {{"start": {time}, "end": 90}}]')
        lines.append(f'[[{time}, {time}], [{time}, {time}]] [{{"time": {time}, "score": 4.5}}, {{"time": 5}}]')
        lines.append(
            f"<answer>{time} to {time}</answer> The event happens in {time} - {time} seconds. 狗 собака é \U0001f600"
        )
        lines.append(f"{time} - {time} seconds, A man sits.  {time} - {time} seconds, He stands up.  ")
        lines.append("The given query does not happen in the video. There are 2 highlight moments in the 4, 8 second.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=14,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    return GrammarCompiler(fast, len(fast), [fast.eos_token_id])


def draw(
    compiler: GrammarCompiler, form: AnswerForm, budget: int, seed: int, end_bonus: float, mark_bonus: float = 0.0
) -> str | None:
    """Return an answer of random tokens; None if it is not closed within the budget.

    Args:
        compiler: Compiler of grammars.
        form: Form of the answer.
        budget: Maximum number of tokens.
        seed: Random seed.
        end_bonus: Added to the score of the end token.
        mark_bonus: Added to the scores of the tokens with a mark that ends words, so that lists have more items.
    """
    assert form.grammar is not None
    rng = np.random.default_rng(seed)
    state = compiler.state(form.grammar)
    marks = np.logical_or.reduce([compiler.tokens_with(mark) for mark in ('"', "  ", ",", ".")])
    ids: list[int] = []
    (end,) = compiler.eos_token_ids
    while len(ids) < budget:
        scores = rng.standard_normal(compiler.vocab_size, dtype=np.float32) * 3
        scores[end] += end_bonus
        scores += mark_bonus * marks
        token = state.most_likely_token(scores, budget - len(ids))
        if token == end:
            is_closed = bool(state.allowed_tokens(budget - len(ids))[end])
            return compiler.engine.decode_bytes(ids).decode("utf-8").strip() if is_closed else None
        ids.append(token)
        state.accept_token(token)
    return None


def find_fault(text: str | None, name: FormName, duration: float) -> str | None:
    """Return what is wrong with an answer in a form; None if nothing is."""
    if text is None:
        return "not closed"
    if states_none(text):
        return None
    parsed = parse_events(text, task=TASKS[name], duration=duration)
    events = parsed.events
    if parsed.notes or not events:
        return f"notes: {parsed.notes}"
    if not all(0 <= event.start <= event.end <= duration for event in events):
        return "out of range"
    if not all(a.start <= b.start for a, b in pairwise(events)):
        return "out of order"
    if TASKS[name] != "highlights" and duration >= 0.2 and not all(e.start < e.end for e in events):
        return "an event without a length"
    if name == "json_spans" and not all(a.end <= b.start for a, b in pairwise(events)):
        return "spans overlap"
    if name == "json_moments" and not all(1 <= (e.saliency or e.score or 0) <= 5 for e in events):
        return "a score out of range"
    if name in ("captions", "speech", "json_events") and not all(event.caption for event in events):
        return "an event without a caption"
    if name in ("highlights", "event_sentence", "answer_tags", "json_spans", "json_moments"):
        return None if FORMS[name](duration).is_kept_by(text) else "not the form for servers"
    return None  # the form for servers has no bare spans, and fewer signs in captions


def main() -> None:
    """Print the table."""
    options = parse_options()
    compiler = json_compiler()
    names = get_args(FormName)
    counts: Counter[str] = Counter()
    events: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    began = time.perf_counter()
    for i in range(options.count):
        rnd = random.Random(options.seed * 1_000_003 + i)
        name = names[i % len(names)]
        duration, budget = rnd.choice(DURATIONS), rnd.choice(BUDGETS[name])
        text = draw(compiler, FORMS[name](duration), budget, i, rnd.choice((-50.0, 0.0, 5.0)), rnd.choice((0.0, 6.0)))
        counts[name] += 1
        if fault := find_fault(text, name, duration):
            faults[name] += 1
            print(f"{name}, {duration} s, {budget} tokens, answer {i}: {fault}: {text!r}", file=sys.stderr)
        elif text and not states_none(text):
            events[name] += len(parse_events(text, task=TASKS[name], duration=duration).events)
    print("| form | answers | events | faults |\n| --- | ---: | ---: | ---: |")
    for name in names:
        print(f"| `{name}` | {counts[name]} | {events[name]} | {faults[name]} |")
    print(f"\n{options.count} answers in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
