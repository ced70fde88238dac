from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentic_hpt.coordinator.undo import Effect, effects, incumbent, reversals
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, Goal, Insights, Params, Trial, Usage, WorkerKind
from situations import NEW, situation, trial

BEFORE = [0.5, 0.6, 0.7]
INSIDE: Params = {"layers": 3, "rate": 0.02, "optimizer": "adam"}
OUTSIDE: Params = {"layers": 7, "rate": 0.09, "optimizer": "adam"}
WINDOW = 36
"""Three rounds of twelve trials."""


def action(type_: str, expects: object = None, by: str = "", **detail: object) -> ActionRecord:
    asked = {} if expects is None else {"expects": expects}
    return ActionRecord(type_, "because", (), "accepted", "why", detail, asked, by)


FREEZE = action("freeze", parameter="layers", range={"values": [3]})
NARROW = action("narrow", parameter="rate", range={"low": 1e-3, "high": 0.05})
FIRST = action("prioritise", parameters=["rate", "layers"])


def later(
    values: Sequence[float | None], params: Params = INSIDE, kind: WorkerKind = "joint", round_: int = 2, **more: object
) -> list[Trial]:
    """Make trials of a later round; they get their ids in `after`."""
    return [trial(0, v, params=params, kind=kind, round=round_, **more) for v in values]  # type: ignore[arg-type]


def apart(made: Trial, number: int) -> Params:
    """Give its configuration a little moved: equal ones would count as a measure of the noise."""
    return {**made.params, "rate": made.params["rate"] * (1 - number * 1e-6)}  # type: ignore[operator]


def after(actions: Sequence[ActionRecord], trials: Sequence[Trial] = (), **changes: object) -> Situation:
    """Make the situation in which these actions were decided after round 1, and these trials ran then."""
    start = situation(BEFORE)
    numbered = [
        replace(t, id=len(BEFORE) + i, params=t.params if t.params == NEW else apart(t, i))
        for i, t in enumerate(trials)
    ]
    bridged = changes.pop("bridged", 0)
    decision = DecisionRecord(1, "llm", tuple(actions), bridged=bridged)  # type: ignore[arg-type]
    values = {
        "trials": (*start.trials, *numbered),
        "decisions": (decision,),
        "round": max([1, *(t.round for t in numbered)]),
        "usage": Usage(trials=len(BEFORE) + len(numbered)),
    }
    return replace(start, **{**values, **changes})  # type: ignore[arg-type]


def only(now: Situation) -> Effect:
    (effect,) = effects(now)
    return effect


@pytest.mark.parametrize(
    ("values", "status", "gain"),
    [
        ([], "open", None),
        ([0.5], "open", -0.2),
        ([0.5, 0.75], "came", 0.05),
        ([0.7] * WINDOW, "missing", 0.0),
        ([0.5] * (WINDOW - 1), "open", -0.2),
        ([None] * WINDOW, "missing", None),
        ([*[0.5] * WINDOW, 0.9], "missing", -0.2),
        ([*[0.5] * (WINDOW - 1), 0.9], "came", 0.2),
    ],
)
def test_a_limits_effect_comes_in_its_window_or_is_missing(
    values: list[float | None], status: str, gain: float | None
) -> None:
    effect = only(after([NARROW], later(values)))
    assert (effect.status, effect.window, effect.trials) == (status, WINDOW, min(WINDOW, len(values)))
    assert effect.gain == (None if gain is None else pytest.approx(gain))
    assert (effect.round, effect.position, effect.type, effect.parameter) == (1, 0, "narrow", "rate")


def test_a_stated_effect_has_its_own_gain_and_window_and_no_longer_one_than_others() -> None:
    stated = replace(NARROW, asked={"expects": {"gain": 0.1, "trials": 4}})
    assert only(after([stated], later([0.79] * 3))).status == "open"
    effect = only(after([stated], later([0.79] * 4)))
    assert (effect.status, effect.stated, effect.window) == ("missing", 0.1, 4)
    assert only(after([stated], later([0.81]))).status == "came"
    patient = replace(NARROW, asked={"expects": {"gain": 0.1, "trials": 500}})
    assert only(after([patient], later([0.7] * WINDOW))).status == "missing"


def test_the_effect_of_a_minimized_metric_is_a_lower_value() -> None:
    lower = Goal("accuracy", "minimize")
    assert only(after([NARROW], later([0.4]), goal=lower)).gain == pytest.approx(0.1)
    assert only(after([NARROW], later([0.9]), goal=lower)).status == "open"


def test_a_gain_within_the_noise_is_no_effect() -> None:
    noisy = [trial(0, v, params=NEW, round=2) for v in (0.3, 0.5)]  # an SD of 0.14
    assert only(after([NARROW], [*noisy, *later([0.9])])).status == "open"
    assert only(after([NARROW], later([0.9]))).status == "came"


