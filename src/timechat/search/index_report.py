"""Result of a scan of files, and the exception that ends one."""

from dataclasses import dataclass, field


@dataclass
class IndexReport:
    """Result of a scan.

    Attributes:
        num_videos: Number of files of the given paths that are in the library now.
        num_read: Number of files of which a part was read.
        num_unchanged: Number of files of which nothing was read.
        num_moved: Number of files that were found under a new path.
        num_removed: Number of paths that were dropped.
        offline: Paths that are kept although their folder is away or empty.
        failed: Paths that could not be read, each with the reason.
        notes: Sentences about the scan and the videos.
        seconds: Duration in seconds of the videos that were read.
    """

    num_videos: int = 0
    num_read: int = 0
    num_unchanged: int = 0
    num_moved: int = 0
    num_removed: int = 0
    offline: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class IndexStopped(Exception):  # noqa: N818 - no error: the same call resumes
    """The caller has stopped the work; finished parts are in the library.

    Attributes:
        report: Report of what was done before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.report = IndexReport()
