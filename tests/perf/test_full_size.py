"""The synthetic set of original files that `perf/full_size.py` measures with, at a small size."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from perf.full_size import MemoryWatch, read_memory, write_originals
from perf.original_layout import TINY, original_tensors
from safetensors import SafetensorError
from transformers import AutoTokenizer, BertTokenizer

from timechat.answers.prompts import BERT_BOS_TOKEN, frame_prompt
from timechat.errors import CheckpointError
from timechat.model.convert.files import WeightFile
from timechat.model.convert.write import LAYOUT, OriginalFiles, convert
from timechat.pipeline import DecodingOptions, TimeChat
from timechat.video import Frames

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the benchmark reads Linux' /proc")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_originals(folder, TINY)
    return folder


def test_the_set_converts_and_answers_without_further_settings(originals, tmp_path):
    report = convert(OriginalFiles.find(originals), tmp_path / "model")
    timechat = TimeChat.from_pretrained(tmp_path / "model", device="cpu")
    frames = Frames.from_images(np.zeros((40, 8, 8, 3), np.uint8), timestamps=np.arange(40.0))
    encoded = timechat.encode(frames)
    answer = timechat.ask(encoded, "What happens?", decoding=DecodingOptions(max_new_tokens=2))
    blocks, assumed = report.notes  # the set is smaller than the published one, and says so
    assert "4 blocks, of which 3 are used" in blocks
    assert "image_size=224" in assumed
    assert timechat.model.has_lora
    assert encoded.content.shape == (2 * 32, TINY.text_width)
    assert encoded.content.isfinite().all()
    assert answer.text


def test_files_hold_the_listed_tensors_with_numbers_in_them(originals):
    for path, tensors in original_tensors(TINY).items():
        file = WeightFile.inspect(originals / path)
        assert file.tensors == tensors
        with file.reading() as get:
            for name in tensors:
                values = get(name).float()
                is_constant = "norm" in name.lower() or name.endswith("bias")
                assert values.isfinite().all()
                assert is_constant or values.std() > 0, name


def test_the_language_models_vocabulary_is_laid_out_as_the_published_one(originals):
    tokenizer = AutoTokenizer.from_pretrained(originals / LAYOUT["llm"])
    assert len(tokenizer) == 32000
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]) == [0, 1, 2, 3, 258]
    for text in ("The video contains 8 frames sampled at 0.0, 4.1 seconds.", "Ein Übergang ☃"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("sampled").input_ids) == 2  # words of the prompts are one piece each, after <s>


def test_the_bert_vocabulary_is_laid_out_as_the_published_one(originals):
    tokenizer = BertTokenizer(vocab=str(originals / LAYOUT["bert_vocab"]), bos_token=BERT_BOS_TOKEN)
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 100, 101, 102, 103]
    assert tokenizer.convert_tokens_to_ids(BERT_BOS_TOKEN) == 30522
    ids = tokenizer(frame_prompt(117.0)).input_ids
    assert len(ids) == 12
    assert 100 not in ids


def test_memory_is_read_of_the_process_that_is_named():
    with MemoryWatch(os.getpid()) as watch:
        block = torch.ones(16 << 20, dtype=torch.uint8)
    assert watch.peak_private_bytes > len(block)
    assert read_memory(os.getpid())["VmHWM"] >= watch.peak_private_bytes
    assert read_memory(2**22) == {}


def test_a_full_disk_is_told_before_anything_is_written(originals, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(CheckpointError, match=r"0\.0155 GB of weights are to be written, but the disk has 0 GB free"):
        convert(OriginalFiles.find(originals), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(originals, tmp_path, monkeypatch):
    def fill_up(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("timechat.model.tensor_files.save_file", fill_up)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be written .*No space left"):
        convert(OriginalFiles.find(originals), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
