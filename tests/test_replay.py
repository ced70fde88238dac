"""A study's decisions again, from its ledger: no model is asked, and the same assignments come of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli import main
from agentic_hpt.cli.run import _likeness_words
from agentic_hpt.coordinator.replay import ReplayCoordinator
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject, Trial, TrialState
from agentic_hpt.study import Study, replay_study, resume_study
from agentic_hpt.study.replaying import Likeness, compared
from agentic_hpt.testing import ScriptedChatModel, bowl, decide
from bridge_studies import SPACE as GATES_SPACE
from bridge_studies import Gates, Thinker, of_bridge
from bridge_studies import tune as tune_gates
from situations import NEW, situation
from study_runs import describe, drive

SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 10.0, default=5.0), y=hpt.Float(0.0, 10.0, default=5.0))
OBJECTIVE = bowl(x=1.25, y=8.5)
ANSWERS = [
    decide("propose", "begin here", configurations=[{"params": {"x": 1.0, "y": 8.0}}]),
    decide("continue"),
    decide("propose", "again", configurations=[{"params": {"x": 1.5, "y": 8.0}}, {"params": {"x": 1.0, "y": 8.0}}]),
    decide("finalize", "too early"),
    "no JSON at all",
]


def tune(home: Path, chat: ScriptedChatModel | str, **options: object) -> hpt.Result:
    described: dict[str, object] = {
        "study": "bowl",
        "budget": hpt.Budget(trials=30),
        "fresh_seeds": 1,
        "executor": "inline",
        "mlflow": {"enabled": False},
        **options,
    }
    return hpt.tune(OBJECTIVE, SPACE, metric="score", home=home, coordinator=chat, **described)  # type: ignore[arg-type]


def said(decisions: Sequence[DecisionRecord]) -> list[object]:
    return [
        (d.round, d.kind, d.fallback, d.bridged, [(a.type, a.reason, a.verdict, a.verdict_reason) for a in d.actions])
        for d in decisions
    ]


def test_the_rules_decide_as_they_did(home: Path) -> None:
    first = tune(home, "rules")
    again, likeness = replay_study("bowl", home=home, objective=OBJECTIVE)
    assert again.study == "bowl-replay"
    assert likeness.to_json() == {"assignments": True, "configurations": True, "difference": None}
    assert [(t.params, t.seed, t.values) for t in again.trials] == [(t.params, t.seed, t.values) for t in first.trials]
    assert said(again.decisions) == said(first.decisions)
    third, _ = replay_study("bowl", home=home, objective=OBJECTIVE)
    assert third.study == "bowl-replay-2"


def test_a_models_decisions_are_repeated_without_it(home: Path) -> None:
    first = tune(home, ScriptedChatModel(answers=ANSWERS))
    assert {a.type for d in first.decisions for a in d.actions} >= {"propose", "continue", "finalize"}
    assert any(d.kind == "llm" and d.round == 0 for d in first.decisions)
    again, likeness = replay_study("bowl", home=home, objective=OBJECTIVE, study="twin")
    assert likeness.difference == ""
    assert [t.params for t in again.trials] == [t.params for t in first.trials]
    assert [t.kind for t in again.trials].count("proposals") == [t.kind for t in first.trials].count("proposals") > 0
    assert said(again.decisions) == said(first.decisions)
    assert (again.usage.calls, again.usage.tokens) == (0, 0)
    assert {d.tokens for d in again.decisions} == {0}


@pytest.mark.parametrize("who", ["rules", "model", "person"])
def test_the_rules_workers_are_the_rules_again(home: Path, who: str) -> None:
    """What a model has earned bounds neither the rules' workers that stand beside its actions nor the rules alone."""
    chat = ScriptedChatModel(answers=[decide("continue")]) if who == "model" else "rules"
    approver = (lambda request: "approve") if who == "person" else None
    first = tune(home, chat, strategy="auto", budget=hpt.Budget(trials=60), approver=approver)
    spawned = [a for d in first.decisions for a in d.actions if a.type == "spawn" and a.verdict == "accepted"]
    assert len(spawned) > 4
    again, likeness = replay_study("bowl", home=home, objective=OBJECTIVE)
    assert likeness.difference == ""
    assert said(again.decisions) == said(first.decisions)
    assert [a.by for d in again.decisions for a in d.actions] == [a.by for d in first.decisions for a in d.actions]


