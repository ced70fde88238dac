"""A repeat is there to tell luck from merit: it is not stopped for looking poor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import agentic_hpt as hpt
from agentic_hpt.protocols import TrialHandle
from agentic_hpt.records import ParamValue, TrialState
from agentic_hpt.testing import ScriptedChatModel, decide


def test_a_repeat_that_looks_poor_runs_to_its_end(tmp_path: Path) -> None:
    tried: set[ParamValue] = set()

    def lucky_once(params: Mapping[str, ParamValue], trial: TrialHandle) -> float:
        score = -100.0 if params["x"] in tried else 1.0
        tried.add(params["x"])
        for step in range(3):
            trial.report({"score": score}, step=step)
        return score

    result = hpt.tune(
        lucky_once,
        {"x": hpt.Float(0.0, 1.0)},
        metric="score",
        study="luck",
        home=tmp_path,
        budget=hpt.Budget(trials=24),
        coordinator=ScriptedChatModel(answers=[decide("continue"), decide("repeat", trial=0, seeds=1)]),
        executor="inline",
        pruner="median",
        trials_per_round=8,
        fresh_seeds=0,
        mlflow={"enabled": False},
    )
    repeated = [t for t in result.trials if t.kind == "repeat"]
    assert repeated
    assert {t.state for t in repeated} == {TrialState.COMPLETE}
    assert result.best is not None
    assert result.best.id != 0, "its mean is what counts now"
