"""Options of retrieval: what is read of a long video, what answers, and videos outside of the model's domain."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.model_options import MODEL
from timechat.cli.options import WINDOWS

if TYPE_CHECKING:
    from timechat.pipeline import EncodedVideo, TimeChat, VideoSession
    from timechat.search.retrieval import RetrievalConfig


class AnsweredByOption(StrEnum):
    """What answers a query."""

    AUTO = "auto"
    MODEL = "model"
    SEARCH = "search"


def parse_read_option(value: float | str) -> float:
    """Return the share of a video to read, from a number or the word `all`."""
    from timechat.search.retrieval import parse_read

    return parse_read(value)


@dataclass(frozen=True)
class EncoderOptions:
    """The frame-text encoder."""

    encoder: Annotated[
        str,
        typer.Option(
            metavar="ENCODER",
            help="Encoder of the search: sight (built in), or a folder or hub id of a CLIP or SigLIP model.",
            rich_help_panel=WINDOWS,
        ),
    ] = "sight"

    def config(self, by: AnsweredByOption) -> "RetrievalConfig":
        """Return the retrieval options."""
        from timechat.search.retrieval import RetrievalConfig

        return RetrievalConfig(by=by.value, encoder=self.encoder)


@dataclass(frozen=True)
class RetrievalOptions(EncoderOptions):
    """Windows of a long video that the model reads."""

    read: Annotated[
        float | None,
        typer.Option(
            parser=parse_read_option,
            metavar="SHARE",
            help="Share of a long video to read, such as 0.1: the windows that the encoder ranks first; or all. "
            "Default: all.",
            rich_help_panel=WINDOWS,
        ),
    ] = None

    def config(self, by: AnsweredByOption) -> "RetrievalConfig":
        """Return the retrieval options."""
        config = super().config(by)
        return config if self.read is None else replace(config, read=self.read)


@dataclass(frozen=True)
class SourceOptions:
    """What answers a query."""

    by: Annotated[
        AnsweredByOption,
        typer.Option(
            help="What answers: model, search (of the encoder), or auto: the search if the video is unlike the "
            "videos that the model was trained on, otherwise the model."
        ),
    ] = AnsweredByOption.AUTO


@dataclass(frozen=True)
class DomainOptions:
    """Videos that are unlike the videos that the model was trained on."""

    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Answer also about a video that is unlike the videos that the model was trained on.",
            rich_help_panel=MODEL,
        ),
    ] = False


def check_domain(name: str, timechat: "TimeChat", video: "VideoSession | EncodedVideo") -> None:
    """Raise a `ValueError` for a video that is unlike the videos that the model was trained on."""
    from timechat.pipeline import VideoSession

    domain = timechat.backbone.config.domain
    if domain is not None and timechat.answerer().is_outside_domain(VideoSession.of(video)):
        raise ValueError(
            f"{name}: {timechat.name} was trained only on {domain['description']}, and this video is unlike them; "
            "search it with `timechat search`, take another model with --model, or add --force to get a guess"
        )
