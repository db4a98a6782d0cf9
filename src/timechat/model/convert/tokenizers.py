"""Tokenizers of a conversion: read as the original reads them, checked, and saved so that they stay the same."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, normalizers, processors
from transformers import AddedToken, BertTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from timechat.answers.prompts import BERT_BOS_TOKEN, VIDEO_PLACEHOLDER, frame_prompt
from timechat.errors import CheckpointError
from timechat.model.configuration import TimeChatConfig
from timechat.model.convert.files import read_json
from timechat.model.tensor_files import check_is_downloaded

SENTENCEPIECE_FILE, JSON_FILE, _SETTINGS_FILE = "tokenizer.model", "tokenizer.json", "tokenizer_config.json"
_OTHER_FILES = (_SETTINGS_FILE, "special_tokens_map.json", "added_tokens.json")
_START, _END, _UNKNOWN = "<s>", "</s>", "<unk>"
_SENTENCE = "The given query happens in 5.0 - 6.0 seconds."
_BERT_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def load_llm_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the language model's tokenizer and add the video placeholder.

    `tokenizer.model` is read as the original's library reads it: what the folder does not say is `legacy`, with the
    start token first. The result has its rules in its own `tokenizer.json`, which no class rewrites when it is loaded.

    Raises:
        CheckpointError: There is no tokenizer, it cannot be read, or it does not fit the chat format.
    """
    for name in (SENTENCEPIECE_FILE, JSON_FILE, *_OTHER_FILES):
        if (folder / name).exists():
            check_is_downloaded(folder / name)
    settings = read_json(folder / _SETTINGS_FILE) if (folder / _SETTINGS_FILE).is_file() else {}
    try:
        if (folder / SENTENCEPIECE_FILE).is_file():
            backend = _read_sentencepiece(folder, settings)
        elif (folder / JSON_FILE).is_file():
            backend = _read_json_tokenizer(folder, settings)
        else:
            raise CheckpointError(f"{folder} contains no tokenizer; expected {SENTENCEPIECE_FILE} or {JSON_FILE}")
    except CheckpointError:
        raise
    except Exception as error:  # the Rust library raises plain exceptions
        raise CheckpointError(
            f"{folder}: its {SENTENCEPIECE_FILE} or {JSON_FILE} cannot be read ({first_line(error)}); download it again"
        ) from error
    _check_chat_format(backend, folder, starts_with_bos=settings.get("add_bos_token") is not False)
    unknown = _UNKNOWN if backend.token_to_id(_UNKNOWN) is not None else None
    padding = _token_text(settings.get("pad_token"))
    if padding is None or backend.token_to_id(padding) is None:
        padding = unknown or _END
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=_START, eos_token=_END, unk_token=unknown, pad_token=padding
    )
    placeholder = AddedToken(VIDEO_PLACEHOLDER, lstrip=True, rstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [placeholder]})
    return tokenizer


