"""`timechat score`: files of predictions against the truth, by the official rules."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PRED", help="Predictions, ours or in the original's formats.")
    ],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="The truth, as the benchmark or our records have it.")],
    task: Annotated[
        Literal["dvc", "tvg", "vhd", "mr", "tvsum"],
        typer.Option(
            "--task", help="Dense captions, grounding, highlights, moment retrieval with highlights, or TVSum."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object.")] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, help="Bootstrap resamples behind the 95 % intervals.")
    ] = 2000,
) -> None:
    """Score predictions: metrics as fractions (CIDEr 0 to 10), with intervals and what was missing.

    Dense captions need the extra "eval", and Java for the official METEOR and tokenizer. What each metric is:
    docs/metrics.md.
    """
    from timechat.evaluation.score import score_files

    scores = score_files(predictions, truth, task, resamples=resamples)
    if as_json:
        typer.echo(json.dumps(scores.to_dict(), indent=1, ensure_ascii=False))
    else:
        typer.echo(scores.to_markdown())
