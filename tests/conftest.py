"""Models that many tests share, created once per session; each test process computes with one thread."""

import copy
import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # the process that starts the test processes needs no torch, which takes seconds to import
    from timechat.model.modeling import TimeChatForConditionalGeneration
    from timechat.model.processing import TimeChatProcessor

gc.disable()  # until the tests are collected
# One thread for each process and its children: models are small, and threads that wait for each other take many times
# the processor time of the work itself. Sums of floats also depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
# On a shared machine, a step of a millisecond may take a second.
hypothesis.settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared machine")
PAGE_TESTS = "tests/serving/page/"
os.environ["TIMECHAT_CACHE"] = (
    ""  # the cache is off, so that tests are independent; tests of the cache use their own folders
)
os.environ["TIMECHAT_LIBRARY"] = os.devnull  # no library: that of the user is not read


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Hide libraries and collected tests from the garbage collector: they live until the end.

    Each full collection would look at all of these objects again. That took a tenth of the processor time of a run.
    """
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be missing
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `--dist loadfile`, run the tests of the page in one process: they share a server."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return PAGE_TESTS if nodeid.startswith(PAGE_TESTS) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def drawn_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic video of 55 s, of the kind that nano was trained on; tests copy it before they change it."""
    from timechat.synthetic.scene import write_scene
    from timechat.synthetic.write import write_video

    path = tmp_path_factory.mktemp("drawn") / "film.mp4"
    write_video(write_scene(7, 0, level=1, split="test"), path)
    return path


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded original checkpoint, converted."""
    from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint
    from timechat.model.convert.write import OriginalFiles, convert

    folder = tmp_path_factory.mktemp("converted") / "model"
    files = OriginalFiles.find(**golden_checkpoint(timechat="timechat_7b.pth"))
    convert(files, folder, overrides=GOLDEN_OVERRIDES)
    return folder


@pytest.fixture(scope="session")
def golden_model(converted: Path) -> "TimeChatForConditionalGeneration":
    import torch

    from timechat.model.modeling import TimeChatForConditionalGeneration

    model = TimeChatForConditionalGeneration.from_pretrained(converted, attn_implementation="eager").eval()
    assert model.dtype == torch.float32
    return model


@pytest.fixture(scope="session")
def golden_processor(converted: Path) -> "TimeChatProcessor":
    from timechat.model.processing import TimeChatProcessor

    return TimeChatProcessor.from_pretrained(converted)


@pytest.fixture(scope="session")
def llama_processor(golden_processor: "TimeChatProcessor") -> "TimeChatProcessor":
    """The processor of the original's training: time sentences in the language model's vocabulary."""
    return with_timestamps(golden_processor, "llama")


def with_timestamps(processor: "TimeChatProcessor", vocabulary: str) -> "TimeChatProcessor":
    from timechat.model.processing import TimeChatProcessor

    config = copy.deepcopy(processor.config)
    config.timestamp_tokenizer = vocabulary
    rows = max(config.qformer_config.vocab_size, len(processor.tokenizer))  # nano's Q-Former has fewer, of its own
    config.qformer_config.vocab_size = rows
    return TimeChatProcessor(processor.tokenizer, processor.qformer_tokenizer, config)
