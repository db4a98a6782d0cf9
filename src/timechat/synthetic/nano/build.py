"""Build nano before training: its sizes and its tokenizers."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, GenerationConfig, PreTrainedTokenizerFast

from timechat.answers.prompts import BERT_BOS_TOKEN, VIDEO_PLACEHOLDER, frame_prompt
from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.nano.labels import MAX_TIME, NUM_ROWS, NUM_TIMES, time_code
from timechat.synthetic.nano.temporal import initialize_positions
from timechat.synthetic.scene import TICK

_SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
_VOCABULARY_SIZE = 2048  # before the times are added


def build_qformer_tokenizer() -> BertTokenizer:
    """Build a tokenizer for time sentences; whole seconds are one token each."""
    words = frame_prompt(0).lower().removesuffix(".").split()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]
    vocabulary += [str(second) for second in range(int(MAX_TIME) + 1)]
    characters = string.digits + string.ascii_lowercase
    vocabulary += [*characters, *(f"##{character}" for character in characters)]
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    return BertTokenizer(vocab=ids, do_lower_case=True, bos_token=BERT_BOS_TOKEN)


def build_llm_tokenizer(sentences: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level vocabulary from sentences and add one token for every half second.

    The text contains plain seconds: " 12.5" is one token, and " 12.3" consists of several.
    """
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d+\.\d(?!\d)| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator((_without_times(sentence) for sentence in sentences), trainer)
    state = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = dict(state["vocab"])
    for time in time_words():
        vocabulary.setdefault("Ġ" + time, len(vocabulary))
    # With `ignore_merges`, a word in the vocabulary is one token without merges. So times become one token.
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[tuple(merge) for merge in state["merges"]], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": [VIDEO_PLACEHOLDER]})
    return fast


def time_words() -> list[str]:
    """Return every time of the grid as text, `"0.0"` to `"300.0"`."""
    return [f"{i * TICK:.1f}" for i in range(NUM_TIMES)]


def _without_times(sentence: str) -> str:
    return re.sub(r"\d+\.\d", " ", sentence)


def build_nano(
    sentences: Iterable[str], *, seed: int = 0
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Build nano with random weights, except for time embeddings that represent numbers from the start.

    Equal sentences and seeds give equal weights, and the random state of torch is kept.
    """
    tokenizer = build_llm_tokenizer(sentences)
    qformer_tokenizer = build_qformer_tokenizer()
    qformer = {"cross_attention_frequency": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = TimeChatConfig(
        vision_config={
            "model_type": "resnet",  # convolutions learn to distinguish shapes much earlier than a ViT
            "embedding_size": 32,
            "hidden_sizes": [32, 96],
            "depths": [1, 2],
            "layer_type": "basic",
            "image_size": 96,
        },
        qformer_config=qformer
        | {
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": len(qformer_tokenizer),
            "max_position_embeddings": 32,
        },
        video_qformer_config=qformer
        | {
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_attention_heads": NUM_ROWS,  # one for each query of a frame
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer) - 1,  # as in the original, the placeholder has no row
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
        },
        num_query_tokens=NUM_ROWS,
        num_video_query_tokens=16,
        window_size=16,
        stride=16,
        max_frame_positions=16,
        temporal_layers=4,
        temporal_kernel=5,
        fps=2,
        max_frames=600,
        window_seconds=60,
        lowercase_queries=True,
        frame_interpolation="bicubic",
        image_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TimeChatForConditionalGeneration(config)
        _initialize_matrices(model)
        initialize_positions(model.video_qformer)
        _initialize_times(model, tokenizer, qformer_tokenizer)
        _initialize_patch_positions(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, TimeChatProcessor(tokenizer, qformer_tokenizer, config, names_frame_times=False)


@torch.no_grad()
def _initialize_matrices(model: TimeChatForConditionalGeneration) -> None:
    """Initialize matrices so that outputs are as large as inputs.

    The usual standard deviation of 0.02 is far too small at this width. A layer then adds almost nothing to its input,
    and has no effect for hundreds of steps.
    """
    for part in (model.language_model.model.layers, model.video_qformer.qformer, model.frame_encoder.qformer):
        for layer in part.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(std=layer.in_features**-0.5)


@torch.no_grad()
def _initialize_times(
    model: TimeChatForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, qformer_tokenizer: BertTokenizer
) -> None:
    """Initialize the embeddings of times with sine and cosine features, so that near times are similar."""
    rows = tokenizer.convert_tokens_to_ids(["Ġ" + time for time in time_words()])
    width = model.config.text_config.hidden_size
    # The first layers add much larger values to embeddings of standard deviation 0.02 (a hundred times), so use 1.
    embeddings: Any = model.get_input_embeddings()
    embeddings.weight.normal_(std=1.0)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight: Any = layer.weight
        weight[rows] = torch.from_numpy(time_code(width)) * weight.norm(dim=1).mean()
    words: Any = model.frame_encoder.qformer.embeddings.word_embeddings.weight
    seconds = qformer_tokenizer.convert_tokens_to_ids([str(i) for i in range(int(MAX_TIME) + 1)])
    words[seconds] = torch.from_numpy(time_code(words.shape[1])[::2].copy()) * words.norm(dim=1).mean() * 1.5


@torch.no_grad()
def _initialize_patch_positions(model: TimeChatForConditionalGeneration) -> None:
    """Initialize the embeddings of patch positions with sine and cosine features of row and column."""
    places = model.frame_encoder.map_positions  # (side * side, width)
    side, width = round(places.shape[0] ** 0.5), places.shape[1]
    steps = torch.arange(side)[:, None] / side
    angles = 2 * torch.pi * steps * torch.logspace(-2, 2, width // 4, base=2)  # a quarter to four waves over the frame
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    places.copy_(torch.cat([rows, columns], dim=-1).flatten(0, 1))
