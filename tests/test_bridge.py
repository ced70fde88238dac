"""Hardware does not idle: trials go on while stragglers finish and while a model thinks, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.errors import LedgerError
from agentic_hpt.graph import StudyParts, bridging
from agentic_hpt.ledger import StudyLedger
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Assignment,
    DecisionRecord,
    Job,
    JsonObject,
    Outcome,
    Report,
    Trial,
    TrialState,
)
from agentic_hpt.strategies import Joint
from agentic_hpt.study import Study
from bridge_studies import Gates, Thinker, Told, of_bridge, tune


def workers(events: list[JsonObject], round_: int) -> list[tuple[object, object]]:
    event = next(e for e in events if e["type"] == "round" and e["round"] == round_)
    assert isinstance(event["workers"], list)
    return [(w["worker"], w["trials"]) for w in event["workers"]]


def test_a_model_that_thinks_does_not_stop_trials(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """After round 1 the model answers only when four more trials have ended: without a bridge that would be never."""
    events: list[JsonObject] = []
    result = tune(
        monkeypatch,
        home,
        Gates(),
        lambda gates: Thinker(gates, lambda round_, g: round_ != 1 or len(g.ended) >= 10),
        events,
    )
    assert [d.bridged for d in result.decisions][:2] == [0, 4]
    bridge = of_bridge(result.trials)
    assert [(t.round, t.worker, t.state) for t in bridge][:4] == [(2, "bridge", TrialState.COMPLETE)] * 4
    assert workers(events, 2) == [("bridge", 4), ("joint", 3)], "half a round stays, whatever the bridge has taken"
    assert len(result.trials) == 20
    assert result.stopped_by == "budget.trials"


def test_before_the_first_round_the_default_goes_first_and_its_worker_finds_it(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    events: list[JsonObject] = []
    result = tune(
        monkeypatch,
        home,
        Gates(),
        lambda gates: Thinker(gates, lambda round_, g: round_ > 0 or len(g.ended) >= 3),
        events,
    )
    first = result.trials[:3]
    assert [(t.kind, t.worker, t.round, t.attempt) for t in first] == [
        ("default", "default", 1, 1),
        ("bridge", "bridge", 1, 1),
        ("bridge", "bridge", 1, 1),
    ]
    assert result.decisions[0].round == 0
    assert result.decisions[0].bridged == 2
    assert workers(events, 1) == [("bridge", 2), ("default", 1), ("joint", 3)]
    assert result.to_json()["rounds"] == len(result.decisions) - 1
    assert len({t.id for t in result.trials}) == len(result.trials) == 20


def test_a_bridge_has_at_most_one_rounds_trials(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The model answers when the bridge has nothing more to start."""
    loops: list[asyncio.AbstractEventLoop] = []
    spent = asyncio.Event()
    sound = bridging._next_trials

    def watched(parts: StudyParts, round_: int, limit: int | None, count: int) -> list[Trial]:
        found = sound(parts, round_, limit, count)
        if not found:
            loops[0].call_soon_threadsafe(spent.set)
        return found

    class Waiting(Thinker):
        async def decide(self, situation: Situation) -> DecisionRecord:
            loops.append(asyncio.get_running_loop())
            if situation.round == 1:
                await asyncio.wait_for(spent.wait(), 30)
            return await super().decide(situation)

    monkeypatch.setattr(bridging, "_next_trials", watched)
    result = tune(monkeypatch, home, Gates(), lambda gates: Waiting(gates, lambda round_, g: True))
    assert result.decisions[1].bridged == 6


def bridge_first(monkeypatch: pytest.MonkeyPatch, actions: tuple[ActionRecord, ...]) -> Callable[[Gates], Thinker]:
    """Give a coordinator that takes `actions` after round 1, and thinks until the bridge has nothing more to start."""
    loops: list[asyncio.AbstractEventLoop] = []
    spent = asyncio.Event()
    sound = bridging._next_trials

    def watched(parts: StudyParts, round_: int, limit: int | None, count: int) -> list[Trial]:
        found = sound(parts, round_, limit, count)
        if not found and round_ == 1:
            loops[0].call_soon_threadsafe(spent.set)
        return found

    class Waiting(Thinker):
        async def decide(self, situation: Situation) -> DecisionRecord:
            loops.append(asyncio.get_running_loop())
            self._actions = actions if situation.round == 1 else ()
            if situation.round == 1:
                await asyncio.wait_for(spent.wait(), 30)
            return await super().decide(situation)

    monkeypatch.setattr(bridging, "_next_trials", watched)
    return lambda gates: Waiting(gates, lambda round_, g: True)


