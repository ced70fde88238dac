"""A space that changes in mid-study: what earlier trials are in the new one, and how the study goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentic_hpt as hpt
from agentic_hpt.cli.app import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind, SpaceError, StudyBusy
from agentic_hpt.records import Trial
from agentic_hpt.refitting import Revision, changes, check_revision, refit
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace
from agentic_hpt.study import Study, resume_study
from agentic_hpt.study.revising import revised
from command_line import called
from study_runs import SPACE, describe, drive, finished

OLD = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True, default=1e-3),
    layers=Int(1, 9, step=2, default=3),
    opt=Choice(["adam", "sgd", "rms"]),
    momentum=Float(0.0, 0.9, default=0.5, when={"opt": "sgd"}),
)
TRIAL = {"lr": 0.01, "layers": 5, "opt": "sgd", "momentum": 0.8}


def changed(**parameters: Parameter | None) -> SearchSpace:
    held = {name: OLD[name] for name in OLD} | parameters
    return SearchSpace({name: parameter for name, parameter in held.items() if parameter is not None})


# -- what a trial is in another space ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "found"),
    [
        (changed(lr=Float(1e-3, 1e-1, log=True)), TRIAL),
        (changed(lr=Float(1e-6, 1.0, log=True)), TRIAL),
        (changed(lr=Float(0.02, 0.1)), None),
        (changed(lr=Choice([0.01])), TRIAL),
        (changed(lr=Choice([0.02])), None),
        (changed(layers=Int(1, 9, step=4)), TRIAL),
        (changed(layers=Int(2, 8, step=2)), None),
        (changed(opt=Choice(["sgd", "adamw"])), TRIAL),
        (changed(opt=Choice(["adam", "rms"]), momentum=None), None),
        (changed(momentum=None), None),
        (changed(momentum=Float(0.0, 0.9, default=0.5)), TRIAL),
        (changed(drop=Float(0.0, 0.5, default=0.2)), {**TRIAL, "drop": 0.2}),
        (changed(drop=Float(0.0, 0.5, default=0.2, when={"opt": "adam"})), TRIAL),
        (changed(layers=None), None),
    ],
)
def test_a_trial_is_kept_where_the_new_space_has_it(space: SearchSpace, found: dict[str, object] | None) -> None:
    assert refit(TRIAL, OLD, space) == found


def test_a_parameter_that_is_gone_was_at_its_default_in_the_trials_that_stay() -> None:
    without = changed(layers=None)
    assert refit({**TRIAL, "layers": 3}, OLD, without) == {k: v for k, v in TRIAL.items() if k != "layers"}
    assert refit({"lr": 0.01, "layers": 5, "opt": "adam"}, OLD, changed(momentum=None)) is not None, "it played no part"


def test_what_was_lost_comes_back_when_the_space_opens_again() -> None:
    narrow, wide = changed(lr=Float(0.05, 0.1)), changed(lr=Float(1e-5, 0.1, log=True))
    assert refit(TRIAL, OLD, narrow) is None
    assert refit(TRIAL, OLD, narrow, wide) == TRIAL
    assert refit(TRIAL, OLD, changed(layers=None), OLD) == TRIAL


def test_an_added_parameter_keeps_the_default_it_was_added_with() -> None:
    first = changed(drop=Float(0.0, 0.5, default=0.2))
    then = changed(drop=Float(0.0, 0.5, default=0.4))
    assert refit(TRIAL, OLD, first, then) == {**TRIAL, "drop": 0.2}
    assert refit(TRIAL, OLD, first, changed(drop=Float(0.3, 0.5, default=0.4))) is None


def test_constraints_decide_too() -> None:
    allowed, forbidden = OLD.constrained(["layers <= 5"]), OLD.constrained(["layers <= 3"])
    assert refit(TRIAL, OLD, allowed) == TRIAL
    assert refit(TRIAL, OLD, forbidden) is None


def numbers(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces over the same few names, so that one may follow another."""
    found: dict[str, Parameter] = {"a": Int(*draw(numbers(0, 6)))}
    if draw(st.booleans()):
        low, high = draw(numbers(0, 8))
        found["b"] = Float(low / 4, high / 4 + 0.25, step=0.25 if draw(st.booleans()) else None)
    values = draw(st.lists(st.sampled_from(["x", "y", "z", 1, True]), min_size=1, unique_by=repr))
    found["c"] = Choice(values, ordered=draw(st.booleans()))
    if draw(st.booleans()):
        found["d"] = Float(0.0, 1.0, when={"c": draw(st.sampled_from(values))} if draw(st.booleans()) else {})
    return SearchSpace(found)


