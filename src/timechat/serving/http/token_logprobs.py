"""Log probabilities of an answer in the format of OpenAI's API."""

from itertools import accumulate
from typing import Any

from timechat.backbones.backbone import GeneratedText

_MIN_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API uses this value


def choice_logprobs(written: GeneratedText, text: str) -> dict[str, Any]:
    """Return the field `logprobs` of a choice: one entry for each token that wrote the text.

    The bytes of all entries together are the text. Of several tokens that write one character, the first one has its
    bytes. The end token has no entry.

    Args:
        written: Text of the model and its tokens.
        text: Text of the answer, the same or a beginning of it.
    """
    length = len(text) if written.text.startswith(text) else len(written.text)
    # A token cannot end behind a later one: the text of an unfinished character is longer than the character.
    ends = list(accumulate((token.end for token in reversed(written.tokens)), min))[::-1]
    content, start = [], 0
    for token, end in zip(written.tokens, ends, strict=True):
        if start >= length:
            break
        piece = written.text[start : min(end, length)]
        logprob = max(token.logprob, _MIN_LOGPROB)
        entry = {"token": piece, "bytes": list(piece.encode()), "logprob": logprob, "top_logprobs": []}
        content.append(entry)
        start = max(start, end)
    return {"content": content, "refusal": None}
