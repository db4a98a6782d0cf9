"""Drawn films → batches for the stages of nano's training, a pure function of seed and iteration."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from timechat.data.packing import pad_packed
from timechat.distributed import rank, wait_for_all, world_size
from timechat.files import atomic_write
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.nano.frames import draw_clip, frame_batch
from timechat.synthetic.nano.labels import motion_labels, query_classes, state_labels, time_classes
from timechat.synthetic.nano.language import TokenIds, answer_pointers
from timechat.synthetic.nano.texts import ConversationWriter, choose_records, event_times
from timechat.synthetic.scene import TICK, Level, SyntheticVideo, write_scene
from timechat.training.config import TrainingRecipe
from timechat.training.schedule import num_steps

_HIDDEN = -1e9  # what is added to the attention of those who may not look
_SHARD = 50
_Sample = tuple[SyntheticVideo, int, int]  # film, how its questions are worded, number of the sample


class SyntheticSource:
    """Batches of drawn films for one stage, on one process."""

    def __init__(
        self, recipe: TrainingRecipe, processor: TimeChatProcessor, model: TimeChatForConditionalGeneration
    ) -> None:
        assert recipe.data.films is not None
        self._recipe = recipe
        self._films = recipe.data.films
        self._processor = processor
        self._writer = ConversationWriter(processor)
        self._token_ids = TokenIds.of(processor.tokenizer)
        make: dict[str, Callable[[int], dict[str, Any]]] = {
            "nano_frames": self._frames,
            "nano_scripts": self._scripts,
            "nano_windows": self._windows,
            "nano_windows_unguided": self._windows,
            "nano_films": self._watched,
        }
        self._make = make[recipe.objective]
        self._store: FrameTokenStore | None = None
        if self._make in (self._windows, self._watched):
            folder = Path(recipe.run.output).parent / "features"  # beside the stages: others may learn from it too
            self._store = FrameTokenStore(folder, recipe, processor, model)

    def batches(self, first_iteration: int) -> Generator[dict[str, Any], None, None]:
        """Give the batches of this process from an iteration on; each is made while the one before is learned from."""
        with ThreadPoolExecutor(1) as maker:
            coming = maker.submit(self._make, first_iteration)
            for iteration in itertools.count(first_iteration + 1):
                batch = coming.result()
                coming = maker.submit(self._make, iteration)
                yield batch

    def _numbers(self, iteration: int) -> range:
        """Numbers of this process's samples in an iteration: all processes together see what one would."""
        size = self._recipe.run.batch_size
        start = (iteration * world_size() + rank()) * size
        return range(start, start + size)

    def _frames(self, iteration: int) -> dict[str, Any]:
        per_film = 4
        films = len(self._numbers(iteration)) // per_film
        number = iteration * world_size() + rank()
        return frame_batch(self._processor, self._films.seed, number, films, per_film)

    def _scripts(self, iteration: int) -> dict[str, Any]:
        films = [(self._new_video(number, iteration), 0, number) for number in self._numbers(iteration)]
        return self._named(films, self._texts(films, iteration))

    def _windows(self, iteration: int) -> dict[str, Any]:
        # Films begin at any frame of a window: else the few there are would be learned by heart, window by window.
        size = self._processor.config.window_size
        starts = [random.Random(f"{self._films.seed}/{n}/start").randrange(size) for n in self._numbers(iteration)]
        films, video = self._stored(iteration, starts)
        told = []
        for (film, _, _), start in zip(films, starts, strict=True):
            timestamps = self._token_times(frame_times(film)[start:])
            told.append((state_labels(film, timestamps), time_classes(timestamps), *motion_labels(film, timestamps)))
        labels = [torch.from_numpy(np.concatenate(rows)) for rows in zip(*told, strict=True)]
        names = ("states", "times", "motion", "motion_known")
        return self._named(films, {**video, **dict(zip(names, labels, strict=True))})

    def _watched(self, iteration: int) -> dict[str, Any]:
        films, video = self._stored(iteration)
        return self._named(films, {**self._texts(films, iteration), **video})

    def _named(self, films: list[_Sample], batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "record_ids": [film.id for film, _, _ in films]}

    def _stored(self, iteration: int, starts: Sequence[int] | None = None) -> tuple[list[_Sample], dict[str, Tensor]]:
        """Films of the store, and what the frozen parts made of their frames: of all, or of those from a start on."""
        assert self._store is not None
        films, tokens = [], []
        for place, number in enumerate(self._numbers(iteration)):
            index, variant = self._store.order(number)
            films.append((self._store.video(index), variant, number))
            tokens.append(self._store.tokens(index)[starts[place] if starts else 0 :])
        longest = max(len(t) for t in tokens)
        padded = [torch.nn.functional.pad(t, (0, 0, 0, 0, 0, longest - len(t))) for t in tokens]
        sizes = [(len(t), t.shape[1] - self._processor.config.num_query_tokens) for t in tokens]
        return films, {"frame_tokens": torch.stack(padded), "video_sizes": torch.tensor(sizes)}

    def _token_times(self, timestamps: np.ndarray) -> np.ndarray:
        """Time of every video token: of its frame, or of the last frame where the last window has fewer."""
        missing = self._processor.config.num_video_tokens(len(timestamps)) - len(timestamps)
        return np.concatenate([timestamps, np.full(missing, timestamps[-1])])

    def _new_video(self, number: int, iteration: int) -> SyntheticVideo:
        longest = self._films.longest
        part = int(len(longest) * iteration / max(1, num_steps(self._recipe.run)))
        limit = longest[min(part, len(longest) - 1)] if longest else float("inf")
        rng = random.Random(f"{self._films.seed}/{number}")
        while True:
            level: Level = rng.choice(self._films.levels)  # type: ignore[arg-type]
            film = write_scene(self._films.seed, rng.randrange(2**40), level=level)
            if film.duration <= limit:
                return film

    def _texts(self, films: list[_Sample], iteration: int) -> dict[str, Any]:
        brief = iteration < self._films.brief_share * num_steps(self._recipe.run)
        rows, states, times, pointers, word_pointers, asked, asked_at = [], [], [], [], [], [], []
        for film, variant, number in films:
            rng = random.Random(f"{self._films.seed}/{number}/turns")
            timestamps = frame_times(film)
            records = choose_records(film, variant, self._films.questions, rng, brief=brief)
            row = self._writer.pack(timestamps, [(record.question, record.response) for record in records])
            token_times = self._token_times(timestamps)
            rows.append(row)
            states.append(torch.from_numpy(state_labels(film, token_times)))
            times.append(torch.from_numpy(time_classes(token_times)))
            to_times, to_words = answer_pointers(
                row, self._token_ids, len(token_times), [event_times(r) for r in records]
            )
            pointers.append(to_times)
            word_pointers.append(to_words)
            happenings = {happening.id: happening for happening in film.actions}
            for place, pointer in enumerate(pointers[-1]):
                record = records[row.segments[place] - 1]
                if pointer >= 0 and record.task == "grounding":
                    asked_at.append((len(rows) - 1, place))
                    asked.append(query_classes(film, happenings[record.events[0].id]))
        batch: dict[str, Any] = pad_packed(rows, self._processor.pad_token_id)
        may_look = batch["attention_mask"]
        batch["attention_mask"] = torch.zeros(may_look.shape).masked_fill(~may_look, _HIDDEN)
        length = batch["input_ids"].shape[1]
        for name, lists in (("pointers", pointers), ("word_pointers", word_pointers)):
            batch[name] = torch.tensor([[*p, *([-1] * (length - len(p)))] for p in lists])
        batch["asked_at"] = torch.tensor(asked_at, dtype=torch.long).reshape(-1, 2)
        batch["asked"] = torch.tensor(asked, dtype=torch.long).reshape(-1, 3)
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


