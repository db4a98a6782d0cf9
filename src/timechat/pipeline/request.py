"""A request about a video, and the plan of windows and frames by which it is answered."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypedDict

from timechat.answers.events import Event, Task
from timechat.answers.forms import AnswerForm, answer_form, json_form
from timechat.answers.merging import MomentSelection
from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import GREEDY, TASKS, DecodingOptions, build_question, find_preset
from timechat.answers.windows import Window, WindowConfig, split_into_windows
from timechat.backbones.backbone import BackboneConfig
from timechat.errors import VideoError
from timechat.search.encoder import FrameTextEncoder
from timechat.search.retrieval import RANKED_TASKS, RetrievalConfig, Source, parse_read
from timechat.video import FrameSampling

NOT_IN_WINDOW_ANSWERS = {
    "transcript": "the prompt contains the speech of the window",
    "moments": "moments are selected from the answers about all windows",
    "cite": "citations come from the answer to another request, for captions",
    "verify": "citations are verified by the answers to other requests, for grounding",
    "retrieval": "the windows to read are chosen before the first of them is answered",
}
"""Fields of a `Request` that the answer about one window does not depend on, each with the reason."""

_BEST_MOMENT = MomentSelection()
_DEFAULT_WINDOWS = WindowConfig()
_BY_MODEL = RetrievalConfig()
_RETRIEVAL_FIELDS = ("read", "by", "encoder")


class AnswerOptions(TypedDict, total=False):
    """Keyword options of `TimeChat.ask`, `ground` and the other task methods.

    Attributes:
        history: Earlier (question, answer) pairs of the conversation.
        decoding: Decoding options; greedy by default.
        preset: Name of the prompt preset; None takes the model's.
        transcript: Speech in the video, shown to the model with the question.
        windows: Options of the windows of a video that is not encoded or open yet.
        read: Share of a long video that the model reads, such as `0.1`, or `"all"`; `ask` and `ground` only.
        by: What answers `ground`: `"model"`, `"search"`, or `"auto"` (the default of `ground`) for the search where the
            video is outside of the model's domain.
        encoder: Frame-text encoder that ranks windows and searches, or its name as in `load_encoder`.
    """

    history: Sequence[tuple[str, str]] | None
    decoding: DecodingOptions
    preset: str | None
    transcript: Sequence[Event] | None
    windows: WindowConfig
    read: float | Literal["all"]
    by: Source
    encoder: str | FrameTextEncoder


def split_options(options: AnswerOptions) -> tuple[dict[str, Any], WindowConfig]:
    """Separate the fields of a request from the options of the windows."""
    fields: dict[str, Any] = {n: v for n, v in options.items() if n not in ("windows", *_RETRIEVAL_FIELDS)}
    retrieval: dict[str, Any] = {name: value for name, value in options.items() if name in _RETRIEVAL_FIELDS}
    if retrieval:
        if "read" in retrieval:
            retrieval["read"] = parse_read(retrieval["read"])
        fields["retrieval"] = RetrievalConfig(**retrieval)
    return fields, options.get("windows", _DEFAULT_WINDOWS)


@dataclass(frozen=True, slots=True)
class Request:
    """A question about a video and how it is to be answered; checked when it is made.

    Attributes:
        task: Task name.
        query: Question, or description of what to find, for tasks that take one.
        history: Earlier (question, answer) pairs of the conversation.
        decoding: Decoding options of the answer.
        preset: Name of the prompt preset, such as `"original-zeroshot@1"`; None takes the model's.
        transcript: Speech in the video, shown to the model with the question; None if it is not known.
        system: System prompt instead of the preset's.
        moments: Moments that a grounding answer keeps.
        cite: Whether each sentence of a free answer names its time in the video, `[m:ss–m:ss]`: the time of the dense
            caption that says the same.
        verify: Whether sentences are cited and the model is asked for each of them again; citations that do not hold
            are marked.
        question: Whole text of the question; None uses the wording of the preset. The answer is parsed as one of the
            task in both cases.
        retrieval: Options of what is read of a long video, and of what answers a grounding query.
    """

    task: Task
    query: str | None = None
    history: Sequence[tuple[str, str]] | None = ()
    decoding: DecodingOptions = GREEDY
    preset: str | None = None
    transcript: Sequence[Event] | None = None
    system: str | None = None
    moments: MomentSelection = _BEST_MOMENT
    cite: bool = False
    verify: bool = False
    question: str | None = None
    retrieval: RetrievalConfig = _BY_MODEL

    def __post_init__(self) -> None:
        find_preset(self.preset or DEFAULT_PRESET)
        build_question(self.task, self.query, preset=self.preset or DEFAULT_PRESET)
        if self.decoding.json_schema is not None and self.task != "ask":
            raise ValueError(f"json_schema is for free answers (ask); {self.task} has a form of its own")
        if (self.cite or self.verify) and not TASKS[self.task].is_free:
            raise ValueError(f"only ask and summary can cite, their answers being free, not {self.task}")
        if self.retrieval.read < 1 and self.task not in RANKED_TASKS:
            raise ValueError(f"only ask and grounding can read a part of the video, not {self.task}; leave out read")
        if self.retrieval.by == "search" and self.task != "grounding":
            raise ValueError(f"only grounding can be answered by the search, not {self.task}; leave out by")
        object.__setattr__(self, "history", tuple((question, answer) for question, answer in self.history or ()))
        if self.transcript is not None:
            object.__setattr__(self, "transcript", tuple(self.transcript))

    @property
    def is_reproducible(self) -> bool:
        """Whether the same request always has the same answer."""
        return not self.decoding.do_sample

    @property
    def system_prompt(self) -> str:
        """The system prompt that the model is shown."""
        return self.system or find_preset(self.preset or DEFAULT_PRESET).system

    def for_captions(self) -> "Request":
        """Return the request for dense captions of the same video."""
        return self._for_task("dense_caption", None)

    def for_grounding(self, query: str) -> "Request":
        """Return the request to find `query` in the same video."""
        return self._for_task("grounding", query)

    def _for_task(self, task: Task, query: str | None) -> "Request":
        decoding = replace(self.decoding, json_schema=None)
        no_extras: dict[str, Any] = {"history": (), "cite": False, "verify": False, "question": None}
        return replace(self, task=task, query=query, decoding=decoding, retrieval=_BY_MODEL, **no_extras)

    def form(self, duration: float, *, names_moment: bool = False) -> AnswerForm | None:
        """Return the form of an answer about `duration` seconds of video; None for an unconstrained answer.

        Args:
            duration: Duration in seconds.
            names_moment: Whether a grounding answer always names a moment, see `Scoring.decides_found`.
        """
        if self.decoding.json_schema is not None:
            return json_form(self.decoding.json_schema)
        if self.decoding.is_free:
            return None
        preset = self.preset or DEFAULT_PRESET
        return answer_form(self.task, duration=duration, preset=preset, names_moment=names_moment)

    def prompt_text(self, window: Window, *, lowercase_query: bool = False) -> str:
        """Return the question about a window, with the speech in it if a transcript is known.

        Args:
            window: Window of the video.
            lowercase_query: Whether a query that the question contains is written in lower case.
        """
        query = self.query
        if lowercase_query and query is not None and TASKS[self.task].describes_query:
            query = query.lower()
        question = self.question or build_question(self.task, query, preset=self.preset or DEFAULT_PRESET)
        if self.transcript is None:
            return question
        from timechat.speech import add_transcript, transcript_between

        speech = transcript_between(self.transcript, window.start, window.end)
        scale = window.time_scale
        return add_transcript(question, [replace(e, start=e.start / scale, end=e.end / scale) for e in speech])

    def cache_facts(self, window: Window) -> dict[str, Any]:
        """Return the facts of the request that the answer about a window depends on, ready for a cache key.

        They are all fields but those of `NOT_IN_WINDOW_ANSWERS`, and the prompts that result from them.
        """
        names = [field.name for field in fields(self) if field.name not in NOT_IN_WINDOW_ANSWERS]
        facts = {name: getattr(self, name) for name in names}
        prompts = {"prompt": self.prompt_text(window), "system_prompt": self.system_prompt}
        return facts | {"decoding": asdict(self.decoding)} | prompts


# -------------------------------------------------------------------------------------------- window planning

_OVERLAP_SHARE = 1 / 6  # of a window
_START_ROUNDING = 0.5  # seconds by which a window may be longer than planned, see `split_into_windows`
_REFINE_ABOVE = 0.5  # seconds between frames above which moments are refined by default


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The windows of a video, and the frames of each.

    Attributes:
        windows: Windows in order of time.
        sampling: Frame options that all windows share, without start and end.
        frame_interval: Approximate seconds of video between frames; None for a single frame.
        refines: Whether the borders of moments are encoded again with denser frames.
    """

    windows: tuple[Window, ...]
    sampling: FrameSampling
    frame_interval: float | None
    refines: bool

    @property
    def num_frames(self) -> int:
        """Approximate number of frames of all windows."""
        if self.frame_interval is None:
            return len(self.windows)
        return sum(max(1, round((window.end - window.start) / self.frame_interval)) for window in self.windows)

    def window_sampling(self, window: Window) -> FrameSampling:
        """Return the frame options of one window."""
        return replace(self.sampling, start=window.start, end=window.end)


