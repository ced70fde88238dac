"""A person on the command line: decisions that wait for a word, and notes for the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli import main
from agentic_hpt.cli.approving import Asker
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject
from agentic_hpt.study import Study
from agentic_hpt.testing import ScriptedChatModel, bowl, decide

STUDY = """\
study: study
objective: {python: "train.py:train"}
metric: score
space: {x: {float: [0, 1], default: 0.5}}
budget: {trials: 9}
trials_per_round: 3
strategy: joint
executor: inline
fresh_seeds: 0
mlflow: {enabled: false}
"""


def run(folder: Path, said: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text("def train(params):\n    return -abs(params['x'] - 0.3)")
    (folder / "study.yaml").write_text(STUDY)
    return subprocess.run(
        [sys.executable, "-m", "agentic_hpt.cli", *arguments],
        cwd=folder,
        input=said,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "default"},
        check=False,
    )


def test_decisions_are_approved_edited_and_refused_on_stdin(tmp_path: Path) -> None:
    action = {"type": "propose", "reason": "mine", "configurations": [{"params": {"x": 0.25}}]}
    said = f"maybe\ne by hand\n{json.dumps({'actions': [action]})}\na\nr not yet\na\na\n"
    done = run(tmp_path, said, "run", "study.yaml", "--approve", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finalized"
    assert "the decision before round 1 waits for a person's word" in done.stderr
    assert "approve, edit or refuse?" in done.stderr
    assert "a: approve, e: edit the actions, r: refuse them" in done.stderr, "what is no answer is asked again"
    assert "possible now: continue" in done.stderr
    assert "Traceback" not in done.stderr
    study = Study.open("study", tmp_path / "hpt-home")
    assert [d.review for d in study.decisions()][:3] == ["edit: by hand", "approve", "refuse: not yet"]
    assert [dict(t.params) for t in study.trials() if t.kind == "proposals"] == [{"x": 0.25}]
    listed = run(tmp_path, "", "decisions", "study").stdout
    assert "before round 1: person" in listed
    assert "a person said: edit: by hand" in listed
    assert "[refused]" in listed
    assert "guard: by a person: not yet" in listed


def test_an_edit_that_the_guards_can_not_read_is_asked_again(tmp_path: Path) -> None:
    said = 'e\nno json\ne\n{"actions": 5}\ne\n[{"type": "explode"}]\n' + "a\n" * 9
    done = run(tmp_path, said, "run", "study.yaml", "--approve")
    assert done.returncode == 0, done.stderr
    assert "that is no JSON" in done.stderr
    assert 'write {"actions": [...]}' in done.stderr
    assert "the answer does not fit the schema" in done.stderr


def test_at_the_end_of_input_the_study_stops_and_resume_asks_on(tmp_path: Path) -> None:
    stopped = run(tmp_path, "a\n", "run", "study.yaml", "--approve")
    assert stopped.returncode == 3, stopped.stderr
    assert "nobody answers: the study stops here, and can be resumed" in stopped.stderr
    assert "hpt resume study" in stopped.stdout
    assert [d.round for d in Study.open("study", tmp_path / "hpt-home").decisions()] == [0]
    done = run(tmp_path, "a\n" * 9, "resume", "study")
    assert done.returncode == 0, done.stderr
    assert "the decision after round 1 waits" in done.stderr
    assert "the decision before round 1 waits" not in done.stderr


def test_without_a_stdin_nobody_answers(tmp_path: Path) -> None:
    run(tmp_path, "", "status")
    call = [sys.executable, "-m", "agentic_hpt.cli", "run", "study.yaml", "--approve"]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *call]
    done = subprocess.run(closed, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert "nobody answers: the study stops here" in done.stderr


REQUEST: JsonObject = {
    "round": 1,
    "decision": DecisionRecord(1, "llm", (ActionRecord("x\x1b[2J", "[red]r", (), "accepted", "v"),)).to_json(),
    "evidence": "one\ntwo\x07",
    "may": ["continue"],
    "problem": "",
}


def test_no_end_of_line_is_needed_at_the_end_and_lines_may_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import io

    from rich.console import Console

    chunks = [b"a\nr bec", b"ause\ne", b""]
    monkeypatch.setattr(os, "read", lambda descriptor, size: chunks.pop(0))
    shown = io.StringIO()
    asker = Asker(contextlib.nullcontext, Console(file=shown, markup=False))
    assert asker(REQUEST) == {"answer": "approve", "comment": ""}
    assert asker(REQUEST) == {"answer": "refuse", "comment": "because"}
    with pytest.raises(EOFError):
        asker(REQUEST)
    assert "\x1b" not in shown.getvalue()
    assert "[red]r" in shown.getvalue()


def test_an_edit_that_the_guards_refuse_is_told_of_and_asked_again(tmp_path: Path) -> None:
    edit = [{"type": "stop_trial", "reason": "mine", "trial": 999}]
    done = run(tmp_path, f"e\n{json.dumps(edit)}\nr so be it\n" + "a\n" * 9, "run", "study.yaml", "--approve")
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    place = next(i for i, line in enumerate(said) if line.endswith("the guards refuse all of the edit:"))
    assert said[place + 1].startswith("stop_trial: ")
    assert said[place + 2] == "approve, edit anew or refuse"
    assert Study.open("study", tmp_path / "hpt-home").decisions()[0].review == "refuse: so be it"


def test_a_person_is_asked_in_words_and_can_see_all_of_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import io

    from rich.console import Console

    words = ["s", "a"]
    monkeypatch.setattr(Asker, "_read", lambda self, prompt: words.pop(0))
    detail = {"parameter": "layers", "range": {"values": [4]}}
    decision = DecisionRecord(1, "rules", (ActionRecord("freeze", "settled", (), "accepted", "fine", detail),))
    evidence = '{\n"conclusions": ["x matters"],\n"trials": "a long table"\n}'
    shown = io.StringIO()
    asker = Asker(contextlib.nullcontext, Console(file=shown, markup=False))
    asker({**REQUEST, "decision": decision.to_json(), "evidence": evidence})
    before, after = shown.getvalue().split("possible now:")
    assert "  x matters\n" in before
    assert "freeze layers at 4 [accepted]: settled" in before
    assert "hpt decisions STUDY --evidence 1" in before
    assert "{" not in before, "no JSON"
    assert '"trials": "a long table"' in after


def test_an_editor_that_fails_is_told_of_and_the_question_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    import io

    from rich.console import Console

    words = ["e", "a"]
    monkeypatch.setattr(Asker, "_read", lambda self, prompt: words.pop(0))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setenv("EDITOR", "no-such-editor-here")
    shown = io.StringIO()
    asker = Asker(contextlib.nullcontext, Console(file=shown, markup=False))
    assert asker(REQUEST) == {"answer": "approve", "comment": ""}
    assert "no-such-editor-here" in shown.getvalue()


SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 10.0, default=5.0))


def tune(home: Path, chat: ScriptedChatModel | str, leave_after: int | None = None, **options: object) -> hpt.Result:
    def approver(request: JsonObject) -> object:
        if request["round"] == leave_after:
            raise EOFError
        return "approve"

    return hpt.tune(
        bowl(x=1.25),
        SPACE,
        metric="score",
        study="bowl",
        home=home,
        budget=hpt.Budget(trials=12),
        coordinator=chat,
        fresh_seeds=0,
        trials_per_round=4,
        executor="inline",
        mlflow={"enabled": False},
        approver=approver,
        **options,  # type: ignore[arg-type]
    )


def test_the_next_decision_sees_a_note_once_and_lists_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = ScriptedChatModel(answers=[decide("continue")])
    assert tune(home, chat, leave_after=1).status == "stopped"
    asked = len(chat.prompts)
    assert main(["steer", "bowl", "  small x is cheaper  ", "--home", str(home)]) == 0
    assert "note 1 is left for the next decision" in capsys.readouterr().out
    assert main(["decisions", "bowl", "--home", str(home)]) == 0
    assert "note 1, not seen by a decision yet: small x is cheaper" in capsys.readouterr().out
    result = tune(home, chat, if_exists="resume")
    assert result.status == "finalized"
    assert not any("small x is cheaper" in prompt for prompt in chat.prompts[:asked])
    assert "small x is cheaper" in chat.prompts[asked], "the question that follows shows it"
    assert [d.round for d in result.decisions if d.notes == (1,)] == [2]
    assert main(["decisions", "bowl", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "note 1: small x is cheaper" in said
    assert "not seen by a decision yet" not in said


def test_a_person_who_approves_the_rules_sees_notes_too(home: Path) -> None:
    assert tune(home, "rules", leave_after=1).status == "stopped"
    Study.open("bowl", home).steer("look at the edge")
    seen: list[str] = []

    def approver(request: JsonObject) -> object:
        seen.append(str(request["evidence"]))
        return "approve"

    result = Study.open("bowl", home).run(objective=objective(), approver=approver)
    assert "look at the edge" in seen[0]
    assert [d.round for d in result.decisions if d.notes == (1,)] == [1]


def objective() -> object:
    from agentic_hpt.objectives.function import FunctionObjective

    return FunctionObjective(bowl(x=1.25))


def test_a_note_is_refused_when_nothing_could_come_of_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-hunter2")
    assert tune(home, "rules", leave_after=0).status == "stopped"
    for text, why in (("   ", "the note is empty"), ("x" * 2001, "at most 2000 are taken")):
        assert main(["steer", "bowl", text, "--home", str(home)]) == 2
        assert why in capsys.readouterr().err
    assert main(["steer", "bowl", "the key is hunter2-hunter2", "--home", str(home)]) == 0
    assert [n.text for n in Study.open("bowl", home).notes()] == ["the key is ***"]
    tune(home, "rules", if_exists="resume")
    assert main(["steer", "bowl", "too late", "--home", str(home)]) == 2
    assert "study 'bowl' has ended" in capsys.readouterr().err
    assert main(["steer", "nothing", "x", "--home", str(home)]) == 2


def test_of_a_study_under_rules_alone_it_is_said_that_nobody_reads_notes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    config = hpt.StudyConfig.from_mapping(
        {"study": "rules", "metric": "m", "space": {"x": {"float": [0, 1]}}, "mlflow": {"enabled": False}}
    )
    Study.create(config, home=home)
    assert main(["steer", "rules", "hello", "--home", str(home)]) == 0
    assert "decided by the rules, which read no notes" in capsys.readouterr().out
