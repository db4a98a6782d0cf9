"""Write nano before its training, and put it into the package afterwards. `make nano` calls the first command.

python -m timechat.synthetic.nano start FOLDER      write nano as it is before training
python -m timechat.synthetic.nano ship FOLDER ...   put a trained folder, or the mean of several, into the package
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from timechat.model import NANO_FOLDER
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.nano.build import build_nano
from timechat.synthetic.nano.texts import vocabulary_sentences
from timechat.training.checkpoint import write_folder


def start(folder: Path) -> None:
    """Write nano as it is before training."""
    model, processor = build_nano(vocabulary_sentences())
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))


def ship(*folders: Path) -> None:
    """Write a trained model into the package in float16, which halves the size and changes no metric visibly.

    With several folders, each weight is the mean of theirs. The mean of the weights before and after a further stage
    keeps more of what was known before it ("Robust fine-tuning of zero-shot models", arXiv:2109.01903).
    """
    model, processor = load_mean(folders)

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        processor.save_pretrained(str(partial))

    write_folder(NANO_FOLDER, write)


def load_mean(folders: Sequence[Path]) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Load the last of several trained folders in float16, with the mean of the weights of all of them."""
    *others, last = (load_model(str(folder), device="cpu", dtype="float16") for folder in folders)
    model, processor = last
    states = [dict(other.named_parameters()) for other, _ in others]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.stack([weight, *(state[name] for state in states)]).float().mean(0))
    return model, processor


def main(arguments: Sequence[str]) -> None:
    """Run a command."""
    match list(arguments):
        case ["start", folder]:
            start(Path(folder))
        case ["ship", *folders] if folders:
            ship(*map(Path, folders))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
