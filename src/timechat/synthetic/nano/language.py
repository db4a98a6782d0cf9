"""The later stages: the language model learns to look things up, then the Q-Formers to tell it what there is.

First the language model reads *written* films: for every frame one vector made from the labels that the drawing
program knows, in the place of the video tokens. Then the video Q-Former learns to make these very vectors from real
frames, and everything is tuned together on answers, while the help fades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from timechat.data.packing import Packed
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import IGNORED_LABEL
from timechat.synthetic.nano.labels import (
    GEOMETRY,
    NEW,
    NUM_COLORS,
    NUM_KINDS,
    NUM_ROWS,
    NUM_SHAPES,
    NUM_STATES,
    NUM_TIMES,
    PAIRS,
    SHAPE_KIND,
    state_code,
    time_code,
)
from timechat.synthetic.scene import TICK

_NUM_ACTIVE = SHAPE_KIND.stop
_READ_AT = 2  # hidden states of the language model, counted from the embeddings, where begin and end are read off
_ATTENDS_TO = 2  # the layer of the language model whose first heads are told where to look
_GUIDED_HEADS = 4
_READINGS = ("written", "borders")
_TIME_WEIGHT = 2.0  # of a time's loss over a word's: the form of answers is learned in no time


class LabelEncoder(nn.Module):
    """Writes a film's labels as the vectors that stand in the place of its video tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.states = nn.Linear(NUM_STATES, width)
        self.times = nn.Embedding(NUM_TIMES, width)
        with torch.no_grad():
            self.times.weight.copy_(torch.from_numpy(time_code(width)) * 10)
            self.states.weight.copy_(torch.from_numpy(state_code(width)).T)

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """`(tokens, NUM_STATES)` and `(tokens,)` classes of time → `(tokens, width)`."""
        return self.states(states) + self.times(times)  # type: ignore[no-any-return]


def _silent_head(width: int, num_outputs: int, *, bias: float) -> nn.Linear:
    """Make a layer that says what is usual, and nothing of what it is given."""
    head = nn.Linear(width, num_outputs)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, bias)
    return head


