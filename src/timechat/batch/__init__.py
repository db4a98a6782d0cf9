"""Answers about many videos: a manifest in, tables of answers out; the same command resumes.

manifest.py ─▶ Row ─▶ worker.py: a child process with stages.py ─▶ results.py: parts, failures, report
                      loop.py: one row after the other; ray_data.py: a pool of actors
"""

from timechat.batch.loop import plan_batch, run_batch
from timechat.batch.manifest import Row, read_manifest
from timechat.batch.processor import TimeChatProcessorConfig, build_processor
from timechat.batch.results import BatchReport
from timechat.batch.settings import BatchSettings

__all__ = [
    "BatchReport",
    "BatchSettings",
    "Row",
    "TimeChatProcessorConfig",
    "build_processor",
    "plan_batch",
    "read_manifest",
    "run_batch",
]
