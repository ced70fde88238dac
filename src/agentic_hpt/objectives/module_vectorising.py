"""What PyTorch needs to be told where modules are vectorised, and where a GPU replays their steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from agentic_hpt.objectives.module_memory import lacks_memory
from agentic_hpt.objectives.torch_replay import Replay

if TYPE_CHECKING:
    import torch

__all__ = ["Steps", "vectorising"]


@contextmanager
def vectorising(device: torch.device) -> Iterator[None]:
    """Let PyTorch choose what it can vectorise, and keep back its warnings of what it does by a loop."""
    from torch.backends import mha
    from torch.nn import attention

    fast = mha.get_fastpath_enabled()
    with warnings.catch_warnings(), ExitStack() as choices:
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        # These have no rule for vmap, which would take the models one by one.
        mha.set_fastpath_enabled(False)
        choices.callback(mha.set_fastpath_enabled, fast)
        if device.type == "cpu":
            choices.enter_context(attention.sdpa_kernel(attention.SDPBackend.MATH))
        yield


class Steps:
    """Takes the same step again and again: on a GPU by a recording, where it can be recorded.

    A module may copy numbers to the GPU, which no recording takes; its steps are then taken as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._replay = Replay() if device.type == "cuda" else None

    def step(self, take: Callable[[], None]) -> None:
        """Take a step."""
        import torch

        if self._replay is not None:
            try:
                self._replay.step(take)
                return
            except RuntimeError as error:
                if lacks_memory(error):
                    raise
            torch.cuda.synchronize()  # raises again what was not the recording's
            self._replay = None
        take()
