"""`TimeChat`: a model that answers requests about videos; encode a video once, ask about it any number of times."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from timechat.answers.events import Answer, Task
from timechat.answers.merging import MomentSelection
from timechat.answers.windows import WindowConfig
from timechat.backbones.backbone import Backbone, EncodedVideo
from timechat.files.cache import DiskCache
from timechat.pipeline.answering import Answerer
from timechat.pipeline.request import AnswerOptions, Request, split_options
from timechat.pipeline.session import ProgressCallback, Video, VideoSession
from timechat.pipeline.window_encoder import WindowEncoder
from timechat.video import FrameSampling, VideoIndex

if TYPE_CHECKING:
    import torch

    from timechat.backbones.endpoint.options import EndpointSettings
    from timechat.backbones.timechat.backbone import TimeChatBackbone
    from timechat.model.modeling import TimeChatForConditionalGeneration
    from timechat.model.processing import TimeChatProcessor
    from timechat.pipeline.cache import WindowCache
    from timechat.pipeline.estimate import JobEstimate
    from timechat.pipeline.streaming import AnswerStream

AnyVideo = Video | EncodedVideo | VideoSession

_BEST_MOMENT = MomentSelection()
_DEFAULT_WINDOWS = WindowConfig()
_DEFAULT_SAMPLING = FrameSampling()


class TimeChat:
    """The time engine around one model, with a cache on disk."""

    def __init__(self, backbone: Backbone, *, cache: DiskCache | None = None) -> None:
        """Build the engine around a model.

        Args:
            backbone: Model.
            cache: Cache on disk for encoded windows and answers; None takes the user's, see `timechat.files.cache`.
        """
        self.backbone = backbone
        self.cache = DiskCache() if cache is None else cache

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.backbone.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of every answer, such as untrained weights."""
        return self.backbone.notes

    @property
    def model(self) -> "TimeChatForConditionalGeneration":
        """Network of a TimeChat model."""
        return self.own_backbone.model  # type: ignore[no-any-return]

    @property
    def processor(self) -> "TimeChatProcessor":
        """Processor of a TimeChat model."""
        return self.own_backbone.processor

    @property
    def own_backbone(self) -> "TimeChatBackbone":
        """Backbone of a TimeChat model, with its network, processor and executor."""
        from timechat.backbones.timechat.backbone import TimeChatBackbone

        if not isinstance(self.backbone, TimeChatBackbone):
            raise ValueError(f"{self.name} is not a TimeChat model, so it has none of its parts; use `backbone`")
        return self.backbone

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        dtype: "str | torch.dtype" = "auto",
        quantize: str | None = None,
        lora_scale: float | None = None,
        picture_side: int | None = None,
        endpoint: "EndpointSettings | None" = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> "TimeChat":
        """Load a model; device and number format as in `load_model`.

        Args:
            model: `"nano"` (built in), a folder made by `timechat convert` or `save_pretrained`, a folder or hub id of
                a video language model of `transformers`, or the address of a server, `http://host/v1#NAME`.
            device: `"cuda"`, `"mps"`, `"cpu"`, ...; `"auto"` takes the first of these that is available.
            dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` (as `quantize="int8"`) or `"auto"`.
            quantize: `"int8"` or `"int4"` on CPUs, `"bnb8"` or `"bnb4"` with the package bitsandbytes; None keeps the
                format of the folder.
            lora_scale: Strength of the LoRA adapter (`lora_alpha / r`); None keeps the checkpoint's.
            picture_side: Size of pictures for models that read pictures of any size: at most as many pixels as a square
                of this side has, for a server at most this longest side. None takes the default of the model.
            endpoint: Key, pictures and limits of requests for a server; None takes the defaults.
            engine: `"vllm"` for answers that vLLM writes; None for TimeChat's own engine.
            engine_options: Options of that engine: arguments of vLLM's `AsyncEngineArgs` by name.

        Raises:
            CheckpointError: There is no model of that name, or it cannot be loaded.
            EndpointError: The server cannot be reached, refuses the key, or does not know the model.
            EngineError: The engine cannot be started.
        """
        from timechat.backbones.loading import load_backbone

        return cls(
            load_backbone(
                str(model),
                device=device,
                dtype=dtype,
                quantize=quantize,
                lora_scale=lora_scale,
                picture_side=picture_side,
                endpoint=endpoint,
                engine=engine,
                engine_options=engine_options,
            )
        )

    def encode(
        self,
        video: Video,
        frames: FrameSampling = _DEFAULT_SAMPLING,
        *,
        timeout: float = 600.0,
        progress: ProgressCallback | None = None,
        **sampling: Any,
    ) -> EncodedVideo:
        """Encode a whole video as one window, as the original does; `open` makes windows of long videos.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            frames: Frame options; without any, those of the model's configuration.
            timeout: Maximum wall time in seconds for reading the file.
            progress: Callback for finished parts of the work.
            **sampling: Frame options by name, which replace those of `frames`: `num_frames`, `fps`, ...; see
                `FrameSampling`.

        Raises:
            VideoError: The video cannot be read.
        """
        from timechat.pipeline.encoding import encode_video

        chosen, cache = replace(frames, **sampling), self._open_cache(video)
        return encode_video(video, chosen, self.backbone, cache=cache, timeout=timeout, progress=progress)

    def open(
        self,
        video: Video,
        *,
        windows: WindowConfig = _DEFAULT_WINDOWS,
        sampling: FrameSampling = _DEFAULT_SAMPLING,
        keep_in_memory: bool = True,
        name: str | None = None,
        timeout: float = 600.0,
        index: VideoIndex | None = None,
    ) -> VideoSession:
        """Open a video of any length, whose windows are encoded when a request needs them; close it afterwards.

        Args:
            video: Video as in `encode`.
            windows: Options of the windows; by default those that the model was trained on.
            sampling: Frame options of each window; by default those of the model's configuration.
            keep_in_memory: Whether encoded windows stay in memory for the next request, up to 1 GiB. A window has some
                hundred kilobytes with a TimeChat model, and up to some hundred megabytes with others.
            name: Display name of the video; None takes its path or address.
            timeout: Maximum wall time in seconds for reading a window.
            index: `index` of another session with the same file, whose packets are then not read again.

        Raises:
            VideoError: The video cannot be read.
        """
        cache = self._open_cache(video)
        encoder = WindowEncoder(video, self.backbone, cache=cache, name=name, timeout=timeout, index=index)
        return VideoSession.open(encoder, windows, sampling, keep_in_memory=keep_in_memory)

    def with_backbone(self, backbone: Backbone) -> "TimeChat":
        """Return the engine with the same cache around another form of the model, such as that of one request."""
        return TimeChat(backbone, cache=self.cache)

    def _open_cache(self, video: Video) -> "WindowCache | None":
        if not self.cache.is_on:
            return None
        from timechat.pipeline.cache import WindowCache

        return WindowCache.open(self.cache, video, self.backbone)

    def run(
        self,
        request: Request,
        video: AnyVideo,
        *,
        windows: WindowConfig = _DEFAULT_WINDOWS,
        sampling: FrameSampling = _DEFAULT_SAMPLING,
        progress: ProgressCallback | None = None,
    ) -> Answer:
        """Answer a request about a video of any length, in bounded memory.

        Args:
            request: Task, query and everything else that determines the answer.
            video: Video that is answered window by window, an `EncodedVideo`, or an open `VideoSession`.
            windows: Options of the windows of a video that is not encoded or open yet.
            sampling: Frame options of a video that is not encoded or open yet.
            progress: Callback for finished parts of the work.
        """
        answerer = self.answerer()
        if isinstance(video, EncodedVideo | VideoSession):
            return answerer.answer(request, VideoSession.of(video), progress)
        keep = request.cite or request.verify
        with self.open(video, windows=windows, sampling=sampling, keep_in_memory=keep) as session:
            return answerer.answer(request, session, progress)

    def run_all(self, requests: Sequence[Request], videos: Sequence[EncodedVideo]) -> list[Answer]:
        """Answer requests of one task in one batch; each answer is independent of the others.

        The part of the prompts that all requests about one video share is read once. Every answer keeps all events of
        its text. The requests have the same task and decoding options; each has its own item of `videos`.
        """
        return self.answerer().answer_each(requests, videos) if requests else []

    def stream(self, request: Request, video: AnyVideo) -> "AnswerStream":
        """Answer a request about a video of one window, and return the text while it is written.

        A video that is not encoded or open yet is encoded as one window, as by `encode`.
        """
        session = VideoSession.of(video if isinstance(video, EncodedVideo | VideoSession) else self.encode(video))
        return self.answerer().stream(request, session)

    def estimate(self, request: Request, video: VideoSession) -> "JobEstimate":
        """Estimate the work of a request by a trial on the first window that is not in the cache."""
        from timechat.pipeline.estimate import estimate_job

        return estimate_job(self.answerer(), request, video)

    def answerer(self) -> Answerer:
        """Return what decides how a request is answered, and answers it window by window."""
        return Answerer(self.backbone)

    @overload
    def ask(
        self, video: AnyVideo, question: str, *, stream: Literal[False] = False, **options: Unpack[AnswerOptions]
    ) -> Answer: ...

    @overload
    def ask(
        self, video: AnyVideo, question: str, *, stream: Literal[True], **options: Unpack[AnswerOptions]
    ) -> "AnswerStream": ...

    def ask(
        self, video: AnyVideo, question: str, *, stream: bool = False, **options: Unpack[AnswerOptions]
    ) -> "Answer | AnswerStream":
        """Ask any question about a video.

        Args:
            video: Video, or better an `EncodedVideo` or `VideoSession`: a second question does no vision work and reads
                only the new part of the prompt.
            question: Question.
            stream: Whether to return an `AnswerStream`, which yields the text while it is written.
            **options: Keyword options such as `history` or `decoding`, see `AnswerOptions`.
        """
        fields, windows = split_options(options)
        request = Request("ask", question, **fields)
        return self.stream(request, video) if stream else self.run(request, video, windows=windows)

    def dense_caption(self, video: AnyVideo, **options: Unpack[AnswerOptions]) -> Answer:
        """Describe all events, each with start, end, caption and score."""
        return self._run_task("dense_caption", video, None, options)

    def ground(
        self,
        video: AnyVideo,
        query: str,
        *,
        top_k: int = 1,
        find_all: bool = False,
        threshold: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Answer:
        """Find when the query happens.

        Where the video is unlike the videos that the model was trained on, as real videos are for nano, the search of
        the built-in frame-text encoder answers, and the answer says so (`by`). `by="model"` asks the model in any case.

        Args:
            video: Video in any form.
            query: Description of the moment to find.
            top_k: Maximum number of moments, the best first.
            find_all: Whether to return all moments instead.
            threshold: Minimum score of a moment that counts as found; None takes the model's.
            **options: Keyword options, see `AnswerOptions`.

        Returns:
            An answer with one event for each moment, each with its score. If there is none, `found` is False, `events`
            is empty, and `score` is the probability that the query happens.
        """
        moments = MomentSelection(top_k, find_all, threshold)
        chosen: AnswerOptions = {"by": "auto", **options}
        return self._run_task("grounding", video, query, chosen, moments)

    def highlights(self, video: AnyVideo, query: str | None = None, **options: Unpack[AnswerOptions]) -> Answer:
        """Find the moments worth seeing, with saliency scores: events with `start == end`."""
        return self._run_task("highlights", video, query, options)

    def steps(self, video: AnyVideo, **options: Unpack[AnswerOptions]) -> Answer:
        """List the steps of an activity with start and end."""
        return self._run_task("steps", video, None, options)

    def summarize(self, video: AnyVideo, **options: Unpack[AnswerOptions]) -> Answer:
        """Summarize the video in a few sentences."""
        return self._run_task("summary", video, None, options)

    def transcribe(self, video: AnyVideo, **options: Unpack[AnswerOptions]) -> Answer:
        """Let the model write the speech that it expects in the video, with times; it does not hear the sound."""
        return self._run_task("transcribe", video, None, options)

    def _run_task(
        self,
        task: Task,
        video: AnyVideo,
        query: str | None,
        options: AnswerOptions,
        moments: MomentSelection = _BEST_MOMENT,
    ) -> Answer:
        fields, windows = split_options(options)
        return self.run(Request(task, query, moments=moments, **fields), video, windows=windows)


def choose_threads(timechat: TimeChat) -> None:
    """Use one thread for a model that is too small for several."""
    from timechat.backbones.timechat.backbone import TimeChatBackbone

    if not isinstance(timechat.backbone, TimeChatBackbone):
        return
    import torch

    from timechat.model.loading import needs_one_thread

    if needs_one_thread(timechat.model):
        torch.set_num_threads(1)
