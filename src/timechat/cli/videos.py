"""The videos that the arguments of a command name: files, folders, patterns, addresses, and standard input."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from timechat.errors import VideoError
from timechat.files import is_video_name, portable_name, walk_files
from timechat.files.remote import find_remote, is_remote

STDIN = "-"
"""Argument that means the bytes of one video on standard input."""


@dataclass(frozen=True)
class VideoList:
    """Videos of one command.

    Attributes:
        names: Paths, addresses or `STDIN`, each once.
        is_many: Whether the arguments name several videos, a folder or a pattern.
        problems: Messages about arguments that name no video.
    """

    names: tuple[str, ...]
    is_many: bool
    problems: tuple[str, ...] = field(default=())


def find_videos(arguments: Sequence[str]) -> VideoList:
    """Find the videos of a command's arguments.

    A folder means the videos in it and in its subfolders, without hidden ones. A pattern such as `videos/*.mp4` means
    the files that match; shells that expand patterns themselves give the files instead. Both can be in an object store.

    Raises:
        VideoError: The only argument is a folder or a pattern without videos.
        ValueError: Standard input is named more than once.
    """
    names: dict[str, str] = {}
    problems = []
    is_collection = False
    if list(arguments).count(STDIN) > 1:
        raise ValueError("standard input (-) holds one video; name it once")
    for argument in arguments:
        found = _found(argument)
        is_collection = is_collection or found is not None
        if found == []:
            is_pattern = glob.has_magic(argument) and not _is_folder(argument)
            what = "a pattern that matches no video" if is_pattern else "a folder without videos"
            problems.append(f"{argument}: is {what}; give a video file, a folder of videos or a pattern")
        for name in (argument,) if found is None else found:
            names.setdefault(_identity(name), name)
    if problems and len(arguments) == 1:
        raise VideoError(problems[0])
    return VideoList(tuple(names.values()), is_collection or len(arguments) > 1, tuple(problems))


def names_a_video(argument: str) -> bool:
    """Return whether an argument means a video and not a question: a path, an address, a pattern, or a video's name."""
    return (
        argument == STDIN
        or "://" in argument
        or is_video_name(argument)
        or Path(argument).exists()
        or bool(_matches(argument))
    )


def output_names(videos: Sequence[str], extension: str) -> list[str]:
    """Return a file name for each video: its stem and the extension; a repeated stem gets `-2`, `-3`, ..."""
    names: list[str] = []
    used = set()
    for video in videos:
        stem = portable_name(_stem(video))
        name, number = stem, 1
        while name.lower() in used:  # some file systems ignore case
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        names.append(name + extension)
    return names


def _found(argument: str) -> list[str] | None:
    """Return the videos of a folder or a pattern; None for another argument."""
    if is_remote(argument):
        found = None if is_video_name(argument) and not glob.has_magic(argument) else find_remote(argument)
        return None if found is None else [name for name in found if is_video_name(name)]
    return _in_folder(argument) if _is_folder(argument) else _matches(argument)


def _is_folder(argument: str) -> bool:
    return argument != STDIN and Path(argument).is_dir()


def _in_folder(argument: str) -> list[str]:
    return [str(path) for path in walk_files(Path(argument)) if is_video_name(path) and path.is_file()]


def _matches(argument: str) -> list[str] | None:
    """Return the files that a pattern matches, the videos among them if there are any; None for another argument."""
    if argument == STDIN or "://" in argument or not glob.has_magic(argument) or Path(argument).exists():
        return None
    found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    files = [path for path in found if not Path(path).is_dir()]
    return [path for path in files if is_video_name(path)] or files


def _identity(name: str) -> str:
    return name if name == STDIN or "://" in name else str(Path(name).absolute())


def _stem(video: str) -> str:
    if video == STDIN:
        return "stdin"
    if "://" in video:
        return Path(unquote(urlsplit(video).path)).stem or urlsplit(video).netloc
    return Path(video).stem
