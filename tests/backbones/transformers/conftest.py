"""Backbones of tiny random models, made once."""

from functools import cache

import pytest

from tests.backbones.transformers.tiny import tiny_backbone
from timechat.backbones.transformers import TransformersBackbone

_made = cache(tiny_backbone)


@pytest.fixture
def backbone(request: pytest.FixtureRequest) -> TransformersBackbone:
    """The backbone that a test names; without the states of earlier tests."""
    found = _made(request.param)
    found._decoder.forget()
    return found
