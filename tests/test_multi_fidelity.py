"""Multi-fidelity: rungs, promotions from checkpoints, what stopped trials would have come to, steps that were saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.evidence import build_evidence
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.fidelity import Halving, Spent, curve_of, rung_steps, rungs, spent
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Assignment,
    DecisionRecord,
    Goal,
    OutcomeConstraint,
    Params,
    Report,
    Trial,
    TrialState,
)
from agentic_hpt.report.stopping import stopping_sentences
from agentic_hpt.space import Float, SearchSpace
from agentic_hpt.strategies import Joint
from agentic_hpt.strategies.curves import estimated_final
from agentic_hpt.strategies.promoting import promotions
from agentic_hpt.study import Study, run_study
from situations import SPACE, situation, trial
from study_runs import describe, drive, finished

if TYPE_CHECKING:
    from bench.multi_fidelity import Curves

GOAL = Goal("accuracy")


def curved(number: int, values: list[float], *, of: int = 9, first: int = 0, **changes: object) -> Trial:
    """Make a trial that reported these values; one with fewer than `of` steps in all was stopped."""
    reports = tuple(Report(step, {"accuracy": value}) for step, value in enumerate(values, start=first))
    state = TrialState.COMPLETE if first + len(values) == of else TrialState.PRUNED
    final = {"accuracy": values[-1]} if state is TrialState.COMPLETE else {}
    params = {"layers": 3, "rate": 0.01 + number * 1e-7, "optimizer": "adam"}
    return replace(trial(number), params=params, state=state, values=final, reports=reports, **changes)


def after(trials: list[Trial], **changes: object) -> Situation:
    return situation(trials=tuple(trials), **{"halving": Halving(min_steps=3), **changes})


def three(*ends: float) -> list[Trial]:
    """Give complete trials, each at one value all along."""
    return [curved(number, [end] * 9) for number, end in enumerate(ends)]


def poor(count: int, *, steps: int = 3, first: int = 4) -> list[Trial]:
    """Give trials that were stopped at a rung, and rightly so."""
    return [curved(number, [0.0] * steps) for number in range(first, first + count)]


def chosen(found: list[Assignment]) -> tuple[int, ...]:
    return tuple(number for worker in found for number in worker.continues)


# -- rungs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "settings", "steps"),
    [
        ([52, 52, 52], {}, (6, 17)),
        ([9, 9, 9], {}, (1, 3)),
        ([9, 9, 9], {"eta": 2}, (2, 4)),
        ([9, 9, 9, 900], {"min_steps": 2}, (2, 6)),
        ([3, 3, 3], {}, (1,)),
        ([1, 1, 1], {}, ()),
        ([52, 52], {}, ()),
        ([9, 9, 9], {"min_steps": 9}, ()),
    ],
)
def test_rungs_follow_from_the_first_complete_trials(
    lengths: list[int], settings: dict[str, int], steps: tuple[int, ...]
) -> None:
    assert rung_steps(lengths, Halving(**settings)) == steps


def test_of_trials_that_go_on_from_one_another_the_newest_stands_for_all() -> None:
    trials = [*three(0.1, 0.2, 0.3), curved(3, [0.4] * 3), curved(4, [0.5] * 6, first=3, continues=3)]
    found = {rung.steps: dict(rung.values) for rung in rungs(trials, GOAL, Halving(min_steps=3))}
    assert found == {3: {0: 0.1, 1: 0.2, 2: 0.3, 4: 0.4}}
    assert curve_of(trials[4], "accuracy", {t.id: t for t in trials}) == dict(enumerate([0.4] * 3 + [0.5] * 6))


@pytest.mark.parametrize("kind", ["imported", "repeat"])
def test_imported_trials_and_repeats_are_no_measure(kind: str) -> None:
    trials = three(0.1, 0.2, 0.3)
    other = curved(3, [0.9] * 9, kind=kind)
    assert [set(rung.values) for rung in rungs([*trials, other], GOAL, Halving(min_steps=3))] == [{0, 1, 2}]


def test_a_complete_trial_that_breaks_an_outcome_constraint_takes_no_place_at_a_rung() -> None:
    small = replace(GOAL, constraints=(OutcomeConstraint("accuracy <= 0.25", ("accuracy",)),))
    assert [set(rung.values) for rung in rungs(three(0.1, 0.2, 0.3), small, Halving(min_steps=3))] == [{0, 1}]


# -- promotions -------------------------------------------------------------------------------------------------------


def test_a_stopped_trial_is_promoted_once_it_is_among_the_best_of_its_rung_and_there_is_room() -> None:
    trials = [*three(0.1, 0.2, 0.5), curved(3, [0.4] * 3), *poor(7)]
    assert promotions(after(trials), 12) == [], "three of eleven may go on, and three have"
    trials += poor(1, first=11)
    (worker,) = promotions(after(trials), 12)
    assert (worker.kind, worker.round, worker.trials, worker.continues) == ("promotion", 2, 1, (3,))
    assert worker.queue == (trials[3].params,)
    assert Assignment.from_json(json.loads(json.dumps(worker.to_json()))) == worker


def test_a_promoted_trial_is_promoted_again_from_where_it_was_stopped_and_never_when_it_failed() -> None:
    trials = [*three(0.1, 0.1, 0.1), curved(3, [0.9]), *poor(8, steps=1)]
    settings = {"halving": Halving(min_steps=1)}
    assert chosen(promotions(after(trials, **settings), 12)) == (3,)
    on = curved(12, [0.9] * 2, first=1, continues=3)
    assert promotions(after([*trials, on], **settings), 12) == [], "at the next rung there is no room"
    assert chosen(promotions(after([*trials, on, *poor(8, first=13)], **settings), 12)) == (12,)
    failed = replace(on, state=TrialState.FAILED)
    assert promotions(after([*trials, failed, *poor(8, first=13)], **settings), 12) == []


def test_a_promotion_that_was_given_up_before_it_began_is_made_up_for() -> None:
    """By a revision of the space, say, or by the end of the minutes, behind which the study went on."""
    trials = [*three(0.1, 0.1, 0.1), curved(3, [0.9]), *poor(8, steps=1)]
    given_up = replace(curved(12, [], continues=3, failure=FailureKind.CANCELLED), state=TrialState.FAILED)
    assert chosen(promotions(after([*trials, given_up], halving=Halving(min_steps=1)), 12)) == (3,)


def test_the_higher_rung_comes_first_then_the_better_value_and_a_quarter_of_the_round_at_most() -> None:
    good = [curved(3, [0.6]), curved(4, [0.7]), curved(5, [0.5] * 3)]
    trials = [*three(0.1, 0.1, 0.1), *good, *poor(8, first=6), *poor(12, steps=1, first=14)]
    found = after(trials, halving=Halving(min_steps=1))
    assert chosen(promotions(found, 12)) == (5,), "at the first rung twelve went on, more than the eight that may"
    found = after([*trials, *poor(20, steps=1, first=26)], halving=Halving(min_steps=1))
    assert chosen(promotions(found, 12)) == (5, 4, 3)
    assert chosen(promotions(found, 8)) == (5, 4)
    assert chosen(promotions(found, 1)) == (5,)
    assert promotions(found, 0) == []


def test_where_one_report_stands_for_two_rungs_a_trial_is_promoted_once() -> None:
    trials = [*three(0.1, 0.1, 0.1), *poor(9, first=3)]
    rarely = [replace(t, reports=tuple(r for r in t.reports if r.step % 6 == 2)) for t in trials]
    assert chosen(promotions(after(rarely, halving=Halving(eta=2, min_steps=1)), 40)) == (3, 4, 5)


def test_what_a_decision_or_a_look_between_rungs_stopped_stays_stopped() -> None:
    trials = [*three(0.1, 0.1, 0.1), curved(3, [0.9] * 3), *poor(8)]
    assert chosen(promotions(after(trials), 12)) == (3,)
    asked = ActionRecord("stop_trial", "poor", (), "accepted", "", {"trial": 3})
    assert promotions(after(trials, decisions=(DecisionRecord(1, "llm", (asked,)),)), 12) == []
    between = [t if t.id != 3 else curved(3, [0.9] * 4) for t in trials] + poor(3, first=12)
    assert chosen(promotions(after(between), 12)) == (4,), "the next one, as there is room"


def test_what_lies_outside_the_limits_or_the_space_is_not_promoted() -> None:
    trials = [*three(0.1, 0.1, 0.1), curved(3, [0.9] * 3), *poor(8)]
    outside = [replace(t, params={**t.params, "rate": 1.0}) if t.id == 3 else t for t in trials]
    assert promotions(after(outside), 12) == []
    frozen = ActionRecord("freeze", "", (), "accepted", "", {"parameter": "layers", "range": {"values": [5]}})
    assert chosen(promotions(after(trials), 12)) == (3,)
    assert promotions(after(trials, decisions=(DecisionRecord(1, "rules", (frozen,)),)), 12) == []


def test_without_halving_or_without_its_promotions_nothing_is_promoted() -> None:
    trials = [*three(0.1, 0.1, 0.1), curved(3, [0.9] * 3), *poor(8)]
    assert promotions(after(trials, halving=None), 12) == []
    assert promotions(after(trials, halving=Halving(min_steps=3, promote=False)), 12) == []


def test_a_round_holds_its_promotions_and_the_samplers_have_the_rest() -> None:
    found = after([*three(0.1, 0.1, 0.1), curved(3, [0.9] * 3), *poor(8)])
    plan = Joint(SPACE, GOAL).plan(found, None)
    assert [(a.kind, a.trials) for a in plan] == [("promotion", 1), ("joint", 11)]


# -- what stopped trials would have come to ---------------------------------------------------------------------------


def rising(number: int, level: float, steps: int = 9, of: int = 9, noise: float = 0.0) -> Trial:
    """A curve that rises to `level`: at step s it is level * (s + 1) / of."""
    return curved(number, [level * (s + 1) / of + noise * (s == of - 1) for s in range(steps)], of=of)


def test_the_final_value_of_a_stopped_trial_is_read_off_the_whole_curves() -> None:
    trials = [rising(n, 0.1 * (n + 1)) for n in range(8)] + [rising(8, 0.45, steps=3), rising(9, 0.6, steps=1)]
    found = estimated_final(trials, GOAL)
    assert set(found) == {8, 9}
    assert found[8][0] == pytest.approx(0.45)
    assert found[9][0] == pytest.approx(0.6)
    assert all(sd > 0 for _, sd in found.values())


def test_the_estimates_keep_ranks_whatever_the_curves_do_and_one_odd_curve_does_not_turn_them() -> None:
    crossing = [curved(n, [0.1 * n] * 3 + [0.9 - 0.1 * n] * 6) for n in range(6)]
    stopped = [curved(10, [0.05] * 3), curved(11, [0.45] * 3)]
    found = estimated_final([*crossing, *stopped], GOAL)
    assert found[10][0] == found[11][0]
    odd = [rising(n, 0.1 * (n + 1)) for n in range(8)] + [curved(8, [0.9] * 8 + [0.0])]
    assert estimated_final([*odd, rising(9, 0.45, steps=3)], GOAL)[9][0] == pytest.approx(0.45, abs=0.02)


def test_the_estimate_is_surer_with_more_curves_and_near_to_them() -> None:
    def sd(curves: int, level: float = 0.5) -> float:
        whole = [rising(n, 0.3 + 0.4 * n / curves, noise=0.02 * (-1) ** n) for n in range(curves)]
        return estimated_final([*whole, rising(99, level, steps=3)], GOAL)[99][1]

    assert sd(40) < sd(4)
    assert sd(10) < sd(10, level=0.05)


def test_without_three_whole_curves_and_for_one_that_went_on_there_is_no_estimate() -> None:
    stopped = rising(8, 0.45, steps=3)
    assert estimated_final([rising(0, 0.1), rising(1, 0.2), stopped], GOAL) == {}
    whole = [rising(n, 0.1 * (n + 1)) for n in range(4)]
    assert set(estimated_final([*whole, stopped], GOAL)) == {8}
    on = curved(9, [0.4, 0.5], first=3, continues=8)
    assert set(estimated_final([*whole, stopped, on], GOAL)) == {9}, "the newer one says more"
    silent = replace(stopped, reports=())
    assert estimated_final([*whole, silent], GOAL) == {}


# -- steps ------------------------------------------------------------------------------------------------------------


def test_steps_are_counted_once_however_often_a_trial_went_on() -> None:
    trials = [
        *three(0.1, 0.1, 0.1),
        curved(3, [0.0] * 3),
        curved(4, [0.9] * 3),
        curved(5, [0.9] * 6, first=3, continues=4),
    ]
    assert spent(trials) == Spent(used=27 + 3 + 9, saved=6, stopped=1, promoted=1, complete=4)
    assert spent(three(0.1, 0.1, 0.1)) is None


def test_decisions_and_people_are_told_of_rungs_and_steps() -> None:
    on = curved(12, [0.9] * 6, first=3, continues=3)
    trials = [*three(0.1, 0.1, 0.2), curved(3, [0.8] * 3), *poor(8), on]
    told = build_evidence(after(trials))
    assert told["stopping"] == {
        "stopped": 8,
        "promoted": 1,
        "complete": 4,
        "steps_used": 27 + 3 + 24 + 6,
        "steps_saved": 48,
        "rungs": [{"steps": 3, "trials": 12, "went_on": 4, "best": 0.8}],
    }
    curve = next(c for c in cast(list[dict[str, object]], told["curves"]) if c["trial"] == 12)
    assert cast(list[list[float]], curve["points"])[0] == [0, 0.8], "its curve begins with the stopped trial's"
    assert "stopping" not in build_evidence(after(three(0.1, 0.2)))
    assert stopping_sentences(GOAL, trials, Halving(min_steps=3)) == (
        "8 trials stopped early for good, 1 went on later, 4 ran to their ends: "
        "60 steps instead of about 108 (44% saved).",
        "Trials were compared after so many steps: 12 at 3.",
    )
    assert stopping_sentences(GOAL, three(0.1, 0.2, 0.3), None) == ()


# -- whole studies ----------------------------------------------------------------------------------------------------

TRAINING = """
import json

