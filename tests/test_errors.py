"""Messages of errors, which are one printable line."""

import pytest

from timechat.errors import describe_error, printable_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.mp4: no such file", "a.mp4: no such file"),
        ("a\n b\tc", "a b c"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\udcff", "a\\udcff"),
        ("grüße 視頻 🎬", "grüße 視頻 🎬"),
    ],
)
def test_a_message_cannot_steer_a_terminal(message, line):
    assert printable_line(message) == line
    assert describe_error(ValueError(message)) == line


def test_the_name_of_a_file_is_printable():
    error = FileNotFoundError(2, "No such file or directory", "\x1b]0;a\x07.mp4")
    assert describe_error(error) == "\\x1b]0;a\\x07.mp4: no such file or directory"
