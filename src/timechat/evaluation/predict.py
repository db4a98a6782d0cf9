"""Samples → predictions: a few videos at a time, each encoded once, their questions answered in batches.

Samples are divided into fixed chunks of whole videos, and a chunk is answered and stored as a unit. So a resumed run,
or a run shared between processes, uses the same batches as an uninterrupted run in one process.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path

from timechat.answers.events import Answer
from timechat.answers.parsing import states_none
from timechat.answers.prompts import POST_CHECKS
from timechat.answers.tasks import TASKS
from timechat.answers.windows import WindowConfig
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.errors import PromptTooLongError, VideoError
from timechat.evaluation.answering import option_logprobs
from timechat.evaluation.benchmarks import load_segment_centres
from timechat.evaluation.config import EvaluationRecipe
from timechat.evaluation.run_folder import RunFolder
from timechat.evaluation.samples import Prediction, Sample, Status
from timechat.pipeline import EncodedVideo, FrameSampling, MomentSelection, Request, TimeChat, VideoSession

Chunk = tuple[Sample, ...]
Progress = Callable[[str, int, int], None]
EncodeVideo = Callable[[TimeChat, Path, Sample, EvaluationRecipe], EncodedVideo]
"""Function that encodes the video of a sample; ablations replace it."""

_EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")


def chunks(samples: Sequence[Sample], videos_at_once: int) -> list[Chunk]:
    """Divide samples into chunks with all samples of a fixed number of videos, in order of first appearance."""
    by_clip: dict[object, list[Sample]] = {}
    for sample in samples:
        by_clip.setdefault(sample.clip, []).append(sample)
    groups = iter(by_clip.values())
    return [
        tuple(sample for group in some for sample in group)
        for some in iter(lambda: list(islice(groups, videos_at_once)), [])
    ]


def find_video(folder: Path, name: str) -> Path | None:
    """Find the file of a video: its path, its name without folders, or another extension; None if missing."""
    places = [folder / name, folder / Path(name).name]
    places += [place.with_suffix(extension) for place in places for extension in _EXTENSIONS]
    return next((place for place in places if place.exists()), None)


def predict(
    timechat: TimeChat,
    samples: Sequence[Sample],
    recipe: EvaluationRecipe,
    folder: RunFolder,
    *,
    shard: tuple[int, int] = (0, 1),
    encode: EncodeVideo | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> bool:
    """Answer all samples that have no prediction yet.

    Args:
        timechat: The model.
        samples: All samples of the run, also those of other shares.
        recipe: Recipe of the run.
        folder: Folder that stores the predictions, chunk by chunk.
        shard: Index of this share of the chunks, from 0, and number of shares.
        encode: Function that encodes a video; None encodes it with the recipe's frame options.
        should_stop: Function that returns whether to stop; it is called after every chunk.
        progress: Function that is called with the number of finished samples.

    Returns:
        Whether the share is finished; False if it was stopped.
    """
    videos = Path(recipe.benchmark.videos)
    number, count = shard
    share = chunks(samples, recipe.run.batch_size)[number::count]
    there = folder.predictions()
    total, done = sum(map(len, share)), 0
    for chunk in share:
        if any(is_open(sample, there, videos) for sample in chunk):
            folder.add(_answer_chunk(timechat, chunk, recipe, videos, encode or encode_sample), shard)
        done += len(chunk)
        if progress is not None:
            progress("predict", done, total)
        if should_stop() and done < total:
            return False
    return True


def is_open(sample: Sample, there: Mapping[str, Prediction], videos: Path) -> bool:
    """Whether a sample needs an answer: no prediction, another question, or a missing video that now exists."""
    found = there.get(sample.id)
    if found is None or (found.video, found.task, found.query) != (sample.video, sample.task, sample.query):
        return True
    return found.status == "missing_video" and find_video(videos, sample.video) is not None


def encode_sample(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Encode the video of a sample as one window."""
    if path.is_dir() or sample.sampling == "segment_centres":
        is_own = isinstance(timechat.backbone, TimeChatBackbone)
        centres = load_segment_centres(
            path,
            num_frames=recipe.frames.num_frames or timechat.backbone.config.num_frames,
            start=sample.start,
            end=sample.end,
            size=timechat.model.config.vision_config.image_size if is_own else None,
            timeout=recipe.frames.timeout,
        )
        # Other models choose the size of frames themselves, by the size of the video.
        sampling = FrameSampling() if is_own else FrameSampling(timestamps=tuple(centres.timestamps.tolist()))
        return timechat.encode(centres, sampling)
    frames = recipe.frames
    return timechat.encode(path, frames.frame_sampling(), timeout=frames.timeout, start=sample.start, end=sample.end)


