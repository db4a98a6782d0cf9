"""The library of `serve` and `mcp`, checked before the model is loaded."""

from collections.abc import Sequence
from pathlib import Path

from timechat.cli.session import CommandConsole


def library_of_server(given: Path | None, folders: Sequence[Path], console: CommandConsole) -> Path | None:
    """Return the path of the library that a server searches; the file may not exist yet.

    Args:
        given: Path in the command; None means the user's library.
        folders: Folders whose videos clients may open.
        console: Console for warnings.

    Raises:
        LibraryError: The given file cannot be used. A user's library that cannot be used is a warning.
    """
    from timechat.search import Library, LibraryError, default_library
    from timechat.serving.access import Folders

    try:
        path = default_library() if given is None else given
        if not path.is_file():
            return path
        with Library(path, is_read_only=True) as library:
            files = library.files()
    except LibraryError as error:
        if given is not None:
            raise
        console.warn(f"videos cannot be searched: {error}")
        return None
    allowed = Folders(folders)
    num_outside = sum(allowed.identify(file.path) is None for file in files)
    if num_outside and (given is not None or num_outside < len(files)):
        console.warn(
            f"{num_outside} of the {len(files)} files in {path} are not searched: they are outside of the allowed "
            "folders; add their folder with --allow"
        )
    return path
