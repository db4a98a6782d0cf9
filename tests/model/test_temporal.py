"""The temporal layers before the video Q-Former."""

import pytest
import torch

from tests.model.tiny import tiny_config, tiny_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.video_qformer import TemporalLayers


def make_layers(**changes):
    torch.manual_seed(0)
    return TemporalLayers(tiny_config(**{"temporal_layers": 2, "temporal_kernel": 3, **changes})).eval()


def test_the_original_has_no_temporal_layers():
    model = tiny_model()
    assert model.video_qformer.temporal is None
    assert not any("temporal" in name for name in model.state_dict())


def test_all_queries_share_the_weights():
    layers, tokens = make_layers(), torch.randn(2, 6, 3, 32)
    order = [2, 0, 1]
    with torch.no_grad():
        assert torch.allclose(layers(tokens)[:, :, order], layers(tokens[:, :, order]), atol=1e-6)


def test_a_token_knows_itself_in_the_frames_around_it_only():
    layers, tokens = make_layers(), torch.randn(1, 12, 3, 32)
    other = tokens.clone()
    other[0, 8, 1] += torch.randn(32)
    with torch.no_grad():
        changed = (layers(tokens) != layers(other)).any(dim=-1)[0]  # (frames, queries)
    reached = [5, 6, 7, 8, 9, 10, 11]  # 1 frame in the first layer, 2 in the second
    assert changed.nonzero().tolist() == [[frame, 1] for frame in reached]


def test_the_video_qformer_reads_the_mixed_queries():
    model = tiny_model(temporal_layers=1)
    frame_tokens = torch.randn(1, 6, 3 + 5, 32)
    with torch.no_grad():
        mixed = torch.cat([model.video_qformer.temporal(frame_tokens[:, :, :3]), frame_tokens[:, :, 3:]], dim=2)
        tokens = model.video_qformer(frame_tokens)
        model.video_qformer.temporal = None
        assert torch.equal(tokens, model.video_qformer(mixed))


def test_temporal_layers_are_saved_and_loaded(tmp_path):
    model = tiny_model(temporal_layers=2, temporal_kernel=3)
    model.save_pretrained(tmp_path)
    again = TimeChatForConditionalGeneration.from_pretrained(tmp_path)
    assert (again.config.temporal_layers, again.config.temporal_kernel) == (2, 3)
    frame_tokens = torch.randn(1, 6, 8, 32)
    with torch.no_grad():
        assert torch.equal(model.video_qformer(frame_tokens), again.video_qformer(frame_tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"temporal_layers": -1}, "at least 0, got -1"), ({"temporal_kernel": 4}, "odd number of frames, got 4")],
)
def test_invalid_temporal_layers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)
