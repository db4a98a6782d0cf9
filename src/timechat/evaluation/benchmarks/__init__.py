"""Benchmarks: readers of public annotations, and the scoring of the answers. Callers can pass more benchmarks.

annotations ─▶ captions | grounding | highlights | egoschema | ... ─▶ Sample ─▶ (predict) ─▶ Prediction
"""

from timechat.evaluation.benchmarks.benchmark import Benchmark, BenchmarkFiles, find_benchmark
from timechat.evaluation.benchmarks.captions import read_activitynet, read_youcook2
from timechat.evaluation.benchmarks.centres import load_pictures, load_segment_centres
from timechat.evaluation.benchmarks.egoschema import read_egoschema, write_egoschema
from timechat.evaluation.benchmarks.grounding import read_activitynet_grounding, read_charades, read_timelens
from timechat.evaluation.benchmarks.highlights import read_qvhighlights, read_qvhighlights_moments
from timechat.evaluation.benchmarks.mvbench import read_mvbench, write_mvbench
from timechat.evaluation.benchmarks.tempcompass import read_tempcompass, write_tempcompass
from timechat.evaluation.benchmarks.video_mme import read_video_mme, write_video_mme

BENCHMARKS: dict[str, Benchmark] = {
    "youcook2": Benchmark("YouCook2", "youcook", read_youcook2, {"dense_caption": "dvc"}),
    "activitynet_captions": Benchmark("ActivityNet Captions", "anet", read_activitynet, {"dense_caption": "dvc"}),
    "activitynet_grounding": Benchmark(
        "ActivityNet Captions, grounding", "anet", read_activitynet_grounding, {"grounding": "tvg"}
    ),
    "charades_sta": Benchmark("Charades-STA", "charades", read_charades, {"grounding": "tvg"}),
    "timelens": Benchmark("TimeLens-Bench", "timelens", read_timelens, {"grounding": "tvg"}),
    "qvhighlights": Benchmark("QVHighlights", "qvhighlights", read_qvhighlights, {"highlights": "vhd"}),
    "qvhighlights_moments": Benchmark(
        "QVHighlights, moment retrieval", "qvhighlights", read_qvhighlights_moments, {"grounding": "mr"}
    ),
    "egoschema": Benchmark("EgoSchema", "egoschema", read_egoschema, {"ask": "choices"}, "egoschema", write_egoschema),
    "mvbench": Benchmark("MVBench", "mvbench", read_mvbench, {"ask": "choices"}, "mvbench", write_mvbench),
    "tempcompass": Benchmark(
        "TempCompass", "tempcompass", read_tempcompass, {"ask": "choices"}, "tempcompass", write_tempcompass
    ),
    "video_mme": Benchmark("Video-MME", "video_mme", read_video_mme, {"ask": "choices"}, "video_mme", write_video_mme),
}

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkFiles", "find_benchmark", "load_pictures", "load_segment_centres"]