def _request(sample: Sample, recipe: EvaluationRecipe) -> Request:
    return Request(
        sample.task,
        sample.query,
        decoding=recipe.decoding,
        preset=recipe.preset,
        transcript=sample.speech,
        moments=MomentSelection(find_all=recipe.moments.find_all, threshold=recipe.moments.threshold),
        question=sample.question,
    )


# ---------------------------------------------------------------------------------------------------- a chunk


def _answer_chunk(
    timechat: TimeChat, chunk: Chunk, recipe: EvaluationRecipe, videos: Path, encode: EncodeVideo
) -> list[Prediction]:
    """Predictions of a chunk, in its order."""
    if recipe.frames.windows:
        predictions = _answer_in_windows(timechat, chunk, recipe, videos)
    else:
        predictions = _answer_whole_videos(timechat, chunk, recipe, videos, encode)
    found = {prediction.id: prediction for prediction in predictions}
    return [found[sample.id] for sample in chunk]


def _by_clip(chunk: Chunk, videos: Path) -> Iterator[tuple[Path | None, list[Sample]]]:
    """Samples of one clip, with the file of the video; None if the file is missing."""
    for (video, _, _), group in groupby(chunk, key=lambda sample: sample.clip):
        yield find_video(videos, video), list(group)


def _answer_whole_videos(
    timechat: TimeChat, chunk: Chunk, recipe: EvaluationRecipe, videos: Path, encode: EncodeVideo
) -> Iterator[Prediction]:
    ready: list[tuple[Sample, EncodedVideo, float]] = []
    for path, samples in _by_clip(chunk, videos):
        begun = time.perf_counter()
        if path is None:
            yield from map(_missing, samples)
            continue
        try:
            encoded = encode(timechat, path, samples[0], recipe)
        except VideoError as error:
            yield from (_failed(one, "unreadable_video", str(error)) for one in samples)
            continue
        except PromptTooLongError as error:
            yield from (_failed(one, "too_long", str(error)) for one in samples)
            continue
        seconds = (time.perf_counter() - begun) / len(samples)
        ready += [(sample, encoded, seconds) for sample in samples]
    ready.sort(key=lambda item: (item[0].task, item[0].rank_options))  # stable: videos stay together
    for (_, rank_options), group_of_task in groupby(ready, key=lambda item: (item[0].task, item[0].rank_options)):
        items = iter(group_of_task)
        for batch in iter(lambda: list(islice(items, recipe.run.batch_size)), []):  # noqa: B023 - used at once
            answer = _choose if rank_options else _write
            yield from answer(timechat, batch, recipe)


def _missing(sample: Sample) -> Prediction:
    return _failed(sample, "missing_video", f"there is no {sample.video}")


def _failed(sample: Sample, status: Status, note: str) -> Prediction:
    return Prediction(
        id=sample.id,
        video=sample.video,
        task=sample.task,
        query=sample.query,
        duration=sample.duration,
        status=status,
        notes=(note,),
    )


Batch = Sequence[tuple[Sample, EncodedVideo, float]]