def load_bert_tokenizer(vocab: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the time sentences from a `vocab.txt`, or from the folder of one.

    Raises:
        CheckpointError: The file is no readable vocabulary of bert-base-uncased.
    """
    vocab = vocab / "vocab.txt" if vocab.is_dir() else vocab
    check_is_downloaded(vocab)
    _check_bert_words(vocab)
    try:
        return BertTokenizer(vocab=str(vocab), do_lower_case=True, bos_token=BERT_BOS_TOKEN)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{vocab}: no readable BERT vocabulary ({error})") from error


def check_vocabularies(
    config: TimeChatConfig, tokenizer: PreTrainedTokenizerBase, qformer_tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Refuse tokenizers that do not fit the tables of the model.

    Args:
        config: Config of the model.
        tokenizer: Tokenizer of the language model, with the video placeholder.
        qformer_tokenizer: Tokenizer of the time sentences.
        folder: Folder of the language model, for messages.

    Raises:
        CheckpointError: A tokenizer has more words than its table has rows, or the placeholder has another id.
    """
    rows = config.text_config.vocab_size
    vocabulary = tokenizer.get_vocab()
    num_words = 1 + max(number for word, number in vocabulary.items() if word != VIDEO_PLACEHOLDER)
    if num_words > rows:
        raise CheckpointError(
            f"{folder}: its tokenizer has {num_words} words, but the embedding of the language model has {rows} rows; "
            "give the tokenizer that belongs to these weights"
        )
    rows = config.qformer_config.vocab_size
    if config.timestamp_tokenizer == "bert" and len(qformer_tokenizer) > rows:
        raise CheckpointError(
            f"the BERT vocabulary has {len(qformer_tokenizer)} words (with {BERT_BOS_TOKEN}), but the Q-Former's "
            f"table has {rows} rows; give the vocabulary of bert-base-uncased"
        )
    if config.image_token_id != vocabulary[VIDEO_PLACEHOLDER]:
        raise CheckpointError(
            f"image_token_id is {config.image_token_id}, but the tokenizer writes {VIDEO_PLACEHOLDER} as "
            f"{vocabulary[VIDEO_PLACEHOLDER]}; leave it out of --config"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0].strip()


def _read_sentencepiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Read `tokenizer.model`, whatever other tokenizer lies beside it, as the original does."""
    path = folder / SENTENCEPIECE_FILE
    try:
        SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is not a sentencepiece model; download it again") from error
    is_legacy = settings.get("legacy") is not False
    with tempfile.TemporaryDirectory() as name:
        for file in (SENTENCEPIECE_FILE, *_OTHER_FILES):
            if (folder / file).is_file():
                _copy(folder / file, Path(name))
        tokenizer = LlamaTokenizer.from_pretrained(
            name,
            legacy=is_legacy,
            add_bos_token=settings.get("add_bos_token") is not False,
            add_eos_token=settings.get("add_eos_token") is True,
        )
    backend = tokenizer.backend_tokenizer
    if is_legacy:
        # The original's library puts a space before each text between special tokens, also before another space.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        token["normalized"] = False  # the original's library looks for them in the text as it is
    return Tokenizer.from_str(json.dumps(content))


def _copy(path: Path, folder: Path) -> None:
    try:
        shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be copied to {folder} ({error.strerror}); free some space there, or set "
            "TMPDIR to another folder"
        ) from error


def _read_json_tokenizer(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Read `tokenizer.json` with the rules that it contains; LLaMA's class adds the start token."""
    backend = Tokenizer.from_file(str(folder / JSON_FILE))
    start = backend.token_to_id(_START)
    is_llama = str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer")
    if is_llama and start is not None and settings.get("add_bos_token") is not False:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{_START} $A", pair=f"{_START} $A {_START} $B:1", special_tokens=[(_START, start)]
        )
    return backend


def _check_chat_format(backend: Tokenizer, folder: Path, *, starts_with_bos: bool) -> None:
    """Refuse a tokenizer that cannot write the chat format, such as that of Llama 3 or Qwen, or that knows no words."""
    for mark, name in ((_START, "start"), (_END, "end")):
        ids = backend.encode(mark, add_special_tokens=False).ids
        if len(ids) != 1 or backend.id_to_token(ids[0]) != mark:
            raise CheckpointError(
                f"{folder}: its tokenizer does not know {mark}, the {name} of a turn in this model's chat format; give "
                "the tokenizer of LLaMA or LLaMA-2 (Llama 3 and Qwen write another chat format)"
            )
    ids = backend.encode(_SENTENCE).ids
    if starts_with_bos and ids[:1] != [backend.token_to_id(_START)]:
        raise CheckpointError(
            f"{folder}: its tokenizer does not put {_START} first; give the tokenizer of LLaMA or LLaMA-2, or set "
            f"add_bos_token to false in {_SETTINGS_FILE} if the model was trained without it"
        )
    if ids[-1:] == [backend.token_to_id(_END)]:
        raise CheckpointError(
            f"{folder}: its tokenizer puts {_END} behind each text, which ends every prompt; set add_eos_token to "
            f"false in {_SETTINGS_FILE}"
        )
    if backend.decode(ids) != _SENTENCE:
        raise CheckpointError(
            f"{folder}: its tokenizer cannot write {_SENTENCE!r}; it is read back as {backend.decode(ids)!r}; download "
            "the tokenizer again"
        )


def _token_text(token: Any) -> str | None:
    """Return the text of a special token in a settings file: a string, or an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _check_bert_words(vocab: Path) -> None:
    """Refuse a vocabulary in which the time sentences would become unknown words."""
    try:
        words = set(vocab.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{vocab}: no readable BERT vocabulary ({first_line(error)})") from error
    needed = [*_BERT_SPECIAL_TOKENS, *re.findall(r"[a-z]+|[^\w\s]", frame_prompt(0).lower())]
    missing = [word for word in dict.fromkeys(needed) if word not in words]
    missing += [digit for digit in "0123456789" if not {digit, f"##{digit}"} & words]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CheckpointError(
            f"{vocab} is not the vocabulary of bert-base-uncased: it lacks {', '.join(missing[:5])}{more}; "
            "give its vocab.txt, one word per line"
        )
