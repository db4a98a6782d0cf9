"""A small model with random weights and, as the original has, a vision transformer: for tests of what is around it."""

import string

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, GenerationConfig, PreTrainedTokenizerFast

from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.prompts import (
    BERT_BOS_TOKEN,
    PRESETS,
    SYSTEM_PROMPT,
    VIDEO_PLACEHOLDER,
    Preset,
    frame_message,
    frame_prompt,
)

_SEED = 0
_VOCABULARY_SIZE = 640
_SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
_TASKS = ("dense_caption", "grounding", "highlights", "steps", "summary", "transcribe")


def build_random_nano() -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Build the model and its processor; the same ones every time."""
    tokenizer = _build_llm_tokenizer()
    qformer_tokenizer = _build_qformer_tokenizer()
    config = TimeChatConfig(
        vision_config={
            "model_type": "instructblip_vision_model",
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "initializer_range": 0.02,
        },
        qformer_config=_QFORMER_SIZES
        | {"vocab_size": len(qformer_tokenizer), "num_hidden_layers": 4, "max_position_embeddings": 64},
        video_qformer_config=_QFORMER_SIZES,
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer) - 1,  # as in the original, the placeholder has no row
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
        },
        num_query_tokens=8,
        num_video_query_tokens=8,
        is_trained=False,
        image_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = TimeChatForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model, TimeChatProcessor(tokenizer, qformer_tokenizer, config)


_QFORMER_SIZES = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}


def _build_llm_tokenizer() -> PreTrainedTokenizerFast:
    """Learn a small byte-level vocabulary from the sentences that the model is shown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": [VIDEO_PLACEHOLDER]})
    return fast


def _build_qformer_tokenizer() -> BertTokenizer:
    """Spell out a vocabulary that can write any time sentence."""
    words = frame_prompt(0).lower().removesuffix(".").split()
    characters = string.digits + string.ascii_lowercase
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]
    vocabulary += [*characters, *(f"##{character}" for character in characters)]
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    return BertTokenizer(vocab=ids, do_lower_case=True, bos_token=BERT_BOS_TOKEN)


def _sentences() -> list[str]:
    presets: list[Preset] = list(PRESETS.values())
    questions = [getattr(preset, task) for preset in presets for task in _TASKS]
    times = [frame_message([i / 7 for i in range(n)]) for n in (8, 96)]
    return [SYSTEM_PROMPT, *questions, *times, "<Video></Video> [INST] <<SYS>>\n\n<</SYS>>\n\n [/INST]"]
