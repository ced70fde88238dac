"""The bench of two objectives at once: what it checks here is the harness, not who is better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import multi_objective as bench

from agentic_hpt.records import Params
from agentic_hpt.space import Choice, Float, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0), kind=Choice(["a", "b"]), y=Float(0.1, 10.0, log=True, when={"kind": "b"}))


def evaluate(params: Params) -> tuple[float, float]:
    x, extra = float(params["x"] or 0.0), float(params.get("y") or 0.0)
    return (x - 0.2) ** 2 + extra, (x - 0.8) ** 2 + extra


TASK = bench.TwoObjectives("toy", ("error", "cost"), SPACE, evaluate)


def test_ours_and_peers_begin_with_the_same_configurations_and_repeat_themselves() -> None:
    first = [value for params in TASK.first(3) for value in evaluate(params)]
    assert len(first) == 2 * bench.FIRST
    for arm, run in (("joint", bench.ours), ("tpe", bench.optunas), ("nsga2", bench.optunas)):
        points = run(arm, TASK, 3, 14)
        assert len(points) == 14
        assert [value for point in points[: bench.FIRST] for value in point] == pytest.approx(first), arm
        assert points == run(arm, TASK, 3, 14), arm


def test_the_table_has_shares_of_random_searchs_regret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STORE", tmp_path)
    monkeypatch.setattr(bench, "AT", (25,))
    for arm in ("random", "tpe"):
        bench.make(arm, TASK, 0, 25)
    told = bench.shown([TASK], ["random", "tpe"], 2, 25).splitlines()
    assert told[0] == "1 runs an arm on 1 tasks", "a seed that was not run is not counted"
    shares = {line.split()[0]: float(line.split()[1]) for line in told[2:4]}
    assert shares["random"] == 1.0
    assert 0 <= shares["tpe"] < 3
    entry = bench.stored("tpe")["toy", 0]
    assert len(entry) == 25


def test_an_arm_is_set_against_each_on_the_runs_that_both_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STORE", tmp_path)
    monkeypatch.setattr(bench, "AT", (2,))
    runs = {"random": [0.5] * 6, "auto": [0.3, 0.3, 0.3, 0.3, 0.3, 0.5], "few": [0.2, 0.3]}
    for arm, points in runs.items():
        lines = [{"task": "toy", "seed": s, "seconds": 1, "points": [[p, p], [0.6, 0.6]]} for s, p in enumerate(points)]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = bench.shown([TASK], ["auto", "random", "few"], 6, 2).splitlines()
    assert told[0] == "2 runs an arm on 1 tasks"
    pairs = {line.split()[0]: line.split()[1:] for line in told[6:8]}
    assert pairs == {"random": ["5/1/0", "p", "6.2e-02"], "few": ["0/1/1", "p", "1.0e+00"]}
