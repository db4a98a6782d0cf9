"""Random checkpoints in the original's layout, with other sizes than the recording, against the plain reference."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tests.golden import golden_path, golden_tensors
from tests.model import plain_reference as reference
from tests.model.plain_reference import LORA, Settings, State
from timechat.cli import main
from timechat.model.convert.keys import rename
from timechat.model.modeling import TimeChatForConditionalGeneration

PLACEHOLDER = 640  # the recorded tokenizer has 640 words
TRAINED = ("Qformer.", "query_tokens", "video_", "llama_proj", LORA)
# Tolerances of the recordings' README: maximum absolute difference, which grows with tensors larger than 1; for
# gradients the relative norm.
VIDEO_TOKENS, LOGITS, LOSS, GRADIENT = 2e-6, 1e-4, 1e-5, 1e-4


@dataclass(frozen=True)
class Recipe:
    """One random checkpoint: sizes shown by its tensors, settings of `--config`, and a video for it."""

    seed: int
    settings: Settings
    vit: dict[str, int]  # width, mlp, grid of the file, blocks of the file
    qformer: dict[str, int]  # width, mlp, layers, cross-attention interval, vocabulary, positions, queries
    video_queries: int
    frame_rows: int
    llama: dict[str, Any]  # parts of config.json, see `write_llama`
    lora_rank: int
    frames: int
    weights: str = "safetensors"  # format of the language model's shards, and their dtype
    dtype: torch.dtype = torch.float32
    shards: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    vit_scale: float = 1.0  # scale of the vision activations; small values make the epsilons of the norms visible


RECIPES = {
    "overlapping windows": Recipe(
        seed=1,
        settings=Settings(42, 5, 3, 2, 4, window_size=8, stride=4, max_frame_positions=40, lora_alpha=20),
        vit={"width": 40, "mlp": 100, "grid": 4, "blocks": 4},
        qformer={"width": 32, "mlp": 48, "layers": 5, "crossing": 2, "vocabulary": 723, "positions": 20, "queries": 4},
        video_queries=3,
        frame_rows=24,
        llama={"heads": 6, "key_value_heads": 2, "width": 48, "mlp": 80, "layers": 3, "eps": 1e-6, "theta": 5000.0},
        lora_rank=8,
        frames=10,
        dtype=torch.bfloat16,
        shards=3,
    ),
    "one window over the video": Recipe(
        seed=2,
        settings=Settings(70, 3, 2, 6, 3, window_size=0, stride=0, max_frame_positions=12, lora_alpha=16),
        vit={"width": 24, "mlp": 48, "grid": 2, "blocks": 3},
        qformer={"width": 24, "mlp": 40, "layers": 4, "crossing": 3, "vocabulary": 701, "positions": 16, "queries": 2},
        video_queries=7,
        frame_rows=30,
        llama={"heads": 4, "key_value_heads": None, "width": 32, "mlp": 64, "layers": 2, "tied": True, "eps": 1e-5},
        lora_rank=4,
        frames=12,
        weights="bin",
        dtype=torch.float16,
        shards=2,
    ),
    "a long video": Recipe(
        seed=3,
        settings=Settings(28, 2, 4, 4, 2, window_size=32, stride=32, max_frame_positions=96, lora_alpha=32),
        vit={"width": 32, "mlp": 96, "grid": 2, "blocks": 5},
        qformer={"width": 16, "mlp": 64, "layers": 3, "crossing": 1, "vocabulary": 900, "positions": 64, "queries": 5},
        video_queries=4,
        frame_rows=32,
        llama={"heads": 4, "key_value_heads": 1, "width": 64, "mlp": 72, "layers": 2, "eps": 1e-3},
        lora_rank=16,
        frames=40,
        vit_scale=0.03,
    ),
    "windows with gaps": Recipe(
        seed=4,
        settings=Settings(56, 2, 1, 1, 8, window_size=3, stride=5, max_frame_positions=20, lora_alpha=5),
        vit={"width": 16, "mlp": 70, "grid": 4, "blocks": 1},
        qformer={"width": 48, "mlp": 30, "layers": 2, "crossing": 2, "vocabulary": 701, "positions": 32, "queries": 8},
        video_queries=2,
        frame_rows=20,
        llama={"heads": 2, "key_value_heads": 2, "width": 24, "mlp": 96, "layers": 1, "eps": 1e-5},
        lora_rank=2,
        frames=11,
        weights="bin",
        config={"vision_config": {"num_hidden_layers": 1}},
    ),
}


class Maker:
    """Random tensors of one recipe, in the order of the calls."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * std + mean

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True) -> State:
        made = {f"{name}.weight": self.normal(rows, columns, std=columns**-0.5)}
        return made | ({f"{name}.bias": self.normal(rows, std=0.2)} if bias else {})

    def norm(self, name: str, width: int) -> State:
        return {
            f"{name}.weight": self.normal(width, std=0.2, mean=1),
            f"{name}.bias": self.normal(width, std=0.2),
        }

    def vit(self, recipe: Recipe) -> State:
        width, mlp, grid, blocks = recipe.vit.values()
        made = {
            "cls_token": self.normal(1, 1, width),
            "pos_embed": self.normal(1, 1 + grid * grid, width),
            "patch_embed.proj.weight": self.normal(width, 3, 14, 14, std=588**-0.5),
            "patch_embed.proj.bias": self.normal(width, std=0.2),
            **self.norm("norm", width),
            **self.norm("fc_norm", width),
            **self.linear("head", 10, width),
        }
        for block in (f"blocks.{i}" for i in range(blocks)):
            made |= self.norm(f"{block}.norm1", width) | self.norm(f"{block}.norm2", width)
            made |= {f"{block}.attn.{which}_bias": self.normal(width, std=0.2) for which in "qv"}
            made |= self.linear(f"{block}.attn.qkv", 3 * width, width, bias=False)
            made |= self.linear(f"{block}.attn.proj", width, width)
            made |= self.linear(f"{block}.mlp.fc1", mlp, width) | self.linear(f"{block}.mlp.fc2", width, mlp)
        streams = re.compile(r"cls_token|pos_embed|patch_embed|.*\.(attn\.proj|mlp\.fc2)\.")
        made = {name: tensor * recipe.vit_scale if streams.match(name) else tensor for name, tensor in made.items()}
        return {name: tensor.half() for name, tensor in made.items()}

    def qformer(self, recipe: Recipe) -> State:
        width, mlp, layers, crossing, vocabulary, positions, queries = recipe.qformer.values()
        embeddings = "Qformer.bert.embeddings"
        made = {
            "query_tokens": self.normal(1, queries, width),
            f"{embeddings}.position_ids": torch.arange(positions)[None],
            f"{embeddings}.word_embeddings.weight": self.normal(vocabulary, width),
            f"{embeddings}.position_embeddings.weight": self.normal(positions, width),
            **self.norm(f"{embeddings}.LayerNorm", width),
            "Qformer.cls.predictions.bias": self.normal(vocabulary),
            **self.linear("Qformer.cls.predictions.transform.dense", width, width),
            **self.linear("Qformer.cls.predictions.decoder", vocabulary, width),
        }
        for i in range(layers):
            source = recipe.vit["width"] if i % crossing == 0 else None
            made |= self.bert_layer(f"Qformer.bert.encoder.layer.{i}", width, mlp, source, ("", "_query"))
        return made

    def video_qformer(self, recipe: Recipe) -> State:
        width, mlp = recipe.qformer["width"], recipe.qformer["mlp"]
        made = {
            "video_query_tokens": self.normal(1, recipe.video_queries, width),
            "video_frame_position_embedding.weight": self.normal(recipe.frame_rows, width),
            "video_Qformer.bert.embeddings.position_ids": torch.arange(recipe.qformer["positions"])[None],
            **self.norm("video_Qformer.bert.embeddings.LayerNorm", width),
            **self.linear("llama_proj", recipe.llama["width"], width),
        }
        for i in range(2):
            made |= self.bert_layer(f"video_Qformer.bert.encoder.layer.{i}", width, mlp, width, ("_query",))
        return made

    def bert_layer(self, layer: str, width: int, mlp: int, source: int | None, kinds: tuple[str, ...]) -> State:
        made: State = {}
        for name, columns in (("attention", width), ("crossattention", source)):
            if columns is not None:
                made |= self.linear(f"{layer}.{name}.self.query", width, width)
                made |= self.linear(f"{layer}.{name}.self.key", width, columns)
                made |= self.linear(f"{layer}.{name}.self.value", width, columns)
                made |= self.linear(f"{layer}.{name}.output.dense", width, width)
                made |= self.norm(f"{layer}.{name}.output.LayerNorm", width)
        for kind in kinds:
            made |= self.linear(f"{layer}.intermediate{kind}.dense", mlp, width)
            made |= self.linear(f"{layer}.output{kind}.dense", width, mlp)
            made |= self.norm(f"{layer}.output{kind}.LayerNorm", width)
        return made

    def llama(self, recipe: Recipe) -> State:
        width, mlp = recipe.llama["width"], recipe.llama["mlp"]
        made = {"model.embed_tokens.weight": self.normal(PLACEHOLDER, width)}
        for i in range(recipe.llama["layers"]):
            layer = f"model.layers.{i}"
            for name, rows in attention_rows(recipe).items():
                made |= self.linear(f"{layer}.self_attn.{name}", rows, width, bias=False)
            made |= self.linear(f"{layer}.mlp.gate_proj", mlp, width, bias=False)
            made |= self.linear(f"{layer}.mlp.up_proj", mlp, width, bias=False)
            made |= self.linear(f"{layer}.mlp.down_proj", width, mlp, bias=False)
            for name in ("input_layernorm", "post_attention_layernorm"):
                made[f"{layer}.{name}.weight"] = self.normal(width, std=0.2, mean=1)
            dim = width // recipe.llama["heads"]
            made[f"{layer}.self_attn.rotary_emb.inv_freq"] = 1e4 ** -(torch.arange(0, dim, 2) / dim)
        made["model.norm.weight"] = self.normal(width, std=0.2, mean=1)
        if not recipe.llama.get("tied"):
            made["lm_head.weight"] = self.normal(PLACEHOLDER, width, std=2 * width**-0.5)
        return {name: tensor.to(recipe.dtype) for name, tensor in made.items()}

    def lora(self, recipe: Recipe) -> State:
        width, rank, made = recipe.llama["width"], recipe.lora_rank, {}
        for i in range(recipe.llama["layers"]):
            for name, rows in attention_rows(recipe).items():
                stem = f"{LORA}model.layers.{i}.self_attn.{name}"
                made[f"{stem}.lora_A.default.weight"] = self.normal(rank, width, std=width**-0.5)
                made[f"{stem}.lora_B.default.weight"] = self.normal(rows, rank, std=0.5 * rank**-0.5)
        return made


