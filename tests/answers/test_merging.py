"""What a model's own probabilities say for a moment, by hand."""

import math

import pytest

from timechat.answers.events import Event
from timechat.answers.merging import UNCALIBRATED, Calibration, Token, event_logprobs, existence_logprob


def tokens_of(text: str, *pieces: tuple[str, float]) -> list[Token]:
    """Tokens with their probabilities, one after the other."""
    assert "".join(piece for piece, _ in pieces) == text
    tokens, first = [], 0
    for piece, probability in pieces:
        tokens.append(Token(first, first + len(piece), math.log(probability)))
        first += len(piece)
    return tokens


GROUNDED = "It happens in 2.0 - 8.5 seconds."
TOKENS = tokens_of(
    GROUNDED, ("It", 1.0), (" happens", 0.8), (" in", 0.5), (" 2.0", 0.9), (" -", 1.0), (" 8", 0.4), (".5", 0.9),
    (" seconds.", 1.0),
)  # fmt: skip


def test_presence_is_the_probability_of_the_form():
    assert math.exp(existence_logprob(TOKENS, GROUNDED)) == pytest.approx(0.8 * 0.5)


def test_sharpness_is_the_mean_logarithm_of_the_times():
    (evidence,) = event_logprobs([Event(2.0, 8.5)], GROUNDED, TOKENS)
    assert evidence.time_logprob == pytest.approx(math.log(0.9 * 0.4 * 0.9) / 3)
    assert evidence.caption_logprob == pytest.approx(0.0)


def test_each_event_has_the_evidence_of_its_own_tokens():
    text = "1.0 - 2.0 seconds, A.  1.0 - 4.0 seconds, B."
    pieces = [("1.0", 0.5), (" - ", 1.0), ("2.0", 0.5), (" seconds, ", 1.0), ("A.  ", 0.25)]
    pieces += [("1.0", 0.1), (" - ", 1.0), ("4.0", 0.1), (" seconds, ", 1.0), ("B.", 1.0)]
    first, second = event_logprobs([Event(1, 2, "A."), Event(1, 4, "B.")], text, tokens_of(text, *pieces))
    assert first.time_logprob == pytest.approx(math.log(0.5))
    assert first.caption_logprob == pytest.approx(math.log(0.25) / 3)
    assert second.time_logprob == pytest.approx(math.log(0.1))
    assert second.caption_logprob == pytest.approx(0.0)


def test_an_event_whose_times_the_text_does_not_hold_has_no_evidence():
    assert event_logprobs([Event(3.0, 4.0)], GROUNDED, TOKENS) == [None]
    assert event_logprobs([], GROUNDED, TOKENS) == []


def test_calibration_is_a_line_of_log_odds():
    assert UNCALIBRATED(0.0) == 0.5
    assert Calibration(2.0, -1.0)(1.5) == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert 0 <= Calibration()(-1e9) < Calibration()(1e9) <= 1
