"""Verification of moments over vLLM: how much more likely a caption is at its time with the pictures than without.

vLLM gives the log probabilities of all tokens of a prompt (`prompt_logprobs`). The caption is the beginning of the
assistant's answer in the prompt (`continue_final_message`), so its words are the last tokens of the prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timechat.answers.events import Event
from timechat.answers.tasks import build_question, caption_texts, find_preset
from timechat.backbones.backbone import Check
from timechat.backbones.endpoint.client import EndpointClient
from timechat.backbones.endpoint.messages import chat_messages
from timechat.backbones.endpoint.options import EndpointOptions
from timechat.backbones.endpoint.pictures import EncodedPictures
from timechat.errors import EndpointError


def verification_logprob(
    client: EndpointClient,
    options: EndpointOptions,
    pictures: EncodedPictures,
    event: Event,
    *,
    preset: str,
    check: Check = lambda: None,
) -> float | None:
    """Return how much more likely a caption is at its time with the pictures than without, in nats.

    Without pictures, the prompt has the same text with the same times. It is sent first, because it is small.

    Args:
        client: Connection to the server.
        options: Wording and place of the times.
        pictures: Pictures of the window.
        event: Event on the clock of the window, with its caption.
        preset: Name of the prompt preset in which captions are asked for.
        check: Function that can cancel the requests.

    Returns:
        None if the tokens of the server do not fit the caption.

    Raises:
        EndpointError: The server gave no answer, or it gives no log probabilities of prompts (`refused`).
    """
    head, answer = caption_texts(event, preset)
    answer = answer.rstrip()
    first = next((i for i, (one, other) in enumerate(zip(answer, head, strict=False)) if one != other), len(head))
    messages = chat_messages(
        pictures,
        build_question("dense_caption", preset=preset),
        system=find_preset(preset).system,
        wording=options.wording,
        placement=options.placement,
    )
    found = []
    for shown in (_without_pictures(messages), messages):
        body = {
            "model": client.model(check),
            "messages": [*shown, {"role": "assistant", "content": answer}],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_generation_prompt": False,
            "continue_final_message": True,
        }
        entries = client.post(body, check).get("prompt_logprobs")
        if not isinstance(entries, list):
            raise EndpointError(f"{client.address.base_url} gives no log probabilities of prompts", "refused")
        logprob = last_words_logprob(entries, answer[first:])
        if logprob is None:
            return None
        found.append(logprob)
    without, with_pictures = found
    return with_pictures - without


def last_words_logprob(entries: Sequence[Any], words: str) -> float | None:
    """Return the log probability of the words at the end of a prompt; None if its last tokens are other words.

    Blanks are not compared, because a server may leave them out of the text of a token. A first token that also has the
    end of the text before the words counts.

    Args:
        entries: `prompt_logprobs` of a response: for each token None, or an object with the token as its first value.
        words: Words at the end of the prompt.
    """
    target, text, total = "".join(words.split()), "", 0.0
    for entry in reversed(entries):
        token = next(iter(entry.values()), None) if isinstance(entry, Mapping) else None
        if not isinstance(token, Mapping) or not isinstance(token.get("logprob"), int | float):
            return None
        text = "".join(str(token.get("decoded_token") or "").split()) + text
        total += float(token["logprob"])
        if len(text) >= len(target):
            return total if text.endswith(target) else None
    return None


def _without_pictures(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [part for part in content if part["type"] == "text"]
        kept.append({**message, "content": content})
    return kept