PROPOSED = [{"x": 0.11, "y": 0.12}, {"x": 0.21, "y": 0.22}, {"x": 0.31, "y": 0.32}]
ACCEPTED = (
    ActionRecord("propose", "new", (), "accepted", "new", {"configurations": PROPOSED}),
    ActionRecord("repeat", "luck?", (), "accepted", "complete", {"trial": 0, "seeds": 1}),
    ActionRecord(
        "spawn",
        "near",
        (),
        "accepted",
        "tuned",
        {"worker": "group", "parameters": ["x", "y"], "trials": 2, "region": {}},
    ),
)


def test_all_that_the_guards_accepted_runs_however_much_the_bridge_took(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """The bridge takes a whole round of six; three proposals, a repeat and a worker of two trials are six more."""
    events: list[JsonObject] = []
    result = tune(monkeypatch, home, Gates(), bridge_first(monkeypatch, ACCEPTED), events, budget=hpt.Budget(trials=40))
    assert result.decisions[1].bridged == 6
    assert workers(events, 2) == [("bridge", 6), ("proposals", 3), ("repeat-0", 1), ("group-1", 2)]
    ran = [dict(t.params) for t in result.trials if t.kind == "proposals"]
    assert ran == PROPOSED


def test_beside_limits_too_all_that_was_accepted_runs(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The guards leave a place outside the limits: five trials of six were accepted."""
    narrowed = {"parameter": "x", "range": {"low": 0.0, "high": 0.5}}
    narrow = ActionRecord("narrow", "there", (), "accepted", "fine", narrowed)
    events: list[JsonObject] = []
    actions = (narrow, *ACCEPTED[:1], ACCEPTED[2])
    result = tune(monkeypatch, home, Gates(), bridge_first(monkeypatch, actions), events, budget=hpt.Budget(trials=40))
    assert result.decisions[1].bridged == 6
    assert workers(events, 2) == [("bridge", 6), ("proposals", 3), ("outside", 1), ("group-1", 2)]


def test_the_bridge_leaves_a_decision_the_trials_that_the_guards_saw(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Of nine trials three are left when the question is put: they are the decision's."""
    propose = bridge_first(monkeypatch, ACCEPTED[:1])
    result = tune(monkeypatch, home, Gates(), propose, budget=hpt.Budget(trials=9))
    assert [(t.round, t.kind) for t in result.trials[6:]] == [(2, "proposals")] * 3
    assert [dict(t.params) for t in result.trials[6:]] == PROPOSED
    assert result.stopped_by == "budget.trials"


def test_a_straggler_leaves_no_slot_idle(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The last trial of round 1 ends only when three trials of round 2 have begun; the rules decide."""
    events: list[JsonObject] = []
    gates = Gates(2, held=lambda trial, begun: trial == 5 and begun < 9)
    result = tune(monkeypatch, home, gates, None, events)
    early = [t for t in of_bridge(result.trials) if t.round == 2]
    assert len(early) >= 3
    assert result.decisions[0].round == 1
    assert result.decisions[0].bridged == len(early)
    assert workers(events, 2)[0] == ("bridge", len(early))
    assert gates.most == 2
    assert len(result.trials) == 20
    assert sorted(gates.begun) == list(range(20)), "each trial ran once"


def test_a_straggler_that_takes_as_long_as_several_rounds_leaves_no_slot_idle(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """The last trial of round 1 ends only when more trials have begun behind it than a round has."""
    gates = Gates(2, held=lambda trial, begun: trial == 5 and begun < 16)
    result = tune(monkeypatch, home, gates, None)
    early = [t for t in of_bridge(result.trials) if t.round == 2]
    assert len(early) > 6, "a round has six"
    assert result.decisions[0].bridged == len(early)
    assert sorted(gates.begun) == list(range(20)), "each trial ran once"


def test_one_slot_and_rules_have_no_bridge(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    asked: list[object] = []
    sound = Joint.bridge
    monkeypatch.setattr(Joint, "bridge", lambda self, now: asked.append(now) or sound(self, now))
    result = tune(monkeypatch, home, Gates())
    assert not of_bridge(result.trials)
    assert asked == []
    assert {d.bridged for d in result.decisions} == {0}


def test_at_the_target_nothing_more_is_started(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The straggler waits for two further trials to have begun; when one has reached the target, none does."""
    gates = Gates(2)
    gates._held = lambda trial, begun: trial == 5 and len(gates.ended) < 5
    result = tune(monkeypatch, home, gates, target=-10.0, trials_per_round=6)
    assert result.stopped_by == "target"
    assert len(result.trials) == 6
    assert not of_bridge(result.trials)


def test_a_bridge_that_has_started_is_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The budget ends in the bridge: its trials are under way when the search is over, and count."""
    gates = Gates(3, held=lambda trial, begun: trial == 5 and begun < 8)
    result = tune(monkeypatch, home, gates, budget=hpt.Budget(trials=8))
    assert result.status == "finalized"
    assert [t.kind for t in result.trials[6:]] == ["bridge", "bridge"]
    assert all(t.finished for t in result.trials)
    assert len(result.decisions) == 1
    assert result.final is not None
    assert result.best is not None
    assert result.final.trial == result.best.id


def test_what_runs_is_seen_with_its_reports_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """While round 1's decision is taken the bridge's trial 7 hangs; the next decision sees it, and ends it."""
    stop = ActionRecord("stop_trial", "poor", (7,), "accepted", "it runs", {"trial": 7}, {"type": "stop_trial"})

    class Stopper(Thinker):
        async def decide(self, situation: Situation) -> DecisionRecord:
            self._actions = (stop,) if situation.round == 1 else ()
            return await super().decide(situation)

    made: list[Stopper] = []

    def thinker(gates: Gates) -> Thinker:
        made.append(Stopper(gates, lambda round_, g: round_ != 1 or len(g.begun) >= 8))
        return made[0]

    gates = Gates()
    decided = Told(gates)
    gates._held = lambda trial, begun: trial == 7 and not any(e["type"] == "decision" and e["round"] for e in decided)
    result = tune(monkeypatch, home, gates, thinker, decided)
    stopped = next(t for t in result.trials if t.id == 7)
    assert (stopped.state, stopped.message) == (TrialState.PRUNED, "stopped by the coordinator")
    assert [t.state for t in result.trials].count(TrialState.PRUNED) == 1


def test_trials_under_way_are_in_the_situation_with_their_reports(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    made: list[Thinker] = []

    def thinker(gates: Gates) -> Thinker:
        made.append(Thinker(gates, lambda round_, g: True))
        return made[0]

    reporting: list[int] = []

    class Chatty(Gates):
        async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
            if job.trial >= 6 and not reporting:
                reporting.append(job.trial)
                on_report(Report(3, {"score": -9.0}))
                await self.tell()
                await self.wait(lambda: len(made[0].seen) >= 2)
            return await super().run(job, on_report)

    gates = Chatty(2)
    gates._held = lambda trial, begun: trial == 5 and not reporting
    tune(monkeypatch, home, gates, thinker)
    seen = {now.round: now for now in made[0].seen}
    (running,) = seen[1].running
    assert (running.id, running.kind, running.round, running.state) == (reporting[0], "bridge", 2, TrialState.RUNNING)
    assert [(r.step, dict(r.metrics)) for r in running.reports] == [(3, {"score": -9.0})]
    assert running.id not in [t.id for t in seen[1].trials]
    assert seen[0].running == ()


def test_an_error_of_the_ledger_in_the_bridge_ends_the_study_though_the_model_never_answers(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    sound = StudyLedger.finish_many

    def broken(self: StudyLedger, ends: Sequence[tuple[int, int, Outcome]]) -> list[Trial]:
        if any(self.trial(number).kind == "bridge" for number, _, _ in ends):
            raise LedgerError("the disk is full")
        return sound(self, ends)

    monkeypatch.setattr(StudyLedger, "finish_many", broken)
    with pytest.raises(LedgerError, match="the disk is full"):
        tune(monkeypatch, home, Gates(), lambda gates: Thinker(gates, lambda round_, g: round_ != 1))
    monkeypatch.undo()
    study = Study.open("study", home)
    assert study.status == "stopped"
    assert [t.state for t in study.trials()].count(TrialState.RUNNING) == 1


def test_an_objective_that_is_refused_while_the_model_thinks_ends_the_study_at_once(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    class Useless(Gates):
        async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
            return Outcome.failed(hpt.FailureKind.INVALID_OUTPUT, "it answers nothing")

    with pytest.raises(hpt.ConfigError, match="first answer can't be used"):
        tune(monkeypatch, home, Useless(), lambda gates: Thinker(gates, lambda round_, g: False))
    assert hpt.list_studies(home) == [], "the name stays free"


def test_a_strategy_that_fails_costs_the_bridge_only(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def broken(self: Joint, situation: object) -> Assignment:
        raise RuntimeError("no sampler for this")

    monkeypatch.setattr(Joint, "bridge", broken)
    gates = Gates(2)
    events = Told(gates)
    gates._held = lambda trial, begun: trial == 5 and not any("no sampler" in str(e.get("text")) for e in events)
    result = tune(monkeypatch, home, gates, None, events)
    assert result.status == "finalized"
    assert len(result.trials) == 20
    assert not of_bridge(result.trials)


def test_an_executor_that_can_not_begin_is_told_of_while_the_model_thinks(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    class Broken(Gates):
        async def start(self) -> None:
            raise RuntimeError("no room for processes")

    gates = Broken()
    events = Told(gates)
    with pytest.raises(hpt.HptError, match="no room for processes"):
        tune(
            monkeypatch,
            home,
            gates,
            lambda g: Thinker(g, lambda round_, _: any("stay idle in round 0" in str(e.get("text")) for e in events)),
            events,
        )


def test_a_plan_is_the_same_when_it_is_made_again(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The node that plans may run again after a kill, when trials of its round are reserved already."""
    from agentic_hpt.graph import nodes

    plans: list[tuple[int, list[Assignment]]] = []
    sound = nodes._plan

    def planned(parts: StudyParts, round_: int) -> list[Assignment]:
        for earlier in range(round_):
            if earlier in [r for r, _ in plans]:
                assert sound(parts, earlier) == next(p for r, p in plans if r == earlier)
        plans.append((round_, sound(parts, round_)))
        return plans[-1][1]

    monkeypatch.setattr(nodes, "_plan", planned)
    result = tune(
        monkeypatch,
        home,
        Gates(),
        lambda gates: Thinker(gates, lambda round_, g: len(g.ended) >= (0, 8, 14)[min(round_, 2)]),
    )
    assert len(plans) >= 3
    assert len(of_bridge(result.trials)) >= 2


def test_what_the_bridge_tried_meanwhile_is_not_tried_again_for_the_model(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """The model proposes all that is left of a small space, while the bridge takes two configurations of it."""
    space = hpt.SearchSpace(a=hpt.Int(1, 3), b=hpt.Int(1, 3))
    grid = [{"a": a, "b": b} for a in (1, 2, 3) for b in (1, 2, 3)]

    class Greedy(Thinker):
        async def decide(self, situation: Situation) -> DecisionRecord:
            tried = [dict(t.params) for t in situation.trials]
            left = {"configurations": [params for params in grid if params not in tried]}
            self._actions = (
                (ActionRecord("propose", "all", (), "accepted", "new", left),) if situation.round == 1 else ()
            )
            return await super().decide(situation)

    monkeypatch.setattr("bridge_studies.SPACE", space)
    result = tune(
        monkeypatch,
        home,
        Gates(),
        lambda gates: Greedy(gates, lambda round_, g: round_ != 1 or len(g.ended) >= 5),
        trials_per_round=3,
    )
    assert result.decisions[1].bridged == 2
    tried = [tuple(t.params.items()) for t in result.trials]
    assert len(tried) == len(set(tried)) == 9
    assert [t.kind for t in result.trials].count("proposals") >= 1


def test_trials_of_another_study_that_reach_the_target_do_not_end_this_one_before_it_began(
    monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    import optuna

    storage = f"sqlite:///{tmp_path}/earlier.db"
    earlier = optuna.create_study(storage=storage, study_name="earlier", direction="maximize")
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    params = {"x": 0.1, "y": 0.1}
    distributions = dict.fromkeys(params, distribution)
    earlier.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=5.0))
    source = {"storage": storage, "study": "earlier"}
    result = tune(
        monkeypatch, home, Gates(), lambda gates: Thinker(gates, lambda r, g: True), target=1.0, import_optuna=source
    )
    assert (result.status, result.stopped_by) == ("finalized", "target")
    assert [d.round for d in result.decisions] == [1]
    assert any(t.kind == "default" for t in result.trials)


def test_a_resumed_study_still_ends_the_trials_that_a_decision_ended() -> None:
    from agentic_hpt.graph.context import stopped_trials

    accepted = ActionRecord("stop_trial", "poor", (), "accepted", "it runs", {"trial": 4})
    refused = ActionRecord("stop_trial", "poor", (), "refused", "it does not run")
    assert stopped_trials([DecisionRecord(1, "llm", (accepted, refused))]) == {4}
