"""Cost of constrained decoding with four libraries: seconds to prepare a grammar, and microseconds per token.

    pip install --no-deps --target engines xgrammar apache-tvm-ffi outlines_core lm-format-enforcer interegular
    PYTHONPATH=engines python perf/constrained_engines.py

The grammar of dense captions, as one regular expression that all four accept, on the vocabulary of the built-in model
and on one of the original's size. A missing library is left out. Prints a table in Markdown.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from perf.stand_in_vocabularies import write_llama_tokenizer
from transformers import AutoTokenizer

from timechat.answers.forms import answer_form
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.model.loading import NANO_FOLDER

TIME = r"(0|[1-9][0-9]{0,4})(\.[0-9])?"
EVENT = rf"{TIME} - {TIME} seconds, [A-Z][a-z',]*( [a-z',]+)*\."
PATTERN = rf" ?{EVENT}(  {EVENT})*"
ANSWER = " 2.0 - 8.0 seconds, The blue star takes another color.  7.5 - 12.0 seconds, The red ring leaves."
REPEATS = 5

Step = Callable[[int], None]
"""Function that computes the mask of the next tokens and accepts the chosen one."""


def llguidance(tokenizer: Any, size: int) -> Callable[[], Step]:
    import llguidance.hf
    from llguidance import LLMatcher

    engine = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size)

    def prepare() -> Step:
        matcher = LLMatcher(engine, LLMatcher.grammar_from_regex(PATTERN))

        def step(token: int) -> None:
            matcher.compute_bitmask()
            assert matcher.consume_token(token)

        return step

    return prepare


def xgrammar(tokenizer: Any, size: int) -> Callable[[], Step]:
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size)
    bitmask = xgrammar.allocate_token_bitmask(1, size)

    def prepare() -> Step:
        compiler = xgrammar.GrammarCompiler(info, cache_enabled=False, max_threads=1)
        matcher = xgrammar.GrammarMatcher(compiler.compile_regex(PATTERN))

        def step(token: int) -> None:
            matcher.fill_next_token_bitmask(bitmask)
            assert matcher.accept_token(token)

        return step

    return prepare


def outlines(tokenizer: Any, size: int) -> Callable[[], Step]:
    from outlines_core import Guide, Index, Vocabulary

    written: dict[bytes, list[int]] = {}
    engine = GrammarCompiler(tokenizer, size, [tokenizer.eos_token_id]).engine
    for token in range(size):
        text = engine.decode_bytes([token])
        if text and token != tokenizer.eos_token_id:
            written.setdefault(text, []).append(token)

    def prepare() -> Step:
        guide = Guide(Index(PATTERN, Vocabulary(tokenizer.eos_token_id, written)))

        def step(token: int) -> None:
            guide.get_tokens()
            guide.advance(token)

        return step

    return prepare


def lm_format_enforcer(tokenizer: Any, size: int) -> Callable[[], Step]:
    from lmformatenforcer import RegexParser, TokenEnforcer
    from lmformatenforcer.tokenenforcer import TokenEnforcerTokenizerData

    engine = GrammarCompiler(tokenizer, size, [tokenizer.eos_token_id]).engine
    texts = [(i, engine.decode_bytes([i]).decode("utf-8", "replace"), False) for i in range(size)]
    regular = [one for one in texts if one[1] and one[0] != tokenizer.eos_token_id]
    data = TokenEnforcerTokenizerData(
        regular, lambda ids: engine.decode_bytes(ids).decode("utf-8", "replace"), tokenizer.eos_token_id, False, size
    )

    def prepare() -> Step:
        enforcer, ids = TokenEnforcer(data, RegexParser(PATTERN)), []

        def step(token: int) -> None:
            enforcer.get_allowed_tokens(ids)
            ids.append(token)

        return step

    return prepare


def ours(tokenizer: Any, size: int) -> Callable[[], Step]:
    """The complete constraint, llguidance for text and TimeChat for numbers, on the `scores` of the model."""
    constraints = GrammarCompiler(tokenizer, size, [tokenizer.eos_token_id])
    _ = constraints.texts, constraints.has_gap
    scores = torch.zeros(1, size)

    def prepare() -> Step:
        processor = constraints.logits_processor([answer_form("dense_caption", duration=60.0).grammar], 512)
        ids: list[int] = []

        def step(token: int) -> None:
            masked = processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores)
            assert masked[0, token] == 0
            ids.append(token)

        return step

    return prepare


ENGINES = {
    "llguidance": (llguidance, "llguidance"),
    "xgrammar": (xgrammar, "xgrammar"),
    "outlines-core": (outlines, "outlines_core"),
    "lm-format-enforcer": (lm_format_enforcer, "lmformatenforcer"),
    "timechat (llguidance and numbers)": (ours, "llguidance"),
}


def measure(prepare: Callable[[], Step], ids: Sequence[int]) -> tuple[float, float]:
    """Return the median milliseconds to prepare, and the mean microseconds per token."""
    prepared, tokens = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        step = prepare()
        prepared.append(time.perf_counter() - began)
        for token in ids:
            began = time.perf_counter()
            step(token)
            tokens.append(time.perf_counter() - began)
    return 1e3 * statistics.median(prepared), 1e6 * statistics.mean(tokens)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| library | vocabulary | prepare, ms | a token, µs |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        write_llama_tokenizer(Path(folder))
        for tokenizer in (AutoTokenizer.from_pretrained(NANO_FOLDER), AutoTokenizer.from_pretrained(folder)):
            size = len(tokenizer)
            ids = tokenizer(ANSWER, add_special_tokens=False).input_ids
            for name, (engine, module) in ENGINES.items():
                if importlib.util.find_spec(module) is None:
                    continue
                try:
                    prepare, token = measure(engine(tokenizer, size), ids)
                except Exception as error:
                    print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                print(f"| {name} | {size} | {prepare:.1f} | {token:.0f} |", flush=True)


if __name__ == "__main__":
    main()
