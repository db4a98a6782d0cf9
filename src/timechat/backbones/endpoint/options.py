"""How videos are sent to a server."""

from dataclasses import dataclass, field, replace

from timechat.backbones.endpoint.limits import RequestLimits
from timechat.backbones.endpoint.messages import DEFAULT_WORDING, Placement, frame_time
from timechat.backbones.endpoint.pictures import DEFAULT_PICTURES, PictureFormat

_FPS = (("timelens", 2.0),)  # part of a model's name, and the frame rate that it was made for
_DEFAULT_FPS = 1.0


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How videos are sent to a server.

    Attributes:
        pictures: Size and quality of the pictures.
        wording: Format of the time before each picture, see `frame_time`.
        placement: Place of the times.
        fps: Frames per second of video; None for the rate that the model was made for.
        max_frames: Maximum number of frames of a window.
        window_seconds: Length of a window in seconds.
        native_video: Whether the frames are sent as one video with `media_io_kwargs`; for vLLM with
            `--trust-request-mm-kwargs` only.
        verify: Whether moments are verified by two more requests each, one of them with the pictures; for vLLM only.
    """

    pictures: PictureFormat = DEFAULT_PICTURES
    wording: str = DEFAULT_WORDING
    placement: Placement = "before each"
    fps: float | None = None
    max_frames: int = 128
    window_seconds: float = 64.0
    native_video: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        frame_time(self.wording, 0.0)
        if self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")
        for name, value in (("fps", self.fps), ("window_seconds", self.window_seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    def fps_of(self, model: str) -> float:
        """Return the frames per second of video for a model, by its name."""
        return self.fps or next((fps for part, fps in _FPS if part in model.lower()), _DEFAULT_FPS)


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How a server is used: key, what is sent, and limits of the requests.

    Attributes:
        api_key_env: Name of the environment variable with the key; None for `OPENAI_API_KEY`, which may be missing.
        options: How videos are sent.
        limits: Limits of the requests.
    """

    api_key_env: str | None = None
    options: EndpointOptions = field(default_factory=EndpointOptions)
    limits: RequestLimits = field(default_factory=RequestLimits)

    def with_side(self, picture_side: int | None) -> "EndpointSettings":
        """Return the same settings with another longest side of pictures in pixels; None changes nothing."""
        if picture_side is None:
            return self
        pictures = replace(self.options.pictures, max_side=picture_side)
        return replace(self, options=replace(self.options, pictures=pictures))
