"""Words and pictures → moments: ranking, merging, filters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.search.conftest import COLORS, ColorEncoder, write_video
from timechat.answers.events import Event
from timechat.errors import DataError
from timechat.search import Library
from timechat.search.moments import Moment, join_results, merge_moments
from timechat.search.query import SearchFilters, _best_videos
from timechat.search.records import KnownFile

LINES = {
    "red.mp4": [(0.2, 1.2, "We look at the old bridge."), (1.2, 2.8, "A hammer and three nails lie here.")],
    "green_blue.mp4": [(0.5, 2.0, "The bridge is old and long."), (3.1, 5.0, "Cats sleep most of the day.")],
}


class Speech:
    kind = "speech"

    def choose(self, paths: Sequence[str]) -> str:
        return paths[0]

    def facts(self, path: str) -> dict[str, Any]:
        return {}

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        return True

    def read(self, path: str, frames: Any, check: Any) -> tuple[list[Event], tuple[str, ...]]:
        return [Event(*line) for line in LINES.get(Path(path).name, [])], ()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("indexed")
    write_video(folder / "videos" / "red.mp4", ["red"])
    write_video(folder / "videos" / "many" / "green_blue.mp4", ["green", "blue"])
    with Library(folder / "library.db", encoder=ColorEncoder()) as library:
        library.index([folder / "videos"], sources=[Speech()])
        yield library


def found(library: Library, words: str, **options: Any) -> list[tuple[str, float, float, tuple[str, ...]]]:
    return [
        (Path(one.video).name, round(one.start, 1), round(one.end, 1), one.by)
        for one in library.search(words, **options).shown_moments
    ]


# ── Sources ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_query_finds_the_shot(indexed):
    assert found(indexed, "blue") == [("green_blue.mp4", 3.0, 6.0, ("picture",))]
    assert found(indexed, "red") == [("red.mp4", 0.0, 3.0, ("picture",))]


def test_an_exact_phrase_comes_first_with_a_score_of_one(indexed):
    result = indexed.search("the old bridge")
    first = result.moments[0]
    assert (Path(first.video).name, first.start, first.end, first.score) == ("red.mp4", 0.2, 1.2, 1.0)
    assert (first.text, first.by) == ("We look at the old bridge.", ("speech",))


def test_a_line_with_all_words_comes_before_a_similar_one(indexed):
    lines = [one for one in indexed.search("old bridge long").moments if one.text]
    assert lines[0].text == "The bridge is old and long."
    assert 0.9 <= lines[0].score < 1


def test_a_paraphrase_is_found_by_its_meaning(indexed):
    first = indexed.search("kittens are napping").moments[0]
    assert (first.text, first.by) == ("Cats sleep most of the day.", ("speech",))


def test_nonsense_is_not_found_but_the_nearest_moments_are_given(indexed):
    result = indexed.search("blorf gnix tralup")
    assert not result.found
    assert result.moments
    assert max(one.score for one in result.moments) < result.threshold == 0.5


def test_picture_and_speech_at_the_same_time_are_one_moment(indexed):
    first = indexed.search("red hammer and three nails").moments[0]
    assert set(first.by) == {"picture", "speech"}


@pytest.mark.parametrize("words", ["", "   ", "\n"])
def test_blank_words_are_refused(indexed, words):
    with pytest.raises(ValueError, match="the words to search for are empty"):
        indexed.search(words)


def test_signs_of_the_query_language_of_sqlite_are_harmless(indexed):
    for words in ('"', "bridge*", "NEAR(old bridge)", "a OR b", "old-bridge", "'; DROP TABLE lines", "(", "c++"):
        indexed.search(words)
    assert len(indexed.lines()) == 4


def test_a_script_without_spaces_is_found_by_its_characters(tmp_path):
    class Japanese(Speech):
        def read(self, path: str, frames: Any, check: Any) -> tuple[list[Event], tuple[str, ...]]:
            return [Event(0, 1, "今日は古い橋を見ます"), Event(1, 2, "また明日")], ()

    write_video(tmp_path / "red.mp4", ["red"])
    with Library(":memory:", encoder=ColorEncoder()) as library:
        library.index([tmp_path / "red.mp4"], sources=[Japanese()])
        first = library.search("古い橋").moments[0]
    assert (first.start, first.end, first.score) == (0, 1, 1.0)


def lines_found(tmp_path: Path, lines: list[str], words: str) -> tuple[set[str], tuple[str, ...]]:
    """Return the lines that a search finds in a video of one line per second, and the notes."""

    class Lines(Speech):
        def read(self, path: str, frames: Any, check: Any) -> tuple[list[Event], tuple[str, ...]]:
            return [Event(second, second + 1, line) for second, line in enumerate(lines)], ()

    write_video(tmp_path / "red.mp4", ["red"])
    with Library(":memory:", encoder=ColorEncoder()) as library:
        library.index(tmp_path / "red.mp4", sources=[Lines()])
        result = library.search(words)
    return {one.text for one in result.moments if one.text and one.score >= 0.5}, result.notes


@pytest.mark.parametrize("words", ["橋", "สะพาน"])
def test_a_word_alone_does_not_hide_words_within_a_run(tmp_path, words):
    lines = [words, f"{words}{words}", "a"]
    assert lines_found(tmp_path, lines, words)[0] == set(lines[:2])


def test_words_of_an_unknown_script_are_searched_as_words_only(tmp_path):
    found, notes = lines_found(tmp_path, ["ሰላም ለዓለም", "ድመት", "ውሻ"], "ውሻ")
    assert found == {"ውሻ"}
    assert notes == ("lines were searched for the exact words only: their sentence encoder knows English only",)


def test_vowel_signs_are_a_part_of_words(tmp_path):
    assert lines_found(tmp_path, ["राम की किताब", "राम का घर", "वह कि"], "की")[0] == {"राम की किताब"}
    assert lines_found(tmp_path, ["राम की किताब", "किताब की राम", "राम का किताब"], "राम की किताब")[0] == {
        "राम की किताब",
        "किताब की राम",
    }
    assert lines_found(tmp_path, ["Une élève", "un eleve"], "ele\u0300ve")[0] == {"Une élève", "un eleve"}


def test_all_moments_of_one_of_many_videos_can_be_the_best(tmp_path):
    write_video(tmp_path / "red.mp4", ["red", "blue"] * 5, seconds=1)
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", ["green"], seconds=1, seed=number)
    with Library(":memory:", encoder=ColorEncoder()) as library:
        library.index(tmp_path)
        found = [one for one in library.search("red", best=5).moments if one.score >= 0.5]
    assert [round(one.start) for one in sorted(found, key=lambda one: one.start)][:4] == [0, 2, 4, 6]


def test_the_first_of_many_lines_with_the_words_are_taken(tmp_path):
    class Many(Speech):
        def read(self, path: str, frames: Any, check: Any) -> tuple[list[Event], tuple[str, ...]]:
            return [Event(second / 10, (second + 1) / 10, f"bridge {second}") for second in range(60)], ()

    write_video(tmp_path / "red.mp4", ["red"])
    with Library(":memory:", encoder=ColorEncoder()) as library:
        library.index(tmp_path, sources=[Many()])
        assert [one.text for one in library.search("bridge", best=2).moments] == ["bridge 0", "bridge 1"]
        assert len(library.search("bridge", best=60).moments) == 60
        moments = library.searcher()._from_lines("bridge", {1: library.files()[0]}, best=2)
    assert sum(one.is_exact for one in moments) == 40


def test_lines_of_an_unknown_script_have_no_meaning(tmp_path):
    found, notes = lines_found(tmp_path, ["ሰላም", "Cats sleep all day."], "a sleeping cat")
    assert (found, notes) == ({"Cats sleep all day."}, ())


# ── Pictures as queries ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_finds_frames_like_it(indexed, tmp_path):
    Image.new("RGB", (30, 20), COLORS["green"]).save(tmp_path / "green.png")
    result = indexed.search(like=tmp_path / "green.png", best=1)
    (moment,) = result.moments
    assert (Path(moment.video).name, moment.start, moment.end) == ("green_blue.mp4", 0.0, 3.0)
    assert result.found
    assert moment.score > 0.98


def test_a_file_that_is_no_picture_is_refused(indexed, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match="is not an image; give an image file"):
        indexed.search(like=tmp_path / "text.jpg")
    with pytest.raises(ValueError, match="both words and a picture"):
        indexed.search("red", like=tmp_path / "text.jpg")


# ── Filters ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (SearchFilters(), {"red.mp4", "green_blue.mp4"}),
        (SearchFilters(name="GREEN*"), {"green_blue.mp4"}),
        (SearchFilters(max_seconds=4), {"red.mp4"}),
        (SearchFilters(min_seconds=4), {"green_blue.mp4"}),
        (SearchFilters(until=1e9), set()),
        (SearchFilters(since=1e9), {"red.mp4", "green_blue.mp4"}),
    ],
)
def test_filters_choose_videos(indexed, filters, names):
    result = indexed.search("bridge", filters=filters)
    assert {Path(one.video).name for one in result.moments} == names
    assert bool(result.notes) == (not names)


def test_a_video_recorded_at_the_end_of_a_time_is_not_in_it(indexed):
    file = next(file for file in indexed.files() if "red" in file.path)
    limit = indexed.videos()[file.video].created or file.modified
    for filters, is_in in ((SearchFilters(until=limit), False), (SearchFilters(since=limit), True)):
        paths = {one.video for one in indexed.search("red", filters=filters).moments}
        assert (file.path in paths) is is_in


def test_half_a_character_in_the_words_is_harmless(indexed):
    assert indexed.search("bridge \ud800").query == "bridge ?"


def test_paths_limit_a_search(indexed):
    many = str(Path(next(file.path for file in indexed.files() if "many" in file.path)).parent)
    assert {Path(one.video).name for one in indexed.search("red", filters=SearchFilters((many,))).moments} == {
        "green_blue.mp4"
    }


def test_best_limits_the_number_of_moments(indexed):
    assert len(indexed.search("bridge", best=2).moments) == 2


def test_offline_videos_are_found_with_a_note(indexed):
    path = next(file.path for file in indexed.files() if "red" in file.path)
    indexed.set_offline([path], True)
    result = indexed.search("red", best=1)
    indexed.set_offline([path], False)
    assert result.moments[0].is_offline
    assert result.to_dict()["moments"][0]["offline"] is True
    assert "offline" in result.notes[0]


# ── Results ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_has_the_fixed_json(indexed):
    content = indexed.search("blue", best=1).to_dict()
    assert list(content) == ["query", "library", "encoder", "found", "threshold", "moments", "notes"]
    assert (content["query"], content["encoder"], content["found"]) == ("blue", "colors", True)
    (moment,) = content["moments"]
    assert moment["by"] == ["picture"]
    assert (moment["start"], moment["end"]) == (3.0, 6.0)
    assert moment["score"] > 0.9


def test_answers_hold_the_found_moments_of_each_video(indexed):
    answers = indexed.search("bridge").answers()
    assert {Path(answer.video or "").name for answer in answers} == {"red.mp4", "green_blue.mp4"}
    assert all(answer.found and answer.question == "bridge" and answer.model == "colors" for answer in answers)
    assert all(event.score is not None and event.score >= 0.5 for answer in answers for event in answer.events)


def moment(start: float, end: float, score: float, by: str, *, video: str = "a", exact: bool = False) -> Moment:
    return Moment(video, start, end, score, (by,), is_exact=exact)  # type: ignore[arg-type]


def test_a_merge_never_lowers_an_exact_match():
    moments = [moment(0, 3, 0.999, "picture"), moment(9, 10, 1.0, "speech", exact=True), moment(8, 12, 0.7, "picture")]
    merged = merge_moments(moments, 0.5)
    assert (merged[0].start, merged[0].end, merged[0].score, merged[0].by) == (9, 10, 1.0, ("speech", "picture"))
    assert merged[1].start == 0


def test_sources_at_the_same_time_make_a_moment_more_certain():
    (merged,) = merge_moments([moment(0, 4, 0.6, "picture"), moment(1, 3, 0.5, "speech")], 0.5)
    assert (merged.start, merged.end, merged.by) == (0, 4, ("picture", "speech"))
    assert merged.score == pytest.approx(0.8)


def test_a_source_below_the_threshold_has_not_matched():
    (merged,) = merge_moments([moment(0, 4, 0.6, "picture"), moment(1, 3, 0.4, "speech")], 0.5)
    assert (merged.score, merged.by) == (0.6, ("picture",))


def test_moments_of_other_videos_and_times_stay_apart():
    moments = [moment(0, 4, 0.6, "picture"), moment(0, 4, 0.5, "speech", video="b"), moment(5, 9, 0.4, "speech")]
    assert len(merge_moments(moments, 0.5)) == 3


def test_a_moment_joins_the_best_one_that_it_overlaps():
    moments = [moment(0, 5, 0.8, "picture"), moment(5, 90, 0.9, "text"), moment(3, 8, 0.6, "speech")]
    merged = {(one.start, one.end): one.by for one in merge_moments(moments, 0.5)}
    assert merged == {(5, 90): ("text", "speech"), (0, 5): ("picture",)}


def test_a_moment_without_length_stays_alone():
    assert len(merge_moments([moment(2, 2, 0.9, "speech"), moment(2, 2, 0.8, "text")], 0.5)) == 2


def test_two_videos_give_as_many_moments_as_are_asked_for(tmp_path):
    for seed in range(2):
        write_video(tmp_path / f"{seed}.mp4", ["red", "blue"] * 5, seconds=1, seed=seed)
    with Library(":memory:", encoder=ColorEncoder()) as library:
        library.index(tmp_path)
        assert len(library.search("red", best=8).moments) == 8


def test_an_empty_library_adds_no_note_to_found_moments(indexed):
    with Library(":memory:", encoder=ColorEncoder()) as library:
        empty = library.search("blue")
    assert empty.notes == ("the library has no video that fits; index one with: timechat index PATH",)
    assert join_results([empty, indexed.search("blue")], 5).notes == ()
    assert join_results([empty, empty], 5).notes == empty.notes


def test_black_frames_as_float16_have_finite_scores(encoder):
    assert np.isfinite(encoder.evidence(np.zeros((2, 3), np.float16), encoder.encode_sentence("red"))).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_videos_with_the_best_segments_are_chosen(seed):
    generator = np.random.default_rng(seed)
    videos = np.sort(generator.integers(0, 30, 200)).astype(np.int64)
    evidence = generator.integers(0, 12, 200).astype(np.float32)  # with ties
    files = {number: KnownFile(f"/{number}.mp4", number, None, 0.0) for number in range(0, 30, 2)}
    best = [videos[row] for row in np.argsort(-evidence, kind="stable") if videos[row] in files]
    assert _best_videos(videos, evidence, files, 7) == list(dict.fromkeys(best))[:7]


def test_a_query_over_many_videos_keeps_the_best(tmp_path):
    with Library(":memory:", encoder=ColorEncoder()) as library:
        for number in range(12):
            write_video(tmp_path / f"{number:02d}.mp4", ["green"], seconds=1, seed=number % 6)
        write_video(tmp_path / "red.mp4", ["red"], seconds=1)
        library.index([tmp_path])
        assert np.unique(library.segments().videos).size == 7  # equal content is one video
        assert Path(library.search("red", best=1).moments[0].video).name == "red.mp4"
