"""Random numbers of a training that follow from its seed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["seeded"]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the seed, on one thread so that sums come out alike everywhere; leave torch's own state as it was."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):  # type: ignore[no-untyped-call]
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