def frame_times(film: SyntheticVideo) -> np.ndarray:
    """When frames of a film are sampled: twice a second."""
    return np.arange(0, film.duration, TICK)


class FrameTokenStore:
    """What the frozen image Q-Former made of the frames of some films: extracted once, kept in files."""

    def __init__(
        self,
        folder: Path,
        recipe: TrainingRecipe,
        processor: TimeChatProcessor,
        model: TimeChatForConditionalGeneration,
    ) -> None:
        assert recipe.data.films is not None
        self._films = recipe.data.films
        self._count = self._films.num_films or 0
        if self._count % _SHARD or not self._count:
            raise ValueError(f"data.films.num_films must be a multiple of {_SHARD}, got {self._films.num_films}")
        self._folder = folder / _weights_hash(model)
        self._folder.mkdir(parents=True, exist_ok=True)
        for shard in range(rank(), self._count // _SHARD, world_size()):
            path = self._folder / f"{shard:05d}.safetensors"
            if not path.exists():
                self._extract(path, shard, processor, model)
        wait_for_all()
        self._tokens: dict[str, Tensor] = {}
        for shard in range(self._count // _SHARD):
            self._tokens.update(load_file(self._folder / f"{shard:05d}.safetensors"))

    def video(self, index: int) -> SyntheticVideo:
        """Script of a film of the store."""
        levels = self._films.levels
        return write_scene(self._films.seed, index, level=levels[index % len(levels)])  # type: ignore[arg-type]

    def tokens(self, index: int) -> Tensor:
        """`(frames, tokens, Q-Former hidden)` of a film."""
        return self._tokens[str(index)].float()

    def order(self, number: int) -> tuple[int, int]:
        """Which film a sample is about, and how often it has been seen: every epoch in an order of its own."""
        epoch, place = divmod(number, self._count)
        order = np.random.default_rng([self._films.seed, epoch]).permutation(self._count)
        return int(order[place]), epoch

    @torch.no_grad()
    def _extract(
        self, path: Path, shard: int, processor: TimeChatProcessor, model: TimeChatForConditionalGeneration
    ) -> None:
        was_training = model.training
        model.eval()
        tokens: dict[str, Tensor] = {}
        for index in range(shard * _SHARD, (shard + 1) * _SHARD):
            film = self.video(index)
            clip = draw_clip(film, frame_times(film), np.random.default_rng([self._films.seed, index]))
            inputs = {name: tensor[None] for name, tensor in processor.encode_frames(clip).items()}
            tokens[str(index)] = model.get_frame_features(**inputs)[0].to(torch.float16).contiguous()
        with atomic_write(path) as unfinished:
            save_file(tokens, unfinished)
        model.train(was_training)


def _weights_hash(model: TimeChatForConditionalGeneration) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.frame_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
