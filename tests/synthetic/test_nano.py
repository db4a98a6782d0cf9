"""Training of nano: its labels, and a loss with gradients in each stage."""

import copy
import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.backbones.timechat.encoding import encode_frames
from timechat.data.packing import TokenizedTurn, pack_conversations
from timechat.model.training_text import IGNORED_LABEL
from timechat.synthetic.nano import __main__ as nano_command
from timechat.synthetic.nano import source as source_module
from timechat.synthetic.nano.attention import AttentionRecorder, attention_loss
from timechat.synthetic.nano.build import build_nano, time_words
from timechat.synthetic.nano.clips import TrainingClip, frame_times, make_clip
from timechat.synthetic.nano.frames import draw_clip
from timechat.synthetic.nano.labels import (
    COLOR_KIND,
    NEW,
    NUM_KINDS,
    NUM_SHAPES,
    OVER,
    PAIRS,
    frame_labels,
    patch_labels,
    row_labels,
    state_code,
    state_labels,
    time_code,
    visible_objects,
)
from timechat.synthetic.nano.language import TokenIds, answer_pointers
from timechat.synthetic.nano.objectives import NANO_OBJECTIVES, NanoHeads
from timechat.synthetic.nano.source import SyntheticSource
from timechat.synthetic.nano.temporal import actions_loss, window_attention_loss
from timechat.synthetic.nano.texts import ConversationWriter, choose_records, single_event_start
from timechat.synthetic.nano.tokens import frames_per_token, token_frames
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.render import appearance_at, draw_frames
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, write_scene
from timechat.synthetic.wording import action_of_wrong_shape, action_phrases
from timechat.training.config import DataSettings, SyntheticDataSettings, SyntheticValidationSettings
from timechat.training.parameters import prepare_parameters, trainable
from timechat.training.recipes import build_recipe, read_recipe

VIDEO = write_scene(3, 1)


@pytest.fixture(scope="module")
def nano():
    sentences = [text for r in synthetic_records(VIDEO) for text in (r.question, r.response)]
    return build_nano(sentences)


def make_recipe(objective, **films):
    content = {
        "objective": objective,
        "model": {"train": ["projection"]},
        "data": {"films": {"levels": [1], "questions": 3, **films}},
        "run": {"steps": 10, "batch_size": 2, "precision": "fp32", "output": "unused"},
    }
    return build_recipe(content)[0]


def test_every_half_second_is_one_token(nano):
    tokenizer = nano[1].tokenizer
    text = "The given query happens in 24.5 - 130.0 seconds."
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if token[1:2].isdigit()] == ["Ġ24.5", "Ġ130.0"]
    first = tokenizer.convert_tokens_to_ids("Ġ0.0")
    assert tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in time_words()]) == list(range(first, first + 601))


def test_times_between_half_seconds_can_be_written(nano):
    tokenizer = nano[1].tokenizer
    assert (
        tokenizer.decode(tokenizer("at 12.3 and 1234.5 s", add_special_tokens=False).input_ids)
        == "at 12.3 and 1234.5 s"
    )


def test_near_times_are_similar_and_far_ones_are_not():
    code = time_code(64)
    likeness = code @ code[100]
    assert likeness.argmax() == 100
    assert likeness[101] > likeness[110] > likeness[300]


def test_state_labels_are_set_between_start_and_end_of_an_event():
    action = VIDEO.actions[0]
    obj = VIDEO.objects[action.object]
    column = COLOR_KIND.start + list(COLORS).index(obj.color) * NUM_KINDS + KINDS.index(action.kind)
    times = [action.start, action.start + 0.5, action.end - 0.5, action.end]
    assert state_labels(VIDEO, times)[:, column].tolist() == [0, 1, 1, 0]


def test_labels_mark_starts_and_ends_of_events():
    action = VIDEO.actions[0]
    obj = VIDEO.objects[action.object]
    column = COLOR_KIND.start + list(COLORS).index(obj.color) * NUM_KINDS + KINDS.index(action.kind)
    labels = state_labels(VIDEO, frame_times(VIDEO))
    frame = round(action.start * 2) + 1
    assert labels[frame - 1 : frame + 2, NEW.start + column].tolist() == [0, 1, 0]
    frame = round(action.end * 2)
    assert labels[frame - 1 : frame + 2, OVER.start + column].tolist() == [0, 1, 0]


