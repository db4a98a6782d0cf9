"""Batches of synthetic videos for the stages of nano's training, a pure function of seed and iteration."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from timechat.data.packing import pad_packed
from timechat.files import atomic_write
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.tensor_files import save_tensors
from timechat.synthetic.nano.clips import TrainingClip, make_clip
from timechat.synthetic.nano.frames import frame_batch, make_frames
from timechat.synthetic.nano.labels import query_classes, time_classes
from timechat.synthetic.nano.language import TokenIds, answer_pointers
from timechat.synthetic.nano.texts import ConversationWriter, choose_records, single_event_start
from timechat.synthetic.nano.tokens import frames_per_token, token_frames
from timechat.training.config import SyntheticDataSettings, TrainingRecipe
from timechat.training.distributed import rank, wait_for_all, world_size
from timechat.training.schedule import num_steps

_HIDDEN = -1e9  # is added to the attention scores of masked positions
_SHARD = 50
_PART_FRAMES = 64  # maximum number of frames of a sample of the stage `windows`, at least one window
_Sample = tuple[TrainingClip, int, int]  # clip, variant of its records, number of the sample


class SyntheticSource:
    """Batches of synthetic videos for one stage, on one process."""

    def __init__(
        self, recipe: TrainingRecipe, processor: TimeChatProcessor, model: TimeChatForConditionalGeneration
    ) -> None:
        assert recipe.data.films is not None
        self._recipe = recipe
        self._settings = recipe.data.films
        self._processor = processor
        self._writer = ConversationWriter(processor)
        self._token_ids = TokenIds.of(processor.tokenizer)
        make: dict[str, Callable[[int], dict[str, Any]]] = {
            "nano_frames": self._frames,
            "nano_scripts": self._scripts,
            "nano_windows": self._windows,
            "nano_films": self._videos,
        }
        self._make = make[recipe.objective]
        self._store: FrameTokenStore | None = None
        if self._make in (self._windows, self._videos):
            folder = Path(recipe.run.output).parent / "features"  # beside the stages, so that they can share it
            self._store = FrameTokenStore(folder, recipe, processor, model)
        elif not self._settings.timestamps:
            raise ValueError(
                f"data.films.timestamps=false is for stages with stored frame tokens, nano_windows and nano_films, "
                f"not for {recipe.objective}"
            )

    def batches(self, first_iteration: int) -> Generator[dict[str, Any], None, None]:
        """Yield the batches of this process from an iteration on; each is made during the step before."""
        with ThreadPoolExecutor(1) as maker:
            next_batch = maker.submit(self._make, first_iteration)
            for iteration in itertools.count(first_iteration + 1):
                batch = next_batch.result()
                next_batch = maker.submit(self._make, iteration)
                yield batch

    def _numbers(self, iteration: int) -> range:
        """Numbers of this process's samples in an iteration. The samples do not depend on the number of processes."""
        size = self._recipe.run.samples_per_process(world_size())
        start = (iteration * world_size() + rank()) * size
        return range(start, start + size)

    def _frames(self, iteration: int) -> dict[str, Any]:
        per_video = 4
        num_videos = len(self._numbers(iteration)) // per_video
        number = iteration * world_size() + rank()
        return frame_batch(self._processor, self._settings.seed, number, num_videos, per_video, self._settings.levels)

    def _scripts(self, iteration: int) -> dict[str, Any]:
        samples = [(self._new_clip(number, iteration), 0, number) for number in self._numbers(iteration)]
        return self._named(samples, self._texts(samples, iteration))

    def _windows(self, iteration: int) -> dict[str, Any]:
        """Parts of stored videos; they start anywhere, so that the few videos give many different windows."""
        samples, inputs = self._stored(iteration, longest=max(_PART_FRAMES, self._processor.config.window_size))
        label_rows = []
        for (clip, _, _), start, (frames, _) in zip(
            samples, inputs["starts"].tolist(), inputs["video_sizes"].tolist(), strict=True
        ):
            timestamps = clip.times[start : start + frames]
            token_times = self._token_times(timestamps)
            label_rows.append((clip.states(token_times), time_classes(token_times), clip.states(timestamps)))
        labels = [torch.from_numpy(np.concatenate(rows)) for rows in zip(*label_rows, strict=True)]
        names = ("states", "times", "frame_states")
        return self._named(samples, {**inputs, **dict(zip(names, labels, strict=True))})

    def _videos(self, iteration: int) -> dict[str, Any]:
        samples, inputs = self._stored(iteration)
        return self._named(samples, {**self._texts(samples, iteration), **inputs})

    def _named(self, samples: list[_Sample], batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "record_ids": [clip.id for clip, _, _ in samples]}

    def _stored(self, iteration: int, *, longest: int | None = None) -> tuple[list[_Sample], dict[str, Tensor]]:
        """Videos of the store with the frame tokens of their frames, and the first of these frames, `starts`.

        Args:
            iteration: Number of the iteration.
            longest: Maximum number of frames; a part of a longer video starts at a random frame. None takes all frames.
        """
        assert self._store is not None
        samples, tokens, starts = [], [], []
        for number in self._numbers(iteration):
            index, variant = self._store.order(number)
            whole = self._store.tokens(index)
            surplus = 0 if longest is None else max(0, len(whole) - longest)
            start = random.Random(f"{self._settings.seed}/{number}/start").randint(0, surplus)
            samples.append((self._store.clip(index), variant, number))
            tokens.append(whole[start : start + (longest or len(whole))])
            starts.append(start)
        most = max(len(t) for t in tokens)
        padded = [torch.nn.functional.pad(t, (0, 0, 0, 0, 0, most - len(t))) for t in tokens]
        sizes = [(len(t), t.shape[1] - self._processor.config.num_query_tokens) for t in tokens]
        return samples, {
            "frame_tokens": torch.stack(padded),
            "video_sizes": torch.tensor(sizes),
            "starts": torch.tensor(starts),
        }

    def _token_times(self, timestamps: np.ndarray) -> np.ndarray:
        """Return the time of the frame that every video token stands for."""
        return timestamps[token_frames(self._processor.config, len(timestamps))]

    def _new_clip(self, number: int, iteration: int) -> TrainingClip:
        settings = self._settings
        longest = settings.longest
        part = int(len(longest) * iteration / max(1, num_steps(self._recipe.run)))
        limit = longest[min(part, len(longest) - 1)] if longest else float("inf")
        rng = random.Random(f"{settings.seed}/{number}")
        while True:
            clip = make_clip(settings.seed, rng.randrange(2**40), settings.levels, settings.window_share)
            if clip.script.duration <= limit:
                return clip

    def _texts(self, samples: list[_Sample], iteration: int) -> dict[str, Any]:
        brief = iteration < self._settings.brief_share * num_steps(self._recipe.run)
        rows, states, times, pointers, word_pointers, queries, positions = [], [], [], [], [], [], []
        for clip, variant, number in samples:
            rng = random.Random(f"{self._settings.seed}/{number}/turns")
            timestamps = clip.times
            records = choose_records(
                clip.script,
                variant,
                self._settings.questions,
                rng,
                brief=brief,
                negative_share=self._settings.negative_share,
                elsewhere=clip.elsewhere,
                highlights=self._settings.highlights,
            )
            row = self._writer.pack(timestamps, [(record.question, record.response) for record in records])
            token_times = self._token_times(timestamps)
            rows.append(row)
            states.append(torch.from_numpy(clip.states(token_times)))
            times.append(torch.from_numpy(time_classes(token_times)))
            to_times, to_words = answer_pointers(
                row,
                self._token_ids,
                len(token_times),
                [single_event_start(r) for r in records],
                frames_per_token=frames_per_token(self._processor.config),
            )
            pointers.append(to_times)
            word_pointers.append(to_words)
            actions = {action.id: action for action in clip.script.actions}
            for place, pointer in enumerate(pointers[-1]):
                record = records[row.segments[place] - 1]
                if pointer >= 0 and record.task == "grounding":
                    positions.append((len(rows) - 1, place))
                    queries.append(query_classes(clip.script, actions[record.events[0].id]))
        batch: dict[str, Any] = pad_packed(rows, self._processor.pad_token_id)
        is_visible = batch["attention_mask"]
        batch["attention_mask"] = torch.zeros(is_visible.shape).masked_fill(~is_visible, _HIDDEN)
        length = batch["input_ids"].shape[1]
        for name, lists in (("pointers", pointers), ("word_pointers", word_pointers)):
            batch[name] = torch.tensor([[*p, *([-1] * (length - len(p)))] for p in lists])
        batch["query_positions"] = torch.tensor(positions, dtype=torch.long).reshape(-1, 2)
        batch["query_classes"] = torch.tensor(queries, dtype=torch.long).reshape(-1, 3)
        batch["states"], batch["times"] = torch.cat(states), torch.cat(times)
        return batch


