"""What a capture that fails leaves behind."""

import gc
import weakref

import pytest
import torch
from fast_sprites.nodes.engine.unet.graphs import CapturedForward


class Graph:
    """Stands in for a CUDA graph; remembers what of the body was alive when the capture ended."""

    def __init__(self) -> None:
        self.watched: weakref.ref[torch.Tensor] | None = None
        self.alive_at_end: bool | None = None

    def capture_begin(self, capture_error_mode: str) -> None:
        assert not gc.isenabled()

    def capture_end(self) -> None:
        assert self.watched is not None
        self.alive_at_end = self.watched() is not None


def test_tensors_of_a_failed_capture_are_gone_before_it_ends():
    graph = Graph()

    def layer() -> None:
        made = torch.ones(3)
        graph.watched = weakref.ref(made)
        raise ValueError("planted")

    def body() -> None:
        hidden = torch.zeros(3)
        layer()
        hidden.add_(1)

    with pytest.raises(ValueError, match="planted"):
        CapturedForward._capture(graph, body)  # pyright: ignore[reportArgumentType]
    assert graph.alive_at_end is False
    assert gc.isenabled()