def test_pair_labels_mark_visible_objects():
    here = [obj for obj in VIDEO.objects if obj.is_present]
    columns = [PAIRS.start + list(COLORS).index(t.color) * NUM_SHAPES + SHAPES.index(t.shape) for t in here]
    assert state_labels(VIDEO, [0.0])[0].nonzero()[0].tolist() == sorted(columns)


def test_frame_and_patch_labels_locate_objects():
    seen = visible_objects(VIDEO, 0.0)
    classes, geometry = frame_labels(seen)
    index = next(i for i, obj in enumerate(VIDEO.objects) if obj.is_present)
    color, shape = list(COLORS).index(VIDEO.objects[index].color), SHAPES.index(VIDEO.objects[index].shape)
    assert classes[color] in (shape, -100)
    look = appearance_at(VIDEO, index, 0.0)
    assert geometry[len(COLORS) + shape][:2] == pytest.approx([look.x, look.y])
    patches, _ = patch_labels(seen, 12, (VIDEO.width, VIDEO.height))
    place = min(11, int(look.y * 12)) * 12 + min(11, int(look.x * 12))
    assert patches[place].tolist() == [1 + color, 1 + shape]


def test_starts_point_to_the_next_frame_and_ends_to_their_own():
    ids = TokenIds(first_time=100, dash=50, scores=51)
    packed = pack_conversations([1, 7, 7, 7], [TokenizedTurn([8], [9, 104, 50, 106, 2])])
    times, words = answer_pointers(packed, ids, num_tokens=20)
    assert times == [-1] * 5 + [5, -1, 6, -1, -1]
    assert words == [-1] * 8 + [5, -1]  # what follows tells of the event that has begun
    assert answer_pointers(packed, ids, num_tokens=5)[0][5] == 4  # never past the last token


def test_pointers_to_parts_of_a_window_name_the_first_token_that_shows_the_event():
    ids = TokenIds(first_time=100, dash=50, scores=51)
    packed = pack_conversations([1, 7, 7, 7], [TokenizedTurn([8], [9, 103, 50, 113, 2])])
    times, words = answer_pointers(packed, ids, num_tokens=16, frames_per_token=8)  # tokens show frames 4, 12, 20, ...
    assert [time for time in times if time >= 0] == [0, 2]  # of frames 4 (the next one) and 13
    assert [word for word in words if word >= 0] == [0]
    later = pack_conversations([1, 7, 7, 7], [TokenizedTurn([8], [9, 104, 50, 112, 2])])
    times, _ = answer_pointers(later, ids, num_tokens=16, frames_per_token=8)
    assert [time for time in times if time >= 0] == [1, 1]  # of frames 5 and 12


def test_scores_and_durations_have_no_pointers():
    ids = TokenIds(first_time=100, dash=50, scores=51)
    scored = TokenizedTurn([8], [104, 51, 103, 2])
    lasting = TokenizedTurn([8], [103, 9, 2])  # of an event that begins at 3.5 s
    packed = pack_conversations([1, 7], [scored, lasting])
    times, words = answer_pointers(packed, ids, num_tokens=20, starts=[None, 3.5])
    assert times == [-1, -1, 4] + [-1] * 8
    assert words == [-1] * 7 + [8, 8, 8, -1]


def test_questions_about_one_event_have_its_start():
    records = synthetic_records(VIDEO)
    starts = {record.id: single_event_start(record) for record in records}
    assert all(starts[record.id] is None for record in records if record.task != "qa" or len(record.events) != 1)
    assert any(starts[record.id] == record.events[0].start for record in records if record.kind == "what_after")


def test_codes_of_starts_consist_of_parts():
    code = state_code(256)[NEW]
    red_bounces, red_grows, blue_bounces, blue_grows = (
        code[list(COLORS).index(color) * NUM_KINDS + KINDS.index(kind)]
        for color, kind in (("red", "bounce"), ("red", "grow"), ("blue", "bounce"), ("blue", "grow"))
    )
    assert red_bounces @ red_grows > 4 < red_bounces @ blue_bounces
    assert abs(red_bounces @ blue_grows) < 4
    assert red_bounces @ red_bounces > 1.5 * (red_bounces @ red_grows)


