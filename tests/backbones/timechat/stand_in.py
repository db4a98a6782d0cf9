"""A stand-in for vLLM's engine: the same requests, answered one after the other by the network of the test."""

import queue
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import DynamicCache

from timechat.backbones.timechat.vllm.requests import AnswerEngineState, EngineRequest, OutputDelta
from timechat.backbones.timechat.vllm.token_chooser import TokenChooser
from timechat.model.modeling import TimeChatForConditionalGeneration


class StandInEngine:
    """Answers requests as vLLM does: raw scores, then the processor, then the most likely token.

    Attributes:
        requests: Requests so far.
        is_stopped: Whether `stop` was called.
        forgotten: Number of steps after which the last token is dropped and computed again, as vLLM does after a
            preemption; 0 for never.
    """

    max_length = 2048

    def __init__(self, model: TimeChatForConditionalGeneration, folder: Path, *, forgotten: int = 0) -> None:
        self._model, self._chooser = model, TokenChooser(folder, torch.device("cpu"))
        self.requests: list[EngineRequest] = []
        self.forgotten, self.is_alive, self.is_stopped, self.num_cancelled, self.num_tokens = (
            forgotten,
            True,
            False,
            0,
            0,
        )

    @property
    def state(self) -> AnswerEngineState:
        return AnswerEngineState(self.num_tokens, 0, 0)

    def submit(self, requests: Sequence[EngineRequest]) -> SimpleNamespace:
        self.requests.extend(requests)
        pieces: queue.SimpleQueue = queue.SimpleQueue()
        for place, request in enumerate(requests):
            for piece in self._scores(request) if request.is_scored else self._answer(request):
                pieces.put((place, piece))
        return SimpleNamespace(pieces=pieces, cancel=self._cancel)

    def _cancel(self) -> None:
        self.num_cancelled += 1

    def stop(self) -> None:
        self.is_stopped = True

    def _embeds(self, request: EngineRequest) -> torch.Tensor:
        is_token = torch.tensor(request.prompt.is_token)[:, None]
        words = self._model.get_input_embeddings()(torch.tensor(request.prompt.token_ids))
        return torch.where(is_token, words, request.prompt.embeds)[None]

    @torch.inference_mode()
    def _scores(self, request: EngineRequest) -> list[OutputDelta]:
        logprobs = self._model(inputs_embeds=self._embeds(request)).logits[0].log_softmax(-1)
        ids = request.prompt.token_ids
        values = [None, *(float(logprobs[i, token]) for i, token in enumerate(ids[1:]))]
        return [OutputDelta([], [], True, 0, values)]

    @torch.inference_mode()
    def _answer(self, request: EngineRequest) -> list[OutputDelta]:
        row = self._chooser.start(request.arguments)
        cache, embeds = DynamicCache(), self._embeds(request)
        ids: list[int] = []
        pieces = []
        while len(ids) < request.max_new_tokens:
            logits = self._model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
                0
            ]
            raw, forced = logits.log_softmax(-1)[0], logits.clone()
            if row is not None:
                if self.forgotten and len(ids) == self.forgotten:
                    self._chooser.force({0: (row, ids)}, logits.clone())  # a step whose token vLLM drops
                    row = self._chooser.start(request.arguments)  # and the request enters the batch again
                    assert row is not None
                self._chooser.force({0: (row, ids)}, forced)
            token = int(forced.argmax())
            ids.append(token)
            self.num_tokens += 1
            is_last = token in self._chooser.end_token_ids or len(ids) == request.max_new_tokens
            pieces.append(OutputDelta([token], [float(raw[token])], is_last, 3))
            if is_last:
                break
            embeds = self._model.get_input_embeddings()(torch.tensor([[token]]))
        return pieces