@st.composite
def told(draw: st.DrawFn) -> tuple[list[SearchSpace], dict[str, object]]:
    made = draw(st.lists(spaces(), min_size=1, max_size=4))
    values: dict[str, object] = {}
    for name in made[0]:
        parameter = made[0][name]
        grid = parameter.grid()
        values[name] = draw(st.sampled_from(grid) if grid else st.floats(parameter.low, parameter.high))  # type: ignore[union-attr]
    return made, made[0].complete(values)  # type: ignore[arg-type,return-value]


@given(told())
def test_what_is_refit_is_always_a_configuration_of_the_last_space(case: tuple[list[SearchSpace], Mapping]) -> None:  # type: ignore[type-arg]
    made, params = case
    found = refit(params, *made)
    if found is not None:
        assert made[-1].contains(found)
        assert made[-1].validated(found) == found
        assert all(found[name] == params[name] for name in found if name in params and name in made[-1])


@given(spaces(), st.data())
def test_the_same_space_again_changes_nothing(space: SearchSpace, data: st.DataObject) -> None:
    params = space.complete({"a": data.draw(st.integers(space["a"].low, space["a"].high))})  # type: ignore[union-attr]
    assert refit(params, space) == refit(params, space, space) == space.validated(params)


# -- which changes are possible ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (OLD, "nothing was changed"),
        (SearchSpace(other=Float(0, 1)), "no parameter of the old one"),
        (changed(lr=Int(1, 5)), "'lr' can't become a int: it was a float"),
        (changed(lr=Choice([0.01, 5.0])), "'lr' can't become a choice"),
        (changed(lr=Float(1.0, 2.0)), "'lr' has no value in common"),
        (changed(opt=Choice(["adamw"]), momentum=None), "'opt' has no value in common"),
    ],
)
def test_an_impossible_change_is_refused(space: SearchSpace, words: str) -> None:
    with pytest.raises(SpaceError, match=words) as refused:
        check_revision(OLD, space)
    assert refused.value.hint


def test_a_change_is_told_in_words() -> None:
    new = changed(lr=Float(1e-3, 1e-2), momentum=None, drop=Float(0.0, 0.5, default=0.2)).constrained(["layers < 7"])
    assert changes(OLD, new) == [
        "drop added (0 to 0.5); it was 0.2 before",
        "momentum removed; it stays 0.5",
        "lr from 0.0001 to 0.1 to 0.001 to 0.01, log from True to False, default from 0.001 to None",
        "constraint 'layers < 7' added",
    ]
    regridded = changed(layers=Int(1, 9, step=4, default=5))
    assert changes(OLD, regridded) == ["layers step from 2 to 4, default from 3 to 5"]


def test_a_revision_survives_being_written_down() -> None:
    made = Revision(OLD, OLD.constrained(["layers < 7"]), 3, 20, "me@here", 12.5, "told")
    assert Revision.from_json(json.loads(json.dumps(made.to_json()))) == made


# -- a study that goes on ---------------------------------------------------------------------------------------------

NARROW = {**SPACE, "learning_rate": {"float": [1e-3, 1e-1], "log": True, "default": 1e-3}}
OUT_OF_NARROW = {"num_layers": 2, "learning_rate": 0.0005, "dropout": 0.1}
ADDED = {**SPACE, "warmup": {"int": [0, 5], "default": 2}}
KNOWS_NO_WARMUP = "def train(params, trial):\n    return {'score': -abs(params['dropout'] - 0.2)}\n"


def inside(trial: Trial, space: Mapping[str, object]) -> bool:
    return SearchSpace.from_json(space).contains(trial.params)


