"""Answers that begin and end at different times, written together: a continuous batch.

`transformers` has one of its own, but it takes prompts as token ids only (as of 5.23): a prompt that holds video tokens
is made of embeddings. So this one is ours: every answer has a row of one cache, and reads and writes at its own place
in it, so that answers come and go between two steps without the others noticing.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, LogitsProcessorList
from transformers.cache_utils import CacheLayerMixin
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.generate import GenerationOutput, PrefixCache, Prompt
from timechat.model.generation.grammar_state import GrammarState
from timechat.model.modeling import TimeChatForConditionalGeneration

_GROWTH_POSITIONS = 256  # positions by which the cache grows: each growth copies it
_RETAINED_BYTES = 256 << 20  # of a cache without rows, for those to come


@dataclass(eq=False)
class GenerationState:
    """An answer while it is written.

    Attributes:
        prompt: What is answered.
        decoding: How.
        constraint: Keeps it in its form; None where it is free.
        token_ids: Written so far; the end token is there once the answer has come to its end.
        logprobs: Natural logarithm of the probability that the model itself gave to each, before any constraint.
        is_finished: Whether it is whole, or as long as it may be.
        error: Why it cannot be written, where its constraint has given up; it has ended then.
    """

    prompt: Prompt
    decoding: DecodingOptions
    constraint: GrammarState | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_finished: bool = False
    error: ValueError | None = None
    _sampler: "_Sampler | None" = None
    _kv_states: list[tuple[Tensor, Tensor]] | None = None

    @property
    def output(self) -> GenerationOutput:
        """What has been written."""
        return GenerationOutput(self.token_ids, self.logprobs)

    @property
    def max_positions(self) -> int:
        """Positions that the cache will have to hold for it, at most."""
        return len(self.prompt.input_ids) + self.decoding.max_new_tokens

    @property
    def _length(self) -> int:
        """Positions that the model has read: all but the token that was written last."""
        return len(self.prompt.input_ids) + len(self.token_ids) - 1


class ContinuousBatch:
    """Writes answers side by side, a token of each at every step; knows no threads and no clock.

    The caller adds an answer with `add` where `has_room`, calls `prefill` until its prompt is read, and `decode_step`
    for one token of every answer.

    Attributes:
        running: Answers that are being written.
        prefilling: The one whose prompt is being read, None where there is none.
        max_rows: Most answers at once.
    """

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        *,
        max_rows: int = 16,
        max_bytes: int = 4 << 30,
        prompt_tokens: int = 512,
        prefixes: PrefixCache | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: In evaluation mode.
            max_rows: Most answers at once.
            max_bytes: Of the states of all rows; and again, at most, of answers that are parked.
            prompt_tokens: Most tokens of a prompt that are read in one piece, between two steps of the others.
            prefixes: What is known of earlier prompts.
        """
        config = model.config.text_config
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            raise ValueError(
                "answers can be written side by side only by a language model whose layers look at the whole prompt; "
                f"this one's are {', '.join(sorted(set(config.layer_types)))}"
            )
        self.running: list[GenerationState] = []
        self.prefilling: GenerationState | None = None
        self.max_rows = max_rows
        self._model, self._prompt_tokens = model, prompt_tokens
        self._prefixes = PrefixCache() if prefixes is None else prefixes
        ends = model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._bytes_per_position = 2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize
        self._max_bytes = max_bytes
        self._preempted_bytes = 0
        self._slots = KVCacheSlots(max_rows, config.num_hidden_layers)
        self._embeds: Tensor | None = None
        self._cache = DynamicCache()

    def has_room(self, sequence: GenerationState) -> bool:
        """Whether another answer may join now; one that is alone always may."""
        if self.prefilling is not None or len(self.running) >= self.max_rows:
            return False
        everyone = [*self.running, sequence]
        columns = _round_up(max(row.max_positions for row in everyone))
        num_rows = KVCacheSlots.allocated_rows(len(everyone), self.max_rows)
        return not self.running or num_rows * columns * self._bytes_per_position <= self._max_bytes

    def can_preempt(self, sequence: GenerationState) -> bool:
        """Whether there is room for the states of one more answer that waits, beside those of others."""
        return bool(self._preempted_bytes + sequence._length * self._bytes_per_position <= self._max_bytes)

    @torch.inference_mode()
    def add(self, sequence: GenerationState) -> None:
        """Begin to read the prompt of an answer, or take up one that was parked."""
        assert self.has_room(sequence)
        if sequence._kv_states is not None:
            self._assign_slot(sequence, sequence._kv_states)
            self._free_preempted(sequence)
            return
        prompt = sequence.prompt
        ids = torch.tensor([prompt.input_ids], device=self._model.device)
        self._embeds = self._model.embed_prompt(ids, prompt.video_tokens)  # (1, sequence, text hidden)
        self._cache = self._prefixes.take(prompt.video_tokens, prompt.input_ids, self._model.lora_scale)
        self.prefilling = sequence

    @torch.inference_mode()
    def prefill(self) -> None:
        """Read a piece of the prompt of who joined; with the last of it the first token is written."""
        answering = self.prefilling
        assert answering is not None
        assert self._embeds is not None
        first = self._cache.get_seq_length()
        piece = self._embeds[:, first : first + self._prompt_tokens]
        output = self._model(
            inputs_embeds=piece, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )  # fmt: skip
        if first + piece.shape[1] < self._embeds.shape[1]:
            return
        prompt = answering.prompt
        self._prefixes.store(prompt.video_tokens, prompt.input_ids, self._model.lora_scale, self._cache)
        cache, self._embeds, self._cache, self.prefilling = self._cache, None, DynamicCache(), None
        self._sample_tokens([answering], output.logits[:, -1])
        if not answering.is_finished:
            self._assign_slot(answering, [(layer.keys[0], layer.values[0]) for layer in cache.layers])

    @torch.inference_mode()
    def decode_step(self) -> list[GenerationState]:
        """Write one token of every answer; returns those that have come to their end, and are no longer here."""
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
        self._sample_tokens(self.running, output.logits[:, -1])
        ended = [row for row in self.running if row.is_finished]
        for row in ended:
            self._release_slot(row)
        return ended

    @torch.inference_mode()
    def preempt(self, sequence: GenerationState) -> None:
        """Make room: take an answer out that goes on later, by `add`, where it stopped."""
        sequence._kv_states = self._slots.read_row(self.running.index(sequence), sequence._length)
        self._preempted_bytes += _num_bytes(sequence._kv_states)
        self._release_slot(sequence)

    @torch.inference_mode()
    def abort(self, sequence: GenerationState) -> None:
        """Forget an answer, wherever it stands."""
        self._free_preempted(sequence)
        if sequence is self.prefilling:
            self.prefilling, self._embeds, self._cache = None, None, DynamicCache()
        elif sequence in self.running:
            self._release_slot(sequence)

    def clear(self) -> None:
        """Forget everything, such as after an error in the midst of a step."""
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
        """Give a row up; the last one moves into its place."""
        index, last = self.running.index(sequence), len(self.running) - 1
        if index != last:
            self._slots.move_row(last, index, self.running[last]._length)
            self.running[index] = self.running[last]
        self.running.pop()
        if not self.running and self._slots.num_bytes > _RETAINED_BYTES:
            self._slots = KVCacheSlots(self.max_rows, self._model.config.text_config.num_hidden_layers)

    def _mask(self, lengths: Tensor) -> Tensor:
        """`(rows, 1, 1, positions)`: each row sees what it has read, and its own new place."""
        may_look = torch.arange(self._slots.width, device=lengths.device) <= lengths[:, None]
        may_look = may_look[:, None, None]
        if self._model.config.text_config._attn_implementation != "eager":
            return may_look
        zeros = torch.zeros_like(may_look, dtype=self._model.dtype)
        return zeros.masked_fill(~may_look, torch.finfo(zeros.dtype).min)

    def _sample_tokens(self, rows: list[GenerationState], logits: Tensor) -> None:
        """Choose the next token of rows from their logits, `(rows, vocab)`."""
        scores = logits.float()
        logprobs = scores.log_softmax(-1)
        chosen = scores.argmax(-1)  # (rows,)
        is_kept = any(row.constraint is not None and not row.decoding.do_sample for row in rows)
        seen = scores.cpu().numpy() if is_kept else None
        for i, row in enumerate(rows):
            tokens_left = row.decoding.max_new_tokens - len(row.token_ids)
            try:
                if row.constraint is not None and not row.decoding.do_sample:
                    assert seen is not None
                    chosen[i] = row.constraint.most_likely_token(seen[i], tokens_left)
                    continue
                if row.constraint is not None:
                    forbidden = torch.from_numpy(~row.constraint.allowed_tokens(tokens_left)).to(scores.device)
                    scores[i] = scores[i].masked_fill(forbidden, float("-inf"))
            except ValueError as error:  # this one's form, not the others'
                row.error = error
                continue
            if row.decoding.do_sample:
                row._sampler = row._sampler or _Sampler(row.decoding, scores.device)
                chosen[i] = row._sampler(scores[i : i + 1])
        sure = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, logprob in zip(rows, chosen.tolist(), sure, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.is_finished = token in self._ends or len(row.token_ids) >= row.decoding.max_new_tokens
            if row.constraint is not None and not row.is_finished and row.error is None:
                try:
                    row.constraint.accept_token(token)
                except ValueError as error:
                    row.error = error
                row.is_finished = row.constraint.is_finished
            row.is_finished |= row.error is not None


class _Sampler:
    """Draws the tokens of one answer as `generate` does, from a generator of its own."""

    def __init__(self, decoding: DecodingOptions, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(decoding.seed)
        self._warpers = LogitsProcessorList()
        if decoding.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(decoding.temperature))
        self._warpers.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, scores: Tensor) -> Tensor:
        """Draw from scores `(1, vocab)`; returns the id, `()`."""
        probabilities = self._warpers(None, scores).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self._generator)[0, 0]


