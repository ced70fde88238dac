"""Trials for objectives that are called directly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Handle:
    """A trial that reports to nobody."""

    id: int
    seed: int
    folder: Path
    params: Mapping[str, float] = field(default_factory=dict)

    @property
    def checkpoint_dir(self) -> Path:
        path = self.folder / str(self.id)
        path.mkdir(exist_ok=True)
        return path

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Be told, and let it go on."""
