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

__all__ = ["recorded", "vectorising"]


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


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """Let a GPU replay a step, or take it as it is where it can't be recorded: a module may copy numbers there."""
    import torch

    replay: Replay | None = Replay(step)

    def take() -> None:
        nonlocal replay
        try:
            if replay is not None:
                replay.step()
                return
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            torch.cuda.synchronize()  # raises again what was not the recording's
            replay = None
        step()

    return take