@pytest.mark.parametrize(
    ("event", "count", "strategy"),
    [("trial", 1, "auto"), ("trial", 8, "per_parameter"), ("decision", 1, "auto"), ("round", 2, "per_parameter")],
)
def test_a_study_goes_on_in_its_revised_space(
    tmp_path: Path, home: Path, event: str, count: int, strategy: str
) -> None:
    described = describe(tmp_path, strategy=strategy, trials_per_round=5)
    assert drive(described, home, event, count).returncode == -signal.SIGKILL
    before = finished(home)
    events: list[dict[str, object]] = []

    result = resume_study("study", home=home, space=NARROW, listener=events.append)

    assert result.status == "finalized"
    assert result.usage.trials == 20, "the budget stays what it was"
    assert all(inside(trial, NARROW) for trial in result.trials)
    kept = [n for n, (params, *_) in before.items() if SearchSpace.from_json(NARROW).contains(params)]
    after = finished(home)
    assert {number: after[number] for number in kept} == {number: before[number] for number in kept}
    assert set(before) - set(kept) <= {t.id for t in Study.open("study", home)._ledger().outside()}
    assert result.best is not None
    assert inside(result.best, NARROW)
    assert any("the space was revised" in str(e.get("text")) for e in events)


def test_an_added_parameter_is_tuned_and_the_best_trial_stays_the_best(tmp_path: Path, home: Path) -> None:
    drive(describe(tmp_path, strategy="joint", trials_per_round=6), home, "decision", 1)
    best = Study.open("study", home).best()
    assert best is not None

    study = Study.open("study", home)
    made = study.revise(ADDED)
    assert made.told.startswith("warmup added (0 to 5); it was 2 before. 6 of 6 trials are of use")
    again = Study.open("study", home)
    assert again.best() is not None
    assert {t.params["warmup"] for t in again.trials()} == {2}
    assert (again.best().id, again.best().params) == (best.id, {**best.params, "warmup": 2})  # type: ignore[union-attr]

    result = study.run()
    assert {t.params["warmup"] for t in result.trials if t.id >= 6} > {2}
    assert min(t.round for t in result.trials if t.id >= 6) == 3, "after the one with the decision that is void"


def test_trials_that_had_not_ended_are_given_up(tmp_path: Path, home: Path) -> None:
    drive(describe(tmp_path), home, "trial_started", 4)
    study = Study.open("study", home)
    study.revise(ADDED)
    unfinished = study.trials()[3]
    assert (unfinished.failure, unfinished.attempt) == (FailureKind.CANCELLED, 2)
    assert "revised" in unfinished.message
    assert study.run().usage.trials == 20


def test_a_limit_of_the_old_space_binds_the_new_one_no_more(tmp_path: Path, home: Path) -> None:
    from agentic_hpt.records import ActionRecord, DecisionRecord

    drive(describe(tmp_path, trials_per_round=6), home, "decision", 1)
    study = Study.open("study", home)
    frozen = ActionRecord(
        "freeze", "", (), "accepted", "", {"parameter": "num_layers", "range": {"values": [2]}, "value": 2}
    )
    narrowed = ActionRecord(
        "narrow", "", (), "accepted", "", {"parameter": "dropout", "range": {"low": 0.0, "high": 0.1}}
    )
    study._ledger().record_decision(DecisionRecord(2, "person", (frozen, narrowed)))
    smaller = {name: SPACE[name] for name in ("num_layers", "learning_rate")}
    result = None
    study.revise({**smaller, "num_layers": {"int": [3, 6], "default": 4}})
    result = study.run()
    assert result.status == "finalized"
    assert {t.params["num_layers"] for t in result.trials} <= {3, 4, 5, 6}
    assert len({t.params["num_layers"] for t in result.trials}) > 1
    assert "dropout" not in result.trials[-1].params
    assert study.effects() == () or all(e.parameter != "dropout" for e in study.effects())
    assert result.report(tmp_path / "report.html").is_file()
    assert main(["explain", "study", "--home", str(home)]) == 0


