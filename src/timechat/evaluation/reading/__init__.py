"""Files of predictions and of truth → values, whatever is wrong with single rows; each is counted and told.

Predictions are read in the formats of the original's scripts and of their upstreams, as the original's unread result
files, and as our `predictions.jsonl`; truth in the benchmarks' own formats and as our records. The content tells which
it is, and whether it is compressed, not the name.

    file ─▶ rows ─▶ captions | spans | queries | labels
"""

from timechat.evaluation.reading.captions import (
    CaptionedVideo,
    read_caption_predictions,
    read_caption_truth,
    true_captions,
)
from timechat.evaluation.reading.labels import read_label_predictions, read_label_truth
from timechat.evaluation.reading.queries import PredictedQuery, TrueQuery, read_query_predictions, read_query_truth
from timechat.evaluation.reading.rows import Findings
from timechat.evaluation.reading.spans import read_span_predictions, read_span_truth

__all__ = [
    "CaptionedVideo",
    "Findings",
    "PredictedQuery",
    "TrueQuery",
    "read_caption_predictions",
    "read_caption_truth",
    "read_label_predictions",
    "read_label_truth",
    "read_query_predictions",
    "read_query_truth",
    "read_span_predictions",
    "read_span_truth",
    "true_captions",
]
