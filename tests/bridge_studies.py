"""Studies for tests of the bridge: trials that end when they are told to, and coordinators that think as long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pytest

import agentic_hpt as hpt
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, Job, JsonObject, Outcome, Report, Trial
from agentic_hpt.testing import ScriptedChatModel

SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 1.0, default=0.5), y=hpt.Float(0.0, 1.0, default=0.5))
Held = Callable[[int, int], bool]
"""Whether a trial, by its number, has still to wait, by how many have begun."""


class Gates:
    """An executor whose trials end at once, except that one which is `held` ends only when it is so no longer.

    `begun` are the trials in the order in which they began; `most` is how many ran at once.
    """

    def __init__(self, slots: int = 1, held: Held = lambda trial, begun: False) -> None:
        self.slots = slots
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most = 0
        self._held = held
        self._turn = asyncio.Condition()

    async def start(self) -> None:
        """Nothing is to be got ready."""

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        self.begun.append(job.trial)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        await self.wait(lambda: not self._held(job.trial, len(self.begun)))
        stop = on_report(Report(0, {"score": self.score(job.params)}))
        self.ended.append(job.trial)
        await self.tell()
        reports = (Report(0, {"score": self.score(job.params)}),)
        if stop:
            return Outcome.pruned(reports=reports)
        return Outcome.complete({"score": self.score(job.params)}, reports=reports)

    async def close(self) -> None:
        """Nothing runs any more."""

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so, looking whenever a trial begins or ends."""
        async with asyncio.timeout(30), self._turn:
            self._turn.notify_all()
            await self._turn.wait_for(ready)

    async def tell(self) -> None:
        async with self._turn:
            self._turn.notify_all()

    @staticmethod
    def score(params: Mapping[str, object]) -> float:
        return -sum((float(value) - 0.3) ** 2 for value in params.values() if isinstance(value, float))


class Told(list[JsonObject]):
    """A study's events; with each the trials and the thinker look again whether they have still to wait."""

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates
        self._telling: set[asyncio.Task[None]] = set()

    def append(self, event: JsonObject) -> None:
        super().append(event)
        self._telling.add(asyncio.get_running_loop().create_task(self._gates.tell()))


class Thinker:
    """A coordinator that takes its time: a decision is there when `ready` says so, by the round and the gates."""

    kind: Literal["rules", "llm"] = "llm"
    model: str | None = "thinker"

    def __init__(
        self, gates: Gates, ready: Callable[[int, Gates], bool], actions: tuple[ActionRecord, ...] = ()
    ) -> None:
        self._gates = gates
        self._ready = ready
        self._actions = actions
        self.seen: list[Situation] = []

    async def decide(self, situation: Situation) -> DecisionRecord:
        from agentic_hpt.coordinator.rules import decide_by_policy

        self.seen.append(situation)
        await self._gates.wait(lambda: self._ready(situation.round, self._gates))
        on = ActionRecord("continue", "on", (), "accepted", "fine", asked={"type": "continue", "reason": "on"})
        decided = DecisionRecord(situation.round, "llm", (*self._actions, on), situation.source)
        return decide_by_policy(situation) or decided


def tune(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    gates: Gates,
    thinker: Callable[[Gates], Thinker] | None = None,
    events: list[JsonObject] | None = None,
    **options: object,
) -> hpt.Result:
    """Run a study of 20 trials on the gates, decided by the rules or by the thinker."""
    monkeypatch.setattr("agentic_hpt.wiring.parts.make_executor", lambda *given: gates)
    monkeypatch.setattr("agentic_hpt.config.BRIDGE_AFTER_SECONDS", 0.0)
    if thinker is not None:
        made = thinker(gates)
        monkeypatch.setattr("agentic_hpt.wiring.parts._llm_coordinator", lambda *given: made)
        options["coordinator"] = ScriptedChatModel()
    described: dict[str, object] = {
        "study": "study",
        "budget": hpt.Budget(trials=20),
        "strategy": "joint",
        "trials_per_round": 6,
        "fresh_seeds": 0,
        "pruner": "none",
        "mlflow": {"enabled": False},
        **options,
    }
    listener = events.append if events is not None else None
    return hpt.tune(lambda params: 0.0, SPACE, metric="score", home=home, listener=listener, **described)  # type: ignore[arg-type]


def of_bridge(trials: tuple[Trial, ...]) -> list[Trial]:
    return [t for t in trials if t.kind == "bridge"]


__all__ = ["SPACE", "Gates", "Thinker", "Told", "of_bridge", "tune"]
