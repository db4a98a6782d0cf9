"""The cost of requests before they are sent: pictures, bytes, tokens and price."""

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from PIL import Image

PictureTokens = Callable[[int, int], int]
"""Function from the width and the height of a picture in pixels to its number of tokens in the prompt."""


def _tokens_of_patches(side: int, width: int, height: int) -> int:
    return max(1, round(width / side)) * max(1, round(height / side))


def tokens_of_patches(side: int) -> PictureTokens:
    """Return the rule of models that cut a picture into squares, such as 32 pixels for Qwen3-VL, 28 for Qwen2.5-VL.

    Args:
        side: Side of the square that becomes one token, in pixels.
    """
    if side < 1:
        raise ValueError(f"the side of a square must be at least 1 pixel, got {side}")
    return partial(_tokens_of_patches, side)


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one million tokens, in any currency.

    Attributes:
        prompt: Price of one million tokens of prompts, pictures included.
        answer: Price of one million tokens of answers.
    """

    prompt: float
    answer: float

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.answer >= 0):
            raise ValueError(f"a price must be at least 0, got {self.prompt} and {self.answer}")


@dataclass(frozen=True, slots=True)
class RequestCost:
    """The size of one request, or the sum of several.

    Attributes:
        requests: Number of requests.
        pictures: Number of pictures in the prompts.
        num_bytes: Bytes of the request bodies; retries and headers are not counted.
        prompt_tokens: Tokens of the prompts; None if they are not known.
        answer_tokens: Tokens of the answers, at most or as usual.
    """

    requests: int = 0
    pictures: int = 0
    num_bytes: int = 0
    prompt_tokens: int | None = 0
    answer_tokens: int = 0

    def __add__(self, other: "RequestCost") -> "RequestCost":
        known = self.prompt_tokens is not None and other.prompt_tokens is not None
        return RequestCost(
            self.requests + other.requests,
            self.pictures + other.pictures,
            self.num_bytes + other.num_bytes,
            (self.prompt_tokens or 0) + (other.prompt_tokens or 0) if known else None,
            self.answer_tokens + other.answer_tokens,
        )

    def __mul__(self, times: int) -> "RequestCost":
        prompt_tokens = None if self.prompt_tokens is None else self.prompt_tokens * times
        return RequestCost(
            self.requests * times,
            self.pictures * times,
            self.num_bytes * times,
            prompt_tokens,
            self.answer_tokens * times,
        )

    def price(self, price: Price) -> float | None:
        """Return the price of these requests; None if their tokens are not known."""
        if self.prompt_tokens is None:
            return None
        return (self.prompt_tokens * price.prompt + self.answer_tokens * price.answer) / 1e6

    def to_dict(self, price: Price | None = None) -> dict[str, Any]:
        """Return the sizes, and the price if the prices of tokens are given, ready for JSON."""
        sizes = {name: value for name, value in asdict(self).items() if name != "num_bytes"}
        cost = None if price is None else self.price(price)
        return {**sizes, "megabytes_sent": round(self.num_bytes / 1e6, 3), "price": cost}

    def describe(self, price: Price | None = None) -> str:
        """Return the sizes as words: `2 requests, 16 pictures, 3.5 MB sent, 4000 + 100 tokens, price 0.04`."""
        parts = [_counted(self.requests, "request"), _counted(self.pictures, "picture")]
        parts.append(f"{self.num_bytes / 1e6:.1f} MB sent")
        if self.prompt_tokens is not None:
            parts.append(f"{self.prompt_tokens} + {self.answer_tokens} tokens")
        cost = None if price is None else self.price(price)
        return ", ".join(parts if cost is None else [*parts, f"price {cost:.4g}"])


def measure_request(
    body: Mapping[str, Any],
    answer_tokens: int,
    *,
    prompt_tokens: int | None = None,
    picture_tokens: PictureTokens | None = None,
    text_tokens: int | None = None,
) -> RequestCost:
    """Return the cost of a request.

    The number of prompt tokens is exact if a server has counted them: it gives them with the answer to the same request
    with `max_tokens` 1. All windows with as many frames of one size have the same number.

    Args:
        body: JSON object of the request.
        answer_tokens: Tokens of the answer, at most or as usual.
        prompt_tokens: Tokens of the prompt as the server counts them.
        picture_tokens: Rule for the tokens of a picture if the server was not asked.
        text_tokens: Tokens of the texts of the prompt, for the rule.
    """
    pictures = list(_pictures(body.get("messages", ())))
    if prompt_tokens is None and picture_tokens is not None and text_tokens is not None:
        prompt_tokens = text_tokens + sum(picture_tokens(*_size(picture)) for picture in pictures)
    num_bytes = len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
    return RequestCost(1, len(pictures), num_bytes, prompt_tokens, answer_tokens)


def total_cost(requests: Iterable[RequestCost]) -> RequestCost:
    """Return the sum of the costs of requests."""
    return sum(requests, start=RequestCost())


def _pictures(messages: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The pictures of all messages in base64; those of a video one by one."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            for name in ("image_url", "video_url"):
                if name in part:
                    yield from part[name]["url"].partition(",")[2].split(",")


def _size(picture: str) -> tuple[int, int]:
    """The width and height of a picture in base64, from its head."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return image.size


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