def check_start(name: str, duration: float, sampling: FrameSampling) -> None:
    """Raise a `VideoError` if a video of this duration ends before the frames that are wanted."""
    if sampling.start is not None and sampling.start >= duration:
        raise VideoError(f"{name}: ends at {duration:.3f} s, before the start at {sampling.start:g} s")


def plan_windows(
    config: BackboneConfig, duration: float, window_config: WindowConfig, sampling: FrameSampling
) -> WindowPlan:
    """Choose windows and frames.

    A model that was trained on one frame rate sees a larger frame interval as fast motion: the window's clock then
    runs at the speed of its frames. A model that spreads a number of frames over any video gets as many in each window.

    Args:
        config: Properties of the model.
        duration: Duration of the video in seconds.
        window_config: Options of the windows.
        sampling: Frame options. A number of frames without a window length takes the whole video as one window, as the
            original does.

    Raises:
        ValueError: The options contradict each other, or the step cannot be kept.
    """
    window_config.check_density(num_frames=sampling.num_frames, fps=sampling.fps)
    if sampling.timestamps is not None:
        raise ValueError("timestamps choose the frames of a whole video: use `encode`, which makes one window of it")
    start = max(0.0, sampling.start or 0.0)
    end = duration if sampling.end is None else min(sampling.end, duration)
    is_whole = window_config.window == 0 or (window_config.window is None and sampling.num_frames is not None)
    rate = sampling.fps or config.rate.fps
    if sampling.num_frames is not None or rate is None:
        return _plan_fixed_count(config, start, end, window_config, sampling, is_whole)
    time_scale = 1.0 if window_config.step is None else window_config.step * rate
    length = 0.0 if is_whole else window_config.window or config.window_seconds * time_scale
    windows = _split(start, end, length, window_config)
    fps = rate / time_scale
    max_frames = sampling.max_frames if sampling.max_frames is not None else config.rate.max_frames
    longest = max(window.end - window.start for window in windows)
    if max_frames:
        _check_step(window_config, longest - _START_ROUNDING, max_frames)
    frame_interval = max(1 / fps, longest / max_frames) if max_frames else 1 / fps
    return WindowPlan(
        tuple(replace(window, time_scale=time_scale) for window in windows),
        FrameSampling(fps=fps, max_frames=max_frames, sampling=sampling.sampling),
        frame_interval,
        _should_refine(config, window_config, frame_interval),
    )


