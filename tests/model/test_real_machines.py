"""Tests that need a GPU or the original weights: `pytest -m gpu`, `TIMECHAT_WEIGHTS=FOLDER pytest -m real_weights`."""

import os
from pathlib import Path

import pytest
import torch

from tests import parity
from tests.golden import golden_tensors
from tests.model.tiny import made_frames
from timechat import TimeChat
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.pipeline import DecodingOptions

CHARADES = Path(__file__).parents[3] / "shared" / "videos" / "charades_3MSZA.mp4"


@pytest.mark.gpu
@pytest.mark.parametrize("case", parity.INFERENCE_CASES)
def test_a_gpu_in_float32_matches_the_original(case, converted, golden_processor):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    torch.backends.cuda.matmul.allow_tf32 = False
    model = TimeChatForConditionalGeneration.from_pretrained(converted, attn_implementation="eager").cuda().eval()
    want = golden_tensors(case)["video_tokens"]
    inputs = {key: value[None].cuda() for key, value in golden_processor.encode_frames(parity.video_of(case)).items()}
    with torch.no_grad():
        torch.testing.assert_close(model.get_video_features(**inputs).cpu(), want, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16", "float32"])
def test_a_gpu_answers_in_every_dtype(dtype, converted):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    timechat = TimeChat.from_pretrained(converted, device="cuda", dtype=dtype)
    encoded = timechat.encode(made_frames(40, size=56))
    assert encoded.content.device.type == "cuda"
    assert timechat.ask(encoded, "What?", decoding=DecodingOptions(max_new_tokens=8)).text


@pytest.mark.real_weights
def test_the_published_weights_ground_the_light():
    folder = os.environ.get("TIMECHAT_WEIGHTS")
    if not folder:
        pytest.skip("set TIMECHAT_WEIGHTS to a converted original checkpoint")
    if not CHARADES.exists():
        pytest.skip("the clip charades_3MSZA.mp4 is not beside this checkout")
    answer = TimeChat.from_pretrained(folder).ground(CHARADES, "person turn a light on")
    (event,) = answer.events
    overlap = min(event.end, 30.4) - max(event.start, 24.3)
    union = max(event.end, 30.4) - min(event.start, 24.3)
    assert overlap / union >= 0.5