def train(params, trial):
    end = -abs(params["dropout"] - 0.3)
    state = trial.checkpoint_dir / "state.json"
    begin = json.loads(state.read_text())["epoch"] + 1 if state.exists() else 0
    with open(trial.artifact_dir / "begins.txt", "a") as file:
        print(begin, file=file)
    for epoch in range(begin, 9):
        new = state.with_suffix(".new")
        new.write_text(json.dumps({"epoch": epoch}))
        new.replace(state)
        trial.report({"score": end - 0.01 * (8 - epoch)}, step=epoch)
    return {"score": end, "seed": trial.seed % 1000}
"""
FORGETFUL = TRAINING.replace('json.loads(state.read_text())["epoch"] + 1 if state.exists() else 0', "0")


def asha(folder: Path, code: str = TRAINING, **changes: object) -> dict[str, object]:
    described = {"pruner": "asha", "strategy": "joint", "budget": {"trials": 40}, "fresh_seeds": 0, "seed": 3}
    return describe(folder, code, **{**described, **changes})


def begins(home: Path, number: int) -> list[int]:
    (file,) = home.glob(f"artifacts/*/trials/{number:05d}/begins.txt")
    return [int(line) for line in file.read_text().split()]


def test_a_promoted_trial_goes_on_from_the_checkpoint_of_the_stopped_one(tmp_path: Path) -> None:
    result = run_study(StudyConfig.from_mapping(asha(tmp_path)), home=tmp_path / "home")
    known = {t.id: t for t in result.trials}
    promoted = [t for t in result.trials if t.kind == "promotion"]
    assert promoted, "the study has none to look at"
    for t in promoted:
        before = known[t.continues]
        assert before.state is TrialState.PRUNED
        assert (t.params, t.seed) == (before.params, before.seed)
        assert t.reports[0].step == before.reports[-1].step + 1
        assert begins(tmp_path / "home", t.id) == [t.reports[0].step]
    assert len(promoted) == len({t.continues for t in promoted})
    stopped = [t for t in result.trials if t.state is TrialState.PRUNED]
    assert {len(t.reports) + (t.reports[0].step if t.continues else 0) for t in stopped} == {1, 3}
    assert len([t for t in result.trials if t.state is TrialState.COMPLETE]) >= 4
    assert len(result.trials) == 40, "a promotion counts for the budget"


def test_an_objective_that_saves_nothing_starts_anew_and_its_steps_are_told_once(tmp_path: Path) -> None:
    saving = run_study(StudyConfig.from_mapping(asha(tmp_path)), home=tmp_path / "home")
    (tmp_path / "other").mkdir()
    result = run_study(StudyConfig.from_mapping(asha(tmp_path / "other", FORGETFUL)), home=tmp_path / "home2")
    promoted = [t for t in result.trials if t.kind == "promotion"]
    assert promoted
    assert all(begins(tmp_path / "home2", t.id) == [0] for t in promoted)
    plain = [[(t.params, t.state, t.values, t.reports) for t in r.trials] for r in (saving, result)]
    assert plain[0] == plain[1], "slower, and otherwise the same"


def test_a_killed_study_promotes_as_it_would_have_and_nothing_twice(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert drive(asha(tmp_path), whole).returncode == 0
    expected = finished(whole)
    order = [t for t in Study.open("study", whole).trials() if t.kind == "promotion"]
    assert order
    killed = tmp_path / "killed"
    seen = sum(t.id <= order[0].id for t in Study.open("study", whole).trials())
    assert drive(asha(tmp_path), killed, "trial_started", seen).returncode == -9
    assert drive(None, killed).returncode == 0
    again = finished(killed)
    assert {n: v[:3] for n, v in again.items()} == {n: v[:3] for n, v in expected.items()}
    assert again[order[0].id][3] == 2, "the promotion itself was killed, and ran again"


@pytest.mark.parametrize(
    ("budget", "pruner"),
    [({"trials": 9}, "median"), ({"trials": 9, "minutes": 1}, "median"), ({"minutes": 1}, "asha"), (None, "median")],
)
def test_where_minutes_are_the_only_budget_successive_halving_is_the_default(
    tmp_path: Path, budget: dict[str, int] | None, pruner: str
) -> None:
    described = {k: v for k, v in describe(tmp_path).items() if k != "budget"}
    described |= {} if budget is None else {"budget": budget}
    assert StudyConfig.from_mapping(described).pruner == pruner
    assert StudyConfig.from_mapping({**described, "pruner": "none"}).pruner == "none"


@pytest.mark.parametrize(
    ("pruning", "said"), [({"eta": 1}, "pruning.eta"), ({"min_steps": 0}, "pruning.min_steps"), ({"rungs": 3}, "rungs")]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, pruning: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StudyConfig.from_mapping(asha(tmp_path, pruning=pruning))


# -- the benchmark ----------------------------------------------------------------------------------------------------


class Rising:
    """Curves of 52 epochs that end the higher, the nearer x is to 0.3."""

    name = "rising"
    space = SearchSpace(x=Float(0.0, 1.0, default=0.9))

    def of(self, params: Params) -> tuple[float, ...]:
        end = 1 - abs(cast(float, params["x"]) - 0.3)
        return tuple(end * (1 - 0.9**epoch) for epoch in range(1, 53))


@pytest.mark.parametrize("arm", ["none", "asha", "optuna, hyperband"])
def test_the_benchmark_spends_its_epochs_and_counts_what_was_whole(arm: str) -> None:
    from bench.multi_fidelity import ARMS, simulate

    curves = cast("Curves", Rising())
    course = simulate(ARMS[arm](curves.space, 1), curves, budget=700)
    assert sum(course.reached.values()) == pytest.approx(700, abs=4)
    assert sum(reached == 52 for reached in course.reached.values()) == len(course.complete)
    assert all(spent_by <= 704 for spent_by, _ in course.complete)
    assert (len(course.reached) > 16) == (arm != "none"), "where trials stop, more are tried"
