"""Examples of every command, shown by `--help` and in `docs/cli.md`."""

EXAMPLES = {
    "ask": (
        'timechat ask video.mp4 "When does the light turn on?" --html answer.html',
        'timechat ask videos "What happens?" -o answers.jsonl',
        'timechat ask - "What happens?" < video.mp4',
    ),
    "chat": ("timechat chat video.mp4 --model OUT_DIR",),
    "caption": (
        "timechat caption video.mp4 -o video.srt",
        "timechat caption videos/*.mp4 --format vtt --output-dir captions",
        "timechat caption video.mp4 --start 1:00 --end 5:30 --json",
    ),
    "ground": (
        'timechat ground video.mp4 "the light turns on" --json',
        'timechat ground video.mp4 "the light turns on" --exit-status && echo found',
        'timechat ground videos "the light turns on" --all -o found.jsonl',
        'timechat ground video.mp4 "the light turns on" --model MCG-NJU/TimeLens2-4B',
        'timechat ground video.mp4 "the light turns on" --model http://127.0.0.1:8000/v1#Qwen3-VL-8B',
    ),
    "highlights": (
        'timechat highlights video.mp4 "a goal" --format csv',
        'timechat highlights a.mp4 b.mp4 --query "a goal" --output-dir goals',
    ),
    "steps": ("timechat steps cooking.mp4 --start 1:00 --end 5:00",),
    "summarize": ("timechat summarize video.mp4 --keyframes", "timechat summarize lectures -o summaries.jsonl"),
    "transcribe": (
        "timechat transcribe video.mkv -o video.srt",
        "timechat transcribe video.mp4 --asr MODEL -o video.srt",
        "timechat transcribe video.mp4 --guess",
    ),
    "watch": ('timechat watch recording.ts "the light turns on" --follow',),
    "batch": (
        "timechat batch videos --task caption --output captions",
        'timechat batch videos --task ground --query "the light turns on" --output found',
        "timechat batch manifest.jsonl --task caption --output captions --retry",
        "timechat batch videos --task caption --output captions --plan",
    ),
    "index": (
        "timechat index videos",
        "timechat index /media/holidays lecture.mp4 --library holidays.db",
        "timechat index --info --json",
    ),
    "search": (
        'timechat search "a dog on the beach"',
        'timechat search "a taxi" bikes.mp4',
        'timechat search "a red car" videos --since 2025-07-01 --html found.html',
        "timechat search --like photo.jpg --library holidays.db --json",
    ),
    "serve": ("timechat serve --allow videos --port 8000",),
    "mcp": ("timechat mcp --allow videos --model OUT_DIR --preload",),
    "info": ("timechat info video.mp4", "timechat info video.mp4 --model OUT_DIR", "timechat info nano --json"),
    "models": ("timechat models", "timechat models --memory 24"),
    "recipes": ("timechat recipes", "timechat recipes timechat -o my_run.yaml"),
    "download": ("timechat download CKPT_DIR",),
    "convert": ("timechat convert --from CKPT_DIR OUT_DIR",),
    "data draw": ("timechat data draw videos --clips 100 --seed 1 --level 1",),
    "data build": (
        "timechat data build charades charades_sta_train.txt --videos videos --output charades.jsonl",
        "timechat data build youcook2 youcookii_annotations_trainval.json --videos videos --output youcook2.jsonl "
        "--compress videos_6fps --transcripts speech --asr small",
    ),
    "data merge": ("timechat data merge charades.jsonl didemo.jsonl --ratio 1 --ratio 0.5 --output mixed.jsonl",),
    "data check": ("timechat data check instruct_time.json --videos videos --strict",),
    "data encode": ("timechat data encode videos/records.jsonl --model OUT_DIR --output features",),
    "cache": ("timechat cache --json",),
    "cache prune": ("timechat cache prune --to 2GB",),
    "cache clear": ("timechat cache clear",),
    "train": (
        "timechat data draw clips --clips 4 --seed 1",
        "CLIPS=clips timechat train recipes/finetune_clips.yaml --set run.steps=20",
        "timechat train recipes/stage2_finetune_charades.yaml --set model.checkpoint=OUT_DIR",
    ),
    "evaluate": (
        "timechat data draw out/films --clips 4 --seed 1001 --split test",
        "timechat evaluate recipes/eval_drawn.yaml --limit 20 --report",
    ),
    "score": ("timechat score fmt_youcook_val_f96_result.json val.caption_coco_format.json --task dvc --json",),
}