def test_a_study_whose_decisions_are_asked_for_goes_on_in_its_revised_space(tmp_path: Path, home: Path) -> None:
    from agentic_hpt.records import ActionRecord, DecisionRecord

    described = describe(tmp_path, trials_per_round=4, strategy="joint", budget={"trials": 6}, fresh_seeds=0)
    study = Study.create(StudyConfig.from_mapping({**described, "coordinator": {"approve": True}}), home=home)
    study.ask()
    study.close()
    frozen = ActionRecord("freeze", "", (), "accepted", "", {"parameter": "dropout", "range": {"values": [0.1]}})
    study._ledger().record_decision(DecisionRecord(0, "person", (frozen,)))
    asked: list[object] = []

    def person(request: Mapping[str, object]) -> str:
        asked.append(request["round"])
        return "approve"

    result = resume_study("study", home=home, space=ADDED, approver=person)

    assert (result.stopped_by, result.usage.trials) == ("budget.trials", 6)
    assert asked == [1, 2], "what comes first in the new space is asked for, too"
    assert result.to_json()["rounds"] == 2, "the decision that opened the space came behind none"
    page = result.report(tmp_path / "report.html").read_text()
    assert "lifted when the space was revised" in page
    assert "none of them stands" in page


def test_a_space_can_be_revised_again_and_brings_trials_back(tmp_path: Path, home: Path) -> None:
    drive(describe(tmp_path, strategy="joint"), home, "decision", 1)
    study = Study.open("study", home)
    ran = len(study.trials())
    study.revise(NARROW)
    lost = ran - len(study.trials())
    assert lost > 0
    told = study.result().to_json()["trials"]
    assert (told["outside"], told["total"]) == (lost, ran), "what was spent is told, too"  # type: ignore[index]
    made = study.revise(SPACE)
    assert len(study.trials()) == ran
    assert f"{ran} of {ran} trials are of use" in made.told
    assert [r.round for r in study.revisions] == [2, 2]
    assert study.run().usage.trials == 20


