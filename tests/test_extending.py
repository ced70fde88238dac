"""A study that goes on: with more budget behind its end, a changed description, other code, or from another one."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli.app import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, StudyBusy
from agentic_hpt.objectives import fingerprint
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject
from agentic_hpt.study import Result, Study, describing, resume_study, run_study
from agentic_hpt.study.telling import explain_study
from study_runs import SPACE, describe, drive, finished

WITH_HOLDOUT = """
def train(params, trial):
    return {"score": SCORE}

def score(params, trial):
    with open("looks.txt", "a") as looks:
        looks.write("x")
    return {"score": 0.5}
"""


def described(folder: Path, **changes: object) -> dict[str, object]:
    return describe(folder, **{"strategy": "joint", "fresh_seeds": 0, "budget": {"trials": 6}, **changes})  # type: ignore[arg-type]


def run(folder: Path, home: Path, **changes: object) -> Result:
    return run_study(StudyConfig.from_mapping(described(folder, **changes)), home=home)


def counted(result: Result) -> int:
    return len([t for t in result.trials if t.counted])


def test_a_trial_that_was_cut_off_is_not_said_to_run(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(described(tmp_path), home, "trial_started", 3).returncode == -signal.SIGKILL
    assert main(["trials", "study", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "cut off" in shown
    assert "running" not in shown


def test_more_budget_with_a_space_that_is_refused_changes_nothing(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    for space in ({"num_layers": {"float": [0, 1]}}, {"num_layers": {"int": [7, 9]}}):
        with pytest.raises(ConfigError, match="num_layers"):
            resume_study("study", home=home, trials="+6", space=space)
    study = Study.open("study", home)
    assert (study.result().status, study.config.budget.trials) == ("finalized", 6)


# -- more budget ------------------------------------------------------------------------------------------------------


def test_a_finished_study_goes_on_behind_its_end_and_ends_anew(tmp_path: Path, home: Path) -> None:
    first = run(tmp_path, home, fresh_seeds=2)
    before, rounds = finished(home), [d.round for d in first.decisions]
    events: list[JsonObject] = []
    result = resume_study("study", home=home, trials="+10", listener=events.append)
    assert result.status == "finalized"
    assert (counted(result), result.usage.trials, result.config.budget.trials) == (16, 16, 16)
    assert {number: finished(home)[number] for number in before} == before
    assert result.final is not None
    assert first.final is not None
    assert [d.round for d in result.decisions][: len(rounds)] == rounds
    assert result.decisions[len(rounds)].round == rounds[-1] + 1
    assert result.best is not None
    notice = next(e for e in events if e["type"] == "notice")
    assert notice["text"] == "the study goes on: budget.trials 6 -> 16"
    (change,) = [c for c in Study.open("study", home).changes() if c.told]
    assert change.reopens
    assert change.final is not None
    assert change.final["mean"] == first.final.mean
    told = " ".join(explain_study(Study.open("study", home)).end)
    assert "budget.trials 6 -> 16. The study had ended, with mean over fresh seeds" in told
    again = resume_study("study", home=home, trials=20)
    assert counted(again) == 20, "a plain number is the new total"


def test_an_extension_is_there_before_anything_runs(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    study = Study.open("study", home)
    assert study.extend(trials=3) == ["budget.trials 6 -> 9"]
    assert (study.status, study.final) == ("stopped", None)
    assert Study.open("study", home).config.budget.trials == 9
    assert counted(resume_study("study", home=home)) == 9


@pytest.mark.parametrize(("event", "count"), [("study", 1), ("trial", 3), ("final_started", 1)])
def test_a_study_that_is_killed_while_it_goes_on_loses_nothing(
    tmp_path: Path, home: Path, event: str, count: int
) -> None:
    run(tmp_path, home, fresh_seeds=1)
    Study.open("study", home).extend(trials=6)
    killed = drive(None, home, event, count)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = finished(home)
    result = resume_study("study", home=home)
    assert (result.status, counted(result)) == ("finalized", 12), (result.stopped_by, result.error)
    assert {number: finished(home)[number] for number in before} == before
    with sqlite3.connect(home / "ledger.db") as ledger:
        kinds = "select round, count(*) from hpt_trials where kind = 'fresh_seed' group by round order by round"
        assert [count for _, count in ledger.execute(kinds)] == [1, 1], "a fresh seed for each end"


@pytest.mark.parametrize("more", [{"trials": "+6"}, {"target": 100.0}])
def test_more_budget_is_used_where_the_end_had_been_cut_off(
    tmp_path: Path, home: Path, more: dict[str, object]
) -> None:
    until: dict[str, object] = {"target": -100.0, "budget": {"trials": 12}} if "target" in more else {}
    assert drive(described(tmp_path, fresh_seeds=2, **until), home, "final_started", 1).returncode == -signal.SIGKILL
    before = finished(home)
    result = resume_study("study", home=home, **more)  # type: ignore[arg-type]
    assert (result.status, counted(result), result.stopped_by) == ("finalized", 12, "budget.trials")
    assert {number: finished(home)[number] for number in before} == before
    with sqlite3.connect(home / "ledger.db") as ledger:
        assert ledger.execute("select count(*) from hpt_trials where state = 'running'").fetchone() == (0,)


def test_a_person_is_asked_again_behind_the_end(tmp_path: Path, home: Path) -> None:
    rounds: list[object] = []

    def approve(request: JsonObject) -> str:
        rounds.append(request["round"])
        return "approve"

    config = StudyConfig.from_mapping(
        described(tmp_path, coordinator={"approve": True}, budget={"trials": 4}, trials_per_round=2)
    )
    run_study(config, home=home, approver=approve)
    ended = len(rounds)
    result = resume_study("study", home=home, trials="+6", approver=approve)
    assert counted(result) == 10
    assert len(rounds) > ended
    assert len(rounds) == len(set(rounds)), "no decision is asked about twice"


def test_the_holdout_is_left_alone_where_the_winner_stays(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    code = WITH_HOLDOUT.replace("SCORE", "-abs(params['dropout'] - 0.1)")
    first = run(tmp_path, home, code=code, objective=objective)
    result = resume_study("study", home=home, trials="+4")
    assert first.final is not None
    assert result.final is not None
    assert (result.final.trial, result.final.holdout, result.final.looks) == (first.final.trial, 0.5, 1)
    assert (tmp_path / "looks.txt").read_text() == "x"


def test_a_second_look_at_the_holdout_is_told(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    run(tmp_path, home, code=WITH_HOLDOUT.replace("SCORE", "trial.id"), objective=objective)
    result = resume_study("study", home=home, trials="+4")
    assert result.final is not None
    assert result.final.looks == 2
    assert (tmp_path / "looks.txt").read_text() == "xx"
    final = result.to_json()["final"]
    assert isinstance(final, dict)
    assert final["looks"] == 2
    assert any("It was scored 2 times" in s for s in explain_study(Study.open("study", home)).end)


def test_no_look_at_the_holdout_is_forgotten(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    read = "float(__import__('pathlib').Path('holdout.txt').read_text())"
    code = WITH_HOLDOUT.replace("SCORE", "trial.id").replace("0.5", read)
    looks = []
    for more, holdout in enumerate(["0.5", "it can't be read", "0.6"]):
        (tmp_path / "holdout.txt").write_text(holdout)
        if more:
            result = resume_study("study", home=home, trials="+4")
        else:
            result = run(tmp_path, home, code=code, objective=objective)
        assert result.final is not None
        looks.append((result.final.holdout, result.final.looks))
    assert looks == [(0.5, 1), (None, 1), (0.6, 2)]


def test_a_look_at_the_holdout_counts_where_the_end_was_cut_off_behind_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    description = described(tmp_path, code=WITH_HOLDOUT.replace("SCORE", "trial.id"), objective=objective)
    assert drive(description, home, "trial", 7).returncode == -signal.SIGKILL
    result = resume_study("study", home=home, trials="+2")
    assert result.final is not None
    assert (counted(result), result.final.looks) == (8, 2)
    assert (tmp_path / "looks.txt").read_text() == "xx"


def test_what_the_end_of_a_study_scored_is_no_trial_of_its_next_space(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the search would learn from the data that are set aside."""
    from agentic_hpt import wiring

    monkeypatch.chdir(tmp_path)
    code = WITH_HOLDOUT.replace("SCORE", 'params["dropout"]')
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    run_study(
        StudyConfig.from_mapping({**described(tmp_path, code=code, fresh_seeds=1), "objective": objective}), home=home
    )
    study = Study.open("study", home)
    study.extend(trials=2)
    lower = {**SPACE, "dropout": {"float": [0.0, 0.1], "default": 0.1}}
    study.revise(lower)
    ledger = study._ledger()
    assert all(t.counted for t in ledger.outside())
    (left,) = wiring.usable_earlier(study.config, ledger)
    assert -0.5 not in left.losses, "what the holdout scored"
    assert len(left.losses) == len(ledger.outside())
    told = study.revise({**SPACE, "dropout": {"float": [0.0, 0.05], "default": 0.05}}).told
    assert "of 6 trials are of use" in told


