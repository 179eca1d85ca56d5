"""The made-up card."""

import pytest
from fast_sprites.nodes.engine.memory import nvml, readings

from .made_up_card import Card


@pytest.fixture
def card(monkeypatch):
    yield Card(monkeypatch)
    readings._cuda_properties.cache_clear()
    nvml._open.cache_clear()