def attention_rows(recipe: Recipe) -> dict[str, int]:
    width, heads = recipe.llama["width"], recipe.llama["heads"]
    narrow = width // heads * (recipe.llama["key_value_heads"] or heads)
    return {"q_proj": width, "k_proj": narrow, "v_proj": narrow, "o_proj": width}


def write_original(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Write the files of the original's layout; return them by the option names of the command."""
    maker = Maker(recipe.seed)
    norm = maker.norm("ln_vision", recipe.vit["width"])
    unused = maker.linear("llm_proj", 8, recipe.qformer["width"])
    contents = {
        "vit": maker.vit(recipe),
        # The fine-tuned checkpoint overwrites the whole image Q-Former except the norm before it.
        "qformer": {"model": norm | unused | maker.qformer(recipe)},
        "timechat": {
            "model": maker.qformer(recipe) | maker.video_qformer(recipe) | maker.lora(recipe),
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 3e-5}]},
            "config": {"model": {"arch": "timechat", "lora": True}, "run": {"seed": 42}},
            "scaler": {"scale": 65536.0, "_growth_tracker": 7},
            "epoch": 2,
        },
        "video-llama": {
            "model": maker.video_qformer(recipe)
            | {"llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
            "epoch": 1,
        },
    }
    files = {part: folder / f"{part}.pth" for part in contents}
    for part, content in contents.items():
        torch.save(content, files[part])
    write_llama(recipe, maker.llama(recipe), folder / "llama")
    overrides = {
        "vision_config": {"image_size": recipe.settings.image_size, "num_attention_heads": recipe.settings.vit_heads},
        "qformer_config": {"num_attention_heads": recipe.settings.qformer_heads},
        "video_qformer_config": {"num_attention_heads": recipe.settings.video_qformer_heads},
        "window_size": recipe.settings.window_size,
        "stride": recipe.settings.stride,
        "max_frame_positions": recipe.settings.max_frame_positions,
        "lora_alpha": recipe.settings.lora_alpha,
    }
    for name, value in recipe.config.items():
        overrides[name] |= value
    (folder / "config.json").write_text(json.dumps(overrides))
    vocabulary = golden_path("checkpoints/bert/vocab.txt")
    return files | {"llm": folder / "llama", "config": folder / "config.json", "bert-vocab": vocabulary}


