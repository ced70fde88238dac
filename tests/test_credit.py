from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentic_hpt.coordinator.credit import model_score, model_share
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, Goal, ParamValue, Trial, TrialState, Usage
from agentic_hpt.space import Float, SearchSpace
from situations import situation, trial

SQUARE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
PER_ROUND = 10
Expected = list[float | None] | None
Chooser = Callable[[random.Random], dict[str, ParamValue]]


def at(x: float) -> dict[str, ParamValue]:
    return {"layers": 3, "rate": x, "optimizer": "adam"}


def proposed(*entries: tuple[float, Expected], round_: int = 1, **changes: object) -> DecisionRecord:
    """Make a model's decision that proposes configurations with these rates and expectations."""
    detail = {
        "configurations": [at(x) for x, _ in entries],
        "hypotheses": ["" for _ in entries],
        "expected": [expected for _, expected in entries],
    }
    record = ActionRecord("propose", "try", (), "accepted", "new", detail)
    return replace(DecisionRecord(round_, "llm", (record,)), **changes)  # type: ignore[arg-type]


def ran(number: int, x: float, value: float | None, **changes: object) -> Trial:
    return trial(number, value, params=at(x), **{"kind": "proposals", "worker": "proposals", "round": 2, **changes})


def sampled(number: int, value: float | None, round_: int = 2) -> Trial:
    return trial(number, value, round=round_)


def test_proposals_are_scored_against_the_samplers_trials_of_their_round() -> None:
    trials = (
        sampled(0, 0.5, 1),
        ran(1, 0.02, 0.8),
        ran(2, 0.03, 0.55),
        ran(3, 0.04, None),
        *(sampled(i, v) for i, v in ((4, 0.4), (5, 0.6), (6, 0.7), (7, None))),
    )
    decision = proposed((0.02, [0.7, 0.6, 0.9]), (0.03, [0.7, 0.6, 0.8]), (0.04, [0.7, 0.6, 0.8]))
    score = model_score(situation(trials=trials, round=2, decisions=(decision,)))
    assert (score.proposals, score.complete, score.wins) == (3, 2, 1)
    assert (score.intervals, score.coverage) == (2, 0.5)
    assert score.percentile == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert score.gain == pytest.approx(0.3 / 3)
    assert score.sampler_gain == 0.0
    assert score.error_unit == "spread"
    assert score.account == pytest.approx(10 - 0.5 - 2)


def test_poor_workers_that_the_model_spawned_itself_make_its_proposals_no_better() -> None:
    spawn = ActionRecord(
        "spawn", "try", (), "accepted", "", {"worker": "per_parameter", "parameters": ["layers"], "trials": 8}
    )
    decision = proposed((0.02, None))
    decision = replace(decision, actions=(*decision.actions, spawn))
    poor = [replace(sampled(10 + i, 0.1), tuned=("layers",)) for i in range(8)]
    trials = (sampled(0, 0.9, 1), ran(1, 0.02, 0.4), *(sampled(i, v) for i, v in ((4, 0.3), (5, 0.6), (6, 0.7))))
    for beside in ([], poor):
        score = model_score(situation(trials=(*trials, *beside), round=2, decisions=(decision,)))
        assert score.percentile == pytest.approx(1 / 3)
    alone = situation(trials=(trials[0], trials[1], *poor), round=2, decisions=(decision,))
    assert model_score(alone).percentile == 1.0, "better than none to stand beside"


def test_the_error_is_told_in_units_of_the_noise_once_that_was_measured() -> None:
    repeats = (sampled(0, 0.5, 1), replace(sampled(1, 0.52, 1), params=sampled(0, 0.5).params, kind="repeat"))
    now = situation(trials=(*repeats, ran(2, 0.02, 0.6)), round=2, decisions=(proposed((0.02, [0.7, None, None])),))
    score = model_score(now)
    assert score.error_unit == "noise"
    assert score.error == pytest.approx(0.1 / (0.02 / 2**0.5))
    assert (score.predictions, score.intervals, score.coverage) == (1, 0, None)


def test_a_gain_within_the_noise_is_no_win() -> None:
    noisy = (sampled(0, 0.5, 1), replace(sampled(1, 0.6, 1), params=sampled(0, 0.5).params, kind="repeat"))
    decision = proposed((0.02, None))
    for value, wins in ((0.62, 0), (0.95, 1)):
        assert model_score(situation(trials=(*noisy, ran(2, 0.02, value)), round=2, decisions=(decision,))).wins == wins


@pytest.mark.parametrize(
    "decision",
    [
        proposed((0.02, None), kind="person"),
        proposed((0.02, None), kind="rules"),
        proposed((0.03, None)),
        proposed((0.02, None), round_=2),
    ],
)
def test_only_the_models_own_proposals_count(decision: DecisionRecord) -> None:
    now = situation(trials=(sampled(0, 0.5, 1), ran(1, 0.02, 0.8)), round=2, decisions=(decision,))
    assert model_score(now).proposals == 0


def test_running_proposals_are_paid_for_already() -> None:
    running = (ran(1, 0.02, None, state=TrialState.RUNNING), ran(2, 0.03, None, state=TrialState.RUNNING))
    decision = proposed((0.02, None), (0.03, None))
    score = model_score(situation(running=running, decisions=(decision,)))
    assert (score.proposals, score.running, score.account) == (0, 2, 8.0)


