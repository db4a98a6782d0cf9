"""Responses and streams as text with placed tokens."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backbones.endpoint.stub import chunks, completion, token
from timechat.answers.token_evidence import Token
from timechat.backbones.endpoint.answers import Completion, StreamedAnswer, TokenUsage, place_tokens, read_completion


def with_tokens(content, *entries, **fields):
    return completion(content, logprobs={"content": list(entries)}, **fields)


def plain(*texts):
    return [token(text, -float(i + 1), text.encode()) for i, text in enumerate(texts)]


def written(answer):
    """The characters that each token wrote."""
    return [answer.text[token.first : token.end] for token in answer.tokens]


def test_answer_has_text_tokens_usage_and_names():
    entries = plain("The", " event", ".")
    entries[1]["top_logprobs"] = [token(" event", -2.0), token(" query", -3.5)]
    assert read_completion(with_tokens("The event.", *entries)) == Completion(
        "The event.",
        tokens=(Token(0, 3, -1.0), Token(3, 9, -2.0), Token(9, 10, -3.0)),
        alternatives=((), ((" event", -2.0), (" query", -3.5)), ()),
        finish_reason="stop",
        usage=TokenUsage(7, 2),
        model="tiny",
        fingerprint="fp_1",
    )


def test_answer_without_usage_and_log_probabilities_is_complete():
    response = completion("Yes.", logprobs=None, finish_reason="length")
    del response["usage"], response["model"], response["system_fingerprint"]
    answer = read_completion(response)
    assert answer == Completion("Yes.", finish_reason="length")
    assert answer.was_cut


@pytest.mark.parametrize("content", [None, "", []])
def test_empty_content_is_an_empty_answer(content):
    assert read_completion(with_tokens(content, token("<end>", 0.0))) == Completion(
        "", finish_reason="stop", usage=TokenUsage(7, 2), model="tiny", fingerprint="fp_1"
    )


def test_content_in_parts_is_joined():
    assert read_completion(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])).text == "ab"


@pytest.mark.parametrize("response", [{}, {"choices": []}, {"choices": [{}]}, {"choices": "x"}, {"choices": [None]}])
def test_response_without_a_message_is_refused(response):
    with pytest.raises(ValueError, match="the response has no choices with a message"):
        read_completion(response)


def test_bytes_of_one_character_in_several_tokens_share_it():
    entries = [
        token("a", -1.0, b"a"),
        token("\ufffd", -2.0, "–".encode()[:1]),
        token("\ufffd", -3.0, "–".encode()[1:]),
        token("é ", -4.0, "é ".encode()),
    ]
    answer = read_completion(with_tokens("a–é ", *entries))
    assert [(t.first, t.end) for t in answer.tokens] == [(0, 1), (1, 2), (1, 2), (2, 4)]


@pytest.mark.parametrize("text", ["\ufffd", ""])
def test_unknown_bytes_are_placed_by_the_tokens_around_them(text):
    unknown = [token(text, -2.0, text.encode()), token(text, -3.0, text.encode())]
    answer = read_completion(with_tokens("a–b", *plain("a"), *unknown, *plain("b")))
    assert written(answer) == ["a", "–", "–", "b"]
    last = read_completion(with_tokens("a–", *plain("a"), *unknown, token("<|im_end|>", 0.0)))
    assert written(last) == ["a", "–", "–"]


def test_character_that_is_cut_at_the_end_is_no_problem():
    entries = [*plain("a"), token("\ufffd", -2.0, "é".encode()[:1])]
    assert written(read_completion(with_tokens("a\ufffd", *entries))) == ["a", "\ufffd"]
    assert written(read_completion(with_tokens("a", *entries))) == ["a"]


def test_tokens_outside_of_the_text_are_left_out():
    entries = plain("<s>", " Yes", ".", "<|im_end|>")
    answer = read_completion(with_tokens("Yes.", *entries))
    assert written(answer) == ["Yes", "."]
    assert [t.logprob for t in answer.tokens] == [-2.0, -3.0]


@pytest.mark.parametrize(
    "entries",
    [plain("No", "."), plain("Yes"), [{"token": "Yes."}], [token("Yes.", float("nan"))], ["Yes."], [token("Ġ", 0.0)]],
)
def test_tokens_that_do_not_fit_the_text_are_dropped(entries):
    answer = read_completion(with_tokens("Yes.", *entries))
    assert (answer.text, answer.tokens, answer.alternatives) == ("Yes.", (), ())


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=12), st.data())
def test_tokens_of_any_bytes_cover_the_text_in_order(text, data):
    content = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content)), max_size=8)) | {len(content)})
    pieces = [content[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
    decoded = content.decode()
    places = place_tokens(decoded, [token(p.decode("utf-8", "replace"), -1.0, p) for p in pieces])
    assert places[0][0] == 0
    assert places[-1][1] == len(decoded)
    for (first, end), piece in zip(places, pieces, strict=True):
        assert piece in decoded[first:end].encode()
        assert end - first <= len(piece)
    assert all(b[0] <= a[1] <= b[1] for a, b in pairwise(places))


# ------------------------------------------------------------------------------------------------ thoughts


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>It is 5.</think>\n\nYes.", "Yes."),
        ("It is 5.</think>Yes.", "Yes."),
        ("<thinking>a</thinking><think>b</think> Yes.", "Yes."),
        ("<think>It is 5", ""),
        ("Yes.<think>But", "Yes."),
        (" Yes. ", " Yes. "),
    ],
)
def test_thoughts_are_removed(content, text):
    answer = read_completion(completion(content))
    assert (answer.text, answer.has_thoughts) == (text, content != text)


def test_tokens_of_thoughts_are_removed_and_the_others_moved():
    entries = plain("<think>", "so", "</think>", "\n\n", "Yes", ".")
    answer = read_completion(with_tokens("<think>so</think>\n\nYes.", *entries))
    assert (written(answer), [t.logprob for t in answer.tokens]) == (["Yes", "."], [-5.0, -6.0])
    hidden = read_completion(with_tokens("Yes.", *entries))  # the server removed the thoughts itself
    assert hidden.tokens == answer.tokens
    repeated = read_completion(with_tokens("Yes.", *plain("Yes", ".", "</think>", "Yes", ".")))
    assert [t.logprob for t in repeated.tokens] == [-4.0, -5.0]


# ------------------------------------------------------------------------------------------------- streams


def streamed(*texts, **fields):
    answer = StreamedAnswer()
    shown = [answer.add(part) for part in chunks(*texts, **fields)]
    return [text for text in shown if text], answer.completion()


def test_streamed_parts_give_the_completion_at_once():
    entries = plain("The", " event", ".")
    answer = StreamedAnswer()
    shown = []
    for text, entry in zip(("The", " event", "."), entries, strict=True):
        (part,) = chunks(text, finish=None, logprobs={"content": [entry]})
        shown.append(answer.add(part | {"system_fingerprint": "fp_1"}))
    shown += [answer.add(part) for part in (*chunks(), {"choices": [], "usage": completion()["usage"]})]
    assert answer.completion() == read_completion(with_tokens("The event.", *entries))
    assert shown == ["The", " event", ".", "", ""]


def test_thoughts_are_not_shown_while_they_are_written():
    shown, answer = streamed("<th", "ink>a", " <b></th", "ink>\n", "\nYes", " <", "5.")
    assert shown == ["Yes", " ", "<5."]
    assert answer.text == "Yes <5."
    assert answer.has_thoughts


def test_text_after_a_thought_without_opening_is_shown_whole():
    shown, answer = streamed("So", "</think>", "No", ".")
    assert shown == ["So", "No", "."]
    assert answer.text == "No."


@pytest.mark.parametrize(
    ("opening", "closing"), [("<think>", "</think>"), ("<Thinking>", "</Thinking>"), ("◁think▷", "◁/think▷")]
)
def test_no_part_of_a_tag_is_shown(opening, closing):
    shown, answer = streamed(*opening, "so", *closing, "Yes")
    assert (shown, answer.text) == (["Yes"], "Yes")


def test_text_that_may_begin_a_tag_is_shown_at_the_end():
    assert streamed("a <", finish="stop")[0] == ["a ", "<"]
    assert streamed("a <", finish="length")[1].text == "a <"


@settings(max_examples=60)
@given(st.text(alphabet="ab<>/think \n", max_size=40), st.integers(1, 5))
def test_shown_text_without_thoughts_is_the_answer(content, step):
    shown, answer = streamed(*[content[i : i + step] for i in range(0, len(content), step)])
    assert answer == streamed_at_once(content)
    if not answer.has_thoughts:
        assert "".join(shown) == answer.text


def streamed_at_once(content):
    answer = StreamedAnswer()
    for part in chunks(content):
        answer.add(part)
    return answer.completion()
