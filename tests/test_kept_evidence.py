"""What a decision rests on is kept beside it, and the calls of the model too; both can be looked at afterwards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.evidence import build_evidence, evidence_id, kept, render
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.protocols import Situation, TrialHandle
from agentic_hpt.records import JsonObject, ParamValue, Trial
from agentic_hpt.study import Study
from agentic_hpt.study.looping import Approver
from agentic_hpt.testing import ScriptedChatModel, bowl, decide
from situations import situation

SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 10.0, default=5.0), y=hpt.Float(0.0, 10.0, default=5.0))
BOWL = bowl(x=1.25, y=8.5)


def tune(home: Path, chat: ScriptedChatModel | str, approver: Approver | None = None, **options: object) -> hpt.Result:
    described: dict[str, object] = {
        "study": "bowl",
        "budget": hpt.Budget(trials=12),
        "trials_per_round": 4,
        "fresh_seeds": 0,
        "executor": "inline",
        "mlflow": {"enabled": False},
        **options,
    }
    return hpt.tune(BOWL, SPACE, metric="score", home=home, coordinator=chat, approver=approver, **described)  # type: ignore[arg-type]


def told(capfd: pytest.CaptureFixture[str], home: Path, *arguments: str, code: int = 0) -> str:
    """Call `hpt decisions`. With `--json` it claims stdout for good: it is given back."""
    stdout, descriptor = sys.stdout, os.dup(1)
    try:
        assert main(["decisions", "bowl", "--home", str(home), *arguments]) == code
    finally:
        sys.stdout.flush()
        sys.stdout = stdout
        os.dup2(descriptor, 1)
        os.close(descriptor)
    said = capfd.readouterr()
    return said.out if code == 0 else said.err


def evidence_of(home: Path, round_: int) -> JsonObject:
    found = Study.open("bowl", home).evidence(round_)
    assert found is not None
    return found


def test_each_decision_of_the_rules_has_its_evidence_without_asking_what_matters(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a fixed strategy under rules pays for no insights")

    monkeypatch.setattr("agentic_hpt.strategies.per_parameter.insights_of", never, raising=False)
    monkeypatch.setattr("agentic_hpt.strategies.insights.insights_of", never)
    result = tune(home, "rules", strategy="joint")
    assert [d.kind for d in result.decisions] == ["rules", "rules", "policy"]
    for decision in result.decisions:
        evidence = evidence_of(home, decision.round)
        assert evidence_id(evidence) == decision.evidence_id != ""
        assert evidence["round"] == decision.round
        rows = cast(dict[str, list[list[object]]], evidence["trials"])["rows"]
        assert [row[0] for row in rows] == [t.id for t in result.trials if t.round <= decision.round]
        assert str(evidence["insights"]).startswith("not worked out")
        assert decision.shown == {}, "it is kept, not carried"


def test_what_a_model_saw_is_what_is_kept(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("continue"), RuntimeError("no answer"), decide("continue")])
    result = tune(home, chat)
    calls = Study.open("bowl", home).calls()
    assert [d.kind for d in result.decisions[:3]] == ["llm", "rules", "llm"]
    for decision in result.decisions[:3]:
        evidence = evidence_of(home, decision.round)
        mine = [call for call in calls if call.round == decision.round]
        assert {call.evidence_id for call in mine} == {decision.evidence_id, evidence_id(evidence)}
        if decision.round:
            assert all(render(evidence) in call.prompt for call in mine)


def test_a_model_that_was_shown_something_else_is_told_of_as_it_was(home: Path) -> None:
    def worse(true: Situation) -> Situation:
        return replace(true, trials=tuple(replace(t, values={"score": -77.0}) for t in true.trials))

    config = StudyConfig.from_mapping(
        {
            "study": "bowl",
            "metric": "score",
            "space": SPACE,
            "coordinator": "openai:none",
            "budget": {"trials": 8},
            "trials_per_round": 4,
            "fresh_seeds": 0,
            "executor": "inline",
            "mlflow": {"enabled": False},
        }
    )
    chat = ScriptedChatModel(answers=[decide("continue")])
    Study.create(config, home=home).run(objective=FunctionObjective(BOWL), chat_model=chat, seen=worse)
    assert "-77" in render(evidence_of(home, 1))


def test_a_person_who_decides_leaves_what_the_person_was_shown(home: Path) -> None:
    asked: list[JsonObject] = []

    def approver(request: JsonObject) -> object:
        asked.append(request)
        if len(asked) == 1:
            return "nonsense"
        return {"answer": "edit", "actions": [{"type": "continue", "reason": "on"}]} if len(asked) == 2 else "approve"

    result = tune(home, "rules", approver=approver)
    reviewed = [d for d in result.decisions if d.review]
    assert [d.kind for d in reviewed][:2] == ["person", "rules"]
    assert asked[0]["evidence"] == asked[1]["evidence"], "a slip changes nothing of the question"
    for decision, request in zip(reviewed, asked[1:], strict=True):
        assert request["evidence"] == render(evidence_of(home, decision.round))
        assert decision.evidence_id == evidence_id(evidence_of(home, decision.round))


def test_a_models_decision_that_a_person_approves_keeps_what_the_model_saw(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("continue")])
    result = tune(home, chat, approver=lambda request: "approve")
    calls = {call.round: call.evidence_id for call in Study.open("bowl", home).calls()}
    approved = [d for d in result.decisions if d.kind == "llm"]
    assert len(approved) > 1
    for decision in approved:
        assert decision.evidence_id == calls[decision.round] == evidence_id(evidence_of(home, decision.round))


def test_a_replay_has_evidence_of_its_own(home: Path) -> None:
    tune(home, ScriptedChatModel(answers=[decide("continue")]))
    first = Study.open("bowl", home)
    again = Study.create(replace_name(first.config, "again"), home=home, replays=first)
    result = again.run(objective=FunctionObjective(BOWL))
    assert [d.round for d in result.decisions] == [d.round for d in first.decisions()]
    for decision in result.decisions:
        own = again.evidence(decision.round)
        assert own is not None
        assert (own["study"], evidence_id(own)) == ("again", decision.evidence_id)
    assert again.calls() == []


def replace_name(config: StudyConfig, name: str) -> StudyConfig:
    return StudyConfig.from_mapping({**config.to_json(), "study": name})


def test_secrets_and_paths_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-hunter2")
    told = build_evidence(situation(description="key hunter2-hunter2, data in /home/me/private/data.csv"))
    clean = kept(told)
    assert clean["description"] == "key ***, data in .../data.csv"
    assert clean == {**told, "description": clean["description"]}, "nothing else is touched"


def test_the_evidence_of_a_decision_is_shown(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = tune(home, "rules")
    for flags, decision in ((("--evidence", "1"), result.decisions[0]), (("--evidence",), result.decisions[-1])):
        document = json.loads(told(capfd, home, *flags, "--json"))
        assert document == {
            "round": decision.round,
            "by": decision.kind,
            "evidence_id": decision.evidence_id,
            "evidence": evidence_of(home, decision.round),
        }
    said = told(capfd, home, "--evidence", "1")
    assert said.startswith(f"after round 1 the rules decided on the evidence {result.decisions[0].evidence_id}:")
    assert render(evidence_of(home, 1)) in said
    assert "there is no decision after round 77" in told(capfd, home, "--evidence", "77", code=2)
    assert "ask for one of them" in told(capfd, home, "--evidence", "--calls", code=2)
    assert told(capfd, home, "--calls") == "no model was called\n"


def test_the_calls_of_the_model_are_listed(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tune(home, ScriptedChatModel(answers=["no json", decide("continue", "go\x07 on")]))
    calls = Study.open("bowl", home).calls()
    assert [call.purpose for call in calls[:2]] == ["decide", "repair"]
    assert json.loads(told(capfd, home, "--calls", "--json")) == {
        "calls": json.loads(json.dumps([asdict(c) for c in calls]))
    }
    said = told(capfd, home, "--calls")
    lines = said.splitlines()
    assert len(lines) == 1 + len(calls)
    for call, line in zip(calls, lines[1:], strict=True):
        assert all(
            part in line for part in (call.input_hash[:8], call.evidence_id[:8], call.prompt_version, call.purpose)
        )
    assert "continue: accepted" in lines[2]
    assert "\x07" not in said


def test_of_a_decision_from_before_evidence_was_kept_that_is_said(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(home, "rules")
    monkeypatch.setattr(Study, "evidence", lambda self, round_: None)
    assert "the evidence was not kept" in told(capfd, home, "--evidence")
    assert json.loads(told(capfd, home, "--evidence", "--json"))["evidence"] is None


def with_curve(params: Mapping[str, ParamValue], trial: TrialHandle) -> dict[str, float]:
    score = -sum((float(cast(float, value)) - 3.0) ** 2 for value in params.values())
    for step in range(12):
        trial.report({"score": score - (11 - step)}, step=step)
    return {"score": score}


def test_with_mlflow_on_learning_curves_are_in_the_evidence_too(home: Path) -> None:
    """What is read back from MLflow has none: they are the ledger's."""
    situations: list[Situation] = []

    def seen(true: Situation) -> Situation:
        situations.append(true)
        return true

    config = StudyConfig.from_mapping(
        {
            "study": "bowl",
            "metric": "score",
            "space": SPACE,
            "coordinator": "openai:none",
            "budget": {"trials": 8},
            "trials_per_round": 4,
            "fresh_seeds": 0,
            "pruner": "none",
            "executor": "inline",
        }
    )
    chat = ScriptedChatModel(answers=[decide("continue")])
    study = Study.create(config, home=home)
    result = study.run(objective=FunctionObjective(with_curve), chat_model=chat, seen=seen)
    known: dict[int, Trial] = {t.id: t for t in result.trials}
    (after,) = [s for s in situations if s.round == 1]
    assert after.source == "mlflow"
    assert [t.reports for t in after.trials] == [known[t.id].reports for t in after.trials]
    assert all(len(t.reports) == 12 for t in after.trials)
    curves = cast(list[JsonObject], evidence_of(home, 1)["curves"])
    assert {curve["of"] for curve in curves} >= {"best"}
    assert all(len(cast(list[object], curve["points"])) == 8 for curve in curves)

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("bowl")
    assert experiment is not None
    logged = client.search_runs([experiment.experiment_id], filter_string="tags.`hpt.key` = 'decision/1'")
    files = {file.path for file in client.list_artifacts(logged[0].info.run_id)}
    assert files == {"decision.json", "evidence.json", "calls.json", "prompt.txt", "answer.txt"}
    held = json.loads(Path(client.download_artifacts(logged[0].info.run_id, "evidence.json")).read_text())
    assert held == evidence_of(home, 1)
