"""The library that `serve` and `mcp` search."""

from pathlib import Path

import pytest

from timechat.cli.served_library import library_of_server
from timechat.cli.session import CommandConsole
from timechat.search import Library, LibraryError
from timechat.search.records import KnownFile


@pytest.fixture
def library_file(tmp_path: Path) -> Path:
    """A library with a file in `inside/` and a file in `outside/`."""
    (tmp_path / "inside").mkdir()
    with Library(tmp_path / "library.db") as library:
        for folder in ("inside", "outside"):
            library.save_file(KnownFile(str(tmp_path / folder / "a.mp4"), None, None, 0.0))
    return tmp_path / "library.db"


def test_files_outside_of_the_folders_give_a_warning(library_file, tmp_path, capsys):
    folders = [tmp_path / "inside"]
    assert library_of_server(library_file, folders, CommandConsole(quiet=False)) == library_file
    note = " ".join(capsys.readouterr().err.split())
    assert note.startswith("note: 1 of the 2 files in ")
    assert note.endswith("are not searched: they are outside of the allowed folders; add their folder with --allow")


def test_a_library_may_be_made_later(tmp_path, capsys):
    path = tmp_path / "later.db"
    assert library_of_server(path, [tmp_path], CommandConsole(quiet=False)) == path
    assert capsys.readouterr().err == ""


def test_only_a_given_library_must_be_usable(tmp_path, capsys, monkeypatch):
    path = tmp_path / "library.db"
    path.write_text("no library")
    with pytest.raises(LibraryError, match="it is damaged or another kind of file"):
        library_of_server(path, [tmp_path], CommandConsole(quiet=False))
    monkeypatch.setenv("TIMECHAT_LIBRARY", str(path))
    assert library_of_server(None, [tmp_path], CommandConsole(quiet=False)) is None
    assert "videos cannot be searched" in capsys.readouterr().err
