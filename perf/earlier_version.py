"""An earlier version of this repository, beside the present one, for scripts that compare both."""

import subprocess
import tempfile
from pathlib import Path

VERSION_0_1 = "e20e3554d391f694b680ae4bcfca6e7deddef3dd"
ROOT = Path(__file__).resolve().parents[1]


def check_out(commit: str, folder: Path) -> Path:
    """Return a folder with the sources of a commit, `src`; it is written once."""
    target = folder / f"timechat-{commit[:12]}"
    if not (target / "src").is_dir():
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as incomplete:
            subprocess.run(["tar", "-x", "-C", incomplete], input=archive.stdout, check=True)
            target.mkdir(exist_ok=True)
            (Path(incomplete) / "src").rename(target / "src")
    return target
