"""Attributes of a caption of a synthetic video: object, color and action."""

import re

from timechat.evaluation.metrics.captioning import Attributes
from timechat.synthetic.scene import COLORS, SHAPES
from timechat.synthetic.wording import ACTIONS

_COLOR = re.compile(rf"\b({'|'.join(COLORS)})\b")
_SHAPE = re.compile(rf"\b({'|'.join(SHAPES)})\b")
_KINDS = {
    # "meets {other}" is recognized by the words before the other's name.
    action.finite.partition("{other}")[0].strip(): kind
    for kind, actions in ACTIONS.items()
    for action in actions
}
_ACTION = re.compile(rf"\b({'|'.join(sorted(map(re.escape, _KINDS), key=len, reverse=True))})\b")


def read_caption(text: str) -> Attributes:
    """Read the first object, its color and its action from a caption such as `"The red circle bounces."`."""
    words = text.lower()
    color, shape, action = (pattern.search(words) for pattern in (_COLOR, _SHAPE, _ACTION))
    return Attributes(
        object=shape[1] if shape else None,
        color=color[1] if color else None,
        action=_KINDS[action[1]] if action else None,
    )


def correct_readings(text: str) -> tuple[Attributes, ...]:
    """Attributes of a caption in each correct form: if two objects meet, either one can be first."""
    first = read_caption(text)
    if first.action != "meet":
        return (first,)
    second = read_caption(text.lower().partition("meet")[2])
    return first, Attributes(object=second.object, color=second.color, action="meet")
