"""When a search ends before its budget: the rest may bring less than noise, than was asked for, or than it costs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.evidence import build_evidence
from agentic_hpt.coordinator.guards import must_finalize
from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.coordinator.termination import no_gain, prospect, round_cost, round_worth
from agentic_hpt.errors import ConfigError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    Budget,
    Direction,
    Goal,
    Insights,
    OutcomeConstraint,
    Outlook,
    ParamValue,
    Stop,
    Trial,
    TrialState,
    Usage,
)
from agentic_hpt.space import Float, SearchSpace
from agentic_hpt.study import Study, resume_study
from agentic_hpt.testing import ScriptedChatModel, decide
from study_runs import describe, drive

GOAL = Goal("m")
SPACE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))


def trial(number: int, value: float, seconds: float | None = 1.0) -> Trial:
    params: dict[str, ParamValue] = {"x": number / 1000, "y": 0.5}
    made = Trial(number, params, TrialState.COMPLETE, number, "w", "joint", 1 + number // 8, values={"m": value})
    return replace(made, seconds=seconds)


def situation(values: Sequence[float], stop: Stop | None = None, **changes: object) -> Situation:
    trials = tuple(trial(number, value) for number, value in enumerate(values))
    made = Situation(
        study="s",
        round=len(values) // 8,
        goal=GOAL,
        space=SPACE,
        budget=Budget(trials=100),
        usage=Usage(trials=len(values)),
        slots=2,
        round_trials=8,
        trials=trials,
        stop=Stop() if stop is None else stop,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def plateau(count: int, step: float = 1e-6, seed: int = 0) -> list[float]:
    """Give values that climb for ten trials, and then stay where they are but for `step`."""
    dice = random.Random(seed)
    return [min(i, 10) / 10 - step * dice.random() for i in range(count)]


def with_noise(now: Situation, sd: float) -> Situation:
    """Give the situation with four repeats of the first trial that move by `sd`."""
    first, number = now.trials[0], len(now.trials)
    more = tuple(
        replace(first, id=number + i, kind="repeat", values={"m": first.values["m"] + sd * (-1) ** i}) for i in range(4)
    )
    return replace(now, trials=(*now.trials, *more), usage=Usage(trials=number + 4))


# -- when -----------------------------------------------------------------------------------------------------------


def test_a_noiseless_plateau_ends_only_by_a_gain_that_was_asked_for() -> None:
    flat = plateau(60)
    assert must_finalize(situation(flat)) is None, "without noise any gain counts"
    ended = must_finalize(situation(flat, Stop(min_gain=0.001)))
    assert ended is not None
    assert ended[0] == "no_gain"
    assert "40 trials left" in ended[1]
    assert "stop.min_gain, 0.001" in ended[1]
    assert must_finalize(situation(flat, Stop(min_gain=1e-9))) is None
    assert must_finalize(replace(situation(flat), stop=None)) is None, "nobody asked for it"


def test_a_noisy_plateau_ends_by_the_noise_and_says_so() -> None:
    dice = random.Random(2)
    flat = situation([dice.gauss(0, 0.01) for _ in range(80)])
    assert must_finalize(flat) is None, "noise that was not measured ends nothing"
    noisy = with_noise(flat, 0.2)
    ended = must_finalize(noisy)
    assert ended is not None
    assert "the noise of one run" in ended[1]
    assert must_finalize(with_noise(flat, 0.001)) is None


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_steady_climb_is_never_ended(direction: Direction) -> None:
    goal = Goal("m", direction)
    sign = 1 if direction == "maximize" else -1
    for count in range(25, 93, 4):
        climb = situation([sign * 0.01 * i for i in range(count)], Stop(min_gain=0.005), goal=goal)
        assert must_finalize(with_noise(climb, 0.005)) is None, count
    late = [*plateau(60), *(1 + 0.01 * i for i in range(12))]
    assert must_finalize(situation([sign * v for v in late], Stop(min_gain=0.02), goal=goal)) is None


def test_nothing_ends_before_the_minimum_evidence() -> None:
    stop = Stop(min_gain=0.5)
    many = SearchSpace({f"x{i}": Float(0.0, 1.0) for i in range(12)})
    assert must_finalize(situation(plateau(24), stop, budget=Budget(trials=30))) is None, "25 configurations"
    assert must_finalize(situation(plateau(25), stop, budget=Budget(trials=30))) is not None
    assert must_finalize(situation(plateau(33), stop)) is None, "a third of the trials"
    assert must_finalize(situation(plateau(34), stop)) is not None
    assert must_finalize(situation(plateau(59), stop, space=many)) is None, "five a parameter"
    assert must_finalize(situation(plateau(60), stop, space=many)) is not None
    minutes = Budget(minutes=10.0)
    assert must_finalize(situation(plateau(40), stop, budget=minutes, usage=Usage(40, seconds=190.0))) is None
    assert must_finalize(situation(plateau(40), stop, budget=minutes, usage=Usage(40, seconds=210.0))) is not None


def test_what_broke_the_constraints_is_no_evidence_and_several_objectives_have_no_such_end() -> None:
    goal = replace(GOAL, constraints=(OutcomeConstraint("m >= 2", ("m",)),))
    assert prospect(situation(plateau(60), goal=goal)) is None
    stop = Stop(min_gain=1.0)
    assert must_finalize(situation(plateau(60), stop, goal=goal)) is None


def test_failed_trials_and_repeats_are_no_configurations() -> None:
    now = situation(plateau(24), Stop(min_gain=0.5), budget=Budget(trials=40))
    failed = tuple(replace(trial(30 + i, 0.0), state=TrialState.FAILED, values={}) for i in range(5))
    assert must_finalize(replace(now, trials=(*now.trials, *failed), usage=Usage(29))) is None
    assert must_finalize(with_noise(now, 0.0)) is None


# -- the figures ----------------------------------------------------------------------------------------------------


def test_the_gain_is_told_from_above_by_the_spacing_of_the_best() -> None:
    """Of uniform draws the expected gain of m more after n is known: m / (n + 1) / (n + m + 1)."""
    for seed in range(20):
        dice = random.Random(seed)
        found = prospect(situation([dice.random() for _ in range(50)]))
        assert found is not None
        assert (found.trials, found.round_trials) == (50, 8)
        assert found.gain > 50 / 51 / 101
        assert found.gain < 0.5
        assert 0 < found.round_gain < found.gain


def test_the_gain_grows_with_what_is_left_and_is_never_less_than_the_last_trials_brought() -> None:
    values = plateau(60, step=0.01)
    less, more = (prospect(situation(values, budget=Budget(trials=n))) for n in (70, 200))
    assert less is not None
    assert more is not None
    assert less.gain < more.gain
    climbed = prospect(situation([*([0.0] * 40), *([0.5] * 20)], budget=Budget(trials=80)))
    assert climbed is not None
    assert climbed.by == "the last trials"
    assert climbed.gain == pytest.approx(0.5)


def test_the_surrogates_word_counts_with_its_doubt_on_top() -> None:
    outlook = Outlook(gain=0.01, sd=0.005, noise=None, trials=60)
    found = prospect(situation(plateau(60), insights=Insights(outlook=outlook)))
    assert found is not None
    assert found.by == "surrogate"
    assert found.round_gain == pytest.approx(0.01 + 1.64 * 0.005)
    assert found.gain == pytest.approx(5 * found.round_gain), "40 trials are five rounds"


def test_a_round_that_costs_more_than_it_may_bring_is_not_run() -> None:
    outlook = Insights(outlook=Outlook(gain=0.001, sd=0.0, noise=None, trials=60))
    dear = Stop(dollars_per_hour=3.0, dollars_per_gain=100.0)
    now = situation(plateau(60), dear, insights=outlook, slots=2)
    hour = replace(now, trials=tuple(replace(t, seconds=900.0) for t in now.trials))
    assert round_cost(hour) == pytest.approx(8 * 900 / 2 / 3600 * 3.0)
    found = prospect(hour)
    assert found is not None
    assert round_worth(hour, found) == pytest.approx(0.1)
    ended = no_gain(hour, found)
    assert ended is not None
    assert "worth 0.1 dollars, and cost 3 dollars" in ended
    assert no_gain(now, prospect(now)) is None, "a second costs next to nothing"
    assert no_gain(replace(hour, stop=Stop(dollars_per_hour=3.0, dollars_per_gain=1e5)), found) is None
    unknown = replace(hour, trials=tuple(replace(t, seconds=None) for t in hour.trials))
    assert round_cost(unknown) is None
    assert no_gain(unknown, found) is None


def test_too_few_trials_or_nothing_left_have_no_prospect() -> None:
    assert prospect(situation(plateau(11))) is None
    assert prospect(situation(plateau(60), budget=Budget(trials=60))) is None


# -- what is said ---------------------------------------------------------------------------------------------------


def test_the_decision_is_the_policys_and_names_the_calculation() -> None:
    decision = decide_by_rules(situation(plateau(60), Stop(min_gain=0.01)))
    assert (decision.kind, decision.finalizes) == ("policy", True)
    (action,) = decision.actions
    assert action.detail == {"stopped_by": "no_gain"}
    assert "at most" in action.reason


def test_the_evidence_tells_what_is_left_also_where_it_ends_nothing() -> None:
    advised = build_evidence(with_noise(replace(situation(plateau(60)), stop=None), 0.5))
    outlook = advised["outlook"]
    assert isinstance(outlook, dict)
    assert outlook["trials_left"] == 36
    assert outlook["ends_the_search"] is False
    assert outlook["held_against"] == {"gain": pytest.approx(0.5, rel=0.1), "which_is": "the noise of one run"}
    assert any("hardly worth it" in str(said) for said in advised["conclusions"])  # type: ignore[attr-defined]
    young = build_evidence(situation(plateau(5)))
    assert "not worked out" in str(young["outlook"])
    priced = build_evidence(situation(plateau(60), Stop(dollars_per_hour=2.0, dollars_per_gain=10.0)))
    assert set(priced["outlook"]["dollars_of_a_round"]) == {"cost", "worth_at_most"}  # type: ignore[index]


# -- the study file, and whole runs ---------------------------------------------------------------------------------


def config(stop: object) -> StudyConfig:
    space = {"x": {"float": [0, 1]}}
    return StudyConfig.from_mapping({"study": "s", "metric": "m", "space": space, "stop": stop})


def test_a_study_never_stops_early_unless_it_says_so() -> None:
    assert StudyConfig.from_mapping({"study": "s", "metric": "m", "space": {"x": {"float": [0, 1]}}}).stop_rule is None
    assert config("never").stop_rule is None
    assert config("no_gain").stop_rule == Stop()
    assert config({"min_gain": 0.01}).stop_rule == Stop(min_gain=0.01)
    assert StudyConfig.from_mapping(config("no_gain").to_json()).stop_rule == Stop()


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("sometimes", "never, no_gain, or a mapping"),
        ({"min_gains": 1}, "min_gain"),
        ({"min_gain": -1}, "stop.min_gain"),
        ({"dollars_per_hour": 2.0}, "go together"),
    ],
)
def test_a_bad_stop_is_refused(stop: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(stop)


FLAT = """
def train(params, trial):
    return {"score": 1 - 1e-6 * params["dropout"]}