def test_the_tables_of_all_trials_hold_those_outside_the_space_too(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow = {"enabled": False, "children": "top:1"}
    described = describe(tmp_path, strategy="joint", budget={"trials": 3}, fresh_seeds=0, mlflow=mlflow)
    study = Study.create(StudyConfig.from_mapping(described), home=home)
    study._ledger().reserve(round_=0, worker="ask", kind="ask", params=OUT_OF_NARROW, tuned=tuple(SPACE), begin=True)
    study.tell(0, 0.5)
    study.close()
    study.revise(NARROW)
    result = study.run()
    rows = (result.artifacts / "trials.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["trial", "0", "1", "2"]
    assert str(OUT_OF_NARROW["learning_rate"]) in rows[1]

    def listed(*options: str) -> dict[int, bool]:
        answer = called(capfd, "trials", "study", "--home", str(home), "--json", *options)[1]
        return {trial["id"]: trial.get("outside", False) for trial in json.loads(answer)["trials"]}

    assert listed() == {0: True, 1: False, 2: False}
    assert listed("--top", "3").keys() == {1, 2}, "the best are those of the space"
    assert "outside the space" in called(capfd, "trials", "study", "--home", str(home))[1]


def test_configurations_to_run_first_are_those_that_the_new_space_holds(tmp_path: Path, home: Path) -> None:
    first = [{"learning_rate": 0.0002}, {"learning_rate": 0.02}, {"dropout": 0.3}]
    drive(describe(tmp_path, initial=first), home, "trial_started", 1)
    study = Study.open("study", home)
    made = study.revise(NARROW)
    assert "of initial, 1 were left out" in made.told
    result = study.run()
    assert [t.params["learning_rate"] for t in result.trials if t.kind == "initial"] == [0.02, 0.001]


def test_configurations_to_run_first_that_a_new_constraint_forbids_are_left_out(tmp_path: Path) -> None:
    first = [{"num_layers": 6}, {"num_layers": 2}]
    config = StudyConfig.from_mapping(describe(tmp_path, initial=first))
    assert revised(config, config.space, ["num_layers <= 5"]).initial == ({"num_layers": 2},)
    assert revised(config, config.space, "num_layers <= 5").constraints == ("num_layers <= 5",)


def test_a_user_without_a_name_can_revise(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    study = Study.create(StudyConfig.from_mapping(describe(tmp_path)), home=home)
    assert study.revise(NARROW).by.startswith("unknown@")


def test_what_can_not_be_revised_says_why_and_changes_nothing(tmp_path: Path, home: Path) -> None:
    described = describe(tmp_path, constraints=["num_layers * dropout <= 2"])
    drive(described, home, "trial", 3)
    study = Study.open("study", home)
    before = study.config
    for space, words in [
        (SPACE, "nothing was changed"),
        ({"learning_rate": {"float": [1, 2]}, "num_layers": {"int": [1, 6]}, "dropout": {"float": [0, 1]}}, "common"),
        ({name: SPACE[name] for name in ("num_layers", "learning_rate")}, "names 'dropout'"),
        ({"x": 3}, "'x' is 3"),
    ]:
        with pytest.raises(ConfigError, match=words):
            study.revise(space)  # type: ignore[arg-type]
    assert Study.open("study", home).config == before
    assert not study.revisions
    with Study.open("study", home) as asked:
        asked.ask()
        with pytest.raises(ConfigError, match="close it first"):
            asked.revise(ADDED)
        with pytest.raises(StudyBusy):
            Study.open("study", home).revise(ADDED)
    study.run()
    with pytest.raises(ConfigError, match="has ended"):
        study.revise(ADDED)


def test_the_command_takes_a_file_and_mlflow_is_told(tmp_path: Path, home: Path) -> None:
    from mlflow import MlflowClient

    mlflow = {"enabled": True, "wait_seconds": 120}
    described = describe(tmp_path, mlflow=mlflow, budget={"trials": 10}, trials_per_round=5)
    drive(described, home, "decision", 1)
    file = tmp_path / "space.yaml"
    file.write_text(json.dumps({"study": "whatever", "space": NARROW, "constraints": ["num_layers <= 5"]}))
    assert main(["resume", "study", "--space", str(file), "--home", str(home)]) == 0
    study = Study.open("study", home)
    assert study.config.constraints == ("num_layers <= 5",)
    assert all(t.params["num_layers"] <= 5 for t in study.trials())  # type: ignore[operator]
    client = MlflowClient(study.tracking_uri)
    run = client.get_run(str(study.tracking["run_id"]))
    assert "constraint 'num_layers <= 5' added" in run.data.tags["hpt.revision-1"]
    assert "revision-1.json" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert [d.source for d in study.decisions()] == ["mlflow"] * len(study.decisions())

    file.write_text(json.dumps(NARROW))
    assert main(["resume", "study", "--space", str(file), "--home", str(home)]) == 2


def test_what_is_outside_now_still_tells_a_surrogate_what_happens_towards_the_edge(tmp_path: Path, home: Path) -> None:
    from agentic_hpt import wiring

    drive(describe(tmp_path, strategy="joint"), home, "decision", 1)
    study = Study.open("study", home)
    study.revise(NARROW)
    (left,) = wiring.usable_earlier(study.config, study._ledger())
    assert left.source == "this study, outside its space as revised"
    values = [t.values["score"] for t in study._ledger().outside() if t.values]
    assert sorted(left.losses) == sorted(-value for value in values)
    assert all(params["learning_rate"] < 1e-3 for params in left.params)  # type: ignore[operator]


def test_a_study_made_in_code_is_revised_by_its_name(home: Path) -> None:
    def objective(params: dict[str, float]) -> float:
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(dict(params))
        return -((params["x"] - 0.3) ** 2)

    seen: list[dict[str, float]] = []
    common = {"metric": "score", "study": "coded", "home": home, "executor": "inline", "fresh_seeds": 0}
    described = {**common, "budget": hpt.Budget(trials=12), "mlflow": {"enabled": False}}
    config = StudyConfig.from_mapping(
        {k: v for k, v in described.items() if k != "home"} | {"space": {"x": {"float": [0, 1]}}}
    )
    with Study.create(config, home=home) as study:
        for _ in range(5):
            trial = study.ask()
            study.tell(trial.id, -((float(trial.params["x"]) - 0.3) ** 2))  # type: ignore[arg-type]
        study.close()
        study.revise(SearchSpace(x=Float(0.0, 0.6)))
        asked = [study.ask().params["x"] for _ in range(5)]
    assert all(0 <= x <= 0.6 for x in asked)  # type: ignore[operator]
