"""Files of predictions and of ground truth → values. Invalid rows are counted and reported; they raise no error.

Formats of predictions: those of the original's scripts and of their upstreams, the original's raw result files, plain
answers by id, and our `predictions.jsonl`. Formats of ground truth: those of the benchmarks, and our records. The
content of a file decides its format and compression, not its name. A file in which no row can be used is in another
format: it raises an error that states the keys that were found and those that are expected.

    file ─▶ rows ─▶ captions | spans | queries | labels
"""

from timechat.evaluation.readers.captions import (
    CaptionedVideo,
    plain_caption,
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
from timechat.evaluation.readers.rows import InputIssues, video_key
from timechat.evaluation.readers.spans import read_span_ground_truth, read_span_predictions

__all__ = [
    "CaptionedVideo",
    "GroundTruthQuery",
    "InputIssues",
    "PredictedQuery",
    "plain_caption",
    "read_caption_ground_truth",
    "read_caption_predictions",
    "read_label_ground_truth",
    "read_label_predictions",
    "read_query_ground_truth",
    "read_query_predictions",
    "read_span_ground_truth",
    "read_span_predictions",
    "true_captions",
    "video_key",
]