def test_only_counted_trials_that_ran_under_the_decision_are_in_its_window() -> None:
    bridge = later([0.9], kind="bridge")
    assert only(after([NARROW], [*bridge, *later([0.5])], bridged=1)).trials == 1
    assert only(after([NARROW], [*bridge, *later([0.5])], bridged=1)).gain == pytest.approx(-0.4)
    assert only(after([NARROW], [*bridge, *later([0.5])])).trials == 2
    imported = later([0.9], kind="imported")
    assert only(after([NARROW], [*imported, *later([0.5])])).trials == 1


def test_proposals_and_workers_are_measured_by_their_own_trials_of_one_round() -> None:
    proposed = action("propose", configurations=[dict(NEW)], hypotheses=[""], expected=[None])
    worker = action("spawn", worker="group", parameters=["layers", "rate"], trials=4, region={})
    trials = [
        *later([0.6], kind="proposals"),
        *later([0.75, 0.5], kind="group", tuned=("rate", "layers")),
        *later([0.95], kind="group", tuned=("rate", "momentum")),
        *later([0.99], round_=3, kind="proposals"),
    ]
    first, second = effects(after([proposed, worker], trials))
    assert (first.status, first.window, first.trials, first.gain) == ("missing", 1, 1, pytest.approx(-0.1))
    assert (second.status, second.window, second.trials, second.gain) == ("came", 4, 2, pytest.approx(0.05))
    assert second.parameter == "layers, rate"
    assert [e.status for e in effects(after([proposed, worker]))] == ["open", "open"]
    assert reversals(after([proposed, worker], trials)) == ()


def test_before_anything_was_complete_a_gain_is_that_over_the_first_value() -> None:
    opening = DecisionRecord(0, "llm", (action("propose", configurations=[dict(NEW)] * 3),))
    trials = [trial(i, v, kind="proposals") for i, v in enumerate((0.5, 0.4, 0.8))]
    now = situation([], trials=tuple(trials), decisions=(opening,))
    assert (only(now).gain, only(now).status) == (pytest.approx(0.3), "came")


def test_the_opening_proposals_are_measured_against_the_default() -> None:
    opening = DecisionRecord(0, "llm", (action("propose", configurations=[dict(NEW)] * 2),))
    own = [trial(1 + i, v, kind="proposals") for i, v in enumerate((0.8, 0.7))]
    for default, gain, status in ((0.5, 0.3, "came"), (0.9, -0.1, "missing")):
        trials = (*own, trial(3, 0.2), trial(4, default, kind="default"))
        assert only(situation([], trials=trials, decisions=(opening,))).gain == pytest.approx(gain)
        assert only(situation([], trials=trials, decisions=(opening,))).status == status
    alone = situation([], trials=(*own, trial(3, 0.2)), decisions=(opening,))
    assert only(alone).gain == pytest.approx(0.6), "where the default failed another trial stands for it"


def test_luck_on_another_seed_is_no_effect_and_a_lucky_best_counts_by_its_mean() -> None:
    again = [trial(0, 0.72, params=NEW, round=2, kind="repeat"), trial(0, 0.72, params=NEW, round=2)]
    assert only(after([NARROW], again[:1])).gain is None
    assert only(after([NARROW], again)).gain == pytest.approx(0.02)
    start = after([NARROW], later([0.66]))
    repeats = [trial(9 + i, 0.6, params=start.trials[2].params, kind="repeat", round=2) for i in range(2)]
    now = replace(start, trials=(*start.trials, *repeats))
    assert only(now).gain == pytest.approx(0.66 - (0.7 + 0.6 + 0.6) / 3)


def test_a_limit_set_anew_again_and_again_is_taken_back_all_the_same() -> None:
    now = after([NARROW])
    for round_ in range(2, 9):
        more = [trial(100 * round_ + i, 0.6, params=INSIDE, round=round_) for i in range(12)]
        now = replace(now, trials=(*now.trials, *more), round=round_)
        assert [r.type for r in reversals(now)] == ([] if round_ < 7 else ["widen"])
        tighter = action("narrow", parameter="rate", range={"low": 1e-3, "high": 0.05 - round_ / 1000})
        now = replace(now, decisions=(*now.decisions, DecisionRecord(round_, "llm", (tighter,))))
    assert "in 84 trials, though it was changed 7 times" in reversals(now)[0].reason
    came = [replace(t, values={"accuracy": 0.75}) if t.id == 300 else t for t in now.trials]
    assert reversals(replace(now, trials=tuple(came))) == ()


