"""Options of the engine of vLLM: what a user gives, what TimeChat sets, and the defaults between them."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

EngineOptions = Mapping[str, Any]
"""Arguments of vLLM's `AsyncEngineArgs` by name, as JSON values."""

_OWN = (
    *("model", "tokenizer", "skip_tokenizer_init", "enable_prompt_embeds", "logits_processors", "dtype", "runner"),
    *("logprobs_mode", "trust_remote_code", "scheduling_policy", "speculative_config"),
    *("enable_lora", "max_loras", "max_lora_rank", "lora_target_modules"),
)
"""Options that the engine sets or cannot have."""

_MAX_STATE_BYTES = 4 << 30
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_MAX_CORES_OF_ONE_PROCESS = (
    8  # with more cores, one of them costs little, and vLLM binds threads to those of one memory
)


def check_options(options: EngineOptions, known: Iterable[str]) -> None:
    """Refuse options that vLLM does not know, and those that TimeChat sets.

    Args:
        options: Options of the user.
        known: Names of the arguments of `AsyncEngineArgs`.

    Raises:
        ValueError: An option cannot be given.
    """
    names = set(known)
    for name in options:
        if name in _OWN:
            raise ValueError(f"engine option {name} is set by TimeChat or cannot be used with it; leave it out")
        if name not in names:
            raise ValueError(
                f"engine option {name!r} is no argument of vLLM's AsyncEngineArgs; see `vllm serve --help`"
            )


def runs_in_one_process(options: EngineOptions, *, has_gpu: bool, num_cores: int) -> bool:
    """Return whether the engine and the model share one process of vLLM.

    On a CPU, vLLM's default is a process for each. The engine's process polls without a pause while the model computes,
    which takes a whole core from it, and vLLM leaves that core out.

    Args:
        options: Options of the user.
        has_gpu: Whether the engine runs on a GPU.
        num_cores: Number of cores that this process may use.
    """
    is_distributed = any(options.get(name, 1) != 1 for name in _SIZES) or "distributed_executor_backend" in options
    is_bound = os.environ.get(_BINDING, "auto") != "auto"
    return not has_gpu and not is_distributed and not is_bound and num_cores <= _MAX_CORES_OF_ONE_PROCESS


def default_options(text_config: Any, dtype: torch.dtype, *, has_gpu: bool, max_num_seqs: int) -> dict[str, Any]:
    """Return the default options for a language model.

    The KV cache has room for all answers at once at their full length, at most 4 GiB, and at least one answer. vLLM's
    own default is a share of all memory, which the frame encoder in the other process needs too.

    Args:
        text_config: Configuration of the language model.
        dtype: Number format of the language model.
        has_gpu: Whether the engine runs on a GPU.
        max_num_seqs: Maximum number of answers that are written at the same time.
    """
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    one = 2 * text_config.num_hidden_layers * heads * head_dim * dtype.itemsize * text_config.max_position_embeddings
    return {
        "max_num_seqs": max_num_seqs,
        "kv_cache_memory_bytes": max(2 * one, min(max_num_seqs * one, _MAX_STATE_BYTES)),
        "enforce_eager": not has_gpu,  # on a CPU, the compilation takes a minute at each start
    }
