"""The class that users meet: encode once, ask many times, whatever the length."""

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from timechat.answers.confidence import Token
from timechat.answers.events import Answer, Event, Task
from timechat.answers.grammar import AnswerGrammar, answer_grammar, json_grammar
from timechat.answers.parsing import parse_events
from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import GREEDY, DecodingOptions, build_question, find_preset
from timechat.answers.windows import Window, WindowConfig
from timechat.cache import DiskCache
from timechat.errors import PromptTooLongError
from timechat.files import without_scheme
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.generation.generate import GenerationOutput, Prompt, token_spans
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.token_cache import model_fingerprint
from timechat.pipeline.cache import WindowCache
from timechat.pipeline.citing import cited_answer, verified_answer
from timechat.pipeline.encoded import EncodedVideo, ProgressCallback, Video
from timechat.pipeline.encoding import compress_frames, encode_frames
from timechat.pipeline.estimate import TYPICAL_TOKENS, JobEstimate, peak_memory_bytes, timed
from timechat.pipeline.executor import Executor, GenerationBatch, LocalExecutor
from timechat.pipeline.merging import MomentSelection, Scoring, WindowAnswer, merge_window_answers, parse_window
from timechat.pipeline.refining import refine_moments
from timechat.pipeline.session import VideoSession
from timechat.pipeline.streaming import AnswerStream
from timechat.pipeline.verification import verification_logprobs
from timechat.pipeline.window_plan import WindowSampling
from timechat.speech import add_transcript, transcript_between
from timechat.video import Frames, load_frames

UNTRAINED_NOTE = "this model has untrained (random) weights: its answers mean nothing"
_TRIAL_FRAMES = 8
_TRIAL_TOKENS = 16
_DEFAULT_WINDOWS = WindowConfig()
_DEFAULT_SAMPLING = WindowSampling()
_BEST_MOMENT = MomentSelection()


