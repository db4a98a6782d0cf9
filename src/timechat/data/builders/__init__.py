"""Build instruction records from the annotations that data sets publish, as the original builds its training data.

    annotations ─▶ reader of the source ─▶ Annotation ─▶ events checked against the video ─▶ wording ─▶ record ─▶ file

One file per family of sources reads annotations: `captions`, `grounding`, `steps`, `highlights`, `summaries`, `speech`
and `valley`. `build.build_file` is the whole way; `merge.merge_files` joins files of records.
"""

from timechat.data.builders.build import BuildOptions, build_file
from timechat.data.builders.merge import MergePart, merge_files
from timechat.data.builders.report import BuildReport, SourceCounts
from timechat.data.builders.sources import BUILDERS, PUBLISHED

__all__ = [
    "BUILDERS",
    "PUBLISHED",
    "BuildOptions",
    "BuildReport",
    "MergePart",
    "SourceCounts",
    "build_file",
    "merge_files",
]
