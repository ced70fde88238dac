from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentic_hpt.coordinator.schedule import Ask, unseen_notes, why_ask
from agentic_hpt.errors import FailureKind
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, Note, Trial, Usage
from situations import situation, trial

PER_ROUND = 4


def decided(round_: int, asked: str = "", **changes: object) -> DecisionRecord:
    return DecisionRecord(round_, "llm", (), asked=asked, **changes)  # type: ignore[arg-type]


def after(round_: int, values: Sequence[float | None] = (), **changes: object) -> Situation:
    """Make the situation after a round of four trials, in a study in which nothing happens but what `values` say.

    They are the values of the last trials; those before them gain a little at a time.
    """
    count = PER_ROUND * round_
    quiet: list[float | None] = [0.1 + 0.001 * i for i in range(count - len(values))]
    trials = tuple(trial(i, v, round=1 + i // PER_ROUND) for i, v in enumerate([*quiet, *values]))
    made = {"trials": trials, "usage": Usage(trials=count), "budget": Budget(trials=1000), **changes}
    return situation(round=round_, **made)


def test_the_model_is_asked_before_the_first_round() -> None:
    assert why_ask(situation((), round=0)) == Ask(True, "before the first round")


@pytest.mark.parametrize("round_", [1, 2, 3])
def test_it_is_asked_after_each_of_the_first_rounds(round_: int) -> None:
    before = [decided(r, "first rounds: after round 1") for r in range(round_)]
    assert why_ask(after(round_, decisions=tuple(before))) == Ask(True, f"first rounds: after round {round_}")


def test_then_it_is_not_asked_while_nothing_happens() -> None:
    for round_ in range(4, 12):
        assert why_ask(after(round_)) == Ask(False, "not asked: no trigger")


def test_ten_trials_without_a_gain_are_a_trigger() -> None:
    stuck = [0.5, *[0.2] * 10]
    assert why_ask(after(6, stuck)) == Ask(True, "plateau: 10 trials without a better one")
    assert not why_ask(after(6, stuck[:-1])).asked


def test_a_plateau_is_told_again_only_after_another_half() -> None:
    told = (decided(6, "plateau: 10 trials without a better one"),)
    assert not why_ask(after(7, [0.5, *[0.2] * 14], decisions=told)).asked
    assert not why_ask(after(8, [0.5, *[0.2] * 18], decisions=told)).asked
    assert why_ask(after(9, [0.5, *[0.2] * 22], decisions=told)).reason.startswith("plateau: 22 trials")


def test_a_failure_of_a_new_kind_is_a_trigger() -> None:
    now = after(5, [None])
    failed = (*now.trials[:-1], trial(19, round=5, failure=FailureKind.OUT_OF_MEMORY))
    assert why_ask(after(5, trials=failed)) == Ask(True, "failures: the first of kind out_of_memory")
    known = (trial(0, round=1, failure=FailureKind.OUT_OF_MEMORY), *failed[1:])
    assert not why_ask(after(5, trials=known)).asked


def test_many_failures_in_a_round_are_a_trigger_and_one_is_none() -> None:
    def failing(count: int) -> Situation:
        trials = [trial(0, round=1, failure=FailureKind.CRASH), *after(5).trials[1:]]
        for place in range(20 - count, 20):
            trials[place] = trial(place, round=5, failure=FailureKind.CRASH)
        return after(5, trials=tuple(trials))

    assert why_ask(failing(2)) == Ask(True, "failures: 2 of 4 trials of the round")
    assert not why_ask(failing(1)).asked


def test_trials_that_the_budget_cancelled_are_no_failures() -> None:
    cancelled = [trial(i, round=5, failure=FailureKind.CANCELLED) for i in range(16, 20)]
    assert not why_ask(after(5, trials=(*after(5).trials[:16], *cancelled))).asked


def test_a_gain_of_more_than_all_before_is_a_surprise() -> None:
    assert why_ask(after(5, [0.3])).reason == "surprise: trial 19 gained 0.185, more than half of all gain so far"
    assert not why_ask(after(5, [0.12])).asked, "a small gain"
    assert not why_ask(after(6, [0.3, 0.1, 0.1, 0.1, 0.1])).asked, "a gain of the round before"


def test_a_gain_that_noise_explains_is_no_surprise() -> None:
    noisy = list(after(5, [0.3]).trials)
    for place, value in ((0, 0.0), (1, 0.11)):  # one configuration, two seeds: an SD of 0.08
        noisy[place] = trial(place, value, round=1, params=noisy[0].params)
    assert not why_ask(after(5, trials=tuple(noisy))).asked


def test_lower_is_better_where_that_is_the_goal() -> None:
    down = [trial(i, 1.0 - 0.001 * i, round=1 + i // PER_ROUND) for i in range(20)]
    goal = situation().goal.__class__("accuracy", "minimize")
    assert not why_ask(after(5, trials=tuple(down), goal=goal)).asked
    down[-1] = trial(19, 0.5, round=5)
    assert why_ask(after(5, trials=tuple(down), goal=goal)).reason.startswith("surprise: trial 19 gained 0.48")


@pytest.mark.parametrize(
    ("interval", "surprised"),
    [
        ([0.2, 0.1, 0.3], False),
        ([0.2, 0.13, 0.3], False),
        ([0.6, 0.5, 0.6], True),
        ([0.6, None, None], False),
        (None, False),
    ],
)
def test_a_result_far_outside_the_stated_interval_is_a_surprise(interval: object, surprised: bool) -> None:
    proposed = {"layers": 9, "rate": 0.03, "optimizer": "adam"}
    detail = {"configurations": [proposed], "hypotheses": ["h"], "expected": [interval]}
    action = ActionRecord("propose", "why", (), "accepted", "new", detail)
    ran: Trial = trial(19, 0.118, round=5, kind="proposals", params=proposed)
    now = after(5, trials=(*after(5).trials[:19], ran), decisions=(DecisionRecord(4, "llm", (action,)),))
    assert why_ask(now).asked is surprised
    if surprised:
        assert why_ask(now).reason == "surprise: trial 19 has 0.118, expected in [0.5, 0.6]"


def test_each_milestone_of_the_budget_is_told_once() -> None:
    def spent(trials: int, *asked: str) -> Ask:
        told = tuple(decided(r, reason) for r, reason in enumerate(asked))
        return why_ask(after(5, usage=Usage(trials=trials), budget=Budget(trials=100), decisions=told))

    assert not spent(49).asked
    assert spent(50) == Ask(True, "budget: 50 % is spent")
    assert not spent(74, "first rounds: after round 3; budget: 50 % is spent").asked
    assert spent(80, "budget: 50 % is spent").reason == "budget: 75 % is spent"
    assert spent(95).reason == "budget: 90 % is spent"
    assert not spent(99, "budget: 90 % is spent").asked


def test_minutes_count_as_trials_do() -> None:
    now = after(5, usage=Usage(trials=1, seconds=45.1 * 60), budget=Budget(trials=100, minutes=60))
    assert why_ask(now).reason == "budget: 75 % is spent"
    assert not why_ask(after(5, usage=Usage(seconds=60), budget=Budget(minutes=60))).asked


def test_a_trigger_rests_for_a_round_once_it_was_used() -> None:
    failures = tuple(trial(i, round=4, failure=FailureKind.CRASH) for i in range(14, 16))
    more = tuple(trial(i, round=5, failure=FailureKind.CRASH) for i in range(18, 20))
    trials = (*after(5).trials[:14], *failures, *after(5).trials[16:18], *more)
    used = decided(4, "failures: the first of kind crash")
    assert not why_ask(after(5, trials=trials, decisions=(used,))).asked
    rested = (used, decided(5, "not asked: no trigger"))
    later = tuple(trial(i, round=6, failure=FailureKind.CRASH) for i in range(20, 24))
    assert why_ask(after(6, trials=(*trials, *later), decisions=rested)).reason.startswith("failures: 4 of 4")


def test_a_note_is_a_trigger_until_a_decision_has_seen_it() -> None:
    notes = (Note(1, "try small rates", 0.0), Note(2, "no, large ones", 1.0))
    assert why_ask(after(5, notes=notes)).reason == "note: 2 of a person's notes not seen yet"
    seen = (decided(4, "note: 1 of a person's notes not seen yet", notes=(1,)),)
    again = after(5, notes=notes, decisions=seen)
    assert unseen_notes(again) == (2,)
    assert why_ask(again).reason == "note: 1 of a person's notes not seen yet"
    assert not why_ask(after(5, notes=notes, decisions=(decided(4, notes=(1, 2)),))).asked


def test_all_reasons_are_told() -> None:
    now = after(2, [None, None], notes=(Note(1, "look", 0.0),), usage=Usage(trials=8), budget=Budget(trials=16))
    failed = (*now.trials[:-1], trial(7, round=2, failure=FailureKind.NAN))
    assert why_ask(after(2, trials=failed, notes=now.notes, budget=Budget(trials=16))).reason == (
        "first rounds: after round 2; note: 1 of a person's notes not seen yet; "
        "failures: the first of kind nan; budget: 50 % is spent"
    )


def test_a_note_that_a_failing_model_did_not_see_rests_for_a_round() -> None:
    notes = (Note(1, "try small rates", 0.0),)
    asked = "note: 1 of a person's notes not seen yet"
    failed = (decided(4, asked, fallback="no answer"),)
    assert not why_ask(after(5, notes=notes, decisions=failed)).asked
    assert why_ask(after(6, notes=notes, decisions=failed)).reason == asked