class TimeChat:
    """A model with everything around it: `ask` it about a video, or `encode` the video first and ask often.

    Attributes:
        model: The network.
        processor: Wording and tokenizers.
        name: What the model was loaded from.
        notes: Said with every answer, such as untrained weights.
        cache: Where tokens and answers are kept on disk.
        executor: Where the model's work is done.
    """

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        *,
        name: str,
        notes: Sequence[str] = (),
        cache: DiskCache | None = None,
    ) -> None:
        """Join a model and its processor.

        Args:
            model: The network.
            processor: The model's.
            name: What it is called.
            notes: Said with every answer.
            cache: Where tokens and answers are kept on disk; None takes the user's, see `timechat.cache`.
        """
        self.cache = DiskCache() if cache is None else cache
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.notes = tuple(notes)
        self.executor: Executor = LocalExecutor(self.model, processor)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        lora_scale: float | None = None,
    ) -> "TimeChat":
        """Load a model.

        Args:
            model: `"nano"` (built in), a folder made by `timechat convert` or `save_pretrained`, or a hub id.
            device: `"cuda"`, `"mps"`, `"cpu"`, ...; `"auto"` takes the first of these that is there.
            dtype: Number format: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` (CPUs only) or `"auto"`, which
                takes half precision on GPUs and, on a CPU, float32 as far as it fits into its memory.
            lora_scale: Strength of the LoRA adapter (`lora_alpha / r`); None keeps the checkpoint's. The
                authors advise 20 / 32 for question answering.

        Raises:
            CheckpointError: There is no model of that name, or it cannot be loaded.
        """
        network, processor = load_model(str(model), device=device, dtype=dtype)
        if lora_scale is not None:
            network.set_lora_scale(lora_scale)
        notes = () if network.config.is_trained else (UNTRAINED_NOTE,)
        return cls(network, processor, name=str(model), notes=notes)

    def with_executor(self, executor: Executor) -> "TimeChat":
        """The same model, whose work is done somewhere else."""
        other = copy.copy(self)
        other.executor = executor
        return other

    # ------------------------------------------------------------------------------------------------ looking

    @torch.inference_mode()
    def encode(
        self,
        video: Video,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        timestamps: Sequence[float] | None = None,
        sampling: Literal["exact", "keyframes"] = "exact",
        timeout: float = 600.0,
        progress: ProgressCallback | None = None,
    ) -> EncodedVideo:
        """Look at a whole video at once, as the original does: decode frames, compress them into video tokens.

        For videos longer than what the model was trained on, `open` looks at one window after the other.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            num_frames: Frames spread evenly over the video; None samples as the model's config says.
            fps: Frames a second instead.
            max_frames: Most frames to take with `fps`.
            start: Seconds; look from here on.
            end: Seconds; look up to here.
            timestamps: Seconds; look at exactly these times instead.
            sampling: `"exact"` frames, or the nearest `"keyframes"` with their true times, which is many
                times faster on long files.
            timeout: Seconds of wall time after which reading the file is given up.
            progress: Told how far the work is.

        Raises:
            VideoError: The video cannot be read.
        """
        chosen: dict[str, Any] = {"num_frames": num_frames, "fps": fps, "max_frames": max_frames}
        if num_frames is None and fps is None and timestamps is None:
            limit = {} if max_frames is None else {"max_frames": max_frames}
            chosen = self.model.config.default_sampling() | limit
        chosen |= {"start": start, "end": end, "timestamps": timestamps, "sampling": sampling}
        store = WindowCache(self.cache, video, self.model, self.processor)
        if isinstance(video, str | os.PathLike) and (known := store.load(None, chosen)) is not None:
            return replace(known, name=without_scheme(os.fspath(video)), model=self.name)
        _report(progress, "decode", 0, 1)
        if isinstance(video, Frames) and all(
            option is None for option in (num_frames, fps, max_frames, start, end, timestamps)
        ):
            frames = video  # ready-made frames are taken as they are
        else:
            frames = load_frames(video, **chosen, size=self.model.config.vision_config.image_size, timeout=timeout)
        _report(progress, "decode", 1, 1)
        shortest_prompt = self.processor.render_prompt(frames.timestamps, "")
        self._check_room(len(self.processor.encode_prompt(shortest_prompt, len(frames))), max_new_tokens=1)
        frame_tokens = encode_frames(
            self.model, self.processor, frames, partial(_report, progress, "encode"), encode=self.executor.encode_frames
        )
        video_tokens = self.executor.call(partial(compress_frames, self.model, frame_tokens))
        name = frames.source.name if frames.source else None
        encoded = EncodedVideo(video_tokens, frames.timestamps, frames.duration, name, frames.notes, self.name)
        store.save(None, chosen, encoded)
        return encoded

    def open(
        self,
        video: Video,
        *,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        sampling: WindowSampling = _DEFAULT_SAMPLING,
        keep_in_memory: bool = True,
        timeout: float = 600.0,
    ) -> VideoSession:
        """Open a video of any length, to be looked at window by window when it is asked about; close it afterwards.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            window_config: In which windows; by default such as the model was trained on.
            sampling: Which frames of each; by default as the model's config says.
            keep_in_memory: Whether what was made of a window stays in memory for the next question, some hundred
                kilobytes a window.
            timeout: Seconds of wall time after which reading a window is given up.

        Raises:
            VideoError: The video cannot be read.
        """
        return VideoSession(
            video,
            self.model,
            self.processor,
            model_name=self.name,
            window_config=window_config,
            sampling=sampling,
            cache=WindowCache(self.cache, video, self.model, self.processor),
            keep_in_memory=keep_in_memory,
            timeout=timeout,
            check=self.executor.check,
        )

    # ------------------------------------------------------------------------------------------------- asking

    @overload
    def ask(
        self,
        video: Video | EncodedVideo | VideoSession,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[False] = False,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        video: Video | EncodedVideo | VideoSession,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[True],
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> AnswerStream: ...

    def ask(
        self,
        video: Video | EncodedVideo | VideoSession,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: bool = False,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer | AnswerStream:
        """Ask anything about a video.

        Args:
            video: A video, or better an `EncodedVideo` or `VideoSession`: a second question does no vision work
                and reads again only what is new in the prompt.
            question: In words.
            history: Earlier (question, answer) pairs of this conversation.
            stream: Return an `AnswerStream` that yields the text while it is written, about the video looked at as one.
            decoding: How the answer is written; greedy by default.
            preset: Wording whose system prompt is used.
            looking: In which windows a long video is looked at; each answers for itself.
            speech: What is said in the video, told with the question; None where nobody listened.

        Returns:
            An `Answer`, whose events are the times that it names; with `stream` an `AnswerStream`.
        """
        options: dict[str, Any] = {"history": history or (), "decoding": decoding, "preset": preset, "speech": speech}
        if stream:
            return self.stream("ask", video, question, **options)
        return self.run("ask", video, question, window_config=looking, **options)

    def dense_caption(
        self,
        video: Video | EncodedVideo | VideoSession,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Tell all that happens, each event with start, end, a caption and a score; arguments as in `run`."""
        return self.run(
            "dense_caption", video, decoding=decoding, preset=preset, window_config=window_config, speech=speech
        )

    def ground(
        self,
        video: Video | EncodedVideo | VideoSession,
        query: str,
        *,
        top_k: int = 1,
        find_all: bool = False,
        threshold: float | None = None,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Find when the query happens.

        Args:
            video: A video, encoded or not.
            query: What to look for, in words.
            top_k: Most moments that are wanted, the best first.
            find_all: All of them instead.
            threshold: Least score of a moment that counts as found; None takes the model's.
            decoding: As in `run`.
            preset: As in `run`.
            window_config: As in `run`.
            speech: As in `run`.

        Returns:
            An answer with one event for each moment, each with its score. Where there is none, `found` is False,
            `events` is empty, and `score` says how likely it is all the same.
        """
        return self.run(
            "grounding",
            video,
            query,
            moments=MomentSelection(top_k, find_all, threshold),
            decoding=decoding,
            preset=preset,
            window_config=window_config,
            speech=speech,
        )

    def highlights(
        self,
        video: Video | EncodedVideo | VideoSession,
        query: str | None = None,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Find the moments worth seeing, with saliency scores: events with `start == end`; arguments as in `run`."""
        return self.run(
            "highlights", video, query, decoding=decoding, preset=preset, window_config=window_config, speech=speech
        )

    def steps(
        self,
        video: Video | EncodedVideo | VideoSession,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """List the steps of what is being done, with start and end; arguments as in `run`."""
        return self.run("steps", video, decoding=decoding, preset=preset, window_config=window_config, speech=speech)

    def summarize(
        self,
        video: Video | EncodedVideo | VideoSession,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Tell in a few sentences what happens; arguments as in `run`."""
        return self.run("summary", video, decoding=decoding, preset=preset, window_config=window_config, speech=speech)

    def transcribe(
        self,
        video: Video | EncodedVideo | VideoSession,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
    ) -> Answer:
        """Let the model write the speech that it believes to be there, with times; arguments as in `run`."""
        return self.run("transcribe", video, decoding=decoding, preset=preset, window_config=window_config)

    def run(
        self,
        task: Task,
        video: Video | EncodedVideo | VideoSession,
        query: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        speech: Sequence[Event] | None = None,
        system: str | None = None,
        question: str | None = None,
        moments: MomentSelection = _BEST_MOMENT,
        cite: bool = False,
        verify: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Answer:
        """Run a task by name, on a video of any length in bounded memory.

        Args:
            task: Which one.
            video: A video, which is looked at window by window; an `EncodedVideo`; or a `VideoSession` that was opened.
            query: The question, or what to look for, where the task takes it.
            history: Earlier (question, answer) pairs of this conversation.
            decoding: How the answer is written.
            preset: Wording of the task, such as `"original-zeroshot@1"`.
            window_config: In which windows a video that is not yet encoded is looked at.
            speech: What is said in the video, told with the question; None where nobody listened.
            system: System prompt instead of the preset's.
            question: The whole question instead of the preset's wording; the answer is read as one of the task.
            moments: Which moments grounding is to give.
            cite: Whether the sentences of a free answer say when they can be seen, `[m:ss–m:ss]`: the time of the
                dense caption that tells the same.
            verify: Whether, beyond that, the model is asked for each sentence again, and what it does not find there
                is marked.
            progress: Told how many windows are done.

        Raises:
            VideoError: The video cannot be read.
        """
        asked = _Request(
            task,
            query,
            tuple(history),
            decoding,
            preset,
            tuple(speech) if speech is not None else None,
            system,
            question,
        )
        asked.check()
        if isinstance(video, EncodedVideo | VideoSession):
            return self._answer(asked, video, moments, cite=cite, verify=verify, progress=progress)
        with self.open(video, window_config=window_config, keep_in_memory=cite or verify) as opened:
            return self._answer(asked, opened, moments, cite=cite, verify=verify, progress=progress)

    def run_all(
        self,
        task: Task,
        items: Sequence[tuple[EncodedVideo, str | None]],
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Sequence[Event] | None] | None = None,
        questions: Sequence[str | None] | None = None,
    ) -> list[Answer]:
        """Run a task on many videos, or with many words, in one batch; each is answered as if it were alone.

        What questions about one video share is read once, if nothing else is in the batch. Every answer has all events
        that its text names, in the order of the text, whatever their scores.

        Args:
            task: Which one.
            items: Each a video and the question or query, where the task takes it.
            decoding: How the answers are written.
            preset: Wording of the task.
            speech: What is said in each video; None where nobody listened.
            questions: The whole question of each, instead of the preset's wording; None takes the preset's.
        """
        heard = [None] * len(items) if speech is None else [None if one is None else tuple(one) for one in speech]
        whole = [None] * len(items) if questions is None else questions
        worded = [
            _Request(task, words, (), decoding, preset, said, None, text)
            for (_, words), said, text in zip(items, heard, whole, strict=True)
        ]
        for question in worded:
            question.check()
        videos = [video for video, _ in items]
        if not videos:
            return []
        answers = []
        for video, question, one in zip(videos, worded, self._answer_each(worded, videos), strict=True):
            read = parse_window(one, task, question.query, self._scoring)
            answers.append(
                Answer(
                    one.text,
                    list(read.events),
                    task=task,
                    question=question.query or "",
                    video=video.name,
                    duration=video.duration,
                    model=self.name,
                    score=read.best_score,
                    step=video.frame_interval,
                    notes=(*self.notes, *video.notes, *read.notes),
                )
            )
        return answers

    def plan(
        self,
        task: Task,
        video: VideoSession,
        query: str | None = None,
        *,
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Event] | None = None,
    ) -> JobEstimate:
        """Tell what a task will take, by a quick trial on the first window that is left.

        Args:
            task: As in `run`.
            video: Opened.
            query: As in `run`.
            decoding: As in `run`.
            preset: As in `run`.
            speech: As in `run`.
        """
        question = _Request(task, query, (), decoding, preset, None if speech is None else tuple(speech))
        question.check()
        facts = self._model_fingerprint()
        todo = [w for w in video.windows if video.cache.load_answer(question.cache_facts(w) | facts) is None]
        seconds = self._trial(question, video, todo[0]) * len(todo) if todo else 0.0
        share = len(todo) / len(video.windows)
        frames = round(video.plan.num_frames * share)
        return JobEstimate(
            len(video.windows),
            len(video.windows) - len(todo),
            frames,
            video.plan.frame_interval,
            seconds,
            peak_memory_bytes(),
        )

    def _trial(self, question: "_Request", video: VideoSession, window: Window) -> float:
        """Seconds that a window takes, from its decoding, a few of its frames and the beginning of an answer."""
        frames, decode = timed(partial(video.load, window))
        few = replace(frames, pixels=frames.pixels[:_TRIAL_FRAMES], timestamps=frames.timestamps[:_TRIAL_FRAMES])
        tokens, encode = timed(partial(encode_frames, self.model, self.processor, few))
        video_tokens = compress_frames(
            self.model, tokens.repeat(1, -(-len(frames) // len(few)), 1, 1)[:, : len(frames)]
        )
        encoded = EncodedVideo(video_tokens, frames.timestamps - frames.timestamps[0], window.duration)
        decoding = DecodingOptions(max_new_tokens=_TRIAL_TOKENS)
        trial = replace(question, decoding=decoding)
        written, read = timed(lambda: self._generate([self._prompt(trial, encoded)], [encoded], trial))
        usual = min(TYPICAL_TOKENS[question.task], question.decoding.max_new_tokens)
        # The prompt is read in the time of about one token more; the trial's answer may have ended early.
        answer = read * (usual + 1) / (len(written[0].token_ids) + 1)
        return decode + encode * len(frames) / len(few) + answer

    def stream(
        self,
        task: Task,
        video: Video | EncodedVideo | VideoSession,
        query: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: DecodingOptions = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Event] | None = None,
        system: str | None = None,
        moments: MomentSelection = _BEST_MOMENT,
    ) -> AnswerStream:
        """Run a task by name and hand over the text while it is written.

        The video is looked at as one, as by `encode`; about a `VideoSession` of several windows there is no stream.
        """
        question = _Request(
            task, query, tuple(history), decoding, preset, tuple(speech) if speech is not None else None, system
        )
        question.check()
        if isinstance(video, VideoSession):
            encoded = video.encode_whole(self.executor)
        else:
            encoded = video if isinstance(video, EncodedVideo) else self.encode(video)
        prompt = self._prompt(question, encoded)
        written: list[GenerationOutput] = []

        def write(**watchers: Any) -> str:
            work = partial(self._generate, [prompt], [encoded], question, **watchers)
            written[:] = video.timed("answer", work) if isinstance(video, VideoSession) else work()
            return self.processor.decode(written[0].token_ids)

        def read(text: str) -> Answer:
            answer = WindowAnswer(_window(encoded), text, self._tokens(written[0])[1] if written else ())
            answers = self._verified([question], [encoded], [answer]) if task == "grounding" else [answer]
            return self._merge(question, encoded, answers, moments)

        return AnswerStream(self.processor.tokenizer, write, read)

    # ----------------------------------------------------------------------------------------- how it is done

    def _answer(
        self,
        question: "_Request",
        video: EncodedVideo | VideoSession,
        moments: MomentSelection,
        *,
        cite: bool,
        verify: bool,
        progress: ProgressCallback | None,
    ) -> Answer:
        """Answer, and give evidence for a free answer where it is wanted."""
        if (cite or verify) and question.task not in ("ask", "summary"):
            raise ValueError(f"only ask and summary can cite, their answers being free, not {question.task}")

        def tell(asked: _Request) -> Answer:
            if isinstance(video, EncodedVideo):
                return self._merge(asked, video, self._answer_all(asked, [video]), moments)
            return self._answer_windows(asked, video, moments, progress)

        answer = tell(question)
        if cite or verify:
            captions = tell(replace(question, task="dense_caption", query=None, history=(), whole=None))
            answer = cited_answer(answer, captions.events)
        return verified_answer(answer, partial(self._find_cited, question, video)) if verify else answer

    def _find_cited(self, question: "_Request", video: EncodedVideo | VideoSession, cited: Event) -> list[Event]:
        """Moments of what a sentence says, in the windows that it cites."""
        asked = replace(question, task="grounding", query=cited.caption, history=(), whole=None)
        if isinstance(video, EncodedVideo):
            windows = [video]
        else:
            touched = [w for w in video.windows if w.start <= cited.end and cited.start <= w.end]
            windows = list(video.encode(touched, self.executor))
        read = [
            parse_window(answer, "grounding", cited.caption, self._scoring)
            for answer in self._answer_all(asked, windows)
        ]
        least = self._scoring.found_threshold
        return [event for one in read for event in one.events if event.score is None or event.score >= least]

    def _answer_windows(
        self, question: "_Request", video: VideoSession, moments: MomentSelection, progress: ProgressCallback | None
    ) -> Answer:
        """Ask about every window, a few at a time; what was answered before is taken over."""
        is_kept = video.cache.is_on and question.is_reproducible
        model = self._model_fingerprint() if is_kept else {}
        facts = {window: question.cache_facts(window) | model for window in video.windows if is_kept}
        answers = {
            window: WindowAnswer.from_dict(window, known)
            for window in facts
            if (known := video.cache.load_answer(facts[window])) is not None
        }
        for answered in answers.values():
            self.executor.count_cached(len(answered.tokens), question.decoding)
        todo = [window for window in video.windows if window not in answers]
        _report(progress, "windows", len(answers), len(video.windows))
        batch: list[EncodedVideo] = []
        for encoded in video.encode(todo, self.executor, progress):
            batch.append(encoded)
            if len(batch) == video.window_config.batch_size or encoded.window == todo[-1]:
                for told in video.timed("answer", partial(self._answer_all, question, batch)):
                    answers[told.window] = told
                    if is_kept:
                        video.cache.save_answer(facts[told.window], told.to_dict())
                batch = []
                _report(progress, "windows", len(answers), len(video.windows))
        answer = self._merge(question, video, [answers[window] for window in video.windows], moments)
        if question.task == "grounding" and video.plan.refines and answer.events:
            again = partial(self._answer_all, question)
            answer = refine_moments(answer, video, self.model.config, again, self._scoring, self.executor)
        return answer

    def _answer_all(self, question: "_Request", windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Ask the same about windows, all at once."""
        return self._answer_each([question] * len(windows), windows)

    def _answer_each(self, questions: Sequence["_Request"], windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Ask each question about its window, all at once; task and decoding are those of the first."""
        prompts = [self._prompt(question, window) for question, window in zip(questions, windows, strict=True)]
        written = self._generate(prompts, windows, questions[0])
        answers = [
            WindowAnswer(_window(window), *self._tokens(one)) for window, one in zip(windows, written, strict=True)
        ]
        return self._verified(questions, windows, answers) if questions[0].task == "grounding" else answers

    def _verified(
        self, questions: Sequence["_Request"], windows: Sequence[EncodedVideo], answers: Sequence[WindowAnswer]
    ) -> list[WindowAnswer]:
        """The same answers, with how far the video speaks for each moment that was found."""
        found = {}
        for i, answer in enumerate(answers):
            events = parse_events(answer.text, task="grounding", duration=answer.window.duration).events
            if events:
                found[i] = replace(events[0], caption=questions[i].query or "")
        if not found:
            return list(answers)
        asked = [windows[i] for i in found]
        told = list(found.values())
        ask = partial(verification_logprobs, self.model, self.processor, asked, told, preset=questions[0].preset)
        nats = self.executor.call(ask)
        confirmed = dict(zip(found, nats, strict=True))
        return [replace(answer, verification=confirmed.get(i)) for i, answer in enumerate(answers)]

    def _merge(
        self,
        question: "_Request",
        video: EncodedVideo | VideoSession,
        answers: Sequence[WindowAnswer],
        moments: MomentSelection,
    ) -> Answer:
        answer = merge_window_answers(
            answers,
            question.task,
            question.query,
            duration=video.duration,
            scoring=self._scoring,
            moments=moments,
        )
        notes = (*self.notes, *video.notes, *answer.notes)
        if isinstance(video, EncodedVideo):
            return replace(answer, video=video.name, model=self.name, notes=notes, step=video.frame_interval)
        timings = {stage: round(seconds, 3) for stage, seconds in video.timings.items()}
        return replace(
            answer, video=video.name, model=self.name, notes=notes, step=video.plan.frame_interval, timings=timings
        )

    def _model_fingerprint(self) -> dict[str, Any]:
        """What an answer depends on besides the video and the question."""
        return {
            "tokens": model_fingerprint(self.model, self.processor),
            "weights": weights_fingerprint(self.model.language_model),
            "lora_scale": self.model.lora_scale,
            "vocabulary": len(self.processor.tokenizer),
            "chat_style": self.processor.chat_style,
            "names_frame_times": self.processor.names_frame_times,
        }

    @property
    def _scoring(self) -> Scoring:
        return Scoring.from_config(self.model.config)

    def _prompt(self, question: "_Request", encoded: EncodedVideo) -> Prompt:
        """Put everything together that the language model is shown."""
        if encoded.model not in (None, self.name):
            raise ValueError(f"the video was encoded by {encoded.model}, not by {self.name}; encode it with this model")
        text = self.processor.render_prompt(
            encoded.timestamps,
            question.text(_window(encoded)),
            history=question.history,
            system=question.system or find_preset(question.preset).system,
        )
        input_ids = self.processor.encode_prompt(text, encoded.num_frames)
        self._check_room(len(input_ids), question.decoding.max_new_tokens)
        return Prompt(input_ids, encoded.video_tokens)

    def _check_room(self, prompt_length: int, max_new_tokens: int) -> None:
        room = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if room is not None and prompt_length + max_new_tokens > room:
            raise PromptTooLongError(
                f"the prompt has {prompt_length} tokens and the answer may have {max_new_tokens}, but the "
                f"language model reads {room} in all; take fewer frames, a shorter question or history, or lower "
                "max_new_tokens"
            )

    def _generate(
        self, prompts: Sequence[Prompt], videos: Sequence[EncodedVideo], question: "_Request", **watchers: Any
    ) -> list[GenerationOutput]:
        """Write answers; `watchers` are those of an `Order`."""
        shapes = [question.grammar(video.duration) for video in videos]
        numbers = [video.window_number for video in videos]
        return self.executor.generate(GenerationBatch(prompts, shapes, question.decoding, numbers, **watchers))

    def _tokens(self, written: GenerationOutput) -> tuple[str, tuple[Token, ...]]:
        """The text of an answer and the tokens that wrote it."""
        text, places = token_spans(self.processor, written.token_ids)
        tokens = zip(places, written.logprobs, strict=True)
        return text, tuple(Token(first, end, logprob) for (first, end), logprob in tokens)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked about a video, and how it is to be answered."""

    task: Task
    query: str | None
    history: tuple[tuple[str, str], ...]
    decoding: DecodingOptions
    preset: str
    speech: tuple[Event, ...] | None
    system: str | None = None
    whole: str | None = None

    def check(self) -> None:
        """Raise a `ValueError` where the task, the preset or the words make no question."""
        build_question(self.task, self.query, preset=self.preset)
        if self.decoding.json_schema is not None and self.task != "ask":
            raise ValueError(f"json_schema is for free answers (ask); {self.task} has a form of its own")

    @property
    def is_reproducible(self) -> bool:
        """Whether the same question always has the same answer."""
        return not self.decoding.do_sample

    def grammar(self, duration: float) -> AnswerGrammar | None:
        """The form that keeps an answer about so many seconds readable; None where it is free."""
        if self.decoding.json_schema is not None:
            return json_grammar(self.decoding.json_schema)
        return None if self.decoding.is_free else answer_grammar(self.task, duration=duration)

    def text(self, window: Window) -> str:
        """The question as it is asked about a window, with what is said in it where somebody listened."""
        question = self.whole or build_question(self.task, self.query, preset=self.preset)
        if self.speech is None:
            return question
        said = transcript_between(self.speech, window.start, window.end)
        lines = [replace(line, start=line.start / window.time_scale, end=line.end / window.time_scale) for line in said]
        return add_transcript(question, lines)

    def cache_facts(self, window: Window) -> dict[str, Any]:
        """What the answer about a window depends on besides video and model, ready for a cache's key."""
        return {
            "task": self.task,
            "words": self.query,
            "window": [window.start, window.end, window.time_scale],
            "question": self.text(window),
            "history": [list(turn) for turn in self.history],
            "decoding": asdict(self.decoding),
            "preset": self.preset,
            "system": self.system,
        }


def _window(encoded: EncodedVideo) -> Window:
    return encoded.window or Window(0.0, encoded.duration)


def _report(progress: ProgressCallback | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
