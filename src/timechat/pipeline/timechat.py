"""The class that users meet: encode once, ask many times, whatever the length."""

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from timechat.cache import DiskCache
from timechat.errors import PromptTooLongError
from timechat.events import Answer, Event, Task
from timechat.files import without_scheme
from timechat.grammars import AnswerShape, answer_shape, json_shape
from timechat.model.answering import Prompt, Written, token_places
from timechat.model.digest import weights_digest
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.streaming import AnswerStream
from timechat.model.token_cache import model_facts
from timechat.parsing import parse_events
from timechat.pipeline.answers import Scoring, Wanted, WindowAnswer, put_together, read_window
from timechat.pipeline.citing import cited_answer, verified_answer
from timechat.pipeline.confirming import confirm
from timechat.pipeline.encoded import EncodedVideo, Progress, Video
from timechat.pipeline.encoding import compress_frames, encode_frames
from timechat.pipeline.long_video import LongVideo
from timechat.pipeline.looking import Sampling
from timechat.pipeline.plan import USUAL_TOKENS, JobPlan, peak_memory_bytes, timed
from timechat.pipeline.refining import refine_moments
from timechat.pipeline.store import WindowStore
from timechat.pipeline.work import DirectWork, Order, Work
from timechat.prompts import DEFAULT_PRESET
from timechat.scores import Token
from timechat.speech import heard_question, speech_between
from timechat.tasks import GREEDY, Decoding, build_question, find_preset
from timechat.video import Frames, load_frames
from timechat.windows import Looking, Window

UNTRAINED_NOTE = "this model has untrained (random) weights: its answers mean nothing"
_TRIAL_FRAMES = 8
_TRIAL_TOKENS = 16
_USUAL_LOOK = Looking()
_USUAL_FRAMES = Sampling()
_THE_BEST = Wanted()


