"""`python -m timechat.training.nano FOLDER`: write nano as it is before training."""

import sys
from pathlib import Path

from timechat.training.nano.build import build_nano
from timechat.training.nano.texts import vocabulary_sentences

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m timechat.training.nano FOLDER")
    folder = Path(sys.argv[1])
    model, processor = build_nano(vocabulary_sentences())
    model.save_pretrained(folder)
    processor.save_pretrained(str(folder))
    print(folder)
