"""Atomic writing of files."""

import pytest

from timechat.files import atomic_write


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_file_appears_when_it_is_complete(tmp_path, is_durable):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path, is_durable=is_durable) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as unfinished:
        unfinished.write_text("new \udc80", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
