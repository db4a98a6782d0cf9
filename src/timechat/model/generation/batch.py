"""A continuous batch: sequences that start and end at different times are decoded together.

`transformers` has a continuous batch too, but it takes prompts only as token ids (as of 5.23), and a prompt with video
tokens consists of embeddings. Here every sequence has one row of a shared cache and reads and writes at its own
position, so that sequences join and leave between two steps without any effect on the others.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.choosing import choose_tokens
from timechat.model.generation.generate import GenerationOutput, PrefixCache, Prompt, Sampler, end_token_ids
from timechat.model.generation.grammar_state import GrammarState
from timechat.model.generation.kv_slots import KVCacheSlots, allocated_positions, allocated_rows
from timechat.model.generation.score_processors import EndsTurn
from timechat.model.modeling import TimeChatForConditionalGeneration

_RETAINED_BYTES = 256 << 20  # a larger cache is freed when no sequence is running


@dataclass(eq=False)
class GenerationState:
    """State of one sequence during generation.

    Attributes:
        prompt: Prompt to continue.
        decoding: Decoding options.
        constraint: Grammar state that masks the tokens; None for an unconstrained answer.
        token_ids: Tokens generated so far, with the end token of a complete answer.
        logprobs: Natural logarithm of the probability of each token under the model, before any constraint.
        is_finished: Whether the answer is complete or has reached its maximum length.
        error: Error of the constraint, which ends the sequence; None without error.
        num_cached_tokens: Number of prompt tokens whose states were in the prefix cache.
        sampler: Sampler that draws the tokens; None until the first drawn token.
        allowed: Log probability of the tokens that the constraint allowed; None, because it is not recorded: scores of
            TimeChat were fitted without it.
    """

    prompt: Prompt
    decoding: DecodingOptions
    constraint: GrammarState | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_finished: bool = False
    error: ValueError | None = None
    num_cached_tokens: int = 0
    sampler: Sampler | None = None
    allowed: list[float] | None = None
    _kv_states: list[tuple[Tensor, Tensor]] | None = None

    @property
    def output(self) -> GenerationOutput:
        """Tokens generated so far."""
        return GenerationOutput(self.token_ids, self.logprobs, len(self.prompt.input_ids))

    @property
    def max_positions(self) -> int:
        """Maximum number of cache positions that the sequence needs."""
        return len(self.prompt.input_ids) + self.decoding.max_new_tokens

    @property
    def tokens_left(self) -> int:
        """Maximum number of tokens that follow the generated ones."""
        return self.decoding.max_new_tokens - len(self.token_ids)

    @property
    def _length(self) -> int:
        """Number of positions that the model has read: all but the last generated token."""
        return len(self.prompt.input_ids) + len(self.token_ids) - 1


class ContinuousBatch:
    """Decodes sequences side by side, one token of each per step; uses no threads and no clock.

    The caller adds a sequence with `add` if `has_room`, calls `prefill` until its prompt is read, and calls
    `decode_step` for one token of every running sequence.

    Attributes:
        running: Sequences that are being decoded.
        prefilling: Sequence whose prompt is being read, or None.
        max_rows: Maximum number of sequences at once.
    """

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        *,
        max_rows: int = 16,
        max_bytes: int = 4 << 30,
        prompt_tokens: int = 512,
        prefixes: PrefixCache | None = None,
        ends_turn: EndsTurn | None = None,
    ) -> None:
        """Create an empty batch.

        Args:
            model: Model in evaluation mode.
            max_rows: Maximum number of sequences at once.
            max_bytes: Maximum size of the states of all running rows, and also of all preempted sequences.
            prompt_tokens: Maximum number of prompt tokens per prefill step, between two decode steps of the others.
            prefixes: Cache of the states of earlier prompts.
            ends_turn: Function that returns whether generated tokens are a whole answer without an end token.
        """
        config = model.config.text_config
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            raise ValueError(
                "continuous batching needs a language model whose layers all attend to the whole prompt; "
                f"the layers of this one are {', '.join(sorted(set(config.layer_types)))}"
            )
        self.running: list[GenerationState] = []
        self.prefilling: GenerationState | None = None
        self.max_rows = max_rows
        self._model, self._prompt_tokens = model, prompt_tokens
        self._prefixes = PrefixCache() if prefixes is None else prefixes
        self._ends, self._ends_turn = end_token_ids(model), ends_turn
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._bytes_per_position = 2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize
        self._max_bytes = max_bytes
        self._preempted_bytes = 0
        self._slots = KVCacheSlots(max_rows, config.num_hidden_layers)
        self._embeds: Tensor | None = None
        self._cache = DynamicCache()

    def has_room(self, sequence: GenerationState) -> bool:
        """Whether a sequence can be added now; an empty batch always has room for one."""
        if self.prefilling is not None or len(self.running) >= self.max_rows:
            return False
        rows = [*self.running, sequence]
        num_positions = allocated_positions(max(row.max_positions for row in rows))
        num_rows = allocated_rows(len(rows), self.max_rows)
        return not self.running or num_rows * num_positions * self._bytes_per_position <= self._max_bytes

    def can_preempt(self, sequence: GenerationState) -> bool:
        """Whether the states of one more preempted sequence fit into the memory limit."""
        return bool(self._preempted_bytes + sequence._length * self._bytes_per_position <= self._max_bytes)

    @torch.inference_mode()
    def add(self, sequence: GenerationState) -> None:
        """Start the prefill of a sequence, or resume a preempted one."""
        assert self.has_room(sequence)
        if sequence._kv_states is not None:
            self._assign_slot(sequence, sequence._kv_states)
            self._free_preempted(sequence)
            return
        prompt = sequence.prompt
        ids = torch.tensor([prompt.input_ids], device=self._model.device)
        self._embeds = self._model.embed_prompt(ids, prompt.video_tokens)  # (1, sequence, text hidden)
        self._cache = self._prefixes.take(prompt.video_tokens, prompt.input_ids, self._model.lora_scale)
        sequence.num_cached_tokens = self._cache.get_seq_length()
        self.prefilling = sequence

    @torch.inference_mode()
    def prefill(self) -> None:
        """Read the next part of the prompt; the last part also generates the first token."""
        sequence = self.prefilling
        assert sequence is not None
        assert self._embeds is not None
        first = self._cache.get_seq_length()
        part = self._embeds[:, first : first + self._prompt_tokens]
        output = self._model(
            inputs_embeds=part, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )  # fmt: skip
        if first + part.shape[1] < self._embeds.shape[1]:
            return
        prompt = sequence.prompt
        self._prefixes.store(prompt.video_tokens, prompt.input_ids, self._model.lora_scale, self._cache)
        cache, self._embeds, self._cache, self.prefilling = self._cache, None, DynamicCache(), None
        choose_tokens([sequence], output.logits[:, -1], self._ends, self._ends_turn)
        if not sequence.is_finished:
            self._assign_slot(sequence, [(layer.keys[0], layer.values[0]) for layer in cache.layers])

    @torch.inference_mode()
    def decode_step(self) -> list[GenerationState]:
        """Generate one token of every running sequence; return the finished sequences, which leave the batch."""
        if not self.running:
            return []
        device = self._model.device
        lengths = torch.tensor([row._length for row in self.running], device=device)  # (rows,)
        self._slots.prepare_step(lengths, max(row._length for row in self.running) + 1)
        tokens = torch.tensor([[row.token_ids[-1]] for row in self.running], device=device)  # (rows, 1)
        output = self._model(
            inputs_embeds=self._model.get_input_embeddings()(tokens),
            attention_mask=self._mask(lengths),
            position_ids=lengths[:, None],
            past_key_values=self._slots.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        choose_tokens(self.running, output.logits[:, -1], self._ends, self._ends_turn)
        finished = [row for row in self.running if row.is_finished]
        for row in finished:
            self._release_slot(row)
        return finished

    @torch.inference_mode()
    def preempt(self, sequence: GenerationState) -> None:
        """Take a sequence out of the batch to make room; `add` resumes it later where it stopped."""
        sequence._kv_states = self._slots.read_row(self.running.index(sequence), sequence._length)
        self._preempted_bytes += _num_bytes(sequence._kv_states)
        self._release_slot(sequence)

    @torch.inference_mode()
    def abort(self, sequence: GenerationState) -> None:
        """Remove a sequence: prefilling, running or preempted."""
        self._free_preempted(sequence)
        if sequence is self.prefilling:
            self.prefilling, self._embeds, self._cache = None, None, DynamicCache()
        elif sequence in self.running:
            self._release_slot(sequence)

    def clear(self) -> None:
        """Remove all sequences and cached prompts, for example after an error within a step."""
        self.running.clear()
        self._preempted_bytes = 0
        self.prefilling, self._embeds, self._cache = None, None, DynamicCache()
        self._slots = KVCacheSlots(self.max_rows, self._model.config.text_config.num_hidden_layers)
        self._prefixes.clear()

    def _assign_slot(self, sequence: GenerationState, states: list[tuple[Tensor, Tensor]]) -> None:
        self._slots.write_row(len(self.running), states)
        self.running.append(sequence)

    def _free_preempted(self, sequence: GenerationState) -> None:
        if sequence._kv_states is not None:
            self._preempted_bytes = max(0, self._preempted_bytes - _num_bytes(sequence._kv_states))
            sequence._kv_states = None

    def _release_slot(self, sequence: GenerationState) -> None:
        """Free the row of a sequence; the last row moves into its place."""
        index, last = self.running.index(sequence), len(self.running) - 1
        if index != last:
            self._slots.move_row(last, index, self.running[last]._length)
            self.running[index] = self.running[last]
        self.running.pop()
        if not self.running and self._slots.num_bytes > _RETAINED_BYTES:
            self._slots = KVCacheSlots(self.max_rows, self._model.config.text_config.num_hidden_layers)

    def _mask(self, lengths: Tensor) -> Tensor:
        """Return the attention mask `(rows, 1, 1, positions)`: each row attends to its past and its new position."""
        is_visible = torch.arange(self._slots.width, device=lengths.device) <= lengths[:, None]
        is_visible = is_visible[:, None, None]
        if self._model.config.text_config._attn_implementation != "eager":
            return is_visible
        zeros = torch.zeros_like(is_visible, dtype=self._model.dtype)
        return zeros.masked_fill(~is_visible, torch.finfo(zeros.dtype).min)


def _num_bytes(states: list[tuple[Tensor, Tensor]]) -> int:
    return sum(tensor.nbytes for pair in states for tensor in pair)