def test_brief_questions_are_short_and_cover_every_event():
    records = choose_records(VIDEO, 0, 20, random.Random(0), brief=True)
    grounded = [record for record in records if record.task == "grounding" and not record.is_negative]
    assert sorted(record.events[0].id for record in grounded) == sorted(action.id for action in VIDEO.actions)
    usual = [record for record in synthetic_records(VIDEO) if record.task == "grounding"]
    assert np.mean([len(r.question) for r in grounded]) < 0.6 * np.mean([len(r.question) for r in usual])


def test_row_labels_hold_the_actions_of_each_color_and_shape():
    action = VIDEO.actions[0]
    obj, kind = VIDEO.objects[action.object], KINDS.index(action.kind)
    rows = row_labels(torch.from_numpy(state_labels(VIDEO, [action.start, action.start + 0.5, action.end])))
    assert rows.shape == (3, 16, 30)
    for row in (list(COLORS).index(obj.color), len(COLORS) + SHAPES.index(obj.shape)):
        assert rows[:, row, [kind, 10 + kind, 20 + kind]].tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_video_tokens_first_attend_to_their_own_frame(nano):
    video = nano[0].video_qformer
    for layer in video.qformer.encoder.layer:
        attention = layer.crossattention.attention
        with torch.no_grad():
            queries = attention.query(video.qformer.layernorm(video.query_tokens)[0]).unflatten(-1, (16, -1))
            keys = attention.key(video.frame_positions.weight).unflatten(-1, (16, -1))
        attended = torch.einsum("qhd,khd->hqk", queries, keys).argmax(-1)  # (heads, queries)
        assert (attended == torch.arange(16)).all()


def test_nano_depends_on_its_seed_only(nano):
    sentences = [text for r in synthetic_records(VIDEO) for text in (r.question, r.response)]
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    model, processor = build_nano(sentences)
    assert torch.equal(torch.get_rng_state(), before)
    assert processor.tokenizer.backend_tokenizer.to_str() == nano[1].tokenizer.backend_tokenizer.to_str()
    weights = nano[0].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    other = build_nano(sentences, seed=1)[0].state_dict()
    embeddings = "language_model.model.embed_tokens.weight"
    assert not torch.equal(other[embeddings], weights[embeddings])


def test_recorded_scores_equal_those_of_attention(nano):
    video = nano[0].video_qformer
    attention = video.qformer.encoder.layer[1].crossattention.attention
    values, outputs = [], []
    with (
        AttentionRecorder([attention]) as watch,
        attention.value.register_forward_hook(lambda *call: values.append(call[2])),
        attention.register_forward_hook(lambda *call: outputs.append(call[2][0])),
        torch.no_grad(),
    ):
        video(torch.randn(1, 20, 18, video.frame_positions.embedding_dim))  # one whole window and a shorter one
    for scores, value, output, frames in zip(watch.scores()[0], values, outputs, (16, 4), strict=True):
        assert scores.shape == (1, 16, 16, frames * 18)
        weighted = scores.softmax(-1) @ value.unflatten(-1, (16, -1)).transpose(1, 2)
        assert torch.allclose(weighted.transpose(1, 2).flatten(2), output, atol=1e-4)


def test_window_attention_has_one_target_token_per_head(nano, monkeypatch):
    model = nano[0]
    across = AttentionRecorder(layer.crossattention.attention for layer in model.video_qformer.qformer.encoder.layer)
    with across, torch.no_grad():
        model.video_qformer(torch.randn(1, 20, 18, model.video_qformer.frame_positions.embedding_dim))
    sizes = torch.tensor([[20, 2]])
    _, share = window_attention_loss(model.config, across, sizes)
    assert 0 < share < 0.2  # the right frame already, but any of its tokens
    scores = [torch.full((1, 16, 16, frames * 18), -30.0) for frames in (16, 4)]
    for frames, run in zip((16, 4), scores, strict=True):
        for query in range(16):
            for head in range(16):
                run[0, head, query, min(query, frames - 1) * 18 + head] = 30.0
    monkeypatch.setattr(across, "scores", lambda: [scores])
    loss, share = window_attention_loss(model.config, across, sizes)
    assert loss < 1e-6
    assert share > 0.999