def _round_up(columns: int) -> int:
    return -(-columns // _GROWTH_POSITIONS) * _GROWTH_POSITIONS


def _num_bytes(states: list[tuple[Tensor, Tensor]]) -> int:
    return sum(tensor.nbytes for pair in states for tensor in pair)


class KVCacheSlots:
    """The states of all rows, in one tensor a layer that is written into in place, and grows with what is in it.

    Attributes:
        cache: The same, as the language model takes it.
        width: Positions that the longest row will have after the next step.
        lengths: `(rows,)`, where each row's next token goes.
    """

    def __init__(self, max_rows: int, num_layers: int) -> None:
        self._max_rows = max_rows
        self._layers = [_KVSlotLayer(self) for _ in range(num_layers)]
        self.cache = Cache(layers=list(self._layers))
        self.width = 0
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.indices = self.lengths

    def write_row(self, row: int, states: list[tuple[Tensor, Tensor]]) -> None:
        """Put what the model knows of an answer into a row: `(heads, positions, head size)` each."""
        length = states[0][0].shape[1]
        self._grow(row + 1, length + 1, like=states[0][0])
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.keys[row, :, :length] = keys
            layer.values[row, :, :length] = values

    def read_row(self, row: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Copy a row out."""
        return [(layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()) for layer in self._layers]

    def move_row(self, source: int, target: int, length: int) -> None:
        """Move a row."""
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def prepare_step(self, lengths: Tensor, width: int) -> None:
        """Tell where the next tokens of the first rows go."""
        self.lengths, self.width = lengths, width
        self.indices = torch.arange(len(lengths), device=lengths.device)
        self._grow(len(lengths), width, like=self._layers[0].keys)

    @staticmethod
    def allocated_rows(num_rows: int, max_rows: int) -> int:
        """Rows that are held for so many answers: a power of two, so that few growths copy."""
        return min(max_rows, 1 << (num_rows - 1).bit_length())

    @property
    def num_bytes(self) -> int:
        """Of all states."""
        return sum(0 if layer.keys is None else layer.keys.nbytes + layer.values.nbytes for layer in self._layers)

    def _grow(self, num_rows: int, columns: int, *, like: Tensor) -> None:
        """Have room for so many rows and positions; `like` is a tensor `(..., heads, positions, head size)`."""
        first = self._layers[0].keys
        old_rows, old_columns = (0, 0) if first is None else (first.shape[0], first.shape[2])
        if num_rows <= old_rows and columns <= old_columns:
            return
        rows = max(old_rows, self.allocated_rows(num_rows, self._max_rows))
        columns = max(old_columns, _round_up(columns))
        shape = (rows, like.shape[-3], columns, like.shape[-1])
        for layer in self._layers:
            for name in ("keys", "values"):
                # Zeros, since what is not looked at is still multiplied by nought, and must not be infinite.
                grown = torch.zeros(shape, dtype=like.dtype, device=like.device)
                if first is not None:
                    grown[:old_rows, :, :old_columns] = getattr(layer, name)
                setattr(layer, name, grown)
            layer.is_initialized = True


class _KVSlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of `KVCacheSlots`, as `transformers` wants it."""

    keys: Any
    values: Any

    def __init__(self, slots: KVCacheSlots) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: rows are filled before the model is called."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new states, `(rows, heads, 1, head size)`, each at its row's place; returns all."""
        slots = self._slots
        self.keys[slots.indices, :, slots.lengths] = key_states[:, :, 0]
        self.values[slots.indices, :, slots.lengths] = value_states[:, :, 0]
        rows = len(slots.indices)
        return self.keys[:rows, :, : slots.width], self.values[:rows, :, : slots.width]

    def get_mask_sizes(self, _query_length: int) -> tuple[int, int]:
        """Positions that are looked at, and where they begin."""
        return self._slots.width, 0

    def get_seq_length(self) -> int:
        """Positions of the longest row."""
        return max(0, self._slots.width - 1)

    def get_max_length(self) -> int:
        """None: it grows."""
        return -1