def test_a_study_that_tried_its_whole_space_goes_on_in_a_wider_one_only(tmp_path: Path, home: Path) -> None:
    small, wide = {"x": {"int": [1, 3]}}, {"x": {"int": [1, 5]}}
    code = "def train(params):\n    return params['x']"
    ended = run(tmp_path, home, code=code, space=small, budget={"trials": 20})
    assert (counted(ended), ended.stopped_by) == (3, "exhausted")
    with pytest.raises(ConfigError, match="ended when its space held nothing new") as refused:
        resume_study("study", home=home, trials="+5")
    assert "widen the space" in refused.value.hint
    wider = StudyConfig.from_mapping(described(tmp_path, code=code, space=wide, budget={"trials": 20}))
    result = resume_study("study", home=home, described=wider)
    assert (counted(result), result.stopped_by) == (5, "exhausted")


def test_what_a_study_that_ended_can_not_go_on_for_is_refused(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home, target=-100.0)
    with pytest.raises(ConfigError, match=r"ended when it reached its target, -100.0") as refused:
        resume_study("study", home=home, trials="+5")
    assert "--target" in refused.value.hint
    with pytest.raises(ConfigError, match=r"its trial \d+ reaches the target, -99.0, already"):
        resume_study("study", home=home, trials="+5", target=-99.0)
    result = resume_study("study", home=home, trials="+5", target=100.0)
    assert (counted(result), result.stopped_by) == (11, "budget.trials")
    with pytest.raises(ConfigError, match="trials: 3 is less than what study 'study' has used up: 11 trials"):
        resume_study("study", home=home, trials=3)
    with pytest.raises(ConfigError, match=r"budget\.trials leaves nothing to run"):
        resume_study("study", home=home, trials=11, target=200.0)
    with pytest.raises(ConfigError, match="'many' is no whole number"):
        resume_study("study", home=home, trials="many")
    assert resume_study("study", home=home).status == "finalized", "nothing was changed"


