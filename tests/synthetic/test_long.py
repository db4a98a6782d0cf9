"""Long films: chains of short ones fill their minutes, and what is said about them is true of the whole chain."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import pytest

from timechat.answers.tasks import parse_events
from timechat.cli import main
from timechat.evaluation.films import read_films
from timechat.synthetic import long as chain_module
from timechat.synthetic.long import LongSyntheticVideo, write_long_scene
from timechat.synthetic.long_records import MAX_REPEATED, MAX_UNIQUE, long_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import SyntheticVideo, is_unseen_pair, write_scene
from timechat.synthetic.wording import ACTIONS, NOT_FOUND_ANSWER, ActionPhrase, is_shown
from timechat.synthetic.write import LongSet, is_rendered, num_frames, render_videos, write_video
from timechat.video import load_frames

CHAINS = [write_long_scene(7, 0, minutes=minutes, split="test") for minutes in (1, 10, 60)]
CHAINS += [write_long_scene(7, 1, minutes=10, level=level) for level in (2, 3)]
RECORDS = {chain.id: long_records(chain) for chain in CHAINS}
HOUR = CHAINS[2]


def of_task(chain, task):
    return [record for record in RECORDS[chain.id] if record.task == task]


# ---------------------------------------------------------------------------------------------- the script


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.id)
def test_films_fill_the_minutes_to_the_second_in_one_size_and_rate(chain):
    minutes = int(chain.id.rpartition("-")[2].removesuffix("min"))
    assert chain.duration == 60 * minutes == chain.offsets[-1] + chain.films[-1].duration
    assert len({(film.width, film.height, film.fps, film.keyframe_seconds) for film in chain.films}) == 1
    assert num_frames(chain) == sum(num_frames(film) for film in chain.films)
    assert len({film.id for film in chain.films}) == len(chain.films)
    if chain.level == 1:
        assert all(20 <= film.duration <= 60 for film in chain.films)


def test_happenings_are_told_in_the_times_of_the_chain_under_ids_of_their_own():
    happenings = iter(HOUR.actions)
    for number, (film, offset) in enumerate(zip(HOUR.parts, HOUR.offsets, strict=True)):
        for own in film.actions:
            happening = next(happenings)
            assert happening.id == f"s{number:02d}{own.id}"
            assert (happening.start, happening.end) == (offset + own.start, offset + own.end)
            assert [HOUR.objects[i] for i in happening.actors] == [film.objects[i] for i in own.actors]
    assert next(happenings, None) is None
    assert len({happening.id for happening in HOUR.actions}) == len(HOUR.actions)


def test_the_same_arguments_give_the_same_chain_and_others_another():
    assert write_long_scene(7, 0, minutes=10, split="test") == CHAINS[1]
    others = [write_long_scene(7, 0, minutes=10), write_long_scene(8, 0, minutes=10, split="test")]
    others.append(write_long_scene(7, 1, minutes=10, split="test"))
    ids = {film.id for chain in others for film in chain.parts}
    assert not ids & {film.id for film in CHAINS[1].parts}


def test_training_knows_no_unseen_pair():
    assert not any(is_unseen_pair(thing.color, thing.shape) for thing in write_long_scene(7, 0, minutes=20).objects)
    chain = write_long_scene(7, 0, minutes=2, split="test", part="unseen_pairs")
    assert all(any(is_unseen_pair(thing.color, thing.shape) for thing in film.objects) for film in chain.parts)
    assert {record.part for record in long_records(chain)} == {"unseen_pairs"}


def test_films_of_several_formats_make_no_chain():
    film = write_scene(1, 0)
    with pytest.raises(ValueError, match="share one width"):
        LongSyntheticVideo("c", (film, replace(film, fps=film.fps + 1)))
    with pytest.raises(ValueError, match="whole seconds"):
        LongSyntheticVideo("c", (film, replace(film, duration=20.5)))


# ------------------------------------------------------------------------------------------------- records


def described(chain):
    """Ids of events by what describes them, worked out from the films alone."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for number, film in enumerate(chain.films):
        for happening in film.happenings:
            names = sorted(film.things[i].name for i in happening.cast)
            groups.setdefault((happening.kind, *names), []).append(f"s{number:02d}{happening.id}")
    return groups


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.id)
def test_grounding_lists_every_moment_of_which_the_description_is_true(chain):
    groups = {tuple(ids) for ids in described(chain).values()}
    asked = [r for r in of_task(chain, "grounding") if not r.is_negative]
    assert asked
    for record in asked:
        assert tuple(event.id for event in record.events) in groups
        spans = [(event.start, event.end) for event in record.events]
        assert spans == sorted(spans)
    counts = Counter(len(record.events) > 1 for record in asked)
    unique = sum(len(ids) == 1 for ids in described(chain).values())
    assert counts[False] == min(MAX_UNIQUE, unique)
    assert counts[True] == min(MAX_REPEATED, len(groups) - unique)


