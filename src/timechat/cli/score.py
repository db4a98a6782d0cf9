"""`timechat score`: score predictions against annotations, by the official rules."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PRED", help="Predictions, in our format or those of the original.")
    ],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="Annotations of the benchmark, or records.")],
    task: Annotated[
        Literal["dvc", "tvg", "vhd", "mr", "tvsum"],
        typer.Option(
            "--task", help="Dense captions, grounding, highlights, moment retrieval with highlights, or TVSum."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object.")] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, help="Number of bootstrap resamples for the 95 % intervals.")
    ] = 2000,
) -> None:
    """Score predictions: metrics as fractions (CIDEr 0 to 10), with intervals and the number of missing predictions.

    Dense captions need the extra "eval", and Java for the official METEOR and tokenizer. The metrics are
    described in docs/metrics.md.
    """
    from timechat.evaluation.score import score_files

    scores = score_files(predictions, truth, task, resamples=resamples)
    if as_json:
        typer.echo(json.dumps(scores.to_dict(), indent=1, ensure_ascii=False))
    else:
        typer.echo(scores.to_markdown())
