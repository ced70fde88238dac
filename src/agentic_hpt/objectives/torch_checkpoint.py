"""A PyTorch training's state in one file, from which it goes on as if it had never been stopped."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentic_hpt.records import ParamValue

if TYPE_CHECKING:
    import torch

__all__ = ["SAVING", "SECONDS", "Checkpoint", "Pace", "Stateful"]

_FILE = "training.pt"
SECONDS = 1.0
"""A training that is killed loses at most about so much; it saves at once when it is stopped."""
SAVING = 0.05
"""The share of a batch's time that is spent on saving its trainings against a kill."""


class Stateful(Protocol):
    """A model, an optimizer, a schedule."""

    def state_dict(self) -> dict[str, object]:
        """Give the state."""

    def load_state_dict(self, state_dict: dict[str, object]) -> object:
        """Take the state over."""


class Checkpoint:
    """The state of `parts`, of the random numbers, and the figures of the epochs behind them, in a folder.

    `of` says which training it is: another one's state is not taken over. The random numbers are torch's own where no
    `generator` is given.
    """

    def __init__(
        self,
        folder: Path,
        of: Mapping[str, ParamValue],
        parts: Sequence[Stateful],
        generator: torch.Generator | None = None,
    ) -> None:
        self._generator = generator
        self._file = folder / _FILE
        self._of = dict(of)
        self._parts = parts
        self._saved = time.monotonic()

    @staticmethod
    def lies_in(folder: Path) -> bool:
        """Say whether a training left its state there."""
        return (folder / _FILE).exists()

    def load(self) -> list[dict[str, float]]:
        """Take the saved state over and give the figures of the epochs behind it; none where nothing was saved.

        What can't be read, because another version wrote it say, or the model was changed since, is as good as nothing:
        the training starts anew.
        """
        import torch

        try:
            state = torch.load(self._file, weights_only=True)
            figures: list[dict[str, float]] = list(state["figures"])
            if state["of"] != self._of:
                return []
        except Exception:
            return []
        before = copy.deepcopy([part.state_dict() for part in self._parts])
        try:
            for part, held in zip(self._parts, state["parts"], strict=True):
                part.load_state_dict(held)
        except Exception:  # what fits was taken over
            for part, own in zip(self._parts, before, strict=True):
                part.load_state_dict(own)
            return []
        (self._generator or torch.default_generator).set_state(state["random"])
        return figures

    def save_now_and_then(self, figures: Sequence[Mapping[str, float]]) -> None:
        """Save when that was last done a while ago."""
        if time.monotonic() - self._saved >= SECONDS:
            self.save(figures)

    def save(self, figures: Sequence[Mapping[str, float]]) -> None:
        """Save the state at the end of an epoch; a kill meanwhile leaves the one before."""
        import torch

        state = {
            "of": self._of,
            "figures": [dict(entry) for entry in figures],
            "parts": [part.state_dict() for part in self._parts],
            "random": (self._generator or torch.default_generator).get_state(),
        }
        written = self._file.with_suffix(".new")
        torch.save(state, written)
        os.replace(written, self._file)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Drop the state: the training came to its end."""
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            self._file.parent.rmdir()


class Pace:
    """When the trainings of a batch are saved: a process that is killed loses little, and none of it is dear."""

    def __init__(self) -> None:
        self._saved, self._cost = time.monotonic(), 0.0

    def keep(self, save: Callable[[], None]) -> None:
        """Have all saved if that was last done a while ago."""
        began = time.monotonic()
        if began - self._saved < max(SECONDS, self._cost / SAVING):
            return
        save()
        self._saved = time.monotonic()
        self._cost = self._saved - began