def test_two_that_meet_are_found_whoever_comes_to_whom():
    film = write_scene(1, 0)
    things = tuple(replace(thing, color=color) for thing, color in zip(film.objects, ("red", "blue"), strict=False))
    meet = replace(film.actions[0], kind="meet", object=0, other=1)
    films = [replace(film, objects=things, actions=(meet, replace(film.actions[1], object=0, other=None)))]
    films.append(replace(films[0], actions=(replace(meet, object=1, other=0),)))
    asked = [
        r for r in long_records(LongSyntheticVideo("c", tuple(films))) if r.task == "grounding" and not r.is_negative
    ]
    assert sorted([event.id for event in record.events] for record in asked) == [["s00e0", "s01e0"], ["s00e1"]]


def test_an_hour_has_questions_of_all_sorts():
    asked = of_task(HOUR, "grounding")
    counts = Counter("negative" if r.is_negative else "once" if len(r.events) == 1 else "often" for r in asked)
    assert counts == {"once": MAX_UNIQUE, "often": MAX_REPEATED, "negative": (MAX_UNIQUE + MAX_REPEATED) // 2}


def test_what_is_asked_in_vain_never_happens_and_is_asked_once():
    canonical = {f"{actions[0].finite}": kind for kind, actions in ACTIONS.items() if kind != "meet"}
    checked = 0
    for chain in CHAINS:
        negatives = [r for r in of_task(chain, "grounding") if r.is_negative]
        assert negatives
        assert len({r.query for r in negatives}) == len(negatives)
        happens = {key for key in described(chain) if len(key) == 2}
        for record in negatives:
            assert (record.response, record.events) == (NOT_FOUND_ANSWER, ())
            for finite, kind in canonical.items():
                name = str(record.query).removeprefix("the ").removesuffix(f" {finite}")
                if record.query == f"the {name} {finite}":
                    assert (kind, name) not in happens
                    checked += 1
    assert checked > 5


def test_a_film_shows_what_happens_in_it_and_what_looks_like_it():
    film = write_scene(1, 0)
    red, blue = (replace(film.objects[0], color=color, shape="star") for color in ("red", "blue"))
    leave, meet = (replace(film.actions[0], kind=kind, object=0, other=None) for kind in ("leave", "meet"))
    meet = replace(meet, object=1, other=0)
    film = replace(film, objects=(red, blue), actions=(leave,))
    star = ("red", "star")
    assert is_shown(film, ActionPhrase("leave", star))
    assert is_shown(film, ActionPhrase("move", star))  # one that leaves moves first
    assert not is_shown(film, ActionPhrase("bounce", star))
    assert not is_shown(film, ActionPhrase("leave", ("blue", "star")))
    assert is_shown(film, ActionPhrase("meet", star, ("blue", "star")))  # it may come near while it leaves
    assert not is_shown(film, ActionPhrase("meet", star, ("green", "star")))
    film = replace(film, actions=(meet,))
    assert is_shown(film, ActionPhrase("meet", star, ("blue", "star")))  # meeting has no direction


def test_dense_caption_tells_everything_and_reads_back():
    for chain in CHAINS:
        (record,) = of_task(chain, "dense_caption")
        assert [event.id for event in record.events] == [h.id for h in chain.actions]
        parsed = parse_events(record.response, task="dense_caption", duration=chain.duration)
        assert [(e.start, e.end, e.caption) for e in parsed.events] == [
            (e.start, e.end, e.caption) for e in record.events
        ]


def test_highlights_are_rated_in_all_moments_of_their_query():
    for chain in CHAINS:
        (record,) = of_task(chain, "highlights")
        assert record.moments
        for event in record.events:
            assert any(event.start - 2 < m.start < event.end for m in record.moments)


def test_records_are_the_same_each_time_under_ids_of_their_own():
    assert long_records(CHAINS[1]) == RECORDS[CHAINS[1].id]
    ids = [record.id for records in RECORDS.values() for record in records]
    assert len(set(ids)) == len(ids)
    assert all(r.duration == chain.duration for chain in CHAINS for r in RECORDS[chain.id])


# --------------------------------------------------------------------------------------------------- files


@pytest.fixture
def small_films(monkeypatch):
    """Have scenes of few and small frames, so that drawing takes no time."""

    def write_small(*arguments, **options) -> SyntheticVideo:
        return replace(write_scene(*arguments, **options), fps=5, width=64, height=48)

    monkeypatch.setattr(chain_module, "write_scene", write_small)


def test_a_file_changes_its_scene_at_the_very_frame(tmp_path, small_films):
    chain = write_long_scene(3, 0, minutes=2)
    write_video(chain, tmp_path / "film.mp4")
    offsets = chain.offsets[1:]
    times = sorted([*offsets, *(offset - 1 / chain.fps for offset in offsets)])
    frames = load_frames(tmp_path / "film.mp4", timestamps=times)
    assert frames.duration == pytest.approx(120, abs=1e-6)
    for pixels, time in zip(frames.pixels, times, strict=True):
        scene = max(i for i, offset in enumerate(chain.offsets) if offset <= time + 1e-6)
        drawn = draw_frames(chain.parts[scene], [time - chain.offsets[scene]])[0]
        others = [draw_frames(chain.parts[i], [0.0])[0] for i in (scene - 1, scene + 1) if 0 <= i < len(chain.parts)]
        assert abs(pixels.astype(int) - drawn).mean() < 4
        assert all(abs(pixels.astype(int) - other).mean() > 8 for other in others)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].frames == 600