def make_source(
    recipe: TrainingRecipe, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor
) -> SyntheticSource:
    """Make the batches of a stage of nano's training.

    Raises:
        ValueError: The recipe names no synthetic videos, or records beside them.
    """
    if recipe.data.films is None:
        raise ValueError(f"{recipe.objective} learns from synthetic videos; give data.films")
    if recipe.data.sources:
        raise ValueError("data.sources and data.films are both given; learn from records or from synthetic videos")
    return SyntheticSource(recipe, processor, model)


class FrameTokenStore:
    """Frame tokens of the frozen image Q-Former for a fixed number of clips, computed once and kept in files."""

    def __init__(
        self,
        folder: Path,
        recipe: TrainingRecipe,
        processor: TimeChatProcessor,
        model: TimeChatForConditionalGeneration,
    ) -> None:
        assert recipe.data.films is not None
        self._settings = recipe.data.films
        self._count = self._settings.num_films or 0
        if self._count % _SHARD or not self._count:
            raise ValueError(f"data.films.num_films must be a multiple of {_SHARD}, got {self._settings.num_films}")
        self._folder = folder / _features_hash(model, self._settings)
        self._folder.mkdir(parents=True, exist_ok=True)
        for shard in range(rank(), self._count // _SHARD, world_size()):
            path = self._folder / f"{shard:05d}.safetensors"
            if not path.exists():
                self._extract(path, shard, processor, model)
        wait_for_all()
        self._tokens: dict[str, Tensor] = {}
        for shard in range(self._count // _SHARD):
            self._tokens.update(load_file(self._folder / f"{shard:05d}.safetensors"))

    def clip(self, index: int) -> TrainingClip:
        """Return a clip of the store."""
        return make_clip(self._settings.seed, index, self._settings.levels, self._settings.window_share)

    def tokens(self, index: int) -> Tensor:
        """Return the frame tokens `(frames, tokens, Q-Former hidden)` of a video."""
        return self._tokens[str(index)].float()

    def order(self, number: int) -> tuple[int, int]:
        """Return the video of a sample and the number of its epoch; every epoch has its own order."""
        epoch, place = divmod(number, self._count)
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(self._count)
        return int(order[place]), epoch

    @torch.no_grad()
    def _extract(
        self, path: Path, shard: int, processor: TimeChatProcessor, model: TimeChatForConditionalGeneration
    ) -> None:
        was_training = model.training
        model.eval()
        tokens: dict[str, Tensor] = {}
        for index in range(shard * _SHARD, (shard + 1) * _SHARD):
            clip = self.clip(index)
            frames = make_frames(clip.draw(clip.times), clip.times, np.random.default_rng([self._settings.seed, index]))
            if not self._settings.timestamps:
                frames = replace(frames, timestamps=np.zeros(len(frames)))
            inputs = {name: tensor[None] for name, tensor in processor.encode_frames(frames).items()}
            tokens[str(index)] = model.get_frame_features(**inputs)[0].to(torch.float16).contiguous()
        with atomic_write(path) as unfinished:
            save_tensors(tokens, unfinished)
        model.train(was_training)


def _features_hash(model: TimeChatForConditionalGeneration, settings: SyntheticDataSettings) -> str:
    """Return a hash of everything that the features depend on."""
    digest = hashlib.sha256(repr((settings.seed, settings.levels, settings.window_share)).encode())
    if not settings.timestamps:
        digest.update(b"no timestamps")
    for name, tensor in sorted(model.frame_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