def test_the_share_begins_at_a_half_and_decays() -> None:
    quiet = [0.1 + 0.001 * i for i in range(12)]

    def share(round_: int) -> float:
        trials = [trial(i, v, round=1 + i * round_ // len(quiet)) for i, v in enumerate(quiet)] if round_ else []
        return model_share(situation(trials=tuple(trials), round=round_, budget=Budget(trials=1000)))

    shares = [share(round_) for round_ in (0, 1, 2, 3, 5, 30)]
    assert shares[:2] == [0.5, 0.5]
    assert shares == sorted(shares, reverse=True)
    assert shares[3] < 0.3
    assert shares[-1] == pytest.approx(1 / 12)  # one trial, the least there is


def test_a_trigger_brings_half_of_the_first_share_back() -> None:
    trials = tuple(trial(i, 0.8 if i == 0 else 0.5, round=1 + i // 10) for i in range(100))
    now = situation(trials=trials, round=10, budget=Budget(trials=1000))
    assert model_share(now) == 0.25
    # Asked for it just now: it rests for a round.
    asked = DecisionRecord(9, "llm", (), asked="plateau: 90 trials without a better one")
    assert model_share(replace(now, decisions=(asked,))) < 0.1


def played(choose: Chooser | None, seed: int, direction: str = "maximize") -> Situation:
    """Play a study of 50 trials to its end: a sampler that refines, and a model that proposes what it may."""
    dice = random.Random(seed)
    sign = 1 if direction == "maximize" else -1
    budget = 50
    now = Situation(
        study="s",
        round=0,
        goal=Goal("score", direction),  # type: ignore[arg-type]
        space=SQUARE,
        budget=Budget(trials=budget),
        usage=Usage(),
        slots=2,
        round_trials=PER_ROUND,
        trials=(),
    )

    def run(number: int, params: dict[str, ParamValue], kind: str, round_: int) -> Trial:
        value = -sign * ((float(params["x"] or 0) - 0.3) ** 2 + (float(params["y"] or 0) - 0.7) ** 2)
        return trial(number, 0.0, params=params, kind=kind, round=round_, worker=kind, values={"score": value})

    while len(now.trials) < budget:
        assert model_share(now) <= 0.5
        room = round(model_share(now) * PER_ROUND) if choose else 0
        configurations = [choose(dice) for _ in range(room)] if choose else []
        detail = {"configurations": configurations, "expected": [None] * room}
        action = ActionRecord("propose" if room else "continue", "r", (), "accepted", "v", detail if room else {})
        best = now.goal.best(now.trials)
        trials = list(now.trials)
        for slot in range(min(PER_ROUND, budget - len(trials))):
            if slot < room:
                params, kind = configurations[slot], "proposals"
            elif best is None or slot % 2:
                params, kind = {"x": dice.random(), "y": dice.random()}, "joint"
            else:
                params = {n: min(1.0, max(0.0, float(v or 0) + dice.gauss(0, 0.05))) for n, v in best.params.items()}
                kind = "joint"
            trials.append(run(len(trials), params, kind, now.round + 1))
        now = replace(
            now,
            round=now.round + 1,
            trials=tuple(trials),
            decisions=(*now.decisions, DecisionRecord(now.round, "llm", (action,))),
            usage=Usage(trials=len(trials)),
        )
    return now


def proposals(now: Situation) -> int:
    return sum(t.kind == "proposals" for t in now.trials)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_hostile_model_costs_a_tenth_of_the_budget_and_then_gets_nothing(direction: str) -> None:
    for seed in range(5):
        now = played(lambda dice: {"x": 1.0 - dice.random() / 1000, "y": 0.0}, seed, direction)
        assert proposals(now) <= 5
        assert model_share(now) == 0.0
        assert model_score(now).merit < 0.5


def test_what_a_model_that_answers_at_random_may_lose_is_bounded() -> None:
    ended = [played(lambda dice: {"x": dice.random(), "y": dice.random()}, seed) for seed in range(20)]
    for now in ended:
        poor = 0
        for proposal in (t for t in now.trials if t.kind == "proposals"):
            others = [t.values["score"] for t in now.trials if t.kind == "joint" and t.round == proposal.round]
            poor += proposal.values["score"] < statistics.median(others)
        assert poor <= 5 + model_score(now).wins  # a tenth of the budget, and what the others earned
    assert sum(map(proposals, ended)) / len(ended) <= 9


def test_a_model_whose_proposals_win_gets_more_than_one_that_answers_at_random() -> None:
    def wise(dice: random.Random) -> dict[str, ParamValue]:
        wise.reach *= 0.8  # type: ignore[attr-defined]
        return {"x": 0.3 + wise.reach, "y": 0.7 - wise.reach}  # type: ignore[attr-defined]

    for seed in range(5):
        wise.reach = 0.2  # type: ignore[attr-defined]
        clever = played(wise, seed)
        assert model_score(clever).merit > 1.0
        assert model_score(clever).wins >= 3
        assert proposals(clever) > proposals(played(lambda dice: {"x": dice.random(), "y": 0.0}, seed))
        assert model_share(clever) > 0


def test_without_a_model_there_is_no_record() -> None:
    score = model_score(played(None, 1))
    assert (score.proposals, score.percentile, score.coverage, score.merit, score.account) == (0, None, None, 1.0, 5.0)
