"""Ray for the tests that run in a namespace of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agentic_hpt.executors.ray import Cluster, RayExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.protocols import Executor
from agentic_hpt.records import Limits

CPUS = 3


def pytest_configure(config: pytest.Config) -> None:
    """Let Ray leave the logs of its own processes open."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed file.*/session_.*:ResourceWarning")


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One Ray for all tests of a file: executors find this process connected, and leave it so."""
    cluster = Cluster()
    cluster.connect(cpus=CPUS)
    yield
    cluster.close()


def build(kind: str, function: Callable[..., object], final: Callable[..., object] | None = None) -> Executor:
    """Make an executor on Ray, whatever the kind."""
    return RayExecutor(FunctionObjective(function, final), "accuracy", 2, cluster=Cluster(), limits=Limits())
