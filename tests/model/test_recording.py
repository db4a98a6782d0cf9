"""The probability of the allowed tokens, beside that of the chosen one."""

import math

import pytest
import torch

from tests.model.test_batching import model, prompts_about, videos  # noqa: F401 - fixtures
from timechat.model.generation.generate import generate_answers
from timechat.model.generation.recording import AllowedRecorder, LogprobRecorder

ALLOWED = [8, 20, 21, 22]


def only_some(input_ids, scores):
    """Mask of a constraint; every second row is free."""
    masked = torch.full_like(scores, float("-inf"))
    masked[:, ALLOWED] = scores[:, ALLOWED]
    return torch.where(torch.arange(len(scores))[:, None] % 2 == 0, masked, scores)


def test_allowed_is_the_sum_over_what_the_mask_leaves():
    recorder = LogprobRecorder()
    watcher = AllowedRecorder(recorder)
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    ids = torch.zeros((2, 0), dtype=torch.long)
    for step, chosen in enumerate(([1, 2], [1, 0])):
        scores = recorder(ids, probabilities.log())
        masked = scores.clone()
        masked[0, 0] = float("-inf")
        assert torch.equal(watcher(ids, masked / 2), masked / 2)  # a later processor may change the scores
        ids = torch.cat([ids, torch.tensor(chosen)[:, None]], dim=1)
        assert ids.shape == (2, step + 1)
    torch.testing.assert_close(recorder.finish(ids).exp(), torch.tensor([[0.3, 0.3], [0.8, 0.1]]))
    torch.testing.assert_close(watcher.finish().exp(), torch.tensor([[0.5, 0.5], [1.0, 1.0]]))


def test_answers_carry_allowed_only_where_it_is_asked_for(model, videos):  # noqa: F811
    prompts = prompts_about(videos, 2)
    options = {"pad_token_id": 0, "arguments": {"max_new_tokens": 5, "do_sample": False}}
    plain = generate_answers(model, prompts, processors=[only_some], **options)
    watched = generate_answers(model, prompts, processors=[only_some], records_allowed=True, **options)
    assert [answer.allowed for answer in plain] == [None, None]
    for before, after in zip(plain, watched, strict=True):
        assert (before.token_ids, before.logprobs) == (after.token_ids, after.logprobs)
        assert len(after.allowed) == len(after.token_ids)
    constrained, free = watched
    assert set(constrained.token_ids) <= {*ALLOWED}
    assert all(low <= high < 0 for low, high in zip(constrained.logprobs, constrained.allowed, strict=True))
    assert free.allowed == pytest.approx([0.0] * len(free.token_ids), abs=1e-5)
    assert math.exp(constrained.allowed[0]) < 0.5