class TimeChat:
    """A model with everything around it: `ask` it about a video, or `encode` the video first and ask often.

    Attributes:
        model: The network.
        processor: Wording and tokenizers.
        name: What the model was loaded from.
        notes: Said with every answer, such as untrained weights.
        cache: Where tokens and answers are kept on disk.
        work: Where the model's work is done.
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
        self.work: Work = DirectWork(self.model, processor)

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

    def working_by(self, work: Work) -> "TimeChat":
        """The same model, whose work is done somewhere else."""
        other = copy.copy(self)
        other.work = work
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
        progress: Progress | None = None,
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
        store = WindowStore(self.cache, video, self.model, self.processor)
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
            self.model, self.processor, frames, partial(_report, progress, "encode"), look=self.work.look
        )
        video_tokens = self.work.do(partial(compress_frames, self.model, frame_tokens))
        name = frames.source.name if frames.source else None
        encoded = EncodedVideo(video_tokens, frames.timestamps, frames.duration, name, frames.notes, self.name)
        store.save(None, chosen, encoded)
        return encoded

    def open(
        self,
        video: Video,
        *,
        looking: Looking = _USUAL_LOOK,
        sampling: Sampling = _USUAL_FRAMES,
        keeps_tokens: bool = True,
        timeout: float = 600.0,
    ) -> LongVideo:
        """Open a video of any length, to be looked at window by window when it is asked about; close it afterwards.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            looking: In which windows; by default such as the model was trained on.
            sampling: Which frames of each; by default as the model's config says.
            keeps_tokens: Whether what was made of a window stays in memory for the next question, some hundred
                kilobytes a window.
            timeout: Seconds of wall time after which reading a window is given up.

        Raises:
            VideoError: The video cannot be read.
        """
        return LongVideo(
            video,
            self.model,
            self.processor,
            model_name=self.name,
            looking=looking,
            sampling=sampling,
            store=WindowStore(self.cache, video, self.model, self.processor),
            keeps_tokens=keeps_tokens,
            timeout=timeout,
            check=self.work.check,
        )

    # ------------------------------------------------------------------------------------------------- asking

    @overload
    def ask(
        self,
        video: Video | EncodedVideo | LongVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[False] = False,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        video: Video | EncodedVideo | LongVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[True],
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> AnswerStream: ...

    def ask(
        self,
        video: Video | EncodedVideo | LongVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: bool = False,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer | AnswerStream:
        """Ask anything about a video.

        Args:
            video: A video, or better an `EncodedVideo` or `LongVideo`: a second question about it does no vision work
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
        return self.run("ask", video, question, looking=looking, **options)

    def dense_caption(
        self,
        video: Video | EncodedVideo | LongVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Tell all that happens, each event with start, end, a caption and a score; arguments as in `run`."""
        return self.run("dense_caption", video, decoding=decoding, preset=preset, looking=looking, speech=speech)

    def ground(
        self,
        video: Video | EncodedVideo | LongVideo,
        query: str,
        *,
        top_k: int = 1,
        find_all: bool = False,
        threshold: float | None = None,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
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
            looking: As in `run`.
            speech: As in `run`.

        Returns:
            An answer with one event for each moment, each with its score. Where there is none, `found` is False,
            `events` is empty, and `score` says how likely it is all the same.
        """
        return self.run(
            "grounding",
            video,
            query,
            wanted=Wanted(top_k, find_all, threshold),
            decoding=decoding,
            preset=preset,
            looking=looking,
            speech=speech,
        )

    def highlights(
        self,
        video: Video | EncodedVideo | LongVideo,
        query: str | None = None,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Find the moments worth seeing, with saliency scores: events with `start == end`; arguments as in `run`."""
        return self.run("highlights", video, query, decoding=decoding, preset=preset, looking=looking, speech=speech)

    def steps(
        self,
        video: Video | EncodedVideo | LongVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """List the steps of what is being done, with start and end; arguments as in `run`."""
        return self.run("steps", video, decoding=decoding, preset=preset, looking=looking, speech=speech)

    def summarize(
        self,
        video: Video | EncodedVideo | LongVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
    ) -> Answer:
        """Tell in a few sentences what happens; arguments as in `run`."""
        return self.run("summary", video, decoding=decoding, preset=preset, looking=looking, speech=speech)

    def transcribe(
        self,
        video: Video | EncodedVideo | LongVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
    ) -> Answer:
        """Let the model write the speech that it believes to be there, with times; arguments as in `run`."""
        return self.run("transcribe", video, decoding=decoding, preset=preset, looking=looking)

    def run(
        self,
        task: Task,
        video: Video | EncodedVideo | LongVideo,
        words: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        looking: Looking = _USUAL_LOOK,
        speech: Sequence[Event] | None = None,
        system: str | None = None,
        wanted: Wanted = _THE_BEST,
        cites: bool = False,
        verifies: bool = False,
        progress: Progress | None = None,
    ) -> Answer:
        """Run a task by name, on a video of any length in bounded memory.

        Args:
            task: Which one.
            video: A video, which is looked at window by window; an `EncodedVideo`; or a `LongVideo` that was opened.
            words: The question, or what to look for, where the task takes it.
            history: Earlier (question, answer) pairs of this conversation.
            decoding: How the answer is written.
            preset: Wording of the task, such as `"original-zeroshot@1"`.
            looking: In which windows a video that is not yet encoded is looked at.
            speech: What is said in the video, told with the question; None where nobody listened.
            system: System prompt instead of the preset's.
            wanted: Which moments grounding is to give.
            cites: Whether the sentences of a free answer say when they can be seen, `[m:ss–m:ss]`: the time of the
                dense caption that tells the same.
            verifies: Whether, beyond that, the model is asked for each sentence again, and what it does not find there
                is marked.
            progress: Told how many windows are done.

        Raises:
            VideoError: The video cannot be read.
        """
        question = _Question(
            task, words, tuple(history), decoding, preset, tuple(speech) if speech is not None else None, system
        )
        question.check()
        if isinstance(video, EncodedVideo | LongVideo):
            return self._answer(question, video, wanted, cites=cites, verifies=verifies, progress=progress)
        with self.open(video, looking=looking, keeps_tokens=cites or verifies) as opened:
            return self._answer(question, opened, wanted, cites=cites, verifies=verifies, progress=progress)

    def run_all(
        self,
        task: Task,
        asked: Sequence[tuple[EncodedVideo, str | None]],
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Sequence[Event] | None] | None = None,
    ) -> list[Answer]:
        """Run a task on many videos, or with many words, in one batch; each is answered as if it were alone.

        What questions about one video share is read once, if nothing else is in the batch. Every answer has all events
        that its text names, in the order of the text, whatever their scores.

        Args:
            task: Which one.
            asked: Each a video and the question or query, where the task takes it.
            decoding: How the answers are written.
            preset: Wording of the task.
            speech: What is said in each video; None where nobody listened.
        """
        heard = [None] * len(asked) if speech is None else [None if one is None else tuple(one) for one in speech]
        questions = [
            _Question(task, words, (), decoding, preset, said) for (_, words), said in zip(asked, heard, strict=True)
        ]
        for question in questions:
            question.check()
        videos = [video for video, _ in asked]
        if not videos:
            return []
        answers = []
        for video, question, one in zip(videos, questions, self._answer_each(questions, videos), strict=True):
            read = read_window(one, task, question.words, self._scoring)
            answers.append(
                Answer(
                    one.text,
                    list(read.events),
                    task=task,
                    question=question.words or "",
                    video=video.name,
                    duration=video.duration,
                    model=self.name,
                    score=read.best,
                    step=video.step,
                    notes=(*self.notes, *video.notes, *read.notes),
                )
            )
        return answers

    def plan(
        self,
        task: Task,
        video: LongVideo,
        words: str | None = None,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Event] | None = None,
    ) -> JobPlan:
        """Tell what a task will take, by a quick trial on the first window that is left.

        Args:
            task: As in `run`.
            video: Opened.
            words: As in `run`.
            decoding: As in `run`.
            preset: As in `run`.
            speech: As in `run`.
        """
        question = _Question(task, words, (), decoding, preset, None if speech is None else tuple(speech))
        question.check()
        facts = self._model_facts()
        todo = [w for w in video.windows if video.store.load_answer(question.facts(w) | facts) is None]
        seconds = self._trial(question, video, todo[0]) * len(todo) if todo else 0.0
        share = len(todo) / len(video.windows)
        frames = round(video.plan.num_frames * share)
        return JobPlan(
            len(video.windows), len(video.windows) - len(todo), frames, video.plan.step, seconds, peak_memory_bytes()
        )

    def _trial(self, question: "_Question", video: LongVideo, window: Window) -> float:
        """Seconds that a window takes, from its decoding, a few of its frames and the beginning of an answer."""
        frames, decode = timed(partial(video.load, window))
        few = replace(frames, pixels=frames.pixels[:_TRIAL_FRAMES], timestamps=frames.timestamps[:_TRIAL_FRAMES])
        tokens, encode = timed(partial(encode_frames, self.model, self.processor, few))
        video_tokens = compress_frames(
            self.model, tokens.repeat(1, -(-len(frames) // len(few)), 1, 1)[:, : len(frames)]
        )
        encoded = EncodedVideo(video_tokens, frames.timestamps - frames.timestamps[0], window.duration)
        decoding = Decoding(max_new_tokens=_TRIAL_TOKENS)
        trial = replace(question, decoding=decoding)
        written, read = timed(lambda: self._write([self._prompt(trial, encoded)], [encoded], trial))
        usual = min(USUAL_TOKENS[question.task], question.decoding.max_new_tokens)
        # The prompt is read in the time of about one token more; the trial's answer may have ended early.
        answer = read * (usual + 1) / (len(written[0].token_ids) + 1)
        return decode + encode * len(frames) / len(few) + answer

    def stream(
        self,
        task: Task,
        video: Video | EncodedVideo | LongVideo,
        words: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
        speech: Sequence[Event] | None = None,
        system: str | None = None,
        wanted: Wanted = _THE_BEST,
    ) -> AnswerStream:
        """Run a task by name and hand over the text while it is written.

        The video is looked at as one, as by `encode`; about a `LongVideo` of several windows there is no stream.
        """
        question = _Question(
            task, words, tuple(history), decoding, preset, tuple(speech) if speech is not None else None, system
        )
        question.check()
        if isinstance(video, LongVideo):
            encoded = video.encode_whole(self.work)
        else:
            encoded = video if isinstance(video, EncodedVideo) else self.encode(video)
        prompt = self._prompt(question, encoded)
        written: list[Written] = []

        def write(**watchers: Any) -> str:
            work = partial(self._write, [prompt], [encoded], question, **watchers)
            written[:] = video.timed("answer", work) if isinstance(video, LongVideo) else work()
            return self.processor.decode(written[0].token_ids)

        def read(text: str) -> Answer:
            answer = WindowAnswer(_window(encoded), text, self._tokens(written[0])[1] if written else ())
            answers = self._confirmed([question], [encoded], [answer]) if task == "grounding" else [answer]
            return self._tell(question, encoded, answers, wanted)

        return AnswerStream(self.processor.tokenizer, write, read)

    # ----------------------------------------------------------------------------------------- how it is done

    def _answer(
        self,
        question: "_Question",
        video: EncodedVideo | LongVideo,
        wanted: Wanted,
        *,
        cites: bool,
        verifies: bool,
        progress: Progress | None,
    ) -> Answer:
        """Answer, and give evidence for a free answer where it is wanted."""
        if (cites or verifies) and question.task not in ("ask", "summary"):
            raise ValueError(f"only ask and summary can cite, their answers being free, not {question.task}")

        def tell(asked: _Question) -> Answer:
            if isinstance(video, EncodedVideo):
                return self._tell(asked, video, self._answer_all(asked, [video]), wanted)
            return self._answer_long(asked, video, wanted, progress)

        answer = tell(question)
        if cites or verifies:
            captions = tell(replace(question, task="dense_caption", words=None, history=()))
            answer = cited_answer(answer, captions.events)
        return verified_answer(answer, partial(self._find_again, question, video)) if verifies else answer

    def _find_again(self, question: "_Question", video: EncodedVideo | LongVideo, cited: Event) -> list[Event]:
        """Moments of what a sentence says, in the windows that it cites."""
        asked = replace(question, task="grounding", words=cited.caption, history=())
        if isinstance(video, EncodedVideo):
            windows = [video]
        else:
            touched = [w for w in video.windows if w.start <= cited.end and cited.start <= w.end]
            windows = list(video.encode(touched, self.work))
        read = [
            read_window(answer, "grounding", cited.caption, self._scoring)
            for answer in self._answer_all(asked, windows)
        ]
        least = self._scoring.found_threshold
        return [event for one in read for event in one.events if event.score is None or event.score >= least]

    def _answer_long(
        self, question: "_Question", video: LongVideo, wanted: Wanted, progress: Progress | None
    ) -> Answer:
        """Ask about every window, a few at a time; what was answered before is taken over."""
        is_kept = video.store.is_on and question.is_reproducible
        model = self._model_facts() if is_kept else {}
        facts = {window: question.facts(window) | model for window in video.windows if is_kept}
        answers = {
            window: WindowAnswer.from_dict(window, known)
            for window in facts
            if (known := video.store.load_answer(facts[window])) is not None
        }
        for answered in answers.values():
            self.work.recall(len(answered.tokens), question.decoding)
        todo = [window for window in video.windows if window not in answers]
        _report(progress, "windows", len(answers), len(video.windows))
        batch: list[EncodedVideo] = []
        for encoded in video.encode(todo, self.work, progress):
            batch.append(encoded)
            if len(batch) == video.looking.batch_size or encoded.window == todo[-1]:
                for told in video.timed("answer", partial(self._answer_all, question, batch)):
                    answers[told.window] = told
                    if is_kept:
                        video.store.save_answer(facts[told.window], told.to_dict())
                batch = []
                _report(progress, "windows", len(answers), len(video.windows))
        answer = self._tell(question, video, [answers[window] for window in video.windows], wanted)
        if question.task == "grounding" and video.plan.refines and answer.events:
            again = partial(self._answer_all, question)
            answer = refine_moments(answer, video, self.model.config, again, self._scoring, self.work)
        return answer

    def _answer_all(self, question: "_Question", windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Ask the same about windows, all at once."""
        return self._answer_each([question] * len(windows), windows)

    def _answer_each(self, questions: Sequence["_Question"], windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Ask each question about its window, all at once; task and decoding are those of the first."""
        prompts = [self._prompt(question, window) for question, window in zip(questions, windows, strict=True)]
        written = self._write(prompts, windows, questions[0])
        answers = [
            WindowAnswer(_window(window), *self._tokens(one)) for window, one in zip(windows, written, strict=True)
        ]
        return self._confirmed(questions, windows, answers) if questions[0].task == "grounding" else answers

    def _confirmed(
        self, questions: Sequence["_Question"], windows: Sequence[EncodedVideo], answers: Sequence[WindowAnswer]
    ) -> list[WindowAnswer]:
        """The same answers, with how far the video speaks for each moment that was found."""
        found = {}
        for i, answer in enumerate(answers):
            events = parse_events(answer.text, task="grounding", duration=answer.window.duration).events
            if events:
                found[i] = replace(events[0], caption=questions[i].words or "")
        if not found:
            return list(answers)
        asked = [windows[i] for i in found]
        told = list(found.values())
        ask = partial(confirm, self.model, self.processor, asked, told, preset=questions[0].preset)
        nats = self.work.do(ask)
        confirmed = dict(zip(found, nats, strict=True))
        return [replace(answer, confirmation=confirmed.get(i)) for i, answer in enumerate(answers)]

    def _tell(
        self,
        question: "_Question",
        video: EncodedVideo | LongVideo,
        answers: Sequence[WindowAnswer],
        wanted: Wanted,
    ) -> Answer:
        answer = put_together(
            answers,
            question.task,
            question.words,
            duration=video.duration,
            scoring=self._scoring,
            wanted=wanted,
        )
        notes = (*self.notes, *video.notes, *answer.notes)
        if isinstance(video, EncodedVideo):
            return replace(answer, video=video.name, model=self.name, notes=notes, step=video.step)
        timings = {stage: round(seconds, 3) for stage, seconds in video.timings.items()}
        return replace(answer, video=video.name, model=self.name, notes=notes, step=video.plan.step, timings=timings)

    def _model_facts(self) -> dict[str, Any]:
        """What an answer depends on besides the video and the question."""
        return {
            "tokens": model_facts(self.model, self.processor),
            "weights": weights_digest(self.model.language_model),
            "lora_scale": self.model.lora_scale,
            "vocabulary": len(self.processor.tokenizer),
            "chat_style": self.processor.chat_style,
            "names_frame_times": self.processor.names_frame_times,
        }

    @property
    def _scoring(self) -> Scoring:
        return Scoring.of(self.model.config)

    def _prompt(self, question: "_Question", encoded: EncodedVideo) -> Prompt:
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

    def _write(
        self, prompts: Sequence[Prompt], videos: Sequence[EncodedVideo], question: "_Question", **watchers: Any
    ) -> list[Written]:
        """Write answers; `watchers` are those of an `Order`."""
        shapes = [question.shape(video.duration) for video in videos]
        return self.work.write(Order(prompts, shapes, question.decoding, **watchers))

    def _tokens(self, written: Written) -> tuple[str, tuple[Token, ...]]:
        """The text of an answer and the tokens that wrote it."""
        text, places = token_places(self.processor, written.token_ids)
        tokens = zip(places, written.logprobs, strict=True)
        return text, tuple(Token(first, end, logprob) for (first, end), logprob in tokens)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked about a video, and how it is to be answered."""

    task: Task
    words: str | None
    history: tuple[tuple[str, str], ...]
    decoding: Decoding
    preset: str
    speech: tuple[Event, ...] | None
    system: str | None = None

    def check(self) -> None:
        """Raise a `ValueError` where the task, the preset or the words make no question."""
        build_question(self.task, self.words, preset=self.preset)
        if self.decoding.json_schema is not None and self.task != "ask":
            raise ValueError(f"json_schema is for free answers (ask); {self.task} has a form of its own")

    @property
    def is_reproducible(self) -> bool:
        """Whether the same question always has the same answer."""
        return not self.decoding.do_sample

    def shape(self, duration: float) -> AnswerShape | None:
        """The form that keeps an answer about so many seconds readable; None where it is free."""
        if self.decoding.json_schema is not None:
            return json_shape(self.decoding.json_schema)
        return None if self.decoding.is_free else answer_shape(self.task, duration=duration)

    def text(self, window: Window) -> str:
        """The question as it is asked about a window, with what is said in it where somebody listened."""
        question = build_question(self.task, self.words, preset=self.preset)
        if self.speech is None:
            return question
        said = speech_between(self.speech, window.start, window.end)
        lines = [replace(line, start=line.start / window.pace, end=line.end / window.pace) for line in said]
        return heard_question(question, lines)

    def facts(self, window: Window) -> dict[str, Any]:
        """What the answer about a window depends on besides video and model, ready for a cache's key."""
        return {
            "task": self.task,
            "words": self.words,
            "window": [window.start, window.end, window.pace],
            "question": self.text(window),
            "history": [list(turn) for turn in self.history],
            "decoding": asdict(self.decoding),
            "preset": self.preset,
            "system": self.system,
        }


def _window(encoded: EncodedVideo) -> Window:
    return encoded.window or Window(0.0, encoded.duration)


def _report(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
