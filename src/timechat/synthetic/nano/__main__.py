"""Write nano before its training, and put it into the package afterwards. `make nano` calls the first command.

python -m timechat.synthetic.nano start FOLDER   write nano as it is before training
python -m timechat.synthetic.nano ship FOLDER    put a trained folder into the package, as the built-in model
"""

import sys
from pathlib import Path

from timechat.model import NANO_FOLDER
from timechat.model.loading import load_model
from timechat.synthetic.nano.build import build_nano
from timechat.synthetic.nano.texts import vocabulary_sentences
from timechat.training.checkpoint import write_folder


def start(folder: Path) -> None:
    """Write nano as it is before training."""
    model, processor = build_nano(vocabulary_sentences())
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))


def ship(folder: Path) -> None:
    """Write a trained model into the package in float16, which halves the size and changes no metric visibly."""
    model, processor = load_model(str(folder), device="cpu", dtype="float16")

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        processor.save_pretrained(str(partial))

    write_folder(NANO_FOLDER, write)


if __name__ == "__main__":
    commands = {"start": start, "ship": ship}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]))
