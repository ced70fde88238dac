"""A training step recorded once as a CUDA graph, and replayed: one launch instead of a hundred."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Replay"]

_WARM_UP = 3
"""Steps before the recording, in which libraries get ready; they train as any other."""


class Replay:
    """Takes the same step again and again. Its tensors stay where they are, and it asks nothing of the host.

    It does not hold the step, whose owner holds it: a circle would keep the GPU's memory until it is found.
    """

    def __init__(self) -> None:
        import torch

        self._taken = 0
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self, take: Callable[[], None]) -> None:
        """Take a step, always the same: the first times as it is, then by the graph."""
        import torch

        if self._graph is not None:
            self._graph.replay()
            return
        if self._taken < _WARM_UP:
            self._taken += 1
            self._side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._side):
                take()
            torch.cuda.current_stream().wait_stream(self._side)
            return
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):  # records, runs nothing
            take()
        self._graph.replay()
