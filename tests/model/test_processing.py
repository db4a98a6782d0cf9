"""Frames and text → tensors."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from tests.golden import golden_host_side
from tests.model.tiny import made_frames
from timechat.model.generation.generate import token_spans
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames


def test_pixels_are_normalised_as_in_the_original(golden_processor):
    recorded = golden_host_side()["normalise"]
    pixels = np.broadcast_to(
        np.array(recorded["values"], dtype=np.uint8)[:, None, None, None], (len(recorded["values"]), 56, 56, 3)
    )
    frames = Frames(
        pixels=pixels.copy(), timestamps=np.arange(len(pixels), dtype=np.float64), duration=float(len(pixels))
    )
    got = golden_processor.normalize(frames)[:, :, 0, 0]
    torch.testing.assert_close(got, torch.tensor(recorded["normalised_rgb"]), atol=1e-6, rtol=0)


def test_frames_are_resized_to_the_size_of_the_tower(golden_processor):
    assert golden_processor.normalize(made_frames(3, size=90)).shape == (3, 3, 56, 56)


def test_time_sentences_are_padded_per_video(golden_processor):
    short, long = made_frames(2, size=56, seconds=2), made_frames(2, size=56, seconds=20000)
    batch = golden_processor([short, long], ["a", "b"])
    tokens = [golden_processor.encode_timestamps(video.timestamps)[0].shape[1] for video in (short, long)]
    assert tokens[0] < tokens[1]
    assert batch["video_sizes"].tolist() == [[2, tokens[0]], [2, tokens[1]]]
    assert batch["qformer_attention_mask"][0, :, tokens[0] :].sum() == 0


def test_a_batch_is_left_padded_and_masked(golden_processor):
    videos = [made_frames(2, size=56), made_frames(40, size=56)]
    batch = golden_processor(videos, ["What?", "And a longer question than that?"])
    lengths = batch["attention_mask"].sum(dim=1)
    assert lengths[0] < lengths[1] == batch["input_ids"].shape[1]
    assert batch["attention_mask"][0, : -int(lengths[0])].sum() == 0
    counts = (batch["input_ids"] == golden_processor.config.image_token_id).sum(dim=1)
    assert counts.tolist() == [5, 10]


def test_a_batch_gives_the_answer_of_each_video_alone(golden_model, golden_processor):
    videos = [made_frames(3, size=56, seed=1), made_frames(40, size=56, seed=2, seconds=3000)]
    questions = ["What?", "And a longer question than that?"]
    options = {"do_sample": False, "max_new_tokens": 8}
    together = golden_model.generate(**golden_processor(videos, questions), **options)[:, -8:]
    for i, (video, question) in enumerate(zip(videos, questions, strict=True)):
        alone = golden_model.generate(**golden_processor(video, question), **options)[0, -8:]
        assert golden_processor.decode(together[i]) == golden_processor.decode(alone)


def test_history_comes_before_the_question(golden_processor):
    prompt = golden_processor.render_prompt([0.0, 1.5], "and then?", history=[("What?", "A man.")], system="S")
    assert prompt == (
        "[INST] <<SYS>>\nS\n<</SYS>>\n\n<Video><ImageHere></Video> The video contains 2 frames sampled at 0.0, 1.5 "
        "seconds.  What? [/INST] A man. </s><s>[INST] and then? [/INST]"
    )


@pytest.mark.parametrize("mark", ["</s>", "<s>", "<unk>", "<ImageHere>", "[/INST]", "[/INST] ", "[INST]", "<<SYS>>"])
def test_marks_in_a_conversation_are_trained_as_text(golden_processor, mark):
    tokenizer, times = golden_processor.tokenizer, [0.0, 1.5]
    question, answer = f"What is {mark}?", f"It is {mark} in the video."
    turns = [(question, answer), ("And then?", "Nothing.")]
    ids, labels = golden_processor.encode_training(times, turns)
    plain, _ = golden_processor.encode_training(times, [("What is it?", "It is it in the video."), turns[1]])
    for special in (tokenizer.bos_token_id, tokenizer.eos_token_id, golden_processor.config.image_token_id):
        assert ids.count(special) == plain.count(special)
    assert question in tokenizer.decode(ids)
    trained = [label for label in labels if label != -100]
    assert trained.count(tokenizer.eos_token_id) == 2
    assert " ".join(tokenizer.decode(trained).split()) == f"{' '.join(answer.split())} </s> Nothing. </s>"


def test_vicuna_has_loss_on_answers_and_on_the_marks_between_turns(golden_processor):
    processor = copy.copy(golden_processor)
    processor.chat_style = "vicuna"
    ids, labels = processor.encode_training([0.0], [("When?", "At # 3."), ("Why ###?", "So.")])
    tokenizer = processor.tokenizer
    video = tokenizer.decode(ids[: ids.index(processor.config.image_token_id)], skip_special_tokens=True)
    assert video.endswith("\n\n###Human: <Video>")
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.endswith("seconds. When?\n###Assistant: At # 3.\n###Human: Why ###?\n###Assistant: So.\n###")
    learned = [token for token, label in zip(ids, labels, strict=True) if label == token]
    assert tokenizer.decode(learned) == "######Assistant: At # 3.\n######Assistant: So.\n###"
    assert {label for token, label in zip(ids, labels, strict=True) if label != token} == {-100}
    assert processor.encode_training([0.0], [("When?", "At 3.")], max_length=30)[0] == ids[:30]


def test_an_answer_in_vicuna_style_ends_at_the_next_mark(golden_processor):
    processor = copy.copy(golden_processor)
    processor.chat_style = "vicuna"
    ids = processor.tokenizer(" At 3.###Human: x").input_ids
    assert processor.decode(ids) == "At 3."
    text, spans = token_spans(processor, ids)
    assert (text, spans[-1], len(spans)) == ("At 3.", (5, 5), len(ids))


def test_a_text_without_marks_is_tokenized_as_one_string(golden_processor):
    ids, _ = golden_processor.encode_training([0.0], [("What?", "A man.")], system=" ")
    text = golden_processor.render_prompt([0.0], "What?", system=" ").replace("seconds.  What", "seconds. What")
    video = "<ImageHere>" * golden_processor.config.num_video_tokens(1)
    assert ids == golden_processor.tokenizer(f"{text.replace('<ImageHere>', video)} A man. </s>").input_ids


def test_saving_and_loading_keeps_every_id(golden_processor, tmp_path):
    golden_processor.save_pretrained(tmp_path)
    again = TimeChatProcessor.from_pretrained(tmp_path)
    video = made_frames(4, size=56, seconds=700)
    want, got = golden_processor(video, "What is he doing?"), again(video, "What is he doing?")
    assert all(torch.equal(want[key], got[key]) for key in want)
    assert again.config.to_dict() == golden_processor.config.to_dict()
    assert "config" not in (tmp_path / "processor_config.json").read_text()
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), TimeChatProcessor)


def test_a_question_with_the_placeholder_is_refused(golden_processor):
    with pytest.raises(ValueError, match="<ImageHere> exactly once, got 2"):
        golden_processor(made_frames(2, size=56), "what is <ImageHere>?")


def test_the_number_of_questions_must_match_the_videos(golden_processor):
    with pytest.raises(ValueError, match="got 1 videos and 2 questions"):
        golden_processor(made_frames(2, size=56), ["a", "b"])


def test_a_truncated_answer_has_no_labels(golden_processor):
    ids, labels = golden_processor.encode_training([0.0, 1.0], [("q", "a")], max_length=20)
    assert len(ids) == len(labels) == 20
    assert set(labels) == {-100}
