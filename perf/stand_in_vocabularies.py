"""Vocabularies with the published sizes and layouts, made from the words of the prompts.

The real vocabularies cannot be part of this repository; these have the same special tokens at the same ids.
"""

import io
import json
import re
import string
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from timechat.answers.prompts import TIMECHAT_PRESETS, frame_message, frame_prompt, video_message

_LLAMA_PIECES = 32000
_LEARNED_PIECES = 2000
_BERT_WORDS = 30522


def write_llama_tokenizer(folder: Path) -> None:
    """Write `tokenizer.model` of 32000 pieces (`<unk>`, `<s>`, `</s>`, 256 bytes, words) and its settings."""
    learned = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()),
        model_writer=learned,
        model_type="bpe",
        vocab_size=_LEARNED_PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(learned.getvalue())
    _fill_up(model)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))


def write_bert_vocab(path: Path) -> None:
    """Write `vocab.txt` of 30522 words, with `[PAD]` at 0 and `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]` from 100 on."""
    characters = string.printable.strip()
    words = [
        *characters,
        *(f"##{character}" for character in characters),
        *re.findall("[a-z]+", " ".join([frame_prompt(0), *_sentences()]).lower()),
        *map(str, range(1000)),
    ]
    vocabulary = ["[PAD]", *_unused(0, 99), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    vocabulary += _unused(99, 99 + _BERT_WORDS - len(vocabulary))
    path.write_text("\n".join(vocabulary) + "\n")


def _unused(first: int, last: int) -> Iterable[str]:
    return (f"[unused{i}]" for i in range(first, last))


def _fill_up(model: sentencepiece_model_pb2.ModelProto) -> None:
    """Append single characters, as LLaMA's own vocabulary ends, until there are 32000 pieces."""
    known = {piece.piece for piece in model.pieces}
    score = min(piece.score for piece in model.pieces)
    for code in (*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4)):
        if len(model.pieces) == _LLAMA_PIECES:
            break
        if chr(code) not in known:
            score -= 1
            model.pieces.add(piece=chr(code), score=score)
    model.trainer_spec.vocab_size = _LLAMA_PIECES


def _sentences() -> list[str]:
    wordings = [text for preset in TIMECHAT_PRESETS for text in (preset.system, *preset.prompts.values())]
    times = [frame_message([i / 7 for i in range(n)]) for n in (8, 96)]
    # A typical question inside the template of a conversation.
    chat = f"[INST] <<SYS>>\n\n<</SYS>>\n\n{video_message([0.0])} When does the person turn a light on? [/INST] </s>"
    return [line for text in [*wordings, *times, chat] for line in text.splitlines() if line] * 4
