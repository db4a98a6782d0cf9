"""Make a synthetic video that was not used in training, ask the built-in model, and print its answers beside the truth.

python examples/demo.py out/demo              prints answers and writes the page out/demo/answer.html
python examples/demo.py --draw demo.mp4       writes the video only
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from timechat import Answer, Event
from timechat.answers.events import format_time
from timechat.export import to_html
from timechat.synthetic.records import SyntheticRecord, synthetic_records
from timechat.synthetic.scene import SyntheticVideo, write_scene
from timechat.synthetic.write import write_video

SEED = 7
"""Random seed of the video. Videos of the test split differ from training videos for every seed."""


def demo_script(seed: int = SEED) -> SyntheticVideo:
    """Return the script of the video: the easiest level of the test split."""
    return write_scene(seed, 0, level=1, split="test")


def true_records(script: SyntheticVideo, task: str) -> list[SyntheticRecord]:
    """Return the questions of one task about the video, with the true answers."""
    return [record for record in synthetic_records(script) if record.task == task]


def true_events(record: SyntheticRecord) -> list[Event]:
    """Return the true events of a record."""
    if record.moments:
        return list(record.moments)
    return [Event(event.start, event.end, event.caption) for event in record.events]


def show(heading: str, answer: Answer, truth: Sequence[Event]) -> None:
    print(f"\n{heading}")
    for name, events in (("nano", answer.events), ("truth", truth)):
        for event in events:
            when = format_time(event.start) if event.start == event.end else span(event)
            print(f"  {name:<5}  {when:>15}  {event.caption or ''}")
        if not events:
            print(f"  {name:<5}  no event in: {answer.text}")


def span(event: Event) -> str:
    return f"{format_time(event.start)} - {format_time(event.end)}"


def ask(video: Path, script: SyntheticVideo, model: str) -> str:
    """Print the answers of a model beside the truth, and return both as an HTML page."""
    from timechat import TimeChat  # imports torch, which drawing does not need

    timechat = TimeChat.from_pretrained(model)
    encoded = timechat.encode(video)
    captions, grounding, best = (true_records(script, task)[0] for task in ("dense_caption", "grounding", "highlights"))
    captioned = timechat.dense_caption(encoded)
    moment = timechat.ground(encoded, query := grounding.query or "")
    highlights = timechat.highlights(encoded, best.query)
    print(f"{video}: {script.duration:g} s, a synthetic video; {model} was not trained on it")
    show("What happens?", captioned, true_events(captions))
    show(f"When: {query}", moment, true_events(grounding))
    show(f"Highlights{f' of: {best.query}' if best.query else ''}", highlights, true_events(best))
    tracks = {
        "dense captions, truth": true_events(captions),
        f"“{query}”": moment.events,
        f"“{query}”, truth": true_events(grounding),
        "highlights": highlights.events,
        "highlights, truth": true_events(best),
    }
    return to_html(captioned, page_folder=video.parent, tracks=tracks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="output folder; with --draw the output file")
    parser.add_argument("--draw", action="store_true", help="make the video only, without answers")
    parser.add_argument("--seed", type=int, default=SEED, help="random seed; each seed gives another video")
    parser.add_argument("--model", default="nano", help="model name or folder, as in TimeChat.from_pretrained")
    options = parser.parse_args()
    script = demo_script(options.seed)
    video = options.out if options.draw else options.out / "demo.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(script, video)
    if not options.draw:
        page = ask(video, script, options.model)
        (options.out / "answer.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
