"""The probes of `perf/probe_nano.py` on small data, and on the built-in model."""

import pytest
import torch
from perf.probe_nano import Layer, Score, action_labels, fit, load, probe_layer, read_layers, table, with_context

from timechat.model.loading import NANO
from timechat.synthetic.scene import COLORS, KINDS, write_scene

SCENES = [write_scene(4, i) for i in range(3)]


def test_precision_and_recall_of_masks():
    score = Score.of(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True]))
    assert (score.right, score.found) == (0.5, pytest.approx(1 / 3))
    assert score.f1 == pytest.approx(0.4)
    assert Score.of(torch.tensor([False]), torch.tensor([False])).f1 == 0


def test_labels_say_which_color_does_what():
    labels = action_labels(SCENES[0])
    action = SCENES[0].actions[0]
    row, kind = list(COLORS).index(SCENES[0].objects[action.object].color), KINDS.index(action.kind)
    frames = labels[:, row, kind].nonzero()[:, 0].tolist()
    assert frames[0] == round(action.start * 2) + 1
    assert labels.shape[1:] == (16, 10)


def test_context_repeats_the_first_and_the_last_frame():
    frames = torch.tensor([[1.0], [2.0], [3.0]])
    assert with_context(frames, 1).tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_a_probe_reads_what_is_there_and_nothing_else():
    inputs = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    target = torch.stack([inputs[:, 0] > 1, torch.arange(600) % 5 == 0], dim=1)  # readable; not readable
    read = fit(inputs[:400], target[:400], steps=150, hidden=0, seed=0, rate=0.03)
    predicted = read(inputs[400:])
    assert Score.of(predicted[:, 0], target[400:, 0]).f1 > 0.85
    assert Score.of(predicted[:, 1], target[400:, 1]).f1 < 0.5
    again = fit(inputs[:400], target[:400], steps=150, hidden=0, seed=0, rate=0.03)
    assert torch.equal(again(inputs[400:]), predicted)


def test_layers_of_both_kinds_can_be_probed():
    labels = [action_labels(scene) for scene in SCENES[:2]] * 3  # fitted and tested on the same videos
    true_rows = Layer("rows", [torch.nn.functional.pad(one.float(), (0, 6)) for one in labels])
    true_frames = Layer("frames", [one.float().flatten(1) for one in labels])
    for layer in (true_rows, true_frames):
        [reading] = probe_layer(layer, SCENES[:2] * 2, SCENES[:2], context=0, steps=200, hidden=0, seed=0)
        assert (reading.layer, reading.level) == (layer.name, 1)
        assert reading.kinds.f1 > 0.9
    assert table([reading]).splitlines()[2].startswith("| frames | 1 | ")


def test_every_layer_of_nano_is_read():
    model, processor = load(NANO)
    layers = read_layers(model, processor, SCENES[:1], seed=0)
    names = [layer.name for layer in layers]
    assert names[0] == "image Q-Former"
    assert names[-1] == f"language model layer {model.config.text_config.num_hidden_layers}"
    assert len(names) == len(set(names))
    num_frames = len(action_labels(SCENES[0]))
    assert {len(layer.outputs[0]) for layer in layers} == {num_frames}
    assert layers[0].outputs[0].shape[1] == 16
