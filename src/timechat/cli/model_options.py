"""Options that name a model and say where and how it runs."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.times import time_from

if TYPE_CHECKING:
    from timechat.backbones.endpoint.options import EndpointSettings

MODEL = "Model"
GENERAL = "General"
_ENDPOINT = "Model of a server"
_ENGINE = "Engine"


@dataclass(frozen=True)
class ModelOptions:
    """The model, and the device it runs on."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="nano (built in), a folder, a hub id, or the address of a server: http://HOST/v1#NAME.",
            rich_help_panel=MODEL,
        ),
    ] = "nano"
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cuda, mps or cpu.", rich_help_panel=MODEL)] = (
        "auto"
    )
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE",
            help="auto, float32, bfloat16 or float16; int8 means --quantize int8.",
            rich_help_panel=MODEL,
        ),
    ] = "auto"
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="int8 or int4 on CPUs; bnb8 or bnb4 with bitsandbytes.",
            rich_help_panel=MODEL,
        ),
    ] = None
    lora_scale: Annotated[
        float | None,
        typer.Option(
            help="Strength of the LoRA adapter; the authors advise 0.625 for question answering.",
            rich_help_panel=MODEL,
        ),
    ] = None
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Engine that writes the answers: vllm. Default: TimeChat's own.",
            rich_help_panel=_ENGINE,
        ),
    ] = None
    engine_options: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Options of the engine: arguments of vLLM by name, such as '{\"max_num_seqs\": 64}'.",
            rich_help_panel=_ENGINE,
        ),
    ] = None
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Environment variable with the key of the server. Default: OPENAI_API_KEY.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None
    picture_side: Annotated[
        int | None,
        typer.Option(
            min=16, help="Maximum side of a picture in pixels. Default: 512 for a server.", rich_help_panel=MODEL
        ),
    ] = None
    picture_quality: Annotated[
        int | None,
        typer.Option(min=1, max=95, help="JPEG quality of a picture. Default: 85.", rich_help_panel=_ENDPOINT),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of requests at the same time. Default: 4.", rich_help_panel=_ENDPOINT),
    ] = None
    endpoint_timeout: Annotated[
        float | None,
        typer.Option(
            parser=time_from(1),
            metavar="TIME",
            help="Maximum time of a request with its retries. Default: 2 min.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Show no progress bars and no notes.", rich_help_panel=GENERAL),
    ] = False

    def engine_arguments(self) -> dict[str, Any]:
        """Return the engine and its options, as arguments of `TimeChat.from_pretrained`.

        Raises:
            ValueError: The options are no JSON object, or there is no such engine.
        """
        from timechat.backbones.loading import check_engine, parse_engine_options

        options = None if self.engine_options is None else parse_engine_options(self.engine_options)
        check_engine(self.engine, options)
        return {"engine": self.engine, "engine_options": options}

    def endpoint_settings(self) -> "EndpointSettings | None":
        """Return how a server is used; None without an option that says it."""
        stated = (self.api_key_env, self.picture_quality, self.concurrency, self.endpoint_timeout)
        if all(value is None for value in stated):
            return None
        from timechat.backbones.endpoint.limits import RequestLimits
        from timechat.backbones.endpoint.options import EndpointOptions, EndpointSettings

        given = {"max_concurrent": self.concurrency, "timeout": self.endpoint_timeout}
        limits = RequestLimits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        options = EndpointOptions()
        if self.picture_quality is not None:
            options = EndpointOptions(replace(options.pictures, quality=self.picture_quality))
        return EndpointSettings(self.api_key_env, options, limits)
