"""Long videos of which the best windows are read, and answers by the search."""

from dataclasses import replace

import numpy as np
import pytest

from tests.search.conftest import COLORS, ColorEncoder
from timechat import Frames
from timechat.answers.merging import MomentSelection
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.pipeline import FrameSampling, Request
from timechat.pipeline.retrieving import shared_encoder
from timechat.pipeline.window_answering import WindowAnswerer
from timechat.search.retrieval import RetrievalConfig

WINDOWS = WindowConfig(window=8, overlap=2)  # [0, 8], [6, 14], ... of a minute
SHORT = DecodingOptions(max_new_tokens=4)


@pytest.fixture
def encoder() -> ColorEncoder:
    return ColorEncoder()


def painted(seconds: float = 56.0, **spans: tuple[float, float]) -> Frames:
    """Return black frames, two per second, with parts in a color: `red=(20, 25)` is red from 20 s to 25 s."""
    times = np.arange(round(2 * seconds)) / 2
    pixels = np.zeros((len(times), 96, 96, 3), np.uint8)
    for channel, color in enumerate(COLORS):
        first, last = spans.get(color, (0, 0))
        pixels[(times >= first) & (times < last), :, :, channel] = 255
    return Frames(pixels, times, seconds)


def grounding(encoder: ColorEncoder, read: float, **moments: object) -> Request:
    return Request(
        "grounding", "red", retrieval=RetrievalConfig(read, encoder=encoder), moments=MomentSelection(**moments)
    )


@pytest.fixture
def windows_read(monkeypatch) -> list[Window]:
    """Windows that the model has read."""
    read: list[Window] = []
    answer = WindowAnswerer.answer_all

    def noted(self, request, windows):
        read.extend(window.span for window in windows)
        return answer(self, request, windows)

    monkeypatch.setattr(WindowAnswerer, "answer_all", noted)
    return read


# ----------------------------------------------------------------------------------------- the best windows


def test_only_the_best_windows_are_read(nano, encoder, windows_read):
    answer = nano.run(grounding(encoder, 0.2), painted(red=(38, 41)), windows=WINDOWS)
    assert [(window.start, window.end) for window in windows_read] == [(36, 44)]
    assert answer.read_share == 8 / 56
    assert answer.notes[0] == "read 14% of the video: the 1 of 9 windows that colors ranks first"
    assert answer.by == "model"


def test_a_whole_video_is_read_by_default(nano, windows_read):
    answer = nano.run(Request("grounding", "red"), painted(20.0), windows=WINDOWS)
    assert len(windows_read) == 3
    assert answer.read_share == 1.0
    assert not any("read " in note for note in answer.notes)


def test_a_video_of_few_windows_is_read_as_a_whole(nano, encoder, windows_read):
    answer = nano.run(grounding(encoder, 0.1), painted(20.0), windows=WINDOWS)
    assert len(windows_read) == 3
    assert (answer.read_share, encoder.num_frames) == (1.0, 0)


def test_answers_about_windows_do_not_depend_on_the_choice(nano, encoder):
    video, apart = painted(red=(38, 41)), WindowConfig(window=8, overlap=0)  # moments of other windows are not merged
    parts = [
        nano.run(replace(grounding(encoder, read), moments=MomentSelection(find_all=True, threshold=0)), video,
                 windows=apart)
        for read in (0.2, 1.0)
    ]  # fmt: skip
    assert parts[0].events
    spans = [[(event.start, event.end) for event in part.events] for part in parts]
    assert set(spans[0]) <= set(spans[1])


def test_all_moments_are_looked_for_where_scores_are_high(nano, encoder, windows_read):
    video = painted(red=(8, 12), blue=(20, 25))
    video.pixels[76:82, :, :, 0] = 255  # red again from 38 s to 41 s
    nano.run(grounding(encoder, 0.1, find_all=True), video, windows=WINDOWS)
    assert [window.start for window in windows_read] == [6, 36]


def test_the_second_question_encodes_no_frames_again(nano, encoder):
    with nano.open(painted(red=(38, 41)), windows=WINDOWS) as session:
        nano.run(grounding(encoder, 0.2), session)
        assert encoder.num_frames > 0
        encoder.num_frames = 0
        nano.run(replace(grounding(encoder, 0.2), query="blue"), session)
        assert encoder.num_frames == 0


