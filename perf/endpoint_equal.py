"""Ask the same model here and behind a server about one video, and compare the events and the pictures.

    python perf/endpoint_equal.py VIDEO FOLDER http://127.0.0.1:8000/v1#NAME [--side 256] [--window-seconds 8]

FOLDER is a Qwen3-VL model, and the server (vLLM) runs the same folder. Both read the same windows at the same frame
rate with the same prompts, through `TimeChat.ground`, `dense_caption` and `highlights`, and verify moments. The local
model reads the JPEG pictures that the server gets, decoded. It keeps the forms in the words that the server gets
(`--own-forms`: in its own grammar, which also orders the times of an event). Prints a table in Markdown, one line per
task: answers of windows that are equal, events, equal events, largest difference of a score, and largest difference of
the two log probabilities of a token.

With `--side` a multiple of the side of a token, such as 256 for videos of 16:9, no picture is resized after its JPEG
encoding. With another side, the server and this package resize pictures by different filters; a second table gives the
difference of the pixels. It needs an image processor that resizes like that of the server: run it with the Python of
the server (see `perf/vllm_environment.sh`).
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

from timechat import Answer
from timechat.answers.forms import AnswerForm
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.backbones.backbone import GeneratedText
from timechat.backbones.endpoint.backbone import EndpointBackbone, load_endpoint
from timechat.backbones.endpoint.options import EndpointOptions, EndpointSettings
from timechat.backbones.endpoint.pictures import PictureFormat, encode_picture
from timechat.backbones.transformers.backbone import TransformersBackbone
from timechat.backbones.transformers.families import QWEN3_IMAGES
from timechat.backbones.transformers.loading import load_model_files
from timechat.backbones.transformers.media import token_side
from timechat.files.cache import DiskCache
from timechat.pipeline import TimeChat
from timechat.video import Frames, FrameSampling, load_frames
from timechat.video.frames import FrameSize, resize

TASKS = {"ground": ("a person opens a door",), "dense_caption": (), "highlights": ("a door",)}


class LocalTwin(TransformersBackbone):
    """A local model that reads what the server reads: the same JPEG pictures, the same forms.

    Attributes:
        pictures: Size and quality of the pictures.
        has_own_forms: Whether forms are kept in the grammar of this package.
        texts: All answers in order.
    """

    pictures: PictureFormat
    has_own_forms: bool
    texts: list[GeneratedText]

    def frame_size(self, height: int, width: int) -> FrameSize:
        return self.pictures.size(height, width)

    def encode(self, frames: Frames, **options: Any) -> tuple[Any, tuple[str, ...]]:
        pixels = np.stack([decode(encode_picture(one, self.pictures)) for one in frames.pixels])
        return super().encode(replace(frames, pixels=pixels), **options)

    def generate(
        self, prompts: Any, forms: Sequence[AnswerForm | None], decoding: DecodingOptions, **options: Any
    ) -> list[GeneratedText]:
        kept = forms if self.has_own_forms else [words_only(form) for form in forms]
        answers = super().generate(prompts, kept, decoding, **options)
        self.texts += answers
        return answers


class Server(EndpointBackbone):
    """The server; keeps all answers."""

    texts: list[GeneratedText]

    def generate(self, *arguments: Any, **options: Any) -> list[GeneratedText]:
        answers = super().generate(*arguments, **options)
        self.texts += answers
        return answers


def decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def words_only(form: AnswerForm | None) -> AnswerForm | None:
    """Return a form whose grammar is the regular expression that a server gets."""
    if form is None or form.regex is None:
        return form
    regex = form.regex.replace("/", r"\/")
    return AnswerForm(grammar=AnswerGrammar(f"start: /{regex}/", None))


def compare(here: Answer, there: Answer, texts: tuple[list[GeneratedText], list[GeneratedText]]) -> str:
    """Return the cells of one line of the table."""
    plain = [[replace(event, score=None) for event in answer.events] for answer in (here, there)]
    num_equal = sum(event in plain[1] for event in plain[0])
    if len(texts[0]) != len(texts[1]):
        raise SystemExit(f"{len(texts[0])} answers here, but {len(texts[1])} of the server")
    num_texts = sum(one.text == other.text for one, other in zip(*texts, strict=True))
    scores = [
        abs(a.score - b.score)
        for a, b in zip(here.events, there.events, strict=False)
        if a.score is not None and b.score is not None and plain[0] == plain[1]
    ]
    gaps = []
    for one, other in zip(*texts, strict=True):
        if one.text == other.text:
            # The end token is the last token here, and no token of the server.
            gaps += [abs(a.form_logprob - b.logprob) for a, b in zip(one.tokens, other.tokens, strict=False)]
    score, gap = (f"{max(values):.1e}" if values else "–" for values in (scores, gaps))
    answers = f"{num_texts} of {len(texts[0])}"
    return f"{answers} | {len(plain[0])} | {len(plain[1])} | {num_equal} | {score} | {gap}"


def compare_resizers(local: LocalTwin, frames: Frames, processor: Any) -> str:
    """Return the sizes of the pictures, and how far our pixels are from those of the model's image processor."""
    differences, sizes = [], set()
    for one in frames.pixels:
        picture = decode(encode_picture(one, local.pictures))
        inputs = processor(images=[Image.fromarray(picture)], return_tensors="pt")
        rows, columns = (int(n) * processor.patch_size for n in inputs["image_grid_thw"][0, 1:])
        ours = local._encoder.frame_size(*picture.shape[:2])
        sizes.add(f"{picture.shape[1]}x{picture.shape[0]} | {columns}x{rows} | {ours.width}x{ours.height}")
        if (rows, columns) == (ours.height, ours.width):
            same = processor(images=[Image.fromarray(resize(picture, ours))], do_resize=False, return_tensors="pt")
            scale = np.mean(processor.image_std) * 255
            differences.append((inputs["pixel_values"] - same["pixel_values"]).abs().float().numpy() * scale)
    if not differences:
        return " ".join(sorted(sizes)) + " | – | –"
    all_of = np.concatenate(differences)
    return " ".join(sorted(sizes)) + f" | {all_of.mean():.2f} | {all_of.max():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", help="Video file.")
    parser.add_argument("folder", help="Folder of the model.")
    parser.add_argument("address", help="Address of the server with the same model, http://HOST/v1#NAME.")
    parser.add_argument("--fps", type=float, default=1.0, help="Frames per second of video.")
    parser.add_argument("--side", type=int, default=256, help="Longer side of the pictures in pixels.")
    parser.add_argument("--quality", type=int, default=85, help="JPEG quality.")
    parser.add_argument("--window-seconds", type=float, default=8.0, help="Length of a window in seconds.")
    parser.add_argument("--preset", default="qwen3-vl@1", help="Prompts.")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="Maximum number of tokens of an answer.")
    parser.add_argument("--own-forms", action="store_true", help="Keep forms in the local grammar here.")
    options = parser.parse_args()

    pictures = PictureFormat(options.side, options.quality)
    settings = EndpointSettings(options=EndpointOptions(pictures, verify=True))
    endpoint = load_endpoint(options.address, settings=settings)
    server = Server(endpoint.client, endpoint.name, endpoint.options)
    loaded = load_model_files(options.folder, device="cpu", dtype="float32")
    tokens = (options.side // token_side(loaded.image_processor)) ** 2
    local = LocalTwin(loaded, options.folder, family=replace(QWEN3_IMAGES, tokens_per_picture=tokens))
    local.pictures, local.has_own_forms, local.texts, server.texts = pictures, options.own_forms, [], []

    windows = WindowConfig(window=options.window_seconds, refine=False)
    sampling = FrameSampling(fps=options.fps)
    decoding = DecodingOptions(max_new_tokens=options.max_new_tokens)
    print(
        "| task | equal answers of windows | events here | events there | equal events | score gap | token gap, nats |"
    )
    print("|---|---|---|---|---|---|---|")
    for task, query in TASKS.items():
        more = {"by": "model"} if task == "ground" else {}
        answers = []
        for backbone in (local, server):
            timechat = TimeChat(backbone, cache=DiskCache(max_bytes=0))
            with timechat.open(options.video, windows=windows, sampling=sampling) as video:
                ask = getattr(timechat, task)
                answers.append(ask(video, *query, decoding=decoding, preset=options.preset, **more))
        print(f"| {task} | {compare(*answers, (local.texts, server.texts))} |", flush=True)
        local.texts, server.texts = [], []
    frames = load_frames(options.video, fps=options.fps)
    print("\n| picture | the server reads | read here | mean difference of a pixel | largest |\n|---|---|---|---|---|")
    print(f"| {compare_resizers(local, frames, AutoImageProcessor.from_pretrained(options.folder))} |")
    server.close()


if __name__ == "__main__":
    main()