def test_priorities_set_anew_again_and_again_are_taken_back_all_the_same() -> None:
    now = after([FIRST])
    for round_ in range(2, 8):
        more = [trial(100 * round_ + i, 0.6, params=INSIDE, round=round_) for i in range(12)]
        now = replace(now, trials=(*now.trials, *more), round=round_)
        assert bool(reversals(now)) == (round_ == 7)
        other = action("prioritise", parameters=[["momentum"], ["rate"]][round_ % 2])
        now = replace(now, decisions=(*now.decisions, DecisionRecord(round_, "llm", (other,))))
    (record,) = reversals(now)
    assert (record.type, record.detail) == ("prioritise", {"parameters": []})


def test_the_noise_that_effects_are_held_against_can_be_given() -> None:
    now = after([NARROW], later([0.75]))
    assert only(now).status == "came"
    (effect,) = effects(now, noise=0.1)
    assert effect.status == "open"


def test_refused_actions_and_the_policys_own_have_no_effect_to_come() -> None:
    refused = replace(NARROW, verdict="refused")
    assert effects(after([refused, action("continue"), action("widen", by="policy", parameter="rate")])) == ()


def test_nothing_is_taken_back_while_limits_hold_and_their_window_is_open_or_their_effect_came() -> None:
    assert reversals(after([])) == ()
    assert reversals(after([FREEZE, NARROW, FIRST], later([0.6] * 5))) == ()
    came = after([FREEZE, NARROW, FIRST], later([0.75, *[0.5] * 15]))
    assert {e.status for e in effects(came)} == {"came"}
    assert reversals(came) == ()


def test_a_limit_whose_effect_came_is_lifted_once_nothing_better_comes_for_a_window() -> None:
    now = after([NARROW], later([0.75, *[0.5] * 60]))
    assert only(now).status == "came"
    (record,) = reversals(now)
    assert record.type == "widen"
    assert "60 trials that brought nothing better" in record.reason


@pytest.mark.parametrize(("limit", "type_", "name"), [(FREEZE, "unfreeze", "layers"), (NARROW, "widen", "rate")])
def test_a_limit_with_the_best_trial_outside_is_taken_back(limit: ActionRecord, type_: str, name: str) -> None:
    now = after([limit], [*later([0.6]), *later([0.8], OUTSIDE, "outside")])
    (record,) = reversals(now)
    assert (record.type, record.by, record.verdict) == (type_, "policy", "accepted")
    assert record.detail == {"parameter": name}
    assert record.evidence == (4,)
    assert f"{name!r} after round 1" in record.reason
    assert "trial 4, which beats the best inside by 0.1" in record.reason
    assert reversals(after([limit], later([0.69], OUTSIDE, "outside"))) == ()


def test_it_is_told_when_the_outside_win_is_within_the_noise() -> None:
    noisy = [trial(0, v, params=NEW, round=2) for v in (0.3, 0.5)]
    narrow = replace(NARROW, detail={"parameter": "rate", "range": {"low": 1e-3, "high": 0.06}})
    (record,) = reversals(after([narrow], [*noisy, *later([0.8], OUTSIDE, "outside")]))
    assert "within the noise" in record.reason
    (clear,) = reversals(after([narrow], later([0.8], OUTSIDE, "outside")))
    assert "beyond the noise" in clear.reason


def test_one_outside_trial_takes_back_all_limits_that_do_not_hold_it() -> None:
    records = reversals(after([FREEZE, NARROW], later([0.8], OUTSIDE, "outside")))
    assert [(r.type, r.detail["parameter"]) for r in records] == [("unfreeze", "layers"), ("widen", "rate")]
    partly = reversals(after([FREEZE, NARROW], later([0.8], {**OUTSIDE, "rate": 0.02}, "outside")))
    assert [r.type for r in partly] == ["unfreeze"]


def test_a_limit_whose_effect_did_not_come_is_taken_back() -> None:
    (record,) = reversals(after([NARROW], later([0.6] * WINDOW)))
    assert record.type == "widen"
    assert record.evidence == (2,)
    assert "did not bring a gain beyond noise in 36 trials (it brought -0.1)" in record.reason
    stated = replace(FREEZE, asked={"expects": {"gain": 0.1, "trials": 4}})
    (frozen,) = reversals(after([stated], later([0.75] * 4)))
    assert frozen.type == "unfreeze"
    assert "a gain of 0.1 in 4 trials (it brought +0.05)" in frozen.reason


def test_priorities_whose_effect_did_not_come_are_taken_back() -> None:
    (record,) = reversals(after([FIRST], later([0.6] * WINDOW)))
    assert (record.type, record.by, record.detail) == ("prioritise", "policy", {"parameters": []})
    now = after([FIRST], later([0.6] * WINDOW))
    undone = replace(now, decisions=(*now.decisions, DecisionRecord(2, "rules", (record,))))
    assert undone.steering.priorities == ()
    assert reversals(undone) == ()
    assert only(undone).status == "reversed"