"""


def test_a_killed_study_that_ends_early_ends_at_the_same_place(tmp_path: Path, home: Path) -> None:
    changes: dict[str, object] = {"budget": {"trials": 60}, "stop": {"min_gain": 0.01}, "strategy": "joint"}
    described = describe(tmp_path, FLAT, trials_per_round=8, fresh_seeds=0, **changes)
    assert drive(described, home / "whole").returncode == 0
    drive(described, home / "killed", "trial", 20)
    resume_study("study", home=home / "killed")
    whole, killed = (Study.open("study", home / name).result() for name in ("whole", "killed"))
    assert whole.stopped_by == killed.stopped_by == "no_gain"
    assert whole.to_json()["stopped_by"] == "no_gain"
    assert len(whole.trials) == len(killed.trials) == 32
    assert [d.actions for d in whole.decisions] == [d.actions for d in killed.decisions]


def test_it_holds_with_a_model_too_and_is_explained(tmp_path: Path) -> None:
    from agentic_hpt.report.telling import lines
    from agentic_hpt.study.telling import explain_study

    def flat(params: Mapping[str, ParamValue]) -> float:
        return 1 - 1e-6 * math.sin(float(params["x"]))  # type: ignore[arg-type]

    result = hpt.tune(
        flat,
        {"x": hpt.Float(0.0, 1.0)},
        metric="score",
        study="flat",
        home=tmp_path,
        budget=hpt.Budget(trials=60),
        coordinator=ScriptedChatModel(answers=[decide("continue")] * 20),
        executor="inline",
        strategy="joint",
        trials_per_round=8,
        fresh_seeds=0,
        stop={"min_gain": 0.01},
        mlflow={"enabled": False},
    )
    assert result.stopped_by == "no_gain"
    assert result.decisions[-1].kind == "policy"
    told = "\n".join(lines(explain_study(Study.open("flat", tmp_path))))
    assert "ended by no_gain" in told
    assert "trials left may bring at most" in told
