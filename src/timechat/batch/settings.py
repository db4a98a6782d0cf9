"""Settings of a batch."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from timechat.answers.events import Task
from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.backbones.endpoint.options import EndpointSettings
from timechat.batch.manifest import command_of
from timechat.files import without_scheme
from timechat.files.remote import is_remote
from timechat.search.encoder import BUILT_IN
from timechat.search.retrieval import DEFAULT_READ, RANKED_TASKS, RetrievalConfig, Source
from timechat.video.sampling import FrameSampling

_USUAL_WINDOWS = WindowConfig()
_USUAL_FRAMES = FrameSampling()
_NOT_IN_RECIPE = ("output", "timeout", "retry", "device", "endpoint")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """Everything that a batch needs besides its videos.

    Attributes:
        task: Name of the command for rows that name none: `caption`, `ground`, `ask`, ...
        output: Folder of the results: a path, or an address in an object store (`s3://`, ...).
        query: Query or question of rows that have none.
        model: Model, as in `TimeChat.from_pretrained`.
        device: Device of the model.
        dtype: Number format of the weights.
        quantize: Format to which weights are rounded.
        lora_scale: Strength of the LoRA adapter; None keeps the checkpoint's.
        picture_side: Size of pictures, as in `TimeChat.from_pretrained`.
        engine: Engine that writes the answers, as in `TimeChat.from_pretrained`.
        engine_options: Options of that engine by name.
        endpoint: Key, pictures and limits of requests for a server.
        windows: Options of the windows.
        sampling: Frame options of each window.
        decoding: Decoding options.
        preset: Name of the prompt preset; None takes the model's.
        by: What answers `ground`, as in `RetrievalConfig`.
        read: Maximum share of a long video that the model reads for `ask` and `ground`, as in `RetrievalConfig`.
        encoder: Frame-text encoder that ranks windows and searches, as in `load_encoder`.
        force: Whether videos outside of the model's domain are answered too.
        timeout: Maximum wall time of one video in seconds.
        retry: Whether rows that failed before are repeated.
    """

    task: str
    output: Path | str
    query: str | None = None
    model: str = "nano"
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    lora_scale: float | None = None
    picture_side: int | None = None
    engine: str | None = None
    engine_options: dict[str, Any] | None = None
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    windows: WindowConfig = _USUAL_WINDOWS
    sampling: FrameSampling = _USUAL_FRAMES
    decoding: DecodingOptions = GREEDY
    preset: str | None = None
    by: Source = "auto"
    read: float = DEFAULT_READ
    encoder: str = BUILT_IN
    force: bool = False
    timeout: float = 3600.0
    retry: bool = False

    def __post_init__(self) -> None:
        if not is_remote(str(self.output)):
            object.__setattr__(self, "output", Path(without_scheme(str(self.output))))
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 s, got {self.timeout:g}; it is the limit of one video")
        if self.retrieval("grounding").read < 1 and self.task not in map(command_of, RANKED_TASKS):
            raise ValueError(
                f"only ask and ground can read a part of a video, not {self.task}; leave out --read {self.read:g}"
            )

    def retrieval(self, task: Task) -> RetrievalConfig:
        """Return what is read of a video, and what answers, for rows of a task."""
        read = self.read if task in RANKED_TASKS else DEFAULT_READ
        return RetrievalConfig(read, self.by if task == "grounding" else "model", self.encoder)

    def row_sampling(self, start: float | None, end: float | None) -> FrameSampling:
        """Return the frame options of a row with this part of the video; None takes that of the options."""
        usual = self.sampling
        return replace(usual, start=usual.start if start is None else start, end=usual.end if end is None else end)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that the answers depend on, ready for JSON."""
        recipe = {name: value for name, value in asdict(self).items() if name not in _NOT_IN_RECIPE}
        recipe["pictures"] = asdict(self.endpoint.options.pictures)
        return json.loads(json.dumps(recipe))  # type: ignore[no-any-return]
