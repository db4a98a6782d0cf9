"""Engines of other programs that write the answers of a model: their names, and the text of their options."""

import json
from collections.abc import Mapping
from typing import Any

ENGINES = ("vllm",)
"""Names of the engines that write answers in another process."""

LORA_MODULES = "lora_modules"
"""Option of the engine vllm: folders of LoRA adapters by the names that requests give."""


def check_engine(engine: str | None, options: Mapping[str, Any] | None) -> None:
    """Refuse the name of an unknown engine, and options without an engine.

    Raises:
        ValueError: One of them cannot be used.
    """
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}; leave it out for TimeChat's own")
    if engine is None and options:
        raise ValueError("engine_options are options of another engine; give engine vllm too, or leave them out")


def parse_engine_options(text: str) -> dict[str, Any]:
    """Return the options of a JSON text.

    Raises:
        ValueError: The text is no JSON object.
    """
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"engine options must be a JSON object, such as '{{\"max_num_seqs\": 64}}': {error}"
        ) from error
    if not isinstance(options, dict):
        raise ValueError(f"engine options must be a JSON object, such as '{{\"max_num_seqs\": 64}}', got {text!r:.80}")
    return options
