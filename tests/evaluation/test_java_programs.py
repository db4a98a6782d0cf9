"""The official METEOR and tokenizer, as processes."""

import pytest

from timechat.errors import JavaError
from timechat.evaluation.metrics.java import MeteorProcess, java_is_ready, tokenize_ptb

pytestmark = pytest.mark.skipif(not java_is_ready(), reason="the official METEOR needs Java")


def test_odd_captions_keep_their_lines_and_their_pairs(meteor_process: MeteorProcess):
    odd = ["", "a\nb", "a\u2028b\x85c\rd", "|||", "x ||| y", "\ud800 alone", "it's", "(so)", "café – 🙂", " "]
    tokens = tokenize_ptb(odd)
    assert len(tokens) == len(odd)
    assert tokens[0] == tokens[9] == ""
    assert tokens[1] == "a b"
    assert tokens[6] == "it 's"
    assert tokens[7] == "-lrb- so -rrb-"
    assert meteor_process.statistics([(one, two) for one in odd for two in odd]).shape == (100, 23)


def test_a_meteor_that_has_ended_is_told_and_none_is_left_behind():
    with MeteorProcess() as meteor:
        meteor._process.kill()
        meteor._process.wait()
        with pytest.raises(JavaError, match="METEOR did not answer to 'SCORE "):
            meteor.statistics([("a", "b")])
    assert meteor._process.poll() is not None