def test_the_command_line_extends_a_study(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, home)
    assert main(["resume", "study", "--trials", "+4", "--minutes", "+30", "--home", str(home), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["trials"]["total"] == 10
    assert main(["resume", "study", "--trials", "-3", "--home", str(home)]) == 2
    assert "is no whole number above 0" in capfd.readouterr().err


# -- a changed description --------------------------------------------------------------------------------------------


def test_a_changed_file_is_taken_over(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(described(tmp_path)))
    assert main(["run", str(file), "--home", str(home)]) == 0
    space = {**SPACE, "dropout": {"float": [0.0, 0.7], "default": 0.1}, "width": {"int": [1, 8], "default": 4}}
    file.write_text(json.dumps(described(tmp_path, space=space, budget={"trials": 9}, failures={"same": 9})))
    capfd.readouterr()
    assert main(["run", str(file), "--home", str(home)]) == 2
    assert "hpt resume FILE" in capfd.readouterr().err
    assert main(["resume", str(file), "--home", str(home), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["trials"]["total"] == 9
    for words in ("budget.trials 6 -> 9", "failures.same 5 -> 9", "width added", "dropout from 0 to 0.5 to 0 to 0.7"):
        assert words in err
    study = Study.open("study", home)
    assert [t.params["width"] for t in study.trials()][:6] == [4] * 6
    assert study.config.failures.same == 9
    assert "width added" in " ".join(explain_study(study).end), "a changed space is told by `hpt explain`, too"
    assert main(["resume", str(file), "--home", str(home)]) == 0
    assert len(study.changes()) == 2, "the code at first, and one change: nothing is changed by the same file again"


def test_what_can_not_change_is_refused_with_every_reason(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    space = {
        "num_layers": {"int": [2, 6], "default": 2},
        "learning_rate": SPACE["learning_rate"],
        "width": {"int": [1, 8]},
    }
    changed = described(
        tmp_path, metric="loss", direction="minimize", seed=3, space=space, objective={"command": ["true"]}
    )
    with pytest.raises(ConfigError) as refused:
        resume_study("study", home=home, described=StudyConfig.from_mapping(changed))
    text = str(refused.value)
    for words in (
        "metric: the trials so far were judged by it",
        "direction: the trials",
        "seed: the trials' own seeds",
        "objective: it is a Python function, and can't become a command",
        "space.num_layers: it was narrowed, from 1 to 6 to 2 to 6; `hpt resume study --space FILE`",
        "space.dropout: it was removed",
        "space.width: it was added without a default",
        "--from study",
    ):
        assert words in text
    assert Study.open("study", home).config == StudyConfig.from_mapping(described(tmp_path))


def test_a_changed_value_that_is_not_shown_is_taken_over(tmp_path: Path) -> None:
    was, now = (
        StudyConfig.from_mapping(described(tmp_path, executor="ray", parallel=2, ray={"env": {"TOKEN": value}}))
        for value in ("first", "second")
    )
    assert describing.checked(was, was) == []
    assert describing.checked(was, now) == ["a value that is not shown was changed"]


def test_a_study_that_ended_needs_more_than_another_word(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    changed = StudyConfig.from_mapping(described(tmp_path, description="other words"))
    with pytest.raises(ConfigError, match="has ended: only more budget, or another target"):
        resume_study("study", home=home, described=changed)


def test_a_changed_file_and_more_budget_are_taken_over_together(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    changed = StudyConfig.from_mapping(described(tmp_path, fresh_seeds=1))
    study = Study.open("study", home)
    assert sorted(study.extend("+2", described=changed)) == ["budget.trials 6 -> 8", "fresh_seeds 0 -> 1"]
    assert (study.status, study.config.fresh_seeds, study.config.budget.trials) == ("stopped", 1, 8)


def test_a_study_goes_on_once_nothing_says_any_more_that_it_is_not_worth_it(tmp_path: Path, home: Path) -> None:
    study = Study.create(StudyConfig.from_mapping(described(tmp_path, stop="no_gain")), home=home)
    ended = ActionRecord("finalize", "", (), "accepted", "", {"stopped_by": "no_gain"})
    study._ledger().record_decision(DecisionRecord(1, "policy", (ended,)))
    study._note("finalized", "no_gain")
    same = StudyConfig.from_mapping(described(tmp_path, stop="no_gain", description="other words"))
    with pytest.raises(ConfigError, match="more budget, or another target"):
        study.redescribe(same)
    study.redescribe(StudyConfig.from_mapping(described(tmp_path)))
    assert study.status == "stopped"


def test_a_decision_that_waits_for_a_person_is_in_force_once_nobody_is_to_be_asked(tmp_path: Path, home: Path) -> None:
    def nobody(request: object) -> object:
        raise EOFError

    asking = StudyConfig.from_mapping(described(tmp_path, coordinator={"approve": True}, budget={"trials": 3}))
    assert run_study(asking, home=home, approver=nobody).status == "stopped"
    changed = StudyConfig.from_mapping(described(tmp_path, budget={"trials": 3}))
    result = resume_study("study", home=home, described=changed)
    assert (result.status, counted(result)) == ("finalized", 3)
    assert [d.review for d in result.decisions] == ["", ""]


# -- other code -------------------------------------------------------------------------------------------------------


def test_changed_code_is_told_once_and_refuses_nothing(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    train = tmp_path / "train.py"
    train.write_text(train.read_text() + "\nEXTRA = 1\n")
    events: list[JsonObject] = []
    result = resume_study("study", home=home, trials="+2", listener=events.append)
    assert counted(result) == 8
    assert [e for e in events if e["type"] == "notice" and "code was changed" in str(e["text"])]
    codes = [c for c in Study.open("study", home).changes() if c.kind == "code"]
    assert [bool(c.told) for c in codes] == [False, True]
    assert len({c.code for c in codes}) == 2
    assert any("the objective's code was changed" in s for s in explain_study(Study.open("study", home)).end)
    resume_study("study", home=home, trials="+2")
    assert len([c for c in Study.open("study", home).changes() if c.kind == "code"]) == 2


def test_a_fingerprint_runs_nothing(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    for file in (package / "__init__.py", package / "train.py", tmp_path / "alone.py"):
        file.write_text("raise SystemExit('it was run')\n")
    folder = str(tmp_path)

    def prints() -> list[str]:
        return [
            fingerprint.of_named(["alone.py:train"], folder),
            fingerprint.of_named(["pack.train:train"], folder),
            fingerprint.of_command(["python", "alone.py", "--lr", "{lr}"], folder),
        ]

    first = prints()
    assert prints() == first
    for file in (package / "train.py", tmp_path / "alone.py"):
        file.write_text("raise SystemExit('it was run again')\n")
    assert [a == b for a, b in zip(first, prints(), strict=True)] == [False] * 3
    assert fingerprint.of_named(["gone.py:train", "no.such.module:f"], folder), "what is not there has none to change"


def test_functions_have_fingerprints_with_and_without_source() -> None:
    def made(body: str) -> Callable[..., object]:
        scope: dict[str, Callable[..., object]] = {}
        exec(f"def train(params):\n    return {body}", scope)
        return scope["train"]

    assert fingerprint.of_function(made("params['x'] + 1")) == fingerprint.of_function(made("params['x'] + 1"))
    assert fingerprint.of_function(made("params['x'] + 1")) != fingerprint.of_function(made("params['x'] + 2"))
    assert fingerprint.of_function(test_a_fingerprint_runs_nothing)
    assert fingerprint.of_function(print) == ""


# -- from another study -----------------------------------------------------------------------------------------------


def test_a_study_starts_from_what_others_know(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, home, study="old", budget={"trials": 8})
    best = Study.open("old", home).best()
    assert best is not None
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(described(tmp_path, study="new", budget={"trials": 10})))
    assert main(["run", str(file), "--from", "old", "--home", str(home)]) == 0
    assert "trials of study 'old' can be used" in capfd.readouterr().err
    new = Study.open("new", home)
    assert len([t for t in new.trials() if t.counted]) == 10
    assert [t.kind for t in new.trials()][:2] == ["default", "initial"]
    assert new.trials()[1].params == best.params
    assert main(["resume", str(file), "--trials", "+2", "--home", str(home)]) == 0, "what it knows needs no second word"
    assert main(["run", str(file), "--study", "third", "--from", "gone", "--home", str(home)]) == 2
    assert "transfer: source 1: no study named 'gone'" in capfd.readouterr().err


def test_code_can_name_earlier_studies_too(home: Path) -> None:
    common = {"metric": "score", "executor": "inline", "mlflow": {"enabled": False}, "fresh_seeds": 0, "home": home}
    space = {"x": hpt.Float(0.0, 1.0, default=0.1)}

    def train(params: dict[str, float]) -> float:
        return -abs(params["x"] - 0.7)

    hpt.tune(train, space, study="a", budget=hpt.Budget(trials=5), strategy="joint", **common)  # type: ignore[arg-type]
    result = hpt.tune(
        train,
        space,
        study="b",
        budget=hpt.Budget(trials=10),
        strategy="joint",
        transfer=[{"study": "a"}],
        **common,  # type: ignore[arg-type]
    )
    assert [t.kind for t in result.trials][:2] == ["default", "initial"]


def test_a_study_whose_making_was_killed_still_learns_from_what_it_was_to_begin_with(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, home)

    class Killed(BaseException):
        pass

    def killed(*of: object) -> None:
        raise Killed

    changed = described(tmp_path, study="next", transfer=[{"study": "study"}], budget={"trials": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_fill", killed)
        with pytest.raises(Killed):
            Study.create(StudyConfig.from_mapping(changed), home=home)
    with Study.open("next", home) as cut_off:
        assert cut_off.earlier() == []
    result = resume_study("next", home=home)
    assert counted(result) == 3
    with Study.open("next", home) as made:
        assert [study.source for study in made.earlier()] == ["study 'study'"]


def test_who_opened_a_study_before_another_process_changed_it_is_told(tmp_path: Path, home: Path) -> None:
    run(tmp_path, home)
    with Study.open("study", home) as early, Study.open("study", home) as other:
        other.extend(trials=4)
        with pytest.raises(StudyBusy, match="was changed by another process a moment ago"):
            early.extend(trials=9)
        assert not early._held(), "it is let go"
    with Study.open("study", home) as now:
        assert now.config.budget.trials == 10
