"""Packed conversations about one video have the same results as single conversations."""

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from timechat.data.packing import TokenizedTurn, branch_mask, pack_conversations, pad_packed
from timechat.model.training_text import IGNORED_LABEL

SHARED = [1, 5, 6, 7]
CONVERSATIONS = [TokenizedTurn([8, 9], [10, 11]), TokenizedTurn([12], [13, 14, 2]), TokenizedTurn([8, 8, 8], [2])]


def losses(model, batch):
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).logits
    wanted = batch["labels"][:, 1:]
    return functional.cross_entropy(
        logits[:, :-1][wanted != IGNORED_LABEL], wanted[wanted != IGNORED_LABEL], reduction="none"
    )


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()


def test_packed_losses_equal_those_of_single_conversations():
    model = tiny_llama()
    with torch.no_grad():
        together = losses(model, pad_packed([pack_conversations(SHARED, CONVERSATIONS)], 0))
        alone = [losses(model, pad_packed([pack_conversations(SHARED, [one])], 0)) for one in CONVERSATIONS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)


def test_padding_has_no_effect():
    model = tiny_llama()
    long, short = pack_conversations(SHARED, CONVERSATIONS), pack_conversations(SHARED, CONVERSATIONS[:1])
    with torch.no_grad():
        both = losses(model, pad_packed([long, short], 0))
        apart = torch.cat([losses(model, pad_packed([row], 0)) for row in (long, short)])
    torch.testing.assert_close(both, apart, atol=1e-6, rtol=1e-5)


def test_only_answers_have_labels_and_positions_follow_the_video():
    packed = pack_conversations(SHARED, CONVERSATIONS)
    assert [label for label in packed.labels if label != IGNORED_LABEL] == [10, 11, 13, 14, 2, 2]
    assert packed.position_ids == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7]


def test_conversations_cannot_attend_to_each_other():
    mask = branch_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
