"""Files of predictions and of truth → values, whatever is wrong with single rows; each is counted and told.

Predictions are read in the formats of the original's scripts and of their upstreams, as the original's unread result
files, and as our `predictions.jsonl`; truth in the benchmarks' own formats and as our records. The content tells which
it is, and whether it is compressed, not the name.

    file ─▶ rows ─▶ captions | spans | queries | labels
"""

from timechat.evaluation.readers.captions import (
    CaptionedVideo,
    read_caption_ground_truth,
    read_caption_predictions,
    true_captions,
)
from timechat.evaluation.readers.labels import read_label_ground_truth, read_label_predictions
from timechat.evaluation.readers.queries import (
    GroundTruthQuery,
    PredictedQuery,
    read_query_ground_truth,
    read_query_predictions,
)
from timechat.evaluation.readers.rows import InputIssues
from timechat.evaluation.readers.spans import read_span_ground_truth, read_span_predictions

__all__ = [
    "CaptionedVideo",
    "GroundTruthQuery",
    "InputIssues",
    "PredictedQuery",
    "read_caption_ground_truth",
    "read_caption_predictions",
    "read_label_ground_truth",
    "read_label_predictions",
    "read_query_ground_truth",
    "read_query_predictions",
    "read_span_ground_truth",
    "read_span_predictions",
    "true_captions",
]
