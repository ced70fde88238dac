"""What a growing history says is the same as what all of it says at once, and each trial is looked at once."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pytest

from agentic_hpt.coordinator.evidence import build_evidence
from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.errors import FailureKind
from agentic_hpt.past import Memory, Past
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Budget,
    DecisionRecord,
    Goal,
    Insights,
    ObjectiveSpec,
    OutcomeConstraint,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
    configuration_key,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import steering_of

SPACE = SearchSpace(x=Float(0.0, 1.0), rate=Float(1e-4, 1.0, log=True), n=Int(1, 9), kind=Choice(["a", "b", "c"]))
KNOWN = Insights({"x": 0.6, "n": 0.3, "rate": 0.05, "kind": 0.05}, (), 60)
LARGEST, SMALLEST = Goal("m"), Goal("m", "minimize")
CONSTRAINED = Goal("m", constraints=(OutcomeConstraint("c <= 0.6", ("c",)),))
TWO = Goal("m", others=(ObjectiveSpec("c", "minimize"),))
KINDS: tuple[WorkerKind, ...] = ("joint", "joint", "joint", "group", "per_parameter", "bridge", "repeat", "repeat")
ROUND = 8


def history(count: int, seed: int, noise: float = 0.1) -> list[Trial]:
    """Make trials of all kinds and ends: repeats, imported ones, failed and stopped ones, some with curves."""
    dice, made = random.Random(seed), list[Trial]()
    for number in range(count):
        kind = "imported" if number < 4 else dice.choice(KINDS)
        same = dice.choice(made) if kind == "repeat" else None
        params: Params = {
            "x": dice.choice((0.25, 0.5, dice.random())),
            "rate": 10 ** dice.uniform(-4, 0),
            "n": dice.randint(1, 9),
            "kind": dice.choice("abc"),
        }
        params = params if same is None else same.params
        values = {"m": round(-((float(str(params["x"])) - 0.3) ** 2) + dice.gauss(0, noise), 3), "c": dice.random()}
        ended = dice.choices((TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED), (8, 1, 1))[0]
        made.append(
            Trial(
                number,
                params,
                ended,
                number,
                f"repeat-{same.id}" if same else dice.choice(("gp", "tpe")),
                kind,
                0 if kind == "imported" else 1 + number // ROUND,
                SPACE.names,
                values=values if ended is TrialState.COMPLETE else {},
                failure=FailureKind.NAN if ended is TrialState.FAILED else None,
                seconds=dice.random(),
                reports=tuple(Report(step, {"m": dice.random()}) for step in range(number % 3)),
            )
        )
    return made


def situation(goal: Goal, trials: Sequence[Trial], round_: int, memory: Memory | None = None) -> Situation:
    seen = tuple(t for t in trials if t.round <= round_)
    limited = {"parameter": "n", "range": {"low": 2, "high": 8}}
    narrowed = DecisionRecord(2, "llm", (ActionRecord("narrow", "r", (), "accepted", "w", limited),))
    going = [
        DecisionRecord(r, "rules", (ActionRecord("continue", "r", (), "accepted", "w"),)) for r in range(3, round_)
    ]
    return Situation(
        study="s",
        round=round_,
        goal=goal,
        space=SPACE,
        budget=Budget(trials=len(trials) + 40),
        usage=Usage(len(seen)),
        slots=2,
        round_trials=ROUND,
        trials=seen,
        decisions=(narrowed, *going),
        strategy="auto",
        insights=KNOWN,
        memory=memory or Memory(),
    )


@pytest.mark.parametrize("goal", [LARGEST, SMALLEST, CONSTRAINED, TWO])
def test_a_decision_and_its_evidence_are_those_of_the_whole_history(goal: Goal) -> None:
    trials, memory = history(160, seed=3), Memory()
    for round_ in range(3, 20):
        kept, fresh = (situation(goal, trials, round_, m) for m in (memory, None))
        assert decide_by_rules(kept) == decide_by_rules(fresh)
        assert json.dumps(build_evidence(kept)) == json.dumps(build_evidence(fresh))
        assert kept.steering == steering_of(kept.decisions)


@pytest.mark.parametrize("goal", [LARGEST, SMALLEST, CONSTRAINED])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_it_says_what_a_look_at_all_trials_says(goal: Goal, noise: float) -> None:
    trials, past = history(200, 5, noise), Past(goal)
    for count in range(0, 201, 5):
        seen = trials[:count]
        past = past.followed(goal, seen)
        assert past.best() == goal.best(seen)
        assert list(past.ranked()) == goal.ranked(seen)
        assert list(past.leading()) == goal.leading(seen)
        assert past.estimates() == goal.estimates(seen)
        for round_ in (3, 9):
            assert past.best(round_) == goal.best([t for t in seen if t.round < round_])
            assert past.estimates(round_) == goal.estimates([t for t in seen if t.round < round_])


def test_what_ran_again_and_what_was_gained_are_those_of_a_count_by_hand() -> None:
    trials = history(150, seed=8)
    past = Past(SMALLEST)
    for end in range(10, 151, 7):
        past = past.followed(SMALLEST, trials[:end])
    past = past.followed(SMALLEST, trials)
    complete = [t for t in trials if t.values]
    alike = groupby(sorted(complete, key=lambda t: configuration_key(t.params)), lambda t: configuration_key(t.params))
    again = [sorted(t.id for t in same) for _, same in alike]
    assert sorted([t.id for t in same] for same in past.runs()) == sorted(ids for ids in again if len(ids) > 1)
    best, gains = math.inf, {}
    for trial in complete:
        if trial.kind != "repeat" and trial.values["m"] < best:
            gains[trial.id] = 0.0 if best == math.inf else best - trial.values["m"]
            best = trial.values["m"]
    assert past.improvements() == gains
    own = [t.values["m"] for t in complete if t.counted]
    for told in past.yields("worker"):
        mine = [t.values["m"] for t in complete if t.counted and t.worker == told.name]
        ranks = [(sum(v > m for v in own) + (own.count(m) - 1) / 2) / (len(own) - 1) for m in mine]
        assert told.complete == len(mine)
        assert told.percentile == (pytest.approx(sum(ranks) / len(ranks)) if ranks else None)


def test_each_trial_is_looked_at_once_however_many_decisions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    take = Past._take
    monkeypatch.setattr(Past, "_take", lambda self, trial: (looked_at.append(trial.id), take(self, trial))[1])
    trials, memory = [replace(t, kind="joint") for t in history(160, seed=3)], Memory()
    for round_ in range(3, 20):
        now = situation(LARGEST, trials, round_, memory)
        decide_by_rules(now)
        build_evidence(now)
    seen = {t.id for t in trials if t.round < 20}
    assert set(looked_at) == seen
    assert max(Counter(looked_at).values()) <= 2, "once among all, once among those that may be chosen"


@pytest.mark.parametrize("changed", [3, 60])
def test_a_trial_that_is_another_now_has_it_begin_anew(changed: int) -> None:
    trials = history(100, seed=1)
    past = Past.of(LARGEST, trials[:80])
    revised = [
        replace(t, values={"m": 9.0, "c": 0.1}, state=TrialState.COMPLETE) if t.id == changed else t for t in trials
    ]
    found = past.followed(LARGEST, revised)
    assert found is not past
    assert found.best() == LARGEST.best(revised)
    assert past.followed(LARGEST, trials) is past
    assert past.followed(SMALLEST, trials).best() == SMALLEST.best(trials)
    late = [*trials[:50], *trials[51:], trials[50]]
    assert Past.of(LARGEST, trials[:50]).followed(LARGEST, late).trials == trials
