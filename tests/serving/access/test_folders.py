import inspect
import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from timechat.errors import AccessError
from timechat.serving.access import Folders, folders


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two allowed folders and a forbidden one, with links between them."""
    house = tmp_path_factory.mktemp("house")
    for name in ("allowed/b.mp4", "allowed/deep/er/a.MKV", "allowed/.hidden.mp4", "allowed/.hidden/c.mp4"):
        write(house / name)
    for name in ("allowed/notes.txt", "allowed/ä ö%2e.webm", "second/b.mp4", "outside/secret.mp4", "allowed-too/x.mp4"):
        write(house / name)
    for name, target in {
        "leads_out.mp4": "../outside/secret.mp4",
        "leads_to_neighbor.mp4": "../allowed-too/x.mp4",
        "leads_to_nothing.mp4": "../outside/nothing.mp4",
        "folder_out": "../outside",
        "leads_inside.mp4": "deep/er/a.MKV",
        "leads_to_second.mp4": "../second/b.mp4",
        "loop.mp4": "loop.mp4",
        "root.mp4": "/",
    }.items():
        (house / "allowed" / name).symlink_to(target)
    (house / "door").symlink_to("allowed")
    os.mkfifo(house / "allowed" / "pipe.mp4")
    return house


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path.name))


@pytest.fixture(scope="module")
def allowed(house: Path) -> Folders:
    return Folders([house / "allowed", house / "second"])


def refusal(allowed: Folders, named: str) -> tuple[str, str]:
    with pytest.raises(AccessError) as caught:
        allowed.resolve(named)
    return caught.value.reason, str(caught.value)


def test_paths_and_addresses_of_files_inside_are_found(allowed: Folders, house: Path) -> None:
    film = house / "allowed" / "ä ö%2e.webm"
    address = quote(str(film))
    for named in (
        str(film),
        f"file://{address}",
        f"file://localhost{address}",
        f"FILE://LocalHost{address}",
        film.name,
    ):
        assert allowed.resolve(named) == film
    assert allowed.resolve("deep/er/a.MKV") == house / "allowed/deep/er/a.MKV"
    assert allowed.resolve("leads_inside.mp4") == house / "allowed/deep/er/a.MKV"
    assert allowed.resolve(str(house / "allowed/leads_to_second.mp4")) == house / "second/b.mp4"


@pytest.mark.parametrize(
    "named",
    [
        *("leads_out.mp4", "leads_to_neighbor.mp4", "leads_to_nothing.mp4", "folder_out/secret.mp4"),
        *("folder_out/nothing.mp4", "root.mp4"),
        *("../outside/secret.mp4", "deep/../../outside/secret.mp4", "deep/../b.mp4", "..", "deep\\..\\b.mp4"),
        *("{house}/outside/secret.mp4", "{house}/outside/nothing.mp4", "{house}/allowed-too/x.mp4", "/etc/passwd"),
        *("{house}/allowed/../outside/secret.mp4", "{house}/outside/../allowed/b.mp4", "/", "//etc/passwd"),
        *("file://{house}/allowed/%2e%2e/outside/secret.mp4", "file://{house}/allowed/..%2foutside/secret.mp4"),
        *("file:///etc/passwd", "file:////etc/passwd", "file:///%65tc/passwd", "file:///proc/self/environ"),
        *("{house}/door/b.mp4", "{house}/allowed", ".", "~/film.mp4"),
    ],
)
def test_the_message_for_a_path_outside_is_always_the_same(named: str, allowed: Folders, house: Path) -> None:
    reason, message = refusal(allowed, named.format(house=house))
    if named == "~/film.mp4":  # no home is put in its place: it would be a folder named ~
        assert reason == "not_found"
        return
    assert reason == "forbidden"
    assert message.startswith("only files in the allowed folders may be opened")
    assert str(house) not in message
    assert "secret" not in message


def test_a_path_outside_is_refused_without_disk_access(allowed: Folders, house: Path, monkeypatch) -> None:
    monkeypatch.setattr(os.path, "realpath", lambda path: pytest.fail(f"looked at {path}"))
    assert refusal(allowed, str(house / "door" / "b.mp4"))[0] == "forbidden"


@pytest.mark.parametrize("named", ["nothing.mp4", "deep", "pipe.mp4", "loop.mp4", "b.mp4/c", "a" * 3000])
def test_a_missing_file_inside_is_not_found(named: str, allowed: Folders) -> None:
    assert refusal(allowed, named) == ("not_found", "there is no such file in the allowed folders")


@pytest.mark.parametrize(
    "named",
    [
        *("", "b.mp4\0", "file:///a%00b", "\ud800", "a" * 5000, "http://example.org/a.mp4", "data://x", "smb://h/a"),
        *("file:a.mp4", "file:/etc/passwd", "file://host/etc/passwd", "file://", "file://localhost", "file://etc"),
        "file://127.0.0.1/etc/passwd",
    ],
)
def test_addresses_of_other_machines_are_refused(named: str, allowed: Folders) -> None:
    assert refusal(allowed, named)[0] == "bad_address"


def test_sockets_and_devices_are_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.mp4"))
        assert refusal(Folders([tmp_path]), "s.mp4")[0] == "not_found"
    assert refusal(Folders([Path("/dev")]), "/dev/zero")[0] == "not_found"


def test_without_folders_every_path_is_refused(house: Path) -> None:
    assert refusal(Folders([]), str(house / "allowed/b.mp4"))[0] == "forbidden"
    assert Folders([]).videos() == []


def test_a_folder_that_does_not_exist_is_an_error(house: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        Folders([house / "nothing"])
    with pytest.raises(ValueError, match="is not a folder"):
        Folders([house / "allowed/b.mp4"])


def test_files_of_a_linked_folder_are_found_by_both_paths(house: Path) -> None:
    by_link = Folders([house / "door"])
    for folder in ("door", "allowed"):
        assert by_link.resolve(str(house / folder / "b.mp4")) == house / "allowed/b.mp4"


def test_a_link_that_changes_later_allows_nothing_new(tmp_path: Path) -> None:
    for name in ("one/a.mp4", "two/b.mp4"):
        write(tmp_path / name)
    (tmp_path / "link").symlink_to("one")
    allowed = Folders([tmp_path / "link"])
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    assert refusal(allowed, str(tmp_path / "link/b.mp4"))[0] == "forbidden"
    assert allowed.resolve(str(tmp_path / "one/a.mp4")) == tmp_path / "one/a.mp4"


NAMES = st.sampled_from(
    [
        *(
            "..",
            ".",
            "",
            "deep",
            "er",
            "b.mp4",
            "folder_out",
            "leads_out.mp4",
            "secret.mp4",
            "outside",
            "allowed",
            "second",
        ),
        *(
            "%2e%2e",
            "%2E.",
            "..%2f",
            "%00",
            "door",
            "root.mp4",
            "etc",
            "passwd",
            "~",
            "\\",
            "..\\",
            "loop.mp4",
            "a.MKV",
        ),
    ]
)
STARTS = st.sampled_from(
    ["", "/", "//", "{house}/", "{house}/allowed/", "file://", "file:///", "file://{house}/allowed/"]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=STARTS, parts=st.lists(NAMES | st.text(max_size=6), max_size=7))
def test_no_file_outside_is_opened(start: str, parts: list[str], allowed: Folders, house: Path) -> None:
    try:
        path = allowed.resolve(start.format(house=house) + "/".join(parts))
    except AccessError:
        return
    assert path.is_file()
    assert path == path.resolve()
    assert path.is_relative_to(house / "allowed") or path.is_relative_to(house / "second")


# ── Films ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_visible_videos_are_listed_once_in_order(allowed: Folders, house: Path) -> None:
    films = allowed.videos()
    assert [film.name for film in films] == ["b.mp4", "b.mp4", "deep/er/a.MKV", "ä ö%2e.webm"]
    assert {film.path for film in films} == {
        *(house / "allowed/b.mp4", house / "second/b.mp4", house / "allowed/deep/er/a.MKV"),
        house / "allowed/ä ö%2e.webm",
    }
    film = next(film for film in films if film.name == "deep/er/a.MKV")
    assert (film.num_bytes, film.modified) == (5, film.path.stat().st_mtime)


def test_the_id_of_a_video_is_constant(house: Path) -> None:
    films = Folders([house / "allowed"]).videos()
    assert all(len(film.id) == 29 and film.id.startswith("film-") for film in films)
    assert [Folders([house / "allowed"]).find(film.id) for film in films] == films


def test_new_deleted_and_replaced_videos_are_listed_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    allowed = Folders([tmp_path])
    (film,) = allowed.videos()
    (tmp_path / "a.mp4").write_bytes(b"more than before")
    assert allowed.find(film.id).num_bytes == 16
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(AccessError, match="no such video"):
        allowed.find(film.id)
    (tmp_path / "a.mp4").symlink_to("/etc/passwd")
    with pytest.raises(AccessError, match="no such video"):
        allowed.find(film.id)


def test_a_video_whose_folder_now_leads_outside_is_not_found(tmp_path: Path) -> None:
    write(tmp_path / "allowed/deep/a.mp4")
    write(tmp_path / "outside/a.mp4")
    allowed = Folders([tmp_path / "allowed"])
    (film,) = allowed.videos()
    (tmp_path / "allowed/deep").rename(tmp_path / "allowed/.old")
    (tmp_path / "allowed/deep").symlink_to("../outside")
    with pytest.raises(AccessError, match="no such video"):
        allowed.find(film.id)
    assert allowed.videos() == []


@pytest.mark.parametrize("film_id", ["", "film-", "film-" + "0" * 24, "../a.mp4", "film-" + "0" * 24 + "\n", "\ud800"])
def test_an_unknown_video_id_is_not_found(film_id: str, allowed: Folders) -> None:
    with pytest.raises(AccessError) as caught:
        allowed.find(film_id)
    assert caught.value.reason == "not_found"


def test_the_list_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        write(tmp_path / f"{number:02}" / "a.mp4")
    monkeypatch.setattr(folders, "MAX_VIDEOS", 7)
    assert [film.name for film in Folders([tmp_path]).videos()] == [f"{number:02}/a.mp4" for number in range(7)]
    monkeypatch.setattr(folders, "MAX_ENTRIES", 3)
    assert len(Folders([tmp_path]).videos()) == 3


@pytest.mark.skipif(sys.platform == "darwin", reason="its paths are shorter, and its names are text")
def test_deep_folders_and_undecodable_names_are_listed(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(150):
        deep = deep / "d"
    write(tmp_path / os.fsdecode(b"\xff.mp4"))
    write(deep / "a.mp4")
    allowed, limit = Folders([tmp_path]), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        films = allowed.videos()
    finally:
        sys.setrecursionlimit(limit)
    assert len(films) == 2
    assert all(film.name.encode() for film in films)