def test_the_same_chain_gives_the_same_bytes(tmp_path):
    chain = LongSyntheticVideo("c", (write_scene(3, 2, split="test"),))
    for name in ("one.mp4", "two.mp4"):
        write_video(chain, tmp_path / name)
    written = (tmp_path / "one.mp4").read_bytes()
    assert written == (tmp_path / "two.mp4").read_bytes()
    # With the tree on, now and then a run gives other bytes: too rarely to wait for it.
    assert b" mbtree=0 " in written


def test_a_folder_is_drawn_kept_and_read_for_evaluation(tmp_path, small_films):
    chains = LongSet(2, 4, minutes=1, split="test")
    done = render_videos(chains, tmp_path, workers=1)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert lines == [record.to_dict() for i in range(2) for record in long_records(chains.film(i))]
    assert (done.drawn, done.kept, done.records) == (2, 0, len(lines))
    assert render_videos(chains, tmp_path, workers=1).kept == 2
    films = read_films(tmp_path)
    for i, film in enumerate(films):
        chain = chains.film(i)
        assert is_rendered(chain, film.path)
        assert (film.duration, film.level, film.part) == (60.0, 1, "standard")
        assert [(e.id, e.kind, e.start, e.end) for e in film.events] == [
            (h.id, h.kind, h.start, h.end) for h in chain.actions
        ]
        assert [e.subjects[0] for e in film.events] == [
            (chain.objects[h.object].color, chain.objects[h.object].shape) for h in chain.actions
        ]
        assert len(film.records) == len(long_records(chain))


# ------------------------------------------------------------------------------------------------- command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    sys.argv = ["timechat", *map(str, arguments)]
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_the_command_draws_films_of_some_minutes(capsys, tmp_path, small_films):
    command = ("data", "draw", tmp_path, "--clips", 1, "--seed", 4, "--minutes", 2, "--workers", 1)
    status, printed, report = run(capsys, *command)
    assert status == 0
    assert Path(printed.strip()) == tmp_path / "records.jsonl"
    assert report.startswith("drew 1 films, wrote ")
    (video,) = (tmp_path / "videos").iterdir()
    assert video.name == "train-1-4-000000-2min.mp4"
    assert load_frames(video, num_frames=1).duration == pytest.approx(120)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--minutes", 0], "--minutes"),
        (["--minutes", 1, "--split", "test", "--part", "longer"], "single films"),
        (["--minutes", 1, "--split", "test", "--part", "mixed"], "of one part"),
        (["--minutes", 1, "--part", "unseen_pairs"], "kept for testing"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, options, complaint):
    status, printed, error = run(capsys, "data", "draw", tmp_path / "out", "--clips", 1, "--seed", 1, *options)
    assert (status, printed) == (2, "")
    assert error.startswith("timechat: ")
    assert error.count("\n") == 1
    assert complaint in error
    assert not (tmp_path / "out").exists()