def test_frame_vectors_of_a_file_are_in_the_cache(cached, video_path, encoder):
    answers = []
    for _ in range(2):
        encoder.num_frames = 0
        answers.append(cached.run(grounding(encoder, 0.2), video_path, windows=WINDOWS))
    assert encoder.num_frames == 0
    assert answers[0] == answers[1]


def test_questions_and_their_citations_read_the_same_windows(nano, encoder, windows_read):
    nano.ask(painted(red=(38, 41)), "red", read=0.2, encoder=encoder, windows=WINDOWS, cite=True, decoding=SHORT)
    assert [window.start for window in windows_read] == [36, 36]


def test_ranking_is_limited_to_the_part_of_the_video(nano, encoder, windows_read):
    request = grounding(encoder, 0.25)
    sampling = FrameSampling(start=20.0, end=50.0)
    video = painted(red=(2, 6))
    video.pixels[80:84, :, :, 0] = 120  # a little red from 40 s to 42 s
    answer = nano.run(request, video, windows=WINDOWS, sampling=sampling)
    assert [(window.start, window.end) for window in windows_read] == [(36.5, 44.0)]
    assert answer.read_share == 7.5 / 30


def test_other_tasks_cannot_read_a_part_of_the_video():
    with pytest.raises(ValueError, match="only ask and grounding can read a part of the video, not summary"):
        Request("summary", retrieval=RetrievalConfig(0.1))
    with pytest.raises(ValueError, match="only grounding can be answered by the search, not ask"):
        Request("ask", "What?", retrieval=RetrievalConfig(by="search"))


def test_an_estimate_counts_the_windows_to_read(nano, encoder):
    with nano.open(painted(), windows=WINDOWS) as session:
        assert nano.estimate(grounding(encoder, 0.25), session).windows == 2
        assert nano.estimate(grounding(encoder, 1.0), session).windows == 9


def test_all_windows_are_read_for_unknown_words(nano, monkeypatch, windows_read):
    monkeypatch.setattr(ColorEncoder, "knows", lambda *_: False)
    answer = nano.run(grounding(encoder := ColorEncoder(), 0.2), painted(red=(38, 41)), windows=WINDOWS)
    assert (len(windows_read), encoder.num_frames, answer.read_share) == (9, 0, 1.0)
    assert answer.notes[0] == "read the whole video: colors does not know the words of the query"


# ------------------------------------------------------------------------------------------------ the search


def test_the_search_does_not_find_unknown_words(nano, encoder, monkeypatch):
    monkeypatch.setattr(ColorEncoder, "knows", lambda *_: False)
    monkeypatch.setattr(ColorEncoder, "notes", lambda *_: ("colors knows English only",))
    answer = nano.ground(painted(red=(0, 56)), "red", by="search", encoder=encoder, threshold=0.0)
    assert (answer.found, answer.events, answer.score, answer.by) == (False, [], None, "search")
    assert answer.notes == ("answered by the search of colors, not by nano", "colors knows English only")


def test_the_search_answers_with_its_span_and_probability(nano, encoder):
    answer = nano.ground(painted(red=(38, 44)), "red", by="search", encoder=encoder)
    ((start, end, score),) = [(event.start, event.end, event.score) for event in answer.events]
    assert (start, end) == pytest.approx((38, 44), abs=0.6)
    assert answer.score == score > 0.9
    assert (answer.by, answer.model, answer.found, answer.read_share) == ("search", "colors", True, 1.0)
    assert answer.text == f"The given query happens in {start:.1f} - {end:.1f} seconds."
    assert answer.notes[0] == "answered by the search of colors, not by nano"


def test_the_search_does_not_find_what_does_not_happen(nano, encoder):
    answer = nano.ground(painted(red=(38, 44)), "green", by="search", encoder=encoder)
    assert (answer.found, answer.events, answer.by) == (False, [], "search")
    assert answer.text == "The given query does not happen in the video."
    assert answer.score < 0.1


