"""Training conversations → token ids and labels, in the chat format of the model."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from timechat.answers.prompts import (
    CHAT_MARKS,
    VICUNA_MARK,
    ChatStyle,
    Message,
    render_chat,
    vicuna_training_pieces,
)

IGNORED_LABEL = -100
_SEPARATOR = "\ufdd0"  # a code point that Unicode reserves for such internal use


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    opening: str,
    turns: Sequence[tuple[str, str]],
    *,
    system: str,
    style: ChatStyle,
    max_length: int,
) -> tuple[list[int], list[int]]:
    """Tokenise a whole conversation as one string, with labels where the original has loss.

    Args:
        tokenizer: Tokenizer of the language model.
        opening: Text of the video, before the first question.
        turns: (question, answer) pairs. Marks of the chat format in them are tokenised as plain text.
        system: System prompt.
        style: Chat format. `llama_2` has loss on each answer, the space before its `</s>`, and the `</s>`. `vicuna` has
            loss on the whole turns of the assistant and on each `###`, with which an answer ends.
        max_length: Maximum number of tokens; the rest is cut off at the end.

    Returns:
        Token ids and labels of equal length; labels are -100 for tokens without loss.
    """
    marks = {*CHAT_MARKS, *map(str, tokenizer.all_special_tokens)} | ({VICUNA_MARK} if style == "vicuna" else set())
    messages = [
        Message(role, _hide_marks(text, marks))  # type: ignore[arg-type]
        for question, answer in turns
        for role, text in (("user", question), ("assistant", answer))
    ]
    messages[0] = Message("user", f"{opening}{messages[0].text}")
    if style == "vicuna":
        return _encode_vicuna(tokenizer, system, messages, max_length)
    text = render_chat(system, messages, style=style)
    input_ids = _tokenize(tokenizer, text)[:max_length]
    return input_ids, _llama_2_labels(tokenizer, text, input_ids)


def _hide_marks(text: str, marks: set[str]) -> str:
    """Put a separator into each mark of a text, so that it is read as plain text."""
    for mark in marks:
        text = text.replace(mark, f"{mark[0]}{_SEPARATOR}{mark[1:]}")
    return text


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a text, without the separators of `_hide_marks`."""
    if _SEPARATOR not in text:
        return tokenizer(text).input_ids  # type: ignore[no-any-return]
    return [token for token, _ in _tokens_with_starts(tokenizer, text)]


def _tokens_with_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """Return the tokens of a text with the position of their first character, without the separators."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
    return [(token, start) for token, (start, end) in spans if start == end or text[start:end].strip(_SEPARATOR)]


def _llama_2_labels(tokenizer: PreTrainedTokenizerBase, text: str, input_ids: list[int]) -> list[int]:
    labels = [IGNORED_LABEL] * len(input_ids)
    position = 1  # the BOS token
    for turn in text.split("</s>"):
        parts = turn.split("[/INST] ")
        if not turn or len(parts) != 2:
            break
        # The BOS token and the last space of the instruction are not part of the turn's tokens.
        instruction_length = len(_tokenize(tokenizer, f"{parts[0]}[/INST] ")) - 2
        turn_length = len(_tokenize(tokenizer, turn))  # its BOS stands for the </s> of the turn
        answer = slice(position + instruction_length, position + turn_length)
        labels[answer] = input_ids[answer]
        position += turn_length
    return labels


def _encode_vicuna(
    tokenizer: PreTrainedTokenizerBase, system: str, messages: Sequence[Message], max_length: int
) -> tuple[list[int], list[int]]:
    pieces = vicuna_training_pieces(system, messages)
    starts = list(accumulate((len(text) for _, text in pieces[:-1]), initial=0))
    input_ids, labels = [], []
    for token, start in _tokens_with_starts(tokenizer, "".join(text for _, text in pieces))[:max_length]:
        number = bisect_right(starts, start) - 1
        role = pieces[number][0]
        is_mark = role == "user" and start < starts[number] + len(VICUNA_MARK)
        input_ids.append(token)
        labels.append(token if role == "assistant" or is_mark else IGNORED_LABEL)
    return input_ids, labels