def test_what_is_taken_back_is_marked_and_not_taken_back_again() -> None:
    now = after([NARROW, FREEZE], later([0.8], {**OUTSIDE, "layers": 3}, "outside"))
    undone = replace(now, decisions=(*now.decisions, DecisionRecord(2, "llm", reversals(now))), round=2)
    assert [e.status for e in effects(undone)] == ["reversed", "came"]
    assert reversals(undone) == ()
    assert list(undone.steering.limits) == ["layers"]


def test_of_several_limits_on_a_parameter_the_one_in_force_counts() -> None:
    now = after([NARROW], later([0.6] * 20))
    tighter = action("narrow", parameter="rate", range={"low": 5e-3, "high": 0.03})
    again = replace(now, decisions=(*now.decisions, DecisionRecord(2, "llm", (action("continue"), tighter))))
    more = [replace(t, id=100 + i, round=3) for i, t in enumerate(later([0.6] * 16))]
    later_on = replace(again, trials=(*again.trials, *more), round=3)
    assert [(e.round, e.position, e.status) for e in effects(later_on)] == [(1, 0, "missing"), (2, 1, "open")]
    assert reversals(later_on) == ()
    rest = [replace(t, id=200 + i, round=4) for i, t in enumerate(later([0.6] * 20))]
    (record,) = reversals(replace(later_on, trials=(*later_on.trials, *rest), round=4))
    assert "after round 2" in record.reason
    wider = action("widen", parameter="rate", range={"low": 1e-3, "high": 0.05})
    widened = replace(again, decisions=(*again.decisions, DecisionRecord(3, "llm", (wider,))))
    assert [e.status for e in effects(widened)] == ["open", "open", "open"]


def test_a_frozen_parameter_that_turns_out_to_matter_thaws() -> None:
    now = after([FREEZE], later([0.6]))
    assert reversals(replace(now, insights=Insights({"layers": 0.37}))) == ()
    (record,) = reversals(replace(now, insights=Insights({"layers": 0.38})))
    assert record.type == "unfreeze"
    assert "38%" in record.reason
    narrowed = after([NARROW], later([0.6]), insights=Insights({"rate": 1.0}))
    assert reversals(narrowed) == ()


def test_a_trial_before_the_limit_counts_too_once_it_is_the_best() -> None:
    """The incumbent's repeats may lower its mean, so that an older trial outside the limit leads."""
    start = after([FREEZE])
    older = replace(start.trials[0], params=OUTSIDE, values={"accuracy": 0.65})
    repeats = [trial(3 + i, 0.4, params=start.trials[2].params, kind="repeat", round=2) for i in range(2)]
    now = replace(start, trials=(older, *start.trials[1:], *repeats), round=2)
    assert incumbent(now) == older
    (record,) = reversals(now)
    assert record.type == "unfreeze"
    estimates = now.goal.expected(now.trials)
    gap = estimates[older.id] - max(value for number, value in estimates.items() if number != older.id)
    assert gap > 0, "a configuration counts by all its runs"
    assert f"beats the best inside by {gap:.4g}," in record.reason


def test_the_incumbent_lies_in_the_declared_space() -> None:
    now = situation([0.5, 0.6])
    foreign = trial(9, 0.99, params={"alien": 1}, kind="imported")
    assert incumbent(replace(now, trials=(*now.trials, foreign))) == now.trials[1]
    assert incumbent(situation([])) is None


def test_the_order_in_which_trials_come_changes_nothing() -> None:
    now = after([FREEZE, NARROW], [*later([0.6] * 30), *later([0.65], OUTSIDE, "outside"), *later([0.8], round_=3)])
    backwards = replace(now, trials=tuple(reversed(now.trials)))
    assert effects(backwards) == effects(now)
    assert reversals(backwards) == reversals(now)


def test_a_best_outside_beats_a_lucky_single_run_inside_by_what_both_are_estimated_at() -> None:
    again = [trial(0, v, params=NEW, kind="repeat" if i else "joint", round=2) for i, v in enumerate([0.9, 0.7, 0.8])]
    now = after([FREEZE], [*again, *later([0.82])])
    best, lucky, estimates = incumbent(now), now.trials[-1], now.goal.expected(now.trials)
    assert best is not None
    assert dict(best.params) == NEW
    assert estimates[best.id] > estimates[lucky.id], "though the single run looks better"
    (undone,) = reversals(now)
    assert f"which beats the best inside by {estimates[best.id] - estimates[lucky.id]:.4g}, " in undone.reason
