from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentic_hpt.config import CoordinatorConfig
from agentic_hpt.coordinator import LlmCoordinator, RulesCoordinator
from agentic_hpt.coordinator.decisions import Decision
from agentic_hpt.coordinator.guards import judge, options, plateau
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, Goal, ModelCall, TrialState, Usage
from agentic_hpt.testing import ScriptedChatModel, decide
from situations import NEW, PLATEAU, SPACE, flat, situation, trial

FORCED = {
    "target": situation([0.5, 0.95, 0.7]),
    "target of a minimized metric": situation([0.5, 0.05], goal=Goal("accuracy", "minimize", 0.1)),
    "target met exactly": situation([0.9]),
    "trials": situation(budget=Budget(trials=2)),
    "minutes": situation(budget=Budget(minutes=1.0), usage=Usage(trials=2, seconds=60.0)),
    "exhausted": situation(exhausted=True),
}
STOPPED_BY = {
    "target": "target",
    "target of a minimized metric": "target",
    "target met exactly": "target",
    "trials": "budget.trials",
    "minutes": "budget.minutes",
    "exhausted": "exhausted",
}


def ask(chat: ScriptedChatModel, now: Situation) -> DecisionRecord:
    async def record(call: ModelCall) -> None:
        pass

    return asyncio.run(LlmCoordinator("test", lambda: chat, CoordinatorConfig(), record).decide(now))


def verdicts(now: Situation, *actions: dict[str, object]) -> tuple[ActionRecord, ...]:
    return judge(Decision.model_validate({"actions": [{"reason": "because", **a} for a in actions]}), now)


def propose(*configurations: dict[str, object]) -> dict[str, object]:
    return {"type": "propose", "configurations": [{"params": c} for c in configurations]}


@pytest.mark.parametrize("case", FORCED)
def test_the_policy_ends_the_search_whatever_the_model_says_and_does_not_ask_it(case: str) -> None:
    chat = ScriptedChatModel(answers=[decide("continue")])
    for decision in (ask(chat, FORCED[case]), asyncio.run(RulesCoordinator().decide(FORCED[case]))):
        assert decision.finalizes
        assert decision.kind == "policy"
        assert decision.fallback is None
        assert decision.actions[0].detail == {"stopped_by": STOPPED_BY[case]}
    assert chat.prompts == []


def test_a_reached_target_is_named_before_a_spent_budget() -> None:
    decision = ask(ScriptedChatModel(), situation([0.95], budget=Budget(trials=1)))
    assert decision.actions[0].detail == {"stopped_by": "target"}
    assert decision.actions[0].evidence == (0,)


@pytest.mark.parametrize(
    "now",
    [
        situation([0.5, 0.89999]),
        situation([0.2, 0.11], goal=Goal("accuracy", "minimize", 0.1)),
        situation([0.95], goal=Goal("accuracy")),
        situation([None, 0.5], budget=Budget(trials=3, minutes=1.0), usage=Usage(trials=2, seconds=59.9)),
        situation([]),
        replace(situation(), trials=(trial(0, 0.95, state=TrialState.PRUNED),)),
    ],
    ids=["near the target", "near a low target", "no target", "budget nearly spent", "no trials", "a pruned trial"],
)
def test_nothing_short_of_target_and_budget_ends_the_search(now: Situation) -> None:
    refused = ask(ScriptedChatModel(answers=[decide("finalize", "good enough")]), now)
    assert not refused.finalizes
    assert refused.kind == "llm"
    assert not asyncio.run(RulesCoordinator().decide(now)).finalizes


def test_a_refused_finalize_is_kept_with_its_reason_and_the_study_goes_on() -> None:
    decision = ask(ScriptedChatModel(answers=[decide("finalize", "good enough")]), situation())
    refused, going_on = decision.actions
    assert (refused.type, refused.verdict, refused.reason) == ("finalize", "refused", "good enough")
    assert "the target is not reached" in refused.verdict_reason
    assert f"of {PLATEAU} trials" in refused.verdict_reason
    assert (going_on.type, going_on.verdict) == ("continue", "accepted")
    assert decision.fallback is None


@pytest.mark.parametrize(("without_gain", "accepted"), [(PLATEAU - 1, False), (PLATEAU, True)])
def test_finalize_is_let_through_once_the_plateau_is_long_enough(without_gain: int, accepted: bool) -> None:
    now = situation(flat(without_gain))
    decision = ask(ScriptedChatModel(answers=[decide("finalize")]), now)
    assert decision.finalizes is accepted
    assert ("finalize" in options(now).actions) is accepted
    if accepted:
        assert [a.type for a in decision.actions] == ["finalize"]
        assert decision.actions[0].detail == {"stopped_by": "coordinator"}


def test_a_plateau_counts_what_was_tried_since_the_best_trial_and_not_what_was_imported() -> None:
    now = situation([0.5, 0.8, None, 0.7])
    assert plateau(now) == (2, PLATEAU)
    imported = replace(now, trials=(*now.trials, trial(9, 0.1, kind="imported")))
    assert plateau(imported) == (2, PLATEAU)
    running = replace(now, trials=(*now.trials, trial(9, state=TrialState.RUNNING)))
    assert plateau(running) == (2, PLATEAU)
    assert plateau(situation([None] * 3)) == (3, PLATEAU)
    many = type(SPACE)({f"p{i}": SPACE["rate"] for i in range(10)})
    assert plateau(replace(now, space=many)) == (2, 50)


