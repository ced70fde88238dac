"""Trials and batches for objectives that are called directly, which keep what they are told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentic_hpt.errors import FailureKind, Pruned


@dataclass
class Handle:
    """A trial of an objective that is called directly."""

    id: int
    params: Mapping[str, object]
    seed: int
    folder: Path
    stops: int | None = None
    """The step at which it is stopped."""
    told: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    @property
    def checkpoint_dir(self) -> Path:
        return self.made("checkpoints")

    @property
    def artifact_dir(self) -> Path:
        return self.made("artifacts")

    def made(self, kind: str) -> Path:
        path = self.folder / kind / str(self.id)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def report(self, metrics, step):
        self.told.append((step, dict(metrics)))
        if step == self.stops:
            raise Pruned("stopped")


@dataclass
class Together:
    """A batch as `Batch` says, that keeps what it is told."""

    trials: Sequence[Handle]
    answers: dict[int, dict[str, float]] = field(default_factory=dict)
    failures: dict[int, tuple[FailureKind, str]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    killed_at: int | None = None
    """The step at which its process ends."""

    def report(self, metrics, step):
        if step == self.killed_at:
            raise KeyboardInterrupt
        ended = set()
        for trial in self.trials:
            if trial.id in metrics:
                trial.told.append((step, dict(metrics[trial.id])))
                if not all(map(math.isfinite, metrics[trial.id].values())):
                    self.failures[trial.id] = FailureKind.NAN, "no number"
                    ended.add(trial.id)
                elif step == trial.stops:
                    self.stopped.add(trial.id)
                    ended.add(trial.id)
        return frozenset(ended)

    def complete(self, trial, answer):
        assert trial not in self.answers
        self.answers[trial] = dict(answer)

    def fail(self, trial, kind, message):
        self.failures[trial] = kind, message

    def remark(self, text):
        self.remarks.append(text)


def handles(folder: Path, params: Sequence[Mapping[str, object]]) -> list[Handle]:
    return [Handle(k, own, 40 + k, folder) for k, own in enumerate(params)]