def test_what_was_started_while_the_model_thought_is_started_again(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    first = tune_gates(
        monkeypatch,
        home,
        Gates(),
        lambda gates: Thinker(gates, lambda round_, g: len(g.ended) >= (3, 10)[min(round_, 1)]),
    )
    assert [d.bridged for d in first.decisions][:2] == [2, 4]
    monkeypatch.setattr("agentic_hpt.wiring.parts.make_executor", lambda *given: Gates())
    again, likeness = replay_study("study", home=home, objective=lambda params: 0.0)
    assert likeness.difference == ""
    assert [d.bridged for d in again.decisions] == [d.bridged for d in first.decisions]
    assert [t.params for t in again.trials] == [t.params for t in first.trials]
    assert len(of_bridge(again.trials)) == len(of_bridge(first.trials))
    assert set(GATES_SPACE.names) == set(again.trials[0].params)


def test_a_persons_words_are_repeated_and_nobody_is_asked(home: Path) -> None:
    def approver(request: JsonObject) -> object:
        action = {"type": "propose", "reason": "mine", "configurations": [{"params": {"x": 1.5, "y": 8.5}}]}
        answers: list[object] = [{"answer": "edit", "actions": [action]}, {"answer": "refuse", "comment": "no"}]
        return answers[int(str(request["round"]))] if int(str(request["round"])) < 2 else "approve"

    first = tune(home, "rules", approver=approver)
    assert [d.review for d in first.decisions][:3] == ["edit", "refuse: no", "approve"]
    again, likeness = replay_study("bowl", home=home, objective=OBJECTIVE)
    assert likeness.difference == ""
    assert said(again.decisions) == said(first.decisions)
    assert [d.review for d in again.decisions] == [d.review for d in first.decisions]


def test_a_replay_that_was_killed_goes_on_replaying(tmp_path: Path, home: Path) -> None:
    assert drive(describe(tmp_path), home).returncode == 0
    source = Study.open("study", home)
    config = source.config.from_mapping({**source.config.to_json(), "study": "twin"})
    Study.create(config, home=home, replays=source)
    killed = drive(None, home, "trial", 9, name="twin")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = resume_study("twin", home=home)
    assert compared(source.trials(), source.decisions(), result.trials).difference == ""


def test_a_study_without_a_usable_record_is_decided_by_the_rules_and_says_so() -> None:
    now = situation()
    for record, why in (
        ((), "the replayed record ends here"),
        ((DecisionRecord(1, "llm", (ActionRecord("continue", "on", (), "accepted", "fine"),)),), "does not hold"),
        (
            (DecisionRecord(1, "llm", (ActionRecord("bang", "on", (), "accepted", "", asked={"type": "bang"}),)),),
            "can't be read",
        ),
    ):
        decision = asyncio.run(ReplayCoordinator(record).decide(now))
        assert decision.kind == "rules"
        assert why in str(decision.fallback)


def test_where_a_study_went_on_behind_an_end_the_rules_stand_in_for_nobody() -> None:
    ended = ActionRecord("finalize", "all 6 trials are spent", (), "accepted", "", {"stopped_by": "budget.trials"})
    decision = asyncio.run(ReplayCoordinator([DecisionRecord(1, "policy", (ended,))]).decide(situation()))
    assert (decision.kind, decision.fallback, decision.finalizes) == ("rules", None, False)
    told = _likeness_words(Likeness(False, False, "round 2"), 1, changed=True)
    assert told.endswith("the study got another space or budget on its way, and is replayed as it is described now")


def test_the_guards_judge_what_was_asked_by_the_trials_that_are_there() -> None:
    asked: JsonObject = {"type": "propose", "reason": "r", "configurations": [{"params": NEW}]}
    action = ActionRecord("propose", "r", (), "accepted", "new", {"configurations": [NEW]}, asked)
    coordinator = ReplayCoordinator([DecisionRecord(1, "llm", (action,), bridged=2)])
    decision = asyncio.run(coordinator.decide(situation()))
    assert (decision.accepted("propose"), decision.bridged) != (None, 0)
    tried = situation()
    tried = replace(tried, trials=(*tried.trials[:-1], replace(tried.trials[-1], params=NEW)))
    assert asyncio.run(coordinator.decide(tried)).accepted("propose") is None
    over = asyncio.run(coordinator.decide(situation([0.95])))
    assert (over.kind, over.finalizes) == ("policy", True), "the policy comes first"


def made(number: int, round_: int = 1, worker: str = "x", **params: float) -> Trial:
    return Trial(number, params or {"x": 0.5}, TrialState.COMPLETE, 1, worker, "per_parameter", round_, ("x",))


def test_the_first_difference_is_named() -> None:
    decided = [DecisionRecord(1, "rules", ()), DecisionRecord(2, "rules", ())]
    first = [made(0), made(1, 2), made(2, 2, x=0.7)]
    assert compared(first, decided, first).difference == ""
    fewer = compared(first, decided, first[:2])
    assert not fewer.assignments
    assert fewer.difference == "round 2, worker x (per_parameter) of x: 2 trials, 1 when replayed"
    other = compared(first, decided, [*first[:2], made(2, 2, x=0.8)])
    assert (other.assignments, other.configurations) == (True, False)
    assert other.difference == "round 2, worker x (per_parameter) of x: its trial 2 has another configuration"
    assert compared(first, decided[:1], first[:1]).difference == "", "only what was decided is compared"


def test_the_command_line_replays_and_says_how_like_it_is(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(describe(tmp_path), home).returncode == 0
    assert main(["run", "--replay", "study", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("replay of study: the same assignments and the same configurations\n")
    assert main(["run", "--replay", "study", "--trials", "4", "--home", str(home)]) == 2
    assert "only --study, --fresh and --home go with it" in capsys.readouterr().err
    assert main(["run", "--replay", "nothing", "--home", str(home)]) == 2


def test_the_command_lines_json_holds_the_likeness(tmp_path: Path, home: Path) -> None:
    import subprocess
    import sys

    assert drive(describe(tmp_path), home).returncode == 0
    command = ["run", "--replay", "study", "--study", "twin", "--home", str(home), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "agentic_hpt.cli", *command], capture_output=True, text=True, timeout=120, check=True
    )
    document = json.loads(done.stdout)
    assert document["study"] == "twin"
    assert document["replay"] == {
        "of": "study",
        "assignments": True,
        "configurations": True,
        "difference": None,
        "in_words": "the same assignments and the same configurations",
    }


@pytest.mark.parametrize(("parallel", "why"), [(1, ""), (2, "; with 2 trials at a time results came in another order")])
def test_other_assignments_are_said_first_and_in_the_exit_code(
    parallel: int,
    why: str,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The replay finds another number of trials in its first round."""
    from agentic_hpt.study import faces

    def other(first: Sequence[Trial], decided: Sequence[DecisionRecord], again: Sequence[Trial]) -> Likeness:
        return compared(first, decided, [t for t in again if t.id])

    changes = {"parallel": parallel} | ({"executor": "processes"} if parallel > 1 else {})
    assert drive(describe(tmp_path, **changes), home).returncode == 0
    monkeypatch.setattr(faces, "compared", other)
    assert main(["run", "--replay", "study", "--home", str(home)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("replay of study: OTHER ASSIGNMENTS: it differs first in round 1, worker ")
    assert said[0].endswith(f"1 trials, 0 when replayed{why}")
    assert said[1].startswith("study study-replay: finalized"), "the result follows"


def test_other_configurations_in_the_same_assignments_are_said_and_no_failure(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentic_hpt.study import faces

    assert drive(describe(tmp_path), home).returncode == 0
    monkeypatch.setattr(faces, "compared", lambda *given: Likeness(True, False, "round 1, worker x"))
    assert main(["run", "--replay", "study", "--home", str(home)]) == 0
    assert "the same assignments, but other configurations: it differs first in round 1" in capsys.readouterr().out