def test_the_attention_loss_is_zero_for_correct_attention():
    scores = torch.zeros(1, 3, 5)
    scores[0, :, 2] = 20.0
    wanted = torch.zeros(1, 3, 5, dtype=torch.bool)
    wanted[..., 2] = True
    assert attention_loss(scores, wanted).max() < 1e-6
    assert attention_loss(scores, wanted.roll(1, dims=-1)).min() > 10


def make_source(nano, objective, tmp_path, monkeypatch, **films):
    monkeypatch.setattr(source_module, "_SHARD", 2)
    recipe = make_recipe(objective, **films)
    recipe = replace(
        recipe, run=replace(recipe.run, output=str(tmp_path / "run"), batch_size=4 if "frames" in objective else 2)
    )
    model, processor = nano
    return SyntheticSource(recipe, processor, model)


@pytest.mark.parametrize("objective", ["nano_frames", "nano_scripts", "nano_windows", "nano_films"])
def test_every_stage_has_a_loss_with_gradients(nano, objective, tmp_path, monkeypatch):
    films = {} if objective in ("nano_frames", "nano_scripts") else {"num_films": 2}
    source = make_source(nano, objective, tmp_path, monkeypatch, **films)
    model, _ = nano
    model.training_heads = NanoHeads(model)
    batches = source.batches(0)
    batch = next(batches)
    batches.close()
    loss = NANO_OBJECTIVES[objective].loss(model, {**batch, "progress": 0.5})
    loss.loss_sum.backward()
    assert torch.isfinite(loss.loss_sum)
    assert all(head.grad is not None for head in model.training_heads.parameters())
    learning = {
        "nano_frames": model.frame_encoder.map_positions,
        "nano_scripts": model.get_output_embeddings().weight,
        "nano_windows": model.video_qformer.temporal.layers[0].mix.weight,
        "nano_films": model.video_qformer.projection.weight,
    }[objective]
    assert learning.grad is not None
    assert learning.grad.abs().max() > 0
    model.zero_grad()
    del model.training_heads


def test_batches_depend_on_the_iteration_only(nano, tmp_path, monkeypatch):
    source = make_source(nano, "nano_scripts", tmp_path, monkeypatch)
    running = source.batches(0)
    next(running)
    second = next(running)
    running.close()
    resumed = source.batches(1)
    again = next(resumed)
    resumed.close()
    assert again["record_ids"] == second["record_ids"]
    assert torch.equal(again["input_ids"], second["input_ids"])


def test_parts_of_videos_are_labeled_from_their_first_frame(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "_PART_FRAMES", 20)
    source = make_source(nano, "nano_windows", tmp_path, monkeypatch, num_films=2)
    batch = source._windows(0)
    store, first = source._store, 0
    assert batch["video_sizes"][:, 0].tolist() == [20, 20]
    for place, start in enumerate(batch["starts"].tolist()):
        index, _ = store.order(place)
        assert torch.equal(batch["frame_tokens"][place], store.tokens(index)[start : start + 20])
        assert batch["times"][first : first + 2].tolist() == [start, start + 1]
        expected = store.clip(index).states(store.clip(index).times[start : start + 20])
        assert torch.equal(batch["states"][first : first + 20], torch.from_numpy(expected))
        first += 32
    assert first == len(batch["times"]) == len(batch["states"])
    assert batch["starts"].max() > 0


def test_batches_hold_the_classes_of_their_queries(nano, tmp_path, monkeypatch):
    source = make_source(nano, "nano_scripts", tmp_path, monkeypatch, levels=[1])
    batches = source.batches(0)
    batch = next(batches)
    batches.close()
    assert len(batch["query_classes"]) == len(batch["query_positions"]) > 0
    assert (batch["pointers"][batch["query_positions"][:, 0], batch["query_positions"][:, 1]] >= 0).all()
    assert (batch["word_pointers"] >= 0).any()
    assert not ((batch["word_pointers"] >= 0) & (batch["pointers"] >= 0)).any()
    rows, columns = batch["query_positions"][0::2].unbind(dim=1)  # before a start; the end follows
    kinds = batch["query_classes"][0::2, 2]
    begins = batch["states"][:, NEW].unflatten(1, (-1, NUM_KINDS)).any(dim=1)  # (tokens of all, kinds)
    sizes = (batch["input_ids"] == nano[0].config.image_token_id).sum(dim=1).tolist()
    firsts = [0, sizes[0]]
    for row, column, kind in zip(rows.tolist(), columns.tolist(), kinds.tolist(), strict=True):
        assert begins[firsts[row] + batch["pointers"][row, column], kind]


