"""One nursery for all tests of this folder: to start it costs more than a study."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A warm process that drivers are forked from."""
    with Nursery() as warm:
        yield warm
