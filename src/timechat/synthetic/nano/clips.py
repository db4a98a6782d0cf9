"""Clips that nano learns from: whole videos, and windows of long videos.

A window is a minute of a long video, as nano sees it when it answers about a long video: scenes are cut at its borders,
and most queries about the long video are about events outside of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from timechat.synthetic.long import LongSyntheticVideo, write_long_scene
from timechat.synthetic.nano.labels import NEW, OVER, SHAPE_KIND, state_labels
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import TICK, Action, Level, Object, SyntheticVideo, write_scene
from timechat.synthetic.wording import ActionPhrase, action_phrases

WINDOW_SECONDS = 60.0
_LONG_MINUTES = 4  # length of the long videos that windows are taken from
_SHORTEST_PART = 1.0  # an event of which a window shows less, in seconds, is not an event of the window
_MIN_EVENTS = 3


def frame_times(video: SyntheticVideo) -> NDArray[np.float64]:
    """Return the times of the sampled frames of a video, two per second."""
    return np.arange(0, video.duration, TICK)


@dataclass(frozen=True)
class TrainingClip:
    """A video, or a window of a long video.

    Attributes:
        script: Objects and actions, with times of the clip. The objects of all its scenes count as one set.
        scenes: Scenes, each with its start in the clip in seconds; negative if the clip starts later.
        elsewhere: Actions of the long video that do not happen in the clip.
    """

    script: SyntheticVideo
    scenes: tuple[tuple[SyntheticVideo, float], ...]
    elsewhere: tuple[ActionPhrase, ...] = ()

    @classmethod
    def whole(cls, video: SyntheticVideo) -> TrainingClip:
        """Make a clip of a whole video."""
        return cls(video, ((video, 0.0),))

    @property
    def id(self) -> str:
        """Id of the clip."""
        return self.script.id

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Times of the sampled frames, two per second."""
        return frame_times(self.script)

    def draw(self, times: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Render the frames at some times, `(frames, height, width, 3)`, in order of time."""
        parts = [draw_frames(scene, own) for scene, _, own in self._of_scenes(times)]
        return np.concatenate(parts)

    def states(self, times: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return `state_labels` at some times, in order of time. An event that a cut ends is over with the cut."""
        labels = np.concatenate([state_labels(scene, own) for scene, _, own in self._of_scenes(times)])
        if len(self.scenes) > 1:
            current = labels[:, : SHAPE_KIND.stop]
            before = np.concatenate([np.zeros_like(current[:1]), current[:-1]])
            labels[:, NEW], labels[:, OVER] = current * (1 - before), before * (1 - current)
        return labels

    def _of_scenes(self, times: NDArray[np.float64]) -> list[tuple[SyntheticVideo, float, NDArray[np.float64]]]:
        """Return every scene with its start in the clip, and those of the times that it shows, on its own clock."""
        starts = np.array([start for _, start in self.scenes])
        places = np.maximum(np.searchsorted(starts, np.asarray(times) + 1e-6, side="right") - 1, 0)
        found = []
        for i, (scene, start) in enumerate(self.scenes):
            own = np.asarray(times)[places == i] - start
            if len(own):
                found.append((scene, start, own))
        return found


def make_clip(seed: int, number: int, levels: Sequence[int], window_share: float) -> TrainingClip:
    """Make a training clip. Equal arguments give equal clips.

    Args:
        seed: Random seed of the clips.
        number: Number of the clip.
        levels: Levels of difficulty; they take turns.
        window_share: Share of clips that are windows of long videos.
    """
    level: Level = levels[number % len(levels)]  # type: ignore[assignment]
    rng = random.Random(f"{seed}/{number}/clip")
    if rng.random() >= window_share:
        return TrainingClip.whole(write_scene(seed, number, level=level))
    while True:
        video = write_long_scene(seed, rng.randrange(2**40), minutes=_LONG_MINUTES, level=level)
        if (clip := _cut_window(video, rng)) is not None:
            return clip


def _cut_window(video: LongSyntheticVideo, rng: random.Random) -> TrainingClip | None:
    """Cut a window at a random time; None if it has few events, or two events with the same description."""
    start = rng.randint(0, round((video.duration - WINDOW_SECONDS) / TICK)) * TICK
    end = start + WINDOW_SECONDS
    scenes: list[tuple[SyntheticVideo, float]] = []
    objects: list[Object] = []
    actions: list[Action] = []
    first = 0
    for number, (scene, offset) in enumerate(zip(video.parts, video.offsets, strict=True)):
        if offset < end and offset + scene.duration > start:
            scenes.append((scene, offset - start))
            objects += scene.objects
            actions += [_shift(action, f"s{number}{action.id}", offset - start, first) for action in scene.actions]
            first += len(scene.objects)
    seen = [part for action in actions if (part := _visible_part(action)) is not None]
    script = replace(
        scenes[0][0],
        id=f"{video.id}-from-{start}",
        duration=WINDOW_SECONDS,
        objects=tuple(objects),
        actions=tuple(sorted(seen, key=lambda action: (action.start, action.end, action.object))),
    )
    phrases = [replace(phrase, ordinal=None) for phrase in action_phrases(script).values()]
    if len(seen) < _MIN_EVENTS or (len({(o.color, o.shape) for o in objects}) < len(objects)):
        return None
    others = {replace(phrase, ordinal=None) for scene in video.parts for phrase in action_phrases(scene).values()}
    there = {_key(phrase) for phrase in phrases}
    elsewhere = sorted((phrase for phrase in others if _key(phrase) not in there), key=repr)
    return TrainingClip(script, tuple(scenes), tuple(elsewhere))


def _key(phrase: ActionPhrase) -> tuple[str, frozenset[tuple[str, str] | None]]:
    """Return a key that is equal for two descriptions of the same event; meeting has no direction."""
    return phrase.kind, frozenset((phrase.object, phrase.other))


def _shift(action: Action, name: str, offset: float, first_object: int) -> Action:
    return replace(
        action,
        id=name,
        object=first_object + action.object,
        other=None if action.other is None else first_object + action.other,
        start=offset + action.start,
        end=offset + action.end,
    )


def _visible_part(action: Action) -> Action | None:
    """Return the part of an action that the window shows, None if it is too short."""
    start, end = max(0.0, action.start), min(WINDOW_SECONDS, action.end)
    return replace(action, start=start, end=end) if end - start >= _SHORTEST_PART else None