def test_conversations_are_tokenized_as_in_inference(nano):
    _, processor = nano
    times = frame_times(VIDEO)
    question, answer = "When does it happen?", "The given query happens in 1.0 - 2.0 seconds."
    packed = ConversationWriter(processor).pack(times, [(question, answer)])
    prompt_ids = processor.encode_prompt(processor.render_prompt(times, question), len(times))
    assert packed.input_ids[: len(prompt_ids)] == prompt_ids
    answered = [label for label in packed.labels if label != IGNORED_LABEL]
    assert answered[-1] == processor.tokenizer.eos_token_id
    assert processor.decode(answered) == answer


def test_features_are_computed_once(nano, tmp_path, monkeypatch):
    source = make_source(nano, "nano_films", tmp_path, monkeypatch, num_films=2)
    files = sorted((tmp_path / "features").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    again = make_source(nano, "nano_films", tmp_path, monkeypatch, num_films=2)
    assert [file.stat().st_mtime_ns for file in files] == times
    tokens = again._store.tokens(0)
    assert torch.equal(tokens, source._store.tokens(0))
    assert tokens.shape[0] == len(again._store.clip(0).times)
    assert np.isfinite(tokens.numpy()).all()


def test_without_timestamps_every_frame_has_the_sentence_of_zero_seconds(nano, tmp_path, monkeypatch):
    stated = make_source(nano, "nano_films", tmp_path, monkeypatch, num_films=2)
    source = make_source(nano, "nano_films", tmp_path, monkeypatch, num_films=2, timestamps=False)
    assert len({file.parent for file in (tmp_path / "features").rglob("*.safetensors")}) == 2
    model, processor = nano
    clip = source._store.clip(0)
    frames = draw_clip(clip.script, clip.times, np.random.default_rng([0, 0]))
    shown = encode_frames(model.eval(), processor, frames, shown_timestamps=np.zeros(len(frames)))[0]
    tokens = source._store.tokens(0)
    assert torch.allclose(tokens, shown, atol=2e-2)  # stored in half precision
    assert not torch.allclose(tokens, stated._store.tokens(0), atol=2e-2)
    batches, others = source._videos(0), stated._videos(0)
    for name in ("states", "times", "pointers", "word_pointers", "labels", "input_ids"):
        assert torch.equal(batches[name], others[name])


def test_the_hash_of_stored_features_is_that_of_earlier_versions(nano):
    settings = make_recipe("nano_films", seed=3).data.films
    digest = hashlib.sha256(repr((3, [1], 0.0)).encode())
    for name, tensor in sorted(nano[0].frame_encoder.state_dict().items()):
        digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
    assert source_module._features_hash(nano[0], settings) == digest.hexdigest()[:16]


@pytest.mark.parametrize("objective", ["nano_frames", "nano_scripts"])
def test_stages_without_stored_frames_have_timestamps(nano, objective, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"nano_windows and nano_films, not for {objective}"):
        make_source(nano, objective, tmp_path, monkeypatch, timestamps=False)


def test_validation_needs_timestamps():
    with pytest.raises(ValueError, match="validation_films states the time of each frame"):
        DataSettings(films=SyntheticDataSettings(timestamps=False), validation_films=SyntheticValidationSettings())


def one_window(nano):
    """Nano with one window of 128 frames for a video, of which each video token stands for 8."""
    model, processor = copy.deepcopy(nano)
    for config in (model.config, model.video_qformer.config, processor.config):
        config.window_size = config.stride = config.max_frame_positions = 128
    positions = model.video_qformer.frame_positions
    positions.weight.data = positions.weight.data[torch.arange(128) // 8]
    return model, processor


def test_every_token_of_nano_stands_for_one_frame(nano):
    for num_frames in (5, 16, 20, 120):
        expected = [*range(num_frames), *[num_frames - 1] * (-num_frames % 16)]
        assert token_frames(nano[0].config, num_frames).tolist() == expected


def test_tokens_of_one_window_stand_for_the_middles_of_its_parts(nano):
    config = one_window(nano)[0].config
    assert token_frames(config, 128).tolist() == list(range(4, 128, 8))
    assert token_frames(config, 22).tolist() == [4, 12, 20, *[21] * 13]


def test_tokens_without_equal_parts_of_a_window_are_refused(nano):
    for values in ({"window_size": 0}, {"stride": 8}, {"num_video_query_tokens": 5}):
        config = copy.deepcopy(nano[0].config)
        for name, value in values.items():
            setattr(config, name, value)
        with pytest.raises(ValueError, match="multiple of num_video_query_tokens"):
            frames_per_token(config)


def test_batches_of_nano_have_one_label_for_each_frame(nano, tmp_path, monkeypatch):
    """The batches hold what they held when a video token always stood for one frame."""
    source = make_source(nano, "nano_films", tmp_path, monkeypatch, num_films=2)
    batch = source._videos(0)
    parts = source._windows(0)
    states, times, frame_states = [], [], []
    for place, (num_frames, start) in enumerate(
        zip(parts["video_sizes"][:, 0].tolist(), parts["starts"].tolist(), strict=True)
    ):
        clip = source._store.clip(source._store.order(place)[0])
        own = clip.times[start : start + num_frames]
        padded = np.concatenate([own, np.full(-num_frames % 16, own[-1])])
        states.append(clip.states(padded))
        times.append(np.round(padded * 2))
        frame_states.append(states[-1][:num_frames])
        whole = np.concatenate([clip.times, np.full(-len(clip.times) % 16, clip.times[-1])])
        of_video = batch["states"][: len(whole)] if place == 0 else batch["states"][-len(whole) :]
        assert np.array_equal(of_video, clip.states(whole))
    assert np.array_equal(parts["states"], np.concatenate(states))
    assert np.array_equal(parts["times"], np.concatenate(times))
    assert np.array_equal(parts["frame_states"], np.concatenate(frame_states))


def test_losses_of_nano_compare_each_token_with_its_frame(nano, tmp_path, monkeypatch):
    """The losses of the stage `windows` are those of the formulae for one frame for each token."""
    source = make_source(nano, "nano_windows", tmp_path, monkeypatch, num_films=2)
    batch = source._windows(0)
    model, _ = nano
    heads = NanoHeads(model)
    sizes = batch["video_sizes"][:, 0].tolist()
    is_frame = torch.cat([torch.arange(size + -size % 16) < size for size in sizes])
    tokens = [torch.randn(sum(sizes), 16, 128) for _ in heads.actions.layers]
    with torch.no_grad():
        found, _ = actions_loss(heads.actions, tokens, batch["frame_states"])
        expected, _ = actions_loss(heads.actions, tokens, batch["states"][is_frame])
        assert found == expected
    across = AttentionRecorder(layer.crossattention.attention for layer in model.video_qformer.qformer.encoder.layer)
    with across, torch.no_grad():
        model.batch_video_features(frame_tokens=batch["frame_tokens"], video_sizes=batch["video_sizes"])
    lengths = [length for n in sizes for length in [16] * (n >= 16) + [n % 16] * (n % 16 > 0)]
    losses = []
    for length, scores in [pair for runs in across.scores() for pair in zip(lengths, runs, strict=True)]:
        for query in range(16):
            for head in range(16):
                target = min(query, length - 1) * (scores.shape[-1] // length) + head
                losses.append(-scores[:, head, query].log_softmax(-1)[:, target])
    loss, _ = window_attention_loss(model.config, across, batch["video_sizes"])
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_one_window_has_a_label_for_each_part(nano, tmp_path, monkeypatch):
    model, processor = one_window(nano)
    source = make_source((model, processor), "nano_films", tmp_path, monkeypatch, num_films=2)
    batch, parts = source._videos(0), source._windows(0)
    assert (batch["input_ids"] == model.config.image_token_id).sum(dim=1).tolist() == [16, 16]
    assert torch.equal(batch["states"], parts["states"])  # a part is a whole video
    assert len(parts["frame_states"]) == parts["video_sizes"][:, 0].sum()
    for place, num_frames in enumerate(parts["video_sizes"][:, 0].tolist()):
        clip = source._store.clip(source._store.order(place)[0])
        frames = [min(8 * token + 4, num_frames - 1) for token in range(16)]
        rows = slice(16 * place, 16 * place + 16)
        assert np.array_equal(parts["states"][rows], clip.states(clip.times[frames]))
        assert parts["times"][rows].tolist() == frames
    rows, columns = batch["query_positions"][0::2].unbind(dim=1)  # before a start; the end follows
    kinds = batch["query_classes"][0::2, 2]
    begins = batch["states"][:, NEW].unflatten(1, (-1, NUM_KINDS)).any(dim=1).unflatten(0, (2, 16))
    assert len(rows) > 0
    for row, column, kind in zip(rows.tolist(), columns.tolist(), kinds.tolist(), strict=True):
        assert begins[row, batch["pointers"][row, column], kind]


def test_one_window_has_losses_with_gradients_and_attends_to_its_parts(nano, tmp_path, monkeypatch):
    model, processor = one_window(nano)
    source = make_source((model, processor), "nano_films", tmp_path, monkeypatch, num_films=2)
    model.training_heads = NanoHeads(model)
    for objective, batch in (("nano_windows", source._windows(0)), ("nano_films", source._videos(0))):
        loss = NANO_OBJECTIVES[objective].loss(model, {**batch, "progress": 0.5})
        loss.loss_sum.backward()
        assert torch.isfinite(loss.loss_sum)
        assert model.video_qformer.frame_positions.weight.grad.abs().max() > 0
        if objective == "nano_windows":
            _, num_frames, num_tokens, _ = batch["frame_tokens"].shape
            assert loss.parts["looks"] > 4 / (num_frames * num_tokens)
        model.zero_grad()


def test_negatives_are_half_of_the_queries_if_asked_for():
    clip = next(make_clip(0, i, [1], 1.0) for i in range(5))
    records = [
        record
        for variant in range(20)
        for record in choose_records(
            clip.script, variant, 20, random.Random(variant), negative_share=0.5, elsewhere=clip.elsewhere
        )
        if record.task == "grounding"
    ]
    negatives = [record for record in records if record.is_negative]
    assert 0.35 < len(negatives) / len(records) < 0.65
    assert {record.response for record in negatives} == {NOT_FOUND_ANSWER}
    assert all(record.duration == 60.0 for record in records)


def test_some_queries_that_do_not_happen_differ_from_an_event_only_in_the_shape():
    happening = {phrase_key(phrase) for phrase in action_phrases(VIDEO).values()}
    shapes = [phrase_key(action_of_wrong_shape(VIDEO, random.Random(seed))) for seed in range(30)]
    assert not happening.intersection(shapes)
    for kind, color, shape in shapes:
        assert any(kind == other and color == own and shape != true for other, own, true in happening)
    looks = {(obj.color, obj.shape) for obj in VIDEO.objects}
    queries = [
        (record.query or "").split()
        for variant in range(12)
        for record in choose_records(VIDEO, variant, 20, random.Random(variant), negative_share=1.0)
        if record.task == "grounding"
    ]
    named = [([w for w in words if w in COLORS], [w for w in words if w in SHAPES]) for words in queries]
    single = [(colors[0], shapes[0]) for colors, shapes in named if len(colors) == len(shapes) == 1]
    wrong = [look for look in single if look not in looks and look[0] in {color for color, _ in looks}]
    assert 0.25 < len(wrong) / len(single) < 0.65


def phrase_key(phrase):
    return phrase.kind, *phrase.object


def test_a_choice_with_many_highlights_asks_about_different_events():
    records = choose_records(VIDEO, 0, 40, random.Random(0), highlights=4)
    asked = [tuple(event.id for event in record.events) for record in records if record.task == "highlights"]
    assert len(asked) == len(set(asked)) == 4
    assert len([r for r in choose_records(VIDEO, 0, 40, random.Random(0)) if r.task == "highlights"]) <= 2


def test_a_choice_with_many_highlights_prefers_the_kinds_learned_least():
    def kinds(highlights):
        chosen = [choose_records(VIDEO, n, 40, random.Random(n), highlights=highlights) for n in range(60)]
        return Counter(record.kind for records in chosen for record in records if record.task == "qa")

    weak = ("what_after", "which_first", "how_long")
    usual, preferred = kinds(None), kinds(2)
    assert sum(preferred[kind] for kind in weak) > 1.15 * sum(usual[kind] for kind in weak)


def test_a_window_shows_the_scenes_of_its_minute():
    clip = next(clip for clip in (make_clip(0, i, [1], 1.0) for i in range(20)) if len(clip.scenes) > 1)
    (first, start), (second, cut), *_ = clip.scenes
    assert start <= 0 < cut < 60
    assert clip.times.tolist() == [i / 2 for i in range(120)]
    before, after = clip.times[clip.times < cut], clip.times[clip.times >= cut][:4]
    frames = clip.draw(np.concatenate([before[-2:], after]))
    assert np.array_equal(frames[:2], draw_frames(first, before[-2:] - start))
    assert np.array_equal(frames[2:], draw_frames(second, after - cut))
    labels = clip.states(clip.times)
    assert np.array_equal(
        labels[len(before) :][: len(after), : NEW.start], state_labels(second, after - cut)[:, : NEW.start]
    )
    for action in clip.script.actions:
        color = clip.script.objects[action.object].color
        column = COLOR_KIND.start + list(COLORS).index(color) * NUM_KINDS + KINDS.index(action.kind)
        inside = (clip.times > action.start) & (clip.times < action.end)
        assert labels[inside, column].all()


def test_queries_from_elsewhere_do_not_happen_in_the_window():
    clip = make_clip(0, 3, [1], 1.0)
    there = {(a.kind, clip.script.objects[a.object].name) for a in clip.script.actions}
    assert len(clip.elsewhere) > 5
    assert not {(phrase.kind, " ".join(phrase.object)) for phrase in clip.elsewhere if phrase.kind != "meet"} & there


def test_a_whole_video_is_a_clip_of_one_scene():
    clip = make_clip(3, 1, [1], 0.0)
    assert clip == TrainingClip(VIDEO, ((VIDEO, 0.0),))
    assert np.array_equal(clip.states(clip.times), state_labels(VIDEO, frame_times(VIDEO)))


def test_a_batch_without_grounding_has_a_loss(nano, tmp_path, monkeypatch):
    source = make_source(nano, "nano_scripts", tmp_path, monkeypatch)
    other_questions = [record for record in synthetic_records(VIDEO) if record.task == "qa"][:2]
    monkeypatch.setattr(source_module, "choose_records", lambda *_args, **_options: other_questions)
    batches = source.batches(0)
    batch = next(batches)
    batches.close()
    assert batch["query_positions"].shape == (0, 2)
    model, _ = nano
    model.training_heads = NanoHeads(model)
    assert torch.isfinite(NANO_OBJECTIVES["nano_scripts"].loss(model, {**batch, "progress": 0.5}).loss_sum)
    del model.training_heads


def test_the_recipe_names_existing_parts_of_nano(nano):
    model = copy.deepcopy(nano[0])
    model.training_heads = NanoHeads(model)
    for stage in read_recipe(Path(__file__).parents[2] / "recipes" / "nano.yaml"):
        prepare_parameters(model, stage.model)
        assert not any(n.startswith(tuple(stage.model.freeze)) for n in trainable(model) if stage.model.freeze)
        assert stage.objective in NANO_OBJECTIVES


def test_the_package_gets_the_mean_of_two_trained_folders(nano, tmp_path, monkeypatch):
    model, processor = nano
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.5)
    for folder, trained in (("before", model), ("after", other)):
        trained.save_pretrained(tmp_path / folder)
        processor.save_pretrained(str(tmp_path / folder))
    monkeypatch.setattr(nano_command, "NANO_FOLDER", tmp_path / "package")
    nano_command.main(["ship", str(tmp_path / "before"), str(tmp_path / "after")])
    shipped = load_file(tmp_path / "package" / "model.safetensors")
    weights = load_file(tmp_path / "before" / "model.safetensors")
    assert shipped.keys() == weights.keys()
    for name in (name for name, _ in model.named_parameters()):
        weight = weights[name]
        assert shipped[name].dtype == torch.float16
        assert torch.allclose(shipped[name].float(), weight + 0.25, atol=2e-3), name
    config = json.loads((tmp_path / "package" / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert {part["dtype"] for part in config.values() if isinstance(part, dict) and "dtype" in part} == {"float16"}


def test_another_command_prints_the_usage():
    with pytest.raises(SystemExit, match="ship FOLDER"):
        nano_command.main(["ship"])
