"""Later stages: the language model learns to find events, then the Q-Formers learn to provide them.

First the language model gets *label scripts*: instead of video tokens, one vector per frame, made from labels. Then the
video Q-Former learns to make these vectors from real frames. Finally all parts are trained together on answers, while
the weight of the auxiliary losses decreases.
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
from timechat.model.training_text import IGNORED_LABEL
from timechat.synthetic.nano.labels import (
    NEW,
    NUM_COLORS,
    NUM_KINDS,
    NUM_SHAPES,
    NUM_STATES,
    NUM_TIMES,
    PAIRS,
    SHAPE_KIND,
    state_code,
    time_code,
)
from timechat.synthetic.nano.tokens import token_at_frame
from timechat.synthetic.scene import TICK

_NUM_ACTIVE = SHAPE_KIND.stop
_READ_AT = (
    2  # hidden states of the language model, counted from the embeddings, from which starts and ends are predicted
)
_SUPERVISED_LAYER = 2  # layer of the language model whose first heads are supervised
_SUPERVISED_HEADS = 4
_READINGS = ("written", "borders")
_TIME_WEIGHT = 2.0  # weight of the loss of times relative to words, because the form of answers is learned quickly


class LabelEncoder(nn.Module):
    """Encodes the labels of a video as vectors that replace its video tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.states = nn.Linear(NUM_STATES, width)
        self.times = nn.Embedding(NUM_TIMES, width)
        with torch.no_grad():
            self.times.weight.copy_(torch.from_numpy(time_code(width)) * 10)
            self.states.weight.copy_(torch.from_numpy(state_code(width)).T)

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """Encode states `(tokens, NUM_STATES)` and time classes `(tokens,)` as vectors `(tokens, width)`."""
        return self.states(states) + self.times(times)  # type: ignore[no-any-return]