def test_the_rules_go_on_with_the_reason_and_the_best_trial_as_evidence() -> None:
    decision = asyncio.run(RulesCoordinator().decide(situation([0.5, 0.8, 0.6])))
    (action,) = decision.actions
    assert (decision.kind, action.type, action.verdict, action.evidence) == ("rules", "continue", "accepted", (1,))
    assert "0.8" in action.reason
    assert "97 of 100 trials left" in action.reason


def test_a_proposal_inside_the_space_and_new_is_accepted() -> None:
    accepted, going_on = verdicts(situation(), propose(NEW))
    assert (accepted.verdict, accepted.detail["configurations"]) == ("accepted", [NEW])
    assert going_on.type == "continue"


def test_a_proposal_is_snapped_and_the_repair_is_told() -> None:
    repaired, _ = verdicts(situation(), propose({**NEW, "layers": 6}))
    assert repaired.verdict == "repaired"
    assert repaired.detail["configurations"] == [{**NEW, "layers": 5}]
    assert "snapped" in repaired.verdict_reason


def test_a_parameter_that_is_not_active_is_taken_out_and_an_active_one_must_be_given() -> None:
    repaired, _ = verdicts(situation(), propose({**NEW, "momentum": 0.9}))
    assert repaired.detail["configurations"] == [NEW]
    refused, _ = verdicts(situation(), propose({**NEW, "optimizer": "sgd"}))
    assert refused.verdict == "refused"
    assert "momentum" in refused.verdict_reason
    accepted, _ = verdicts(situation(), propose({**NEW, "optimizer": "sgd", "momentum": 0.9}))
    assert accepted.verdict == "accepted"


def test_repeats_of_trials_and_of_one_another_are_refused() -> None:
    now = situation()
    tried = dict(now.trials[1].params)
    refused, going_on = verdicts(now, propose(tried))
    assert refused.verdict == "refused"
    assert "tried already" in refused.verdict_reason
    assert going_on.verdict == "accepted"
    failed = replace(now, trials=(trial(0, None, params=NEW), trial(1, None, params={**NEW, "layers": 1})))
    assert verdicts(failed, propose(NEW))[0].verdict == "refused"
    repaired, _ = verdicts(now, propose(NEW, tried, {**NEW, "layers": 5.0}, {**NEW, "layers": 4}))
    assert repaired.detail["configurations"] == [NEW]
    assert repaired.verdict == "repaired"


@pytest.mark.parametrize(
    "wrong",
    [
        {**NEW, "rate": 0.2},
        {**NEW, "rate": "0.05"},
        {**NEW, "rate": True},
        {**NEW, "rate": None},
        {**NEW, "rate": 10**18},
        {**NEW, "layers": 4.5},
        {**NEW, "layers": 11},
        {**NEW, "optimizer": "lbfgs"},
        {**NEW, "optimizer": 0},
        {**NEW, "unheard_of": 1},
        {"layers": 5},
        {},
    ],
)
def test_a_proposal_outside_the_space_is_refused(wrong: dict[str, object]) -> None:
    refused, going_on = verdicts(situation(), propose(wrong))
    assert refused.verdict == "refused"
    assert refused.verdict_reason
    assert refused.detail == {}
    assert going_on.verdict == "accepted"
    partly, _ = verdicts(situation(), propose(wrong, NEW))
    assert (partly.verdict, partly.detail["configurations"]) == ("repaired", [NEW])


@pytest.mark.parametrize(
    ("changes", "room"),
    [
        ({"round_trials": 12}, 6),
        ({"round_trials": 3}, 2),
        ({"round_trials": 1}, 1),
        ({"budget": Budget(trials=5)}, 3),
        ({"budget": Budget(minutes=9.0)}, 5),
    ],
)
def test_no_more_proposals_are_accepted_than_the_next_round_runs(changes: dict[str, object], room: int) -> None:
    now = situation(**changes)
    many = [{**NEW, "rate": 0.012 * 1.25**i} for i in range(1, 9)]
    action, _ = verdicts(now, propose(*many))
    assert action.detail["configurations"] == many[:room]
    assert action.verdict == "repaired"


def test_of_several_proposals_one_is_taken_since_one_is_run() -> None:
    unusable, first, second, _ = verdicts(situation(), propose({}), propose(NEW), propose({**NEW, "layers": 1}))
    assert [a.verdict for a in (unusable, first, second)] == ["refused", "accepted", "refused"]
    assert "one propose" in second.verdict_reason


def test_a_proposal_does_not_keep_a_finalize_from_being_refused() -> None:
    refused, accepted, going_on = verdicts(situation(), {"type": "finalize"}, propose(NEW))
    assert (refused.verdict, accepted.verdict, going_on.type) == ("refused", "accepted", "continue")


def test_an_accepted_finalize_stands_alone() -> None:
    records = verdicts(situation(flat(PLATEAU)), {"type": "continue"}, {"type": "finalize"})
    assert [r.type for r in records if r.verdict == "accepted"] == ["continue", "finalize"]
    assert DecisionRecord(1, "llm", records).finalizes


def test_repeats_that_lower_the_best_trials_mean_make_no_plateau_at_once() -> None:
    """Else a model could end a search that still climbs: the older trial that then leads has many behind it."""
    trials = [trial(0, 0.7), *(trial(i, 0.5) for i in range(1, 45)), trial(45, 0.8)]
    repeats = [trial(46 + i, 0.4, params=trials[-1].params, kind="repeat") for i in range(2)]
    now = situation([], trials=(*trials, *repeats), usage=Usage(trials=48))
    assert now.goal.best(now.trials) == trials[0]
    assert plateau(now)[0] == 2
    assert verdicts(now, {"type": "finalize"})[0].verdict == "refused"
