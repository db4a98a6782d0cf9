"""The sources by name, and the number of instructions that the original published for each."""

from timechat.data.builders.annotation import Reader
from timechat.data.builders.captions import (
    read_activitynet,
    read_activitynet_grounding,
    read_queryd,
    read_queryd_grounding,
    read_vitt,
    read_youcook2,
)
from timechat.data.builders.grounding import read_charades, read_didemo, read_hirest_grounding
from timechat.data.builders.highlights import read_qvhighlights
from timechat.data.builders.speech import read_yttemporal
from timechat.data.builders.steps import read_coin, read_hirest_steps
from timechat.data.builders.summaries import read_summe, read_tvsum
from timechat.data.builders.valley import read_valley

BUILDERS: dict[str, Reader] = {
    "youcook2": read_youcook2,
    "anet": read_activitynet,
    "anet/grounding": read_activitynet_grounding,
    "vitt": read_vitt,
    "queryd": read_queryd,
    "queryd/grounding": read_queryd_grounding,
    "charades": read_charades,
    "didemo": read_didemo,
    "hirest/grounding": read_hirest_grounding,
    "hirest/steps": read_hirest_steps,
    "coin": read_coin,
    "qvhighlights": read_qvhighlights,
    "tvsum": read_tvsum,
    "summe": read_summe,
    "yttemporal": read_yttemporal,
    "valley": read_valley,
}
"""Reader of the annotations of each source."""

PUBLISHED = {
    "youcook2": "1.2k",
    "anet": "10.0k",
    "vitt": "5.1k",
    "queryd/grounding": "14.6k",
    "charades": "12.4k",
    "didemo": "33.0k",
    "hirest/grounding": "0.5k",
    "hirest/steps": "0.5k",
    "coin": "9.0k",
    "qvhighlights": "6.9k",
    "tvsum": "50",
    "summe": "25",
    "yttemporal": "31.6k",
    "valley": "72k",
}
"""Number of instructions in TimeIT, and in the set of Valley that the original used, as published."""
