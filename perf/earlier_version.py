"""An earlier version of this repository, beside the present one, for scripts that compare both."""

import subprocess
from pathlib import Path

VERSION_0_1 = "e20e3554d391f694b680ae4bcfca6e7deddef3dd"
ROOT = Path(__file__).resolve().parents[1]


def check_out(commit: str, folder: Path) -> Path:
    """Return a folder with the sources of a commit, `src`; it is written once."""
    target = folder / f"timechat-{commit[:12]}"
    if not target.is_dir():
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True)
        target.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    return target