def test_the_threshold_of_the_search_is_the_callers_or_its_own(nano, encoder):
    video = painted(red=(38, 44))
    assert nano.ground(video, "green", by="search", encoder=encoder, threshold=0.0).found is True
    assert nano.ground(video, "red", by="search", encoder=encoder, threshold=1.0).found is False


def test_the_search_finds_several_moments(nano, encoder):
    video = painted(red=(8, 14), blue=(20, 25))
    video.pixels[76:88, :, :, 0] = 255  # red again from 38 s to 44 s
    for options in ({"find_all": True}, {"top_k": 2}):
        answer = nano.ground(video, "red", by="search", encoder=encoder, **options)
        assert sorted(round(event.start) for event in answer.events) == [8, 38]
    assert len(nano.ground(video, "red", by="search", encoder=encoder).events) == 1


def test_the_search_of_a_part_has_the_times_of_the_video(nano, encoder):
    request = Request("grounding", "red", retrieval=RetrievalConfig(by="search", encoder=encoder))
    answer = nano.run(request, painted(red=(2, 50)), sampling=FrameSampling(start=30.0, end=56.0))
    ((start, end),) = [(event.start, event.end) for event in answer.events]
    assert (start, end) == pytest.approx((30, 50), abs=1.0)


def test_the_search_of_a_part_ends_with_the_part(nano, encoder):
    request = Request("grounding", "red", retrieval=RetrievalConfig(by="search", encoder=encoder))
    answer = nano.run(request, painted(red=(50, 56)), sampling=FrameSampling(end=55.7))
    assert answer.events[0].end == 55.7


def test_a_video_outside_of_the_domain_is_searched(nano, encoder, windows_read):
    noise = np.random.default_rng(0).integers(0, 255, (112, 96, 96, 3), dtype=np.uint8)
    video = Frames(noise, np.arange(112) / 2, 56.0)
    answer = nano.ground(video, "red", encoder=encoder, windows=WINDOWS)
    assert answer.by == "search"
    assert windows_read == []
    assert answer.notes[0] == (
        "answered by the search of colors, not by nano: this video is unlike the videos that nano was trained on "
        "(synthetic videos of coloured shapes)"
    )
    assert nano.ground(video, "red", encoder=encoder, windows=WINDOWS, by="model").by == "model"


def test_a_video_of_the_domain_is_left_to_the_model(nano, encoder, video_path):
    assert nano.ground(video_path, "the blue star blinks", encoder=encoder).by == "model"
    assert encoder.num_frames == 0


def test_a_few_windows_decide_about_the_domain(nano, encoder, monkeypatch):
    tested = []
    monkeypatch.setattr("timechat.pipeline.answering.is_outside_by_notes", lambda _, notes: bool(tested.append(notes)))
    nano.ground(painted(), "red", encoder=encoder, windows=WINDOWS)
    assert len(tested) == 4


def test_windows_of_the_domain_test_are_encoded_once(nano, encoder):
    with nano.open(painted(), windows=WINDOWS, keep_in_memory=False) as session:
        assert (
            nano.answerer().uses_search(Request("grounding", "x", retrieval=RetrievalConfig(by="auto")), session)
            is False
        )
        tested = session.spread_windows(4)
        assert [window.start for window in tested] == [6, 18, 30, 42]
        first, again = (list(session.encode(tested)) for _ in range(2))
        assert all(one is other for one, other in zip(first, again, strict=True))


def test_an_encoded_video_cannot_be_searched(nano, encoder):
    encoded = nano.encode(painted(4.0))
    assert nano.ground(encoded, "red", encoder=encoder).by == "model"
    with pytest.raises(ValueError, match="the search reads the frames again: give the video itself as a file"):
        nano.ground(encoded, "red", encoder=encoder, by="search")


def test_an_encoder_is_loaded_once(monkeypatch):
    loaded = []
    monkeypatch.setattr("timechat.pipeline.retrieving._loaded", {})
    monkeypatch.setattr("timechat.pipeline.retrieving.load_encoder", lambda name: loaded.append(name) or ColorEncoder())
    assert shared_encoder("colors") is shared_encoder("colors")
    assert loaded == ["colors"]