def _write(timechat: TimeChat, batch: Batch, recipe: EvaluationRecipe) -> Iterator[Prediction]:
    """Predictions of a batch of one task, from generated texts."""
    begun = time.perf_counter()
    try:
        requests, videos = [_request(sample, recipe) for sample, _, _ in batch], [encoded for _, encoded, _ in batch]
        answers = timechat.run_all(requests, videos)
        first_answers = [""] * len(batch)
        if recipe.post_check and batch[0][0].task in POST_CHECKS:
            first_answers = [answer.text for answer in answers]
            turns = zip(requests, videos, first_answers, strict=True)
            requests = [
                _check_request(request, _question(timechat, request, video), text) for request, video, text in turns
            ]
            answers = timechat.run_all(requests, videos)
    except PromptTooLongError as error:
        if len(batch) == 1:
            yield _failed(batch[0][0], "too_long", str(error))
        else:
            for item in batch:
                yield from _write(timechat, [item], recipe)
        return
    share = (time.perf_counter() - begun) / len(batch)
    for (sample, encoded, encode), request, answer, first in zip(batch, requests, answers, first_answers, strict=True):
        prompt = _question(timechat, request, encoded)
        if isinstance(timechat.backbone, TimeChatBackbone):
            prompt = timechat.backbone.processor.render_prompt(
                encoded.timestamps, prompt, history=request.history or (), system=request.system_prompt
            )
        prediction = _read(sample, answer, {"encode": round(encode, 4), "answer": round(share, 4)})
        yield replace(prediction, prompt=prompt, first_answer=first)


def _question(timechat: TimeChat, request: Request, video: EncodedVideo) -> str:
    """The text of a question as the model reads it."""
    return request.prompt_text(video.span, lowercase_query=timechat.backbone.config.lowercase_queries)


def _check_request(request: Request, question: str, answer: str) -> Request:
    """Return the second turn: the request to correct the form of an answer."""
    return replace(request, history=((question, answer),), question=POST_CHECKS[request.task], transcript=None)


def _choose(timechat: TimeChat, batch: Batch, recipe: EvaluationRecipe) -> Iterator[Prediction]:
    """Predictions of questions whose answer is the option with the highest likelihood."""
    if not isinstance(timechat.backbone, TimeChatBackbone):
        raise ValueError(
            f"{timechat.name} cannot rank given answers; questions with ranked options need a TimeChat model"
        )
    for sample, encoded, encode in batch:
        begun = time.perf_counter()
        logprobs = option_logprobs(timechat, encoded, sample.query or "", sample.options, preset=recipe.preset)
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        yield Prediction(
            id=sample.id,
            video=sample.video,
            task=sample.task,
            query=sample.query,
            duration=encoded.duration,
            text=sample.options[best],
            option_logprobs=tuple(round(value, 4) for value in logprobs),
            seconds={"encode": round(encode, 4), "answer": round(time.perf_counter() - begun, 4)},
        )


def _answer_in_windows(
    timechat: TimeChat, chunk: Chunk, recipe: EvaluationRecipe, videos: Path
) -> Iterator[Prediction]:
    """Predictions about videos of any length, processed window by window."""
    frames = recipe.frames
    for path, samples in _by_clip(chunk, videos):
        if path is None:
            yield from map(_missing, samples)
            continue
        sampling = replace(frames.frame_sampling(), start=samples[0].start, end=samples[0].end)
        try:
            windows = WindowConfig(step=frames.step, refine=frames.refine)
            with timechat.open(path, windows=windows, sampling=sampling, timeout=frames.timeout) as video:
                yield from [_ask(timechat, sample, video, recipe) for sample in samples]
        except VideoError as error:
            yield from (_failed(one, "unreadable_video", str(error)) for one in samples)


def _ask(timechat: TimeChat, sample: Sample, video: VideoSession, recipe: EvaluationRecipe) -> Prediction:
    begun = time.perf_counter()
    try:
        answer = timechat.run(_request(sample, recipe), video)
    except PromptTooLongError as error:
        return _failed(sample, "too_long", str(error))
    prediction = _read(sample, answer, {"answer": round(time.perf_counter() - begun, 4)})
    return replace(prediction, found=answer.found, score=answer.score) if sample.task == "grounding" else prediction


def _read(sample: Sample, answer: Answer, seconds: dict[str, float]) -> Prediction:
    """Prediction of an answered sample; it counts as unparsed if the task requires an event and the text has none."""
    is_unparsed = not answer.events and not TASKS[sample.task].is_free and not states_none(answer.text)
    return Prediction(
        id=sample.id,
        video=sample.video,
        task=sample.task,
        query=sample.query,
        duration=answer.duration,
        text=answer.text,
        status="unparsed" if is_unparsed or not answer.text.strip() else "ok",
        events=tuple(replace(event, caption="") if sample.task == "grounding" else event for event in answer.events),
        notes=answer.notes,
        seconds=seconds,
    )
