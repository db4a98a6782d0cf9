"""Draw a film that no training has seen, ask the built-in model about it, and put its answers beside the truth.

python examples/demo.py out/demo              answers, and the page out/demo/answer.html
python examples/demo.py --draw demo.mp4       the film alone
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from timechat import Answer, Event, TimeChat
from timechat.answers.events import format_time
from timechat.export import to_html
from timechat.synthetic.records import SyntheticRecord, synthetic_records
from timechat.synthetic.scene import SyntheticVideo, write_scene
from timechat.synthetic.write import write_video

SEED = 7
"""Of the film. Films of the test split differ from those of training whatever their seed."""


def demo_film(seed: int = SEED) -> SyntheticVideo:
    """The script of the film: the easiest level, of the test split."""
    return write_scene(seed, 0, level=1, split="test")


def true_records(film: SyntheticVideo, task: str) -> list[SyntheticRecord]:
    """What is asked about the film in one task, with the true answers."""
    return [record for record in synthetic_records(film) if record.task == task]


def true_events(record: SyntheticRecord) -> list[Event]:
    """When what a record asks for happens."""
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


def ask(video: Path, film: SyntheticVideo, model: str) -> str:
    """Print what a model says about the film beside the truth; returns both as a page."""
    timechat = TimeChat.from_pretrained(model)
    encoded = timechat.encode(video)
    captions, asked, best = (true_records(film, task)[0] for task in ("dense_caption", "grounding", "highlights"))
    told = timechat.dense_caption(encoded)
    moment = timechat.ground(encoded, query := asked.query or "")
    highlights = timechat.highlights(encoded, best.query)
    print(f"{video}: {film.duration:g} s, drawn for this demo; {model} has never seen it")
    show("What happens?", told, true_events(captions))
    show(f"When: {query}", moment, true_events(asked))
    show(f"Highlights{f' of: {best.query}' if best.query else ''}", highlights, true_events(best))
    tracks = {
        "dense captions, truth": true_events(captions),
        f"“{query}”": moment.events,
        f"“{query}”, truth": true_events(asked),
        "highlights": highlights.events,
        "highlights, truth": true_events(best),
    }
    return to_html(told, page_folder=video.parent, tracks=tracks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of film and page; with --draw the film's file")
    parser.add_argument("--draw", action="store_true", help="draw the film and ask nothing")
    parser.add_argument("--seed", type=int, default=SEED, help="another number draws another film")
    parser.add_argument("--model", default="nano", help="any model that TimeChat.from_pretrained takes")
    options = parser.parse_args()
    film = demo_film(options.seed)
    video = options.out if options.draw else options.out / "demo.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(film, video)
    if not options.draw:
        page = ask(video, film, options.model)
        (options.out / "answer.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