def write_llama(recipe: Recipe, tensors: State, folder: Path) -> None:
    """Write a language model as old versions of `transformers` did: shards with an index, and a short config."""
    shutil.copytree(golden_path("checkpoints/llama"), folder, ignore=shutil.ignore_patterns("model.safetensors"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_size": recipe.llama["width"],
        "intermediate_size": recipe.llama["mlp"],
        "max_position_embeddings": 2048,
        "num_attention_heads": recipe.llama["heads"],
        "num_hidden_layers": recipe.llama["layers"],
        "rms_norm_eps": recipe.llama["eps"],
        "tie_word_embeddings": recipe.llama.get("tied", False),
        "torch_dtype": str(recipe.dtype).removeprefix("torch."),
        "transformers_version": "4.31.0.dev0",
        "vocab_size": PLACEHOLDER,
    }
    if recipe.llama["key_value_heads"]:
        config["num_key_value_heads"] = recipe.llama["key_value_heads"]
    if "theta" in recipe.llama:
        config["rope_theta"] = recipe.llama["theta"]
    (folder / "config.json").write_text(json.dumps(config))
    stem, ending = ("model", "safetensors") if recipe.weights == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for number in range(recipe.shards):
        part = dict(list(tensors.items())[number :: recipe.shards])
        name = f"{stem}-{number + 1:05d}-of-{recipe.shards:05d}.{ending}" if recipe.shards > 1 else f"{stem}.{ending}"
        if recipe.weights == "safetensors":
            save_file(part, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    if recipe.shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def run_convert(files: dict[str, Path], out: Path, *flags: str, without: str = "video-llama") -> Path:
    arguments = [text for part, path in files.items() if part != without for text in (f"--{part}", str(path))]
    before, sys.argv = sys.argv, ["timechat", "convert", *arguments, *flags, "--quiet", str(out)]
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        sys.argv = before
    assert not caught.value.code
    return out


def load(folder: Path) -> TimeChatForConditionalGeneration:
    return TimeChatForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


class Pair:
    """One recipe as plain state and as converted model."""

    def __init__(self, name: str, folder: Path) -> None:
        self.recipe = RECIPES[name]
        self.folder = folder
        self.settings = self.recipe.settings
        self.alpha = self.settings.lora_alpha
        self.files = write_original(self.recipe, folder)
        self.state, self.config = self.plain("timechat")

    def plain(self, checkpoint: str) -> tuple[State, dict[str, Any]]:
        files = self.files
        return reference.load_original(self.settings, files["vit"], files["qformer"], files["llm"], files[checkpoint])

    @cached_property
    def model(self) -> TimeChatForConditionalGeneration:
        return load(run_convert(self.files, self.folder / "converted"))

    def video(self, batch: int = 1, frames: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return random pixels, and sentences of several lengths padded to seven ids."""
        maker, frames, size = Maker(100 + seed), frames or self.recipe.frames, self.settings.image_size
        lengths = torch.randint(4, 8, (batch, frames, 1), generator=maker.generator)
        lengths[0, 0] = 7
        mask = (torch.arange(7) < lengths).long()
        ids = torch.randint(1, self.recipe.qformer["vocabulary"], (batch, frames, 7), generator=maker.generator)
        return maker.normal(batch, frames, 3, size, size), ids * mask, mask

    def prompt(self, num_video_tokens: int, length: int, seed: int = 0) -> Tensor:
        """Return random ids with one run of placeholders after the fourth."""
        ids = torch.randint(3, PLACEHOLDER, (1, length), generator=Maker(200 + seed).generator)
        return torch.cat([ids[:, :4], torch.full((1, num_video_tokens), PLACEHOLDER), ids[:, 4:]], dim=1)

    def question(self, video: tuple[Tensor, Tensor, Tensor], length: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the ids of a prompt about a video, and its embeddings in the original."""
        tokens = reference.encode_video(self.state, self.settings, *video)
        ids = self.prompt(tokens.shape[1], length, seed)
        return ids, reference.splice(self.state, ids, PLACEHOLDER, tokens)

    def left_padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings of two prompts, their float mask as in the original, and their positions."""
        (_, short), (_, long) = (self.question(self.video(seed=n), 9 * n, n) for n in (1, 2))
        missing = long.shape[1] - short.shape[1]
        padding = self.state[f"{LORA}model.embed_tokens.weight"][0].expand(1, missing, -1)
        mask = torch.ones(2, long.shape[1])
        mask[0, :missing] = 0
        positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)
        return torch.cat([torch.cat([padding, short], dim=1), long]), mask, positions


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    return cache(lambda name: Pair(name, tmp_path_factory.mktemp("second")))


@pytest.fixture(params=RECIPES)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


def check(what: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape, what
    difference = float((got - want).detach().abs().max() / want.detach().abs().max().clamp(min=1))
    assert difference <= tolerance, f"{what} differ by {difference:.3g}"


def inputs_of(video: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    return dict(zip(("pixel_values", "qformer_input_ids", "qformer_attention_mask"), video, strict=True))


@torch.no_grad()
def check_model(pair: Pair, model: TimeChatForConditionalGeneration, state: State, logits: float = LOGITS) -> None:
    """Compare all steps for one video and one question."""
    video = pair.video()
    tokens = reference.encode_video(state, pair.settings, *video)
    check("video tokens", model.get_video_features(*video), tokens, VIDEO_TOKENS)
    ids = pair.prompt(tokens.shape[1], 20)
    embeds = reference.splice(state, ids, PLACEHOLDER, tokens)
    want = reference.llama_logits(state, pair.config, pair.alpha, embeds)
    check("logits", model(input_ids=ids, **inputs_of(video)).logits, want, logits)


@torch.no_grad()
def test_the_plain_reference_matches_the_recording():
    settings = Settings(56, 4, 3, 4, 4)
    files = ("eva_vit_g.pth", "instruct_blip.pth", "llama", "timechat_7b.pth")
    state, config = reference.load_original(settings, *(golden_path(f"checkpoints/{name}") for name in files))
    want = golden_tensors("infer_T8")
    pixels = want["pixel_values"].transpose(0, 1)[None]
    sentences = [want[f"timestamp_{name}"][None] for name in ("input_ids", "attention_mask")]
    states = reference.encode_frames(state, settings, pixels[0], sentences[0][0], sentences[1][0])
    check("Q-Former states", states, want["qformer.last_hidden_state"], 1e-5)
    tokens = reference.encode_video(state, settings, pixels, *sentences)
    check("video tokens", tokens, want["video_tokens"], VIDEO_TOKENS)
    places = torch.full((tokens.shape[1],), PLACEHOLDER)
    ids = torch.cat([want["prompt_ids_before"], places, want["prompt_ids_after"]])[None]
    embeds = reference.splice(state, ids, PLACEHOLDER, tokens)
    check("logits", reference.llama_logits(state, config, 32, embeds), want["logits"], LOGITS)
    assert reference.greedy(state, config, 32, embeds, 12)[0].tolist() == want["greedy_ids"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_video_tokens_match_the_original(pair, batch):
    video = pair.video(batch, seed=batch)
    want = reference.encode_video(pair.state, pair.settings, *video)
    check("video tokens", pair.model.get_video_features(*video), want, VIDEO_TOKENS)


@torch.no_grad()
def test_video_tokens_of_short_videos_match_the_original(pair):
    for frames in (1, 4, 9):
        video = pair.video(1, frames)
        want = reference.encode_video(pair.state, pair.settings, *video)
        assert want.shape[1] == pair.model.config.num_video_tokens(frames)
        check(f"video tokens of {frames} frames", pair.model.get_video_features(*video), want, VIDEO_TOKENS)


@torch.no_grad()
def test_logits_of_a_left_padded_batch_match_the_original(pair):
    embeds, mask, positions = pair.left_padded()
    want = reference.llama_logits(pair.state, pair.config, pair.alpha, embeds, mask, positions)
    real = mask.bool()
    for number in (torch.float32, torch.long):
        got = pair.model(inputs_embeds=embeds, attention_mask=mask.to(number), position_ids=positions).logits
        check(f"logits with position_ids and {number}", got[real], want[real], LOGITS)
        got = pair.model(inputs_embeds=embeds, attention_mask=mask.to(number)).logits
        check(f"logits without position_ids and {number}", got[real], want[real], LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_videos_of_different_lengths_match_the_original(pair, side):
    long, short = pair.video(seed=1), pair.video(1, 5, seed=2)
    short = (short[0], short[1][..., :6], short[2][..., :6])  # its sentences are shorter too
    questions = [pair.question(long, 20, 1), pair.question(short, 9, 2)]
    lengths = [ids.shape[1] for ids, _ in questions]
    masks = [torch.ones(1, length, dtype=torch.long) for length in lengths]
    gap = lengths[0] - lengths[1]
    padding = (gap, 0) if side == "left" else (0, gap)

    def together(first: Tensor, second: Tensor) -> Tensor:
        missing = [
            0,
            first.shape[-1] - second.shape[-1],
            *[0, 0] * (first.ndim - 3),
            0,
            first.shape[1] - second.shape[1],
        ]
        return torch.cat([first, functional.pad(second, missing)])

    logits = pair.model(
        input_ids=torch.cat([questions[0][0], functional.pad(questions[1][0], padding)]),
        attention_mask=torch.cat([masks[0], functional.pad(masks[1], padding)]),
        video_sizes=torch.tensor([[long[0].shape[1], 7], [5, 6]]),
        **inputs_of((together(long[0], short[0]), together(long[1], short[1]), together(long[2], short[2]))),
    ).logits
    real = slice(gap, None) if side == "left" else slice(None, lengths[1])
    for got, (_, embeds) in zip((logits[:1], logits[1:, real]), questions, strict=True):
        check("logits", got, reference.llama_logits(pair.state, pair.config, pair.alpha, embeds), LOGITS)


def test_loss_and_gradients_of_training_match_the_original(pair):
    video = pair.video(2, seed=7)
    state = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in pair.state.items()}
    tokens = reference.encode_video(state, pair.settings, *video)
    ids = torch.cat([pair.prompt(tokens.shape[1], 16, seed) for seed in range(2)])
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :-7], mask[0, -3:], labels[0, -3:] = -100, 0, -100  # the first sample is shorter: padded right
    embeds = reference.splice(state, ids, PLACEHOLDER, tokens.flatten(0, 1))
    want = reference.training_loss(reference.llama_logits(state, pair.config, pair.alpha, embeds, mask), labels)
    want.backward()

    model = pair.model.requires_grad_(True)
    got = model(input_ids=ids, attention_mask=mask, labels=labels, **inputs_of(video)).loss
    got.backward()
    check("loss", got, want, LOSS)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.requires_grad_(False)
    # The gradient of a key bias is only noise: softmax ignores a constant added to every score.
    trained = [
        k for k, v in state.items() if k.startswith(TRAINED) and v.grad is not None and not k.endswith("key.bias")
    ]
    compared = [key for key in trained if LORA not in key or ".lora_" in key]
    assert sum(".lora_" in key for key in compared) == 8 * pair.recipe.llama["layers"]
    for key in compared:
        want_gradient = state[key].grad
        error = (gradients[rename(key)] - want_gradient).norm() / want_gradient.norm()
        assert error <= GRADIENT, f"the gradient of {key} is off by {error:.3g}"


@torch.no_grad()
def test_greedy_answers_match_the_original(pair):
    embeds, mask, _ = pair.left_padded()
    got = pair.model.generate(
        inputs_embeds=embeds, attention_mask=mask.long(), do_sample=False, max_new_tokens=6, eos_token_id=-1
    )
    for row, real, answer in zip(embeds, mask.bool(), got, strict=True):
        want, margins = reference.greedy(pair.state, pair.config, pair.alpha, row[real][None], 6)
        assert margins.min() > 1e-3, "choose another seed: this answer hangs on noise"
        assert answer.tolist() == want.tolist()


@pytest.mark.parametrize("name", ["overlapping windows", "one window over the video", "windows with gaps"])
def test_a_merged_checkpoint_matches_the_original(pairs, name, tmp_path):
    pair = pairs(name)
    merged = dict(pair.state)
    for key in [key for key in merged if ".lora_A." in key]:
        stem = key.removesuffix(".lora_A.default.weight")
        down, up = merged.pop(key), merged.pop(key.replace("lora_A", "lora_B"))
        weight = merged[f"{stem}.weight"] + pair.alpha / len(down) * (up @ down)
        merged[f"{stem}.weight"] = weight.to(pair.recipe.dtype).float()  # in the stored dtype
    model = load(run_convert(pair.files, tmp_path / "merged", "--merge"))
    assert not model.has_lora
    # Noise in the product may round single 16-bit weights to the other neighbour.
    check_model(pair, model, merged, LOGITS if pair.recipe.dtype == torch.float32 else 10 * LOGITS)


@pytest.mark.parametrize("name", ["overlapping windows", "a long video"])
def test_the_start_of_stage_2_matches_the_original(pairs, name, tmp_path):
    pair = pairs(name)
    model = load(run_convert(pair.files, tmp_path / "start", without="timechat"))
    assert model.has_lora
    check_model(pair, model, pair.plain("video-llama")[0])


def test_keys_that_the_original_ignores_are_reported(pair):
    assert pair.model.config.max_frame_positions == pair.settings.max_frame_positions
    report = json.loads((pair.folder / "converted" / "conversion.json").read_text())
    ignored = {key for keys in report["ignored"].values() for key in keys}
    assert {
        "norm.weight",
        "fc_norm.weight",
        "head.weight",
        "Qformer.cls.predictions.bias",
        "llm_proj.weight",
    } <= ignored
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" in ignored
    depth = pair.settings.vit_depth
    assert (f"blocks.{depth}.attn.q_bias" in ignored) == (pair.recipe.vit["blocks"] > depth)
    assert f"blocks.{depth - 1}.attn.q_bias" not in ignored
