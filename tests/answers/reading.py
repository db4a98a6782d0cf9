"""Readers of answers for tests: the events of a text as plain tuples."""

from timechat.answers.tasks import parse_events


def captioned(text, task="dense_caption", duration=None):
    """Events as `(start, end, caption)`."""
    return [(e.start, e.end, e.caption) for e in parse_events(text, task=task, duration=duration).events]


def span(text, duration=None):
    """The ends of the moment that a grounding answer states; None without one."""
    events = parse_events(text, task="grounding", duration=duration).events
    return (events[0].start, events[0].end) if events else None


def rated(text, duration=None):
    """Highlights as `(time, score)`."""
    return [(e.start, e.saliency) for e in parse_events(text, task="highlights", duration=duration).events]