class AnswerHeads(nn.Module):
    """Heads that predict labels from video tokens and from hidden states of the LLM; dropped after training."""

    def __init__(self, width: int) -> None:
        """Make the heads for a language model and video tokens of this hidden size."""
        super().__init__()
        self.script = LabelEncoder(width)
        self.norm = nn.LayerNorm(width)
        self.times = nn.Linear(width, NUM_TIMES)
        self.scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(1.0)) for name in _READINGS})
        self.hearing = nn.Parameter(torch.tensor(1.0))
        self.biases = nn.ParameterDict({name: nn.Parameter(torch.full((NUM_STATES,), -4.0)) for name in _READINGS})

    def read(self, name: str, hidden_states: Tensor, states: slice) -> Tensor:
        """Predict some states from hidden states, with the code of the label encoder.

        All predictions use one code, so that a query and the frames can be compared directly. They do not train it,
        because later stages would then drift from the code that the language model has learned.

        Args:
            name: Name of the prediction, one of `_READINGS`.
            hidden_states: Hidden states `(tokens, width)`.
            states: Predicted columns of `NUM_STATES`.

        Returns:
            Logits `(tokens, states)`.
        """
        # Normalized, as in the layers of the language model.
        normed = F.rms_norm(hidden_states, hidden_states.shape[-1:])
        code = F.normalize(self.script.states.weight.detach()[:, states], dim=0)  # (width, states)
        logits: Tensor = normed @ code * self.scales[name] + self.biases[name][states]
        return logits.float()

    def read_query(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the event of a query from hidden states, with the code of the starts of events.

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
    """Ids of the tokens that structure answers with times.

    Attributes:
        first_time: Id of 0.0 seconds; the ids of later times follow.
        dash: Id of the dash between start and end.
        scores: Id of the word before the scores of highlights, which are not times.
    """

    first_time: int
    dash: int
    scores: int

    @classmethod
    def of(cls, tokenizer: Any) -> TokenIds:
        """Get the ids from the tokenizer of the language model."""
        return cls(*tokenizer.convert_tokens_to_ids(["Ġ0.0", "Ġ-", "Ġscores"]))


def answer_pointers(
    packed: Packed,
    ids: TokenIds,
    num_tokens: int,
    starts: Sequence[float | None] = (),
    *,
    frames_per_token: int = 1,
) -> tuple[list[int], list[int]]:
    """Return the video token to attend to for every token before a time or a word of an answer.

    An event is first visible in the frame after its start, so a start points to that frame, and so do the words after a
    start and an end. If a token stands for several frames, the pointer is the first token that stands for that frame or
    a later one: its labels show the start or the end.

    Args:
        packed: Conversations about one video.
        ids: Ids of the tokens that structure answers.
        num_tokens: Number of video tokens.
        starts: Start in seconds of the event of every conversation whose answer names one event in words only, None for
            the others.
        frames_per_token: Number of frames in the part of a window that a video token stands for.

    Returns:
        Pointers of times, and pointers of words; -1 for all other tokens.
    """

    def to_token(frame: int) -> int:
        return min(num_tokens - 1, token_at_frame(frame, frames_per_token))

    times, words = ([-1] * len(packed.input_ids) for _ in range(2))
    segment, start, is_time = 0, -1, False
    for i, label in enumerate(packed.labels):
        if packed.segments[i] != segment:
            segment = packed.segments[i]
            begins = starts[segment - 1] if 0 < segment <= len(starts) else None
            is_time = begins is None  # otherwise numbers are durations
            start = -1 if begins is None else to_token(round(begins / TICK) + 1)
        if label == IGNORED_LABEL:
            continue
        is_time = is_time and label != ids.scores
        if is_time and ids.first_time <= label < ids.first_time + NUM_TIMES:
            is_start = i + 1 < len(packed.labels) and packed.labels[i + 1] == ids.dash
            times[i - 1] = to_token(label - ids.first_time + int(is_start))
            start = times[i - 1] if is_start else start
        elif label != ids.dash:
            words[i - 1] = start
    return times, words


def script_loss(heads: AnswerHeads, features: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of video tokens `(tokens of all videos, width)` against label scripts, and its parts."""
    states, times = batch["states"], batch["times"]
    with torch.no_grad():
        target = heads.script(states, times)
    copy = F.mse_loss(features.float(), target.float()) / target.float().var()
    normed = heads.norm(features)
    state_logits = heads.read("written", features, slice(0, NUM_STATES))
    weight = torch.where(states > 0, 4.0, 1.0)
    state_loss = F.binary_cross_entropy_with_logits(state_logits, states, weight=weight)
    time_logits = heads.times(normed).float()
    time_loss = F.cross_entropy(time_logits, times)
    with torch.no_grad():
        found, present = state_logits > 0, states > 0
        found, present = (torch.cat([x[:, :_NUM_ACTIVE], x[:, NEW.start :]], dim=1) for x in (found, present))
        both = (found & present).sum()
        parts = {
            "copy": float(copy),
            "states": float(state_loss),
            "pairs": float(F.binary_cross_entropy_with_logits(state_logits[:, PAIRS], states[:, PAIRS])),
            "acts": float(F.binary_cross_entropy_with_logits(state_logits[:, :_NUM_ACTIVE], states[:, :_NUM_ACTIVE])),
            "acts_precision": float(both / found.sum().clamp(min=1)),
            "acts_recall": float(both / present.sum().clamp(min=1)),
            "frame_time_right": float((time_logits.argmax(-1) == times).float().mean()),
        }
    return copy + 30 * state_loss + time_loss, parts


def answer_loss(
    model: TimeChatForConditionalGeneration, heads: AnswerHeads, features: Tensor, batch: Mapping[str, Any]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return the loss of the answers, and auxiliary losses: starts and ends, the event of the query, and attention.

    Args:
        model: Model to train.
        heads: Heads of the model for training.
        features: Video tokens of all videos, `(tokens, width)`.
        batch: Packed conversations: `input_ids`, `labels`, `position_ids`, `pointers` `(batch, sequence)`,
            `attention_mask` `(batch, 1, sequence, sequence)`; and the labels of the video tokens.

    Returns:
        Mean loss of the answers, sum of the auxiliary losses, and the parts of both.
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
    targets = labels[is_answer]
    losses = F.cross_entropy(logits, targets, reduction="none")
    is_video = batch["input_ids"] == model.config.image_token_id
    hidden_states = outputs.hidden_states[_READ_AT]
    predicted = heads.read("borders", hidden_states[is_video], slice(NEW.start, NUM_STATES))
    target = batch["states"][:, NEW.start :]
    borders = F.binary_cross_entropy_with_logits(predicted, target, weight=torch.where(target > 0, 10.0, 1.0))
    rows, columns = batch["query_positions"].unbind(dim=1)
    query, query_accuracy = _query_loss(heads.read_query(hidden_states[rows, columns]), batch["query_classes"])
    supervision, shares = _attention_losses(
        model.language_model.model, outputs.hidden_states[_SUPERVISED_LAYER], batch, is_video
    )
    is_time = batch["pointers"][:, :-1][is_answer] >= 0
    weights = torch.where(is_time, _TIME_WEIGHT, 1.0)
    answer = (losses * weights).sum() / weights.sum()
    with torch.no_grad():
        right = logits.argmax(-1) == targets
        seconds_off = (logits[is_time].argmax(-1) - targets[is_time]).abs() * TICK
        parts = {
            "answer": float(losses.mean()),
            "time": float(losses[is_time].mean()),
            "time_right": float(right[is_time].float().mean()),
            "time_within_1s": float((seconds_off <= 1).float().mean()),
            "word_right": float(right[~is_time].float().mean()),
            "told_right": float(right[batch["word_pointers"][:, :-1][is_answer] >= 0].float().mean()),
            "borders": float(borders),
            "asked": float(query),
            "heard": query_accuracy,
            "guide": float(supervision),
            **shares,
        }
    return answer, 4 * borders + query + supervision, parts


def _query_loss(logits: Sequence[Tensor], classes: Tensor) -> tuple[Tensor, float]:
    """Return the loss of predicted color, shape and kind against `(queries, 3)` classes, and the accuracy."""
    if not len(classes):
        return torch.stack([part.sum() for part in logits]).sum() * 0, 1.0
    losses = [F.cross_entropy(part, classes[:, i]) for i, part in enumerate(logits)]
    right = torch.stack([part.argmax(-1) == classes[:, i] for i, part in enumerate(logits)]).all(dim=0)
    return torch.stack(losses).sum(), float(right.float().mean())


def _attention_losses(
    language_model: Any, hidden_states: Tensor, batch: Mapping[str, Any], is_video: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Supervise the first heads of one layer: they should attend to the frame of the next time or of the event.

    Only the rows with a target are computed. They are computed twice, because the layer does not keep its weights.

    Args:
        language_model: Decoder without the output layer.
        hidden_states: Inputs of the layer, `(batch, sequence, width)`.
        batch: Batch with `pointers` and `word_pointers` `(batch, sequence)` from `answer_pointers`.
        is_video: Mask of video tokens, `(batch, sequence)`.

    Returns:
        The mean loss over times plus that over words, and shares of the attention on the targets.
    """
    attention = language_model.layers[_SUPERVISED_LAYER].self_attn
    normed = language_model.layers[_SUPERVISED_LAYER].input_layernorm(hidden_states)
    width = _SUPERVISED_HEADS * attention.head_dim
    shape = (*normed.shape[:2], _SUPERVISED_HEADS, attention.head_dim)
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
        targets = (first[i] + row_pointers[rows]).expand(_SUPERVISED_HEADS, -1)
        losses.append(F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets))
        found.append(scores.detach().softmax(-1).gather(-1, targets[..., None])[..., 0].mean(0))  # (rows,)
    loss, share = torch.cat(losses, dim=1).mean(dim=0), torch.cat(found)  # (rows of all,)
    has_query = batch["pointers"].new_zeros(batch["pointers"].shape, dtype=torch.bool)
    has_query[batch["query_positions"][:, 0], batch["query_positions"][:, 1]] = True
    is_asked, is_word = has_query[pointers >= 0], batch["word_pointers"][pointers >= 0] >= 0
    kinds = {"asked": is_asked, "others": ~is_asked & ~is_word, "words": is_word}
    shares = {f"looks_at_{name}": float(share[these].mean()) for name, these in kinds.items() if these.any()}
    means = [loss[these].mean() for these in (~is_word, is_word) if these.any()]
    return torch.stack(means).sum(), shares