def _plan_fixed_count(
    config: BackboneConfig,
    start: float,
    end: float,
    window_config: WindowConfig,
    sampling: FrameSampling,
    is_whole: bool,
) -> WindowPlan:
    """Plan the same number of frames in every window."""
    num_frames = sampling.num_frames or config.num_frames
    if sampling.max_frames is not None:
        num_frames = min(num_frames, sampling.max_frames)
    if window_config.step is not None and window_config.window is not None:
        seconds = window_config.window or end - start
        _check_step(window_config, seconds, num_frames)
        num_frames = max(1, round(seconds / window_config.step))
    length = window_config.window or (
        config.window_seconds if window_config.step is None else window_config.step * num_frames
    )
    windows = _split(start, end, 0.0 if is_whole else length, window_config)
    frame_interval = max(window.end - window.start for window in windows) / num_frames
    frames = FrameSampling(num_frames=num_frames, sampling=sampling.sampling)
    return WindowPlan(windows, frames, frame_interval, _should_refine(config, window_config, frame_interval))


def _split(start: float, end: float, length: float, window_config: WindowConfig) -> tuple[Window, ...]:
    overlap = length * _OVERLAP_SHARE if window_config.overlap is None else window_config.overlap
    return split_into_windows(start, end, length=length, overlap=overlap)


def _check_step(window_config: WindowConfig, seconds: float, num_frames: int) -> None:
    """Raise a `ValueError` if windows of `seconds` need more than `num_frames` frames to keep the step."""
    step = window_config.step
    if step is not None and seconds / step > num_frames + 0.5:
        raise ValueError(
            f"a step of {step:g} s in windows of {seconds:g} s takes {round(seconds / step)} frames, "
            f"more than the {num_frames} of a window; take a larger step or a shorter window"
        )


def _should_refine(config: BackboneConfig, window_config: WindowConfig, frame_interval: float) -> bool:
    """Return whether denser frames than these are wanted, and are not denser than those that the model was made for."""
    if window_config.refine is not None:
        return window_config.refine
    return frame_interval > max(_REFINE_ABOVE, 1 / config.rate.fps if config.rate.fps else 0.0) + 1e-6