class AnswerHeads(nn.Module):
    """Read labels off the video tokens and off what the language model makes of them; dropped after training."""

    def __init__(self, width: int, video_width: int, num_layers: int) -> None:
        """Make the heads.

        Args:
            width: Of the language model and of video tokens.
            video_width: Of the video Q-Former's states, before they are projected.
            num_layers: Of the video Q-Former.
        """
        super().__init__()
        self.motion = _silent_head(video_width, NUM_ROWS * 2 * len(GEOMETRY), bias=0.0)
        self.acts = nn.ModuleList(_silent_head(video_width, _NUM_ACTIVE, bias=-4.0) for _ in range(num_layers))
        self.script = LabelEncoder(width)
        self.norm = nn.LayerNorm(width)
        self.times = nn.Linear(width, NUM_TIMES)
        self.scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(1.0)) for name in _READINGS})
        self.hearing = nn.Parameter(torch.tensor(1.0))
        self.biases = nn.ParameterDict({name: nn.Parameter(torch.full((NUM_STATES,), -4.0)) for name in _READINGS})

    def read(self, name: str, hidden_states: Tensor, states: slice) -> Tensor:
        """Read some of the states off hidden states, in the code in which they are written.

        One code for all readings lets what is asked for and what is seen be compared as they are. Reading does not
        change it: later stages would otherwise drift from what the language model has learned to read.

        Args:
            name: Of the reading, one of `_READINGS`.
            hidden_states: `(tokens, width)`.
            states: Which of `NUM_STATES`.

        Returns:
            Logits `(tokens, states)`.
        """
        # Normalised, as the layers of the language model read them too.
        normed = F.rms_norm(hidden_states, hidden_states.shape[-1:])
        code = F.normalize(self.script.states.weight.detach()[:, states], dim=0)  # (width, states)
        logits: Tensor = normed @ code * self.scales[name] + self.biases[name][states]
        return logits.float()

    def read_query(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read off hidden states which event is asked for, in the code in which video tokens write what begins.

        Returns:
            Logits `(tokens, colors)`, `(tokens, shapes)` and `(tokens, kinds)`.
        """
        code = self.script.states.weight.detach()[:, NEW].unflatten(1, (NUM_COLORS + NUM_SHAPES, NUM_KINDS))
        looks = code.mean(dim=2)  # (width, colors + shapes)
        parts = looks[:, :NUM_COLORS], looks[:, NUM_COLORS:], code.mean(dim=1)
        normed = F.rms_norm(hidden_states, hidden_states.shape[-1:])
        logits = [
            (normed @ F.normalize(part - part.mean(dim=1, keepdim=True), dim=0) * self.hearing).float()
            for part in parts
        ]
        return logits[0], logits[1], logits[2]


@dataclass(frozen=True, slots=True)
class TokenIds:
    """What answers about time are written with, as ids of the language model's tokenizer.

    Attributes:
        first_time: Of 0.0 seconds; later times follow.
        dash: Between start and end.
        scores: Before the scores of highlights, which are numbers and no times.
    """

    first_time: int
    dash: int
    scores: int

    @classmethod
    def of(cls, tokenizer: Any) -> TokenIds:
        """Look them up."""
        return cls(*tokenizer.convert_tokens_to_ids(["Ġ0.0", "Ġ-", "Ġscores"]))


def answer_pointers(
    packed: Packed, ids: TokenIds, num_tokens: int, told: Sequence[float | None] = ()
) -> tuple[list[int], list[int]]:
    """Say for every token that is followed by a time or a word of an answer which video token to look at.

    What begins cannot be seen before the frame after its start, so a start points there; and so do the words that
    follow a start and an end.

    Args:
        packed: Conversations about one video.
        ids: Of what answers are written with.
        num_tokens: Video tokens.
        told: Of every conversation, when begins what its answer tells in words alone; None where that is not one event.

    Returns:
        Pointers of times, and pointers of words; -1 for the other tokens.
    """
    times, words = ([-1] * len(packed.input_ids) for _ in range(2))
    segment, start, is_time = 0, -1, False
    for i, label in enumerate(packed.labels):
        if packed.segments[i] != segment:
            segment = packed.segments[i]
            begins = told[segment - 1] if 0 < segment <= len(told) else None
            is_time = begins is None  # else it is a number of seconds
            start = -1 if begins is None else min(num_tokens - 1, round(begins / TICK) + 1)
        if label == IGNORED_LABEL:
            continue
        is_time = is_time and label != ids.scores
        if is_time and ids.first_time <= label < ids.first_time + NUM_TIMES:
            is_start = i + 1 < len(packed.labels) and packed.labels[i + 1] == ids.dash
            times[i - 1] = min(num_tokens - 1, label - ids.first_time + int(is_start))
            start = times[i - 1] if is_start else start
        elif label != ids.dash:
            words[i - 1] = start
    return times, words


def script_loss(heads: AnswerHeads, features: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """How far video tokens, `(tokens of all videos, width)`, are from written films, and what can be read off them."""
    states, times = batch["states"], batch["times"]
    with torch.no_grad():
        wanted = heads.script(states, times)
    copy = F.mse_loss(features.float(), wanted.float()) / wanted.float().var()
    normed = heads.norm(features)
    state_logits = heads.read("written", features, slice(0, NUM_STATES))
    weight = torch.where(states > 0, 4.0, 1.0)
    state_loss = F.binary_cross_entropy_with_logits(state_logits, states, weight=weight)
    time_logits = heads.times(normed).float()
    time_loss = F.cross_entropy(time_logits, times)
    with torch.no_grad():
        found, there = state_logits > 0, states > 0
        found, there = (torch.cat([x[:, :_NUM_ACTIVE], x[:, NEW.start :]], dim=1) for x in (found, there))
        both = (found & there).sum()
        parts = {
            "copy": float(copy),
            "states": float(state_loss),
            "pairs": float(F.binary_cross_entropy_with_logits(state_logits[:, PAIRS], states[:, PAIRS])),
            "acts": float(F.binary_cross_entropy_with_logits(state_logits[:, :_NUM_ACTIVE], states[:, :_NUM_ACTIVE])),
            "acts_precision": float(both / found.sum().clamp(min=1)),
            "acts_recall": float(both / there.sum().clamp(min=1)),
            "frame_time_right": float((time_logits.argmax(-1) == times).float().mean()),
        }
    # Times come first: who finds a frame's time has found the frame.
    return copy + 30 * state_loss + time_loss, parts


def motion_loss(heads: AnswerHeads, hidden_states: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """How far the places and movements that are read off the video Q-Former's states, `(tokens, width)`, are off."""
    read = heads.motion(hidden_states).float().view(batch["motion"].shape)
    loss = F.smooth_l1_loss(read[batch["motion_known"]], batch["motion"][batch["motion_known"]], beta=0.1)
    return loss, {"motion": float(loss.detach())}


def actions_loss(
    heads: AnswerHeads, hidden_states: Sequence[Tensor], batch: Mapping[str, Any]
) -> tuple[Tensor, dict[str, float]]:
    """How far who does what, as it is read off every layer of the video Q-Former, is off.

    The first layer has the comparison of frames before it: read there, an act is a step away from what shows it.
    """
    truth = batch["states"][:, :_NUM_ACTIVE]
    weight = torch.where(truth > 0, 4.0, 1.0)
    losses = [
        F.binary_cross_entropy_with_logits(head(states).float(), truth, weight=weight)
        for head, states in zip(heads.acts, hidden_states, strict=True)
    ]
    return torch.stack(losses).sum(), {f"acts_{i}": float(loss.detach()) for i, loss in enumerate(losses)}


def answer_loss(
    model: TimeChatForConditionalGeneration, heads: AnswerHeads, features: Tensor, batch: Mapping[str, Any]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss of the answers, and of what helps to find them: what begins and ends, what is asked for, where to look.

    Args:
        model: The model.
        heads: Its heads for training.
        features: `(video tokens of all, width)`.
        batch: Packed conversations: `input_ids`, `labels`, `position_ids`, `pointers` `(batch, sequence)`,
            `attention_mask` `(batch, 1, sequence, sequence)`; and the labels of the video tokens.

    Returns:
        Both losses, as means, and their pieces.
    """
    outputs = model.language_model.model(
        inputs_embeds=model.embed_prompt(batch["input_ids"], features),
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        output_hidden_states=True,
        use_cache=False,
    )
    labels = batch["labels"][:, 1:]
    is_answer = labels != IGNORED_LABEL
    logits = model.language_model.lm_head(outputs.last_hidden_state[:, :-1][is_answer]).float()
    wanted = labels[is_answer]
    losses = F.cross_entropy(logits, wanted, reduction="none")
    is_video = batch["input_ids"] == model.config.image_token_id
    hidden_states = outputs.hidden_states[_READ_AT]
    read = heads.read("borders", hidden_states[is_video], slice(NEW.start, NUM_STATES))
    truth = batch["states"][:, NEW.start :]
    borders = F.binary_cross_entropy_with_logits(read, truth, weight=torch.where(truth > 0, 10.0, 1.0))
    rows, columns = batch["asked_at"].unbind(dim=1)
    asked, heard = _query_loss(heads.read_query(hidden_states[rows, columns]), batch["asked"])
    guides, looked = _attention_losses(model.language_model.model, outputs.hidden_states[_ATTENDS_TO], batch, is_video)
    is_time = batch["pointers"][:, :-1][is_answer] >= 0
    weights = torch.where(is_time, _TIME_WEIGHT, 1.0)
    answer = (losses * weights).sum() / weights.sum()
    with torch.no_grad():
        right = logits.argmax(-1) == wanted
        seconds_off = (logits[is_time].argmax(-1) - wanted[is_time]).abs() * TICK
        parts = {
            "answer": float(losses.mean()),
            "time": float(losses[is_time].mean()),
            "time_right": float(right[is_time].float().mean()),
            "time_within_1s": float((seconds_off <= 1).float().mean()),
            "word_right": float(right[~is_time].float().mean()),
            "told_right": float(right[batch["word_pointers"][:, :-1][is_answer] >= 0].float().mean()),
            "borders": float(borders),
            "asked": float(asked),
            "heard": heard,
            "guide": float(guides),
            **looked,
        }
    return answer, 4 * borders + asked + guides, parts


def _query_loss(logits: Sequence[Tensor], asked: Tensor) -> tuple[Tensor, float]:
    """How far what was understood is from what was asked: colour, shape and kind, `(questions, 3)`."""
    if not len(asked):
        return torch.stack([part.sum() for part in logits]).sum() * 0, 1.0
    losses = [F.cross_entropy(part, asked[:, i]) for i, part in enumerate(logits)]
    right = torch.stack([part.argmax(-1) == asked[:, i] for i, part in enumerate(logits)]).all(dim=0)
    return torch.stack(losses).sum(), float(right.float().mean())


def _attention_losses(
    language_model: Any, hidden_states: Tensor, batch: Mapping[str, Any], is_video: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Ask the first heads of one layer to look at the frame whose time is about to be written, or that is told of.

    Only the rows that matter are computed, and these twice: here, and in the layer itself, which remembers no weights.

    Args:
        language_model: The decoder without its head.
        hidden_states: `(batch, sequence, width)`, what the layer reads.
        batch: With `pointers` and `word_pointers`, `(batch, sequence)` each, see `answer_pointers`.
        is_video: `(batch, sequence)`.

    Returns:
        The mean over times plus that over words; and what share of the attention is where it should be.
    """
    attention = language_model.layers[_ATTENDS_TO].self_attn
    normed = language_model.layers[_ATTENDS_TO].input_layernorm(hidden_states)
    width = _GUIDED_HEADS * attention.head_dim
    shape = (*normed.shape[:2], _GUIDED_HEADS, attention.head_dim)
    queries, keys = (
        F.linear(normed, projection.weight[:width]).view(shape).transpose(1, 2)  # (batch, heads, sequence, head)
        for projection in (attention.q_proj, attention.k_proj)
    )
    queries, keys = apply_rotary_pos_emb(queries, keys, *language_model.rotary_emb(normed, batch["position_ids"]))
    first = is_video.int().argmax(dim=1)
    pointers = torch.maximum(batch["pointers"], batch["word_pointers"])  # no token has both
    losses, found = [], []
    for i, row_pointers in enumerate(pointers):
        rows = (row_pointers >= 0).nonzero()[:, 0]
        scores = (queries[i, :, rows] @ keys[i].transpose(-1, -2)).float() * attention.scaling
        scores = scores + batch["attention_mask"][i, 0, rows]  # (heads, rows, sequence)
        targets = (first[i] + row_pointers[rows]).expand(_GUIDED_HEADS, -1)
        losses.append(F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets))
        found.append(scores.detach().softmax(-1).gather(-1, targets[..., None])[..., 0].mean(0))  # (rows,)
    loss, share = torch.cat(losses, dim=1).mean(dim=0), torch.cat(found)  # (rows of all,)
    where = batch["pointers"].new_zeros(batch["pointers"].shape, dtype=torch.bool)
    where[batch["asked_at"][:, 0], batch["asked_at"][:, 1]] = True
    is_asked, is_word = where[pointers >= 0], batch["word_pointers"][pointers >= 0] >= 0
    kinds = {"asked": is_asked, "others": ~is_asked & ~is_word, "words": is_word}
    looked = {f"looks_at_{name}": float(share[these].mean()) for name, these in kinds.items() if these.any()}
    means = [loss[these].mean() for these in (~is_word, is_word) if these.any()]
    return torch.stack(means).sum(), looked
