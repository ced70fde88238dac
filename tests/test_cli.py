"""The verbs, called as the entry point calls them, on a stand-in of `agentic_hpt.study`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.undo import Effect
from agentic_hpt.errors import FailureKind, LedgerError, StudyExists, StudyNotFound
from agentic_hpt.records import ActionRecord, DecisionRecord, FinalReport, JsonObject, Trial, TrialState, Usage
from agentic_hpt.report import write_report
from command_line import called

NAME = "demo [red]"
TRIALS = [
    Trial(0, {"x": 0.5}, TrialState.COMPLETE, 1, "default", "default", 0, values={"loss": 0.9}, seconds=1.0),
    Trial(1, {"x": 0.1}, TrialState.COMPLETE, 2, "[bold]x\x1b[2J", "joint", 1, values={"loss": 0.2}, seconds=1.0),
    Trial(2, {"x": 0.9}, TrialState.FAILED, 3, "x", "joint", 1, failure=FailureKind.CRASH, message="boom\x1b[31m"),
    Trial(3, {"x": 0.4}, TrialState.COMPLETE, 4, "x", "joint", 1, values={"loss": 0.4}, seconds=1.0),
]
DECISION = DecisionRecord(1, "rules", (ActionRecord("finalize", "[red]plateau\x07", (1,), "accepted", "fine"),))
FINAL = FinalReport(1, 0.2, 3, 0.21, 0.01, 0.22, 0.01)


def document(**changes: object) -> JsonObject:
    return {
        "study": "demo",
        "status": "finalized",
        "stopped_by": "coordinator",
        "metric": ["loss"],
        "direction": ["minimize"],
        "rounds": 1,
        "trials": {"complete": 3, "pruned": 0, "failed": 1, "total": 4},
        "best": {"trial": 1, "params": {"x": 0.1}, "values": {"loss": 0.2}},
        "final": {"fresh_seeds": 3, "mean": 0.21, "sd": 0.01, "holdout": float("nan"), "selection_gap": 0.01},
        "coordinator": {"kind": "rules", "model": None, "calls": 0, "tokens": 0, "dollars": 0.0, "fallbacks": 0},
        "mlflow": {"tracking_uri": "sqlite:///x", "experiment": "demo", "run_id": "1"},
        "paths": {"model": None, "report": "/r.html", "home": "/h"},
        "seconds": 4.0,
        **changes,
    }


class FakeStudy(ModuleType):
    """Stands where `agentic_hpt.study` stands; `calls` is what it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__("agentic_hpt.study")
        self.calls: list[tuple[StudyConfig, dict[str, object]]] = []
        self.document = document()
        self.exit_code = 0
        self.error: BaseException | None = None
        self.noise: Callable[[], object] = lambda: None
        self.trials = TRIALS
        self.folder = folder

    def run_study(self, config: StudyConfig, **options: object) -> SimpleNamespace:
        self.calls.append((config, options))
        self.noise()
        if self.error is not None:
            raise self.error
        return SimpleNamespace(config=config, to_json=lambda: self.document, exit_code=self.exit_code)

    def resume_study(self, name: str, **options: object) -> SimpleNamespace:
        return self.run_study(self.open_view(name).config, **options)

    def open_view(self, name: str, home: object = None) -> SimpleNamespace:
        if name != "demo":
            raise StudyNotFound(f"no study named {name!r}", "studies here: demo")
        config = StudyConfig.from_mapping(
            {
                "study": "demo",
                "metric": "loss",
                "direction": "minimize",
                "space": {"x": {"float": [0, 1]}},
                "mlflow": {"tracking_uri": "http://user:hunter2@127.0.0.1:9"},
            }
        )
        return SimpleNamespace(
            config=config,
            status="finalized",
            final=FINAL,
            artifacts=self.folder / "artifacts",
            trials=lambda: self.trials,
            tried=lambda: (self.trials, set()),
            decisions=lambda: [DECISION],
            effects=lambda: (),
            notes=list,
            best=lambda: config.goal.best(self.trials),
            result_json=lambda: self.document,
            report=lambda path: write_report(
                path,
                config=config,
                status="finalized",
                trials=self.trials,
                decisions=[DECISION],
                final=FINAL,
                artifacts=None,
                usage=Usage(4, 4.0),
            ),
            tracking_uri=config.mlflow.tracking_uri,
        )

    def list_studies(self, home: object = None) -> list[JsonObject]:
        return [
            {"study": "demo", "status": "finalized", "trials": 4, "best": 0.2},
            {"study": NAME, "status": "running", "trials": 0, "best": None},
        ]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeStudy:
    fake = FakeStudy(tmp_path)
    monkeypatch.setitem(sys.modules, "agentic_hpt.study", fake)
    monkeypatch.chdir(tmp_path)
    for name in ("AGENTIC_HPT_HOME", "AGENTIC_HPT_LEDGER", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return fake


Hpt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hpt(capfd: pytest.CaptureFixture[str]) -> Hpt:
    """Call the command line; gives exit code, stdout and stderr."""
    return partial(called, capfd)


def test_help_imports_only_click() -> None:
    heavy = (
        "torch mlflow optuna langgraph langchain langchain_core pydantic sqlalchemy rich yaml numpy jinja2 matplotlib"
    )
    script = (
        "import sys\nfrom agentic_hpt.cli import main\n"
        "assert main(['--help']) == 0\n"
        f"found = [m for m in {heavy.split()!r} if m in sys.modules]\n"
        "verbs = sorted(m for m in sys.modules if m.startswith('agentic_hpt.cli.'))\n"
        "sys.exit(repr((found, verbs)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "([], ['agentic_hpt.cli.app', 'agentic_hpt.cli.common'])"


def test_help_names_every_verb_and_every_verb_has_its_options(hpt: Hpt) -> None:
    from agentic_hpt.cli.app import VERBS

    code, overview, _ = hpt("--help")
    assert code == 0
    for verb, short in VERBS.items():
        assert f"{verb} " in overview
        assert short in overview
        code, text, _ = hpt(verb, "--help")
        assert code == 0
        for option in ("--home", "--json", "--debug"):
            assert option in text
    assert {f.stem for f in (Path(__file__).parents[1] / "src/agentic_hpt/cli").glob("*.py")} >= set(VERBS)


def test_run_lays_flags_over_the_file(hpt: Hpt, study: FakeStudy, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "study: a\nobjective: {task: wine}\nbudget: {trials: 7, tokens: 5}\n"
        "coordinator: {model: 'openai:x', base_url: 'http://h', timeout_seconds: 9}\n"
    )
    flags = [
        "--study",
        "demo",
        "--trials",
        "3",
        "--minutes",
        "2.5",
        "--target",
        "0.5",
        "--parallel",
        "2",
        "--seed",
        "8",
        "--strategy",
        "joint",
        "--fresh",
    ]
    code, _, _ = hpt("run", str(file), *flags, "--coordinator", "rules", "--home", "h", "--json")
    assert code == 0
    config, options = study.calls[0]
    assert (config.study, config.target, config.parallel, config.seed, config.strategy) == ("demo", 0.5, 2, 8, "joint")
    assert config.budget.model_dump() == {"trials": 3, "minutes": 2.5, "tokens": 5, "dollars": None, "calls": None}
    assert config.coordinator.model is None
    assert config.coordinator.timeout_seconds == 9
    assert (options["home"], options["fresh"]) == ("h", True)


def test_run_of_a_task_with_a_model(hpt: Hpt, study: FakeStudy) -> None:
    hpt("run", "--task", "digits", "--executor", "inline", "--coordinator", "openai:m", "--base-url", "http://h/v1")
    config, _ = study.calls[0]
    assert (config.study, config.metric, config.executor, config.budget.trials) == ("digits", "accuracy", "inline", 60)
    assert (config.coordinator.model, config.coordinator.base_url) == ("openai:m", "http://h/v1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "hpt run --task digits"),
        (["run", "missing.yaml"], "can't read the study file missing.yaml"),
        (["run", "--task", "dgits"], "task"),
        (["run", "--task", "digits", "--trials", "0"], "trials"),
        (["run", "--task", "digits", "--trials", "many"], "--trials"),
        (["run", "--task", "digits", "--strategy", "magic"], "strategy"),
        (["run", "--task", "digits", "--base-url", "http://h"], "--coordinator provider:model"),
        (["run", "--tsak", "digits"], "--task"),
        (["rnu"], "did you mean 'run'"),
        (["best"], "STUDY"),
        (["best", "other"], "studies here: demo"),
        (["trials", "demo", "--state", "odd"], "odd"),
        (["ui", "demo", "--optuna"], "optuna_storage"),
        (["init", "--python", "a.py:f", "--command", "b"], "choose one"),
        (["init", "--python", "nothing"], "python"),
        (["init", "--command", "a 'b"], "quote"),
    ],
)
def test_bad_input_exits_2_and_leaves_stdout_alone(hpt: Hpt, study: FakeStudy, arguments: list[str], said: str) -> None:
    for extra in ([], ["--json"]):
        code, out, err = hpt(*arguments, *extra)
        assert (code, out) == (2, "")
        assert said in err
    assert study.calls == []


def test_json_is_one_document_whatever_is_printed(hpt: Hpt, study: FakeStudy) -> None:
    def noise() -> None:
        print("python noise", end="")
        os.write(1, b"raw noise\n")
        subprocess.run([sys.executable, "-c", "print('child noise')"], check=True)

    study.noise = noise
    code, out, err = hpt("run", "--task", "digits", "--json")
    assert code == 0
    read = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert read["final"]["holdout"] is None, "NaN becomes null"
    assert {**read, "final": 0} == {**study.document, "final": 0}
    for part in ("python noise", "raw noise", "child noise"):
        assert part in err


def test_what_is_printed_while_python_ends_stays_out_of_the_document(tmp_path: Path) -> None:
    script = (
        "import atexit, os, sys\nfrom agentic_hpt.cli import main\n"
        "atexit.register(lambda: (print('late'), os.write(1, b'later')))\n"
        f"sys.exit(main(['status', '--json', '--home', {str(tmp_path / 'none')!r}]))"
    )
    prelude = "import sys, types\nm = types.ModuleType('agentic_hpt.study')\nm.list_studies = lambda home: []\n"
    prelude += "m.open_view = None\nsys.modules['agentic_hpt.study'] = m\n"
    ended = subprocess.run([sys.executable, "-c", prelude + script], capture_output=True, text=True, check=False)
    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"studies": []})
    assert "late" in ended.stderr


@pytest.mark.parametrize("code", [0, 1, 3, 130])
def test_the_exit_code_is_the_results(hpt: Hpt, study: FakeStudy, code: int) -> None:
    study.exit_code = code
    study.document = document(status="stopped", best=None, final=None, stopped_by="user")
    assert hpt("run", "--task", "digits", "--json")[0] == code
    shown = hpt("resume", "demo")
    assert shown[0] == code
    assert "hpt resume demo" in shown[1]


def test_summary_tells_a_person_what_the_figures_mean(hpt: Hpt, study: FakeStudy) -> None:
    code, out, err = hpt("resume", "demo")
    assert code == 0
    assert err == ""
    for part in ("0.2 in trial 1", "0.21 ± 0.01 (mean ± SD)", "Selection gap 0.01", "x  0.1", "/r.html", "hpt ui demo"):
        assert part in out
    assert "nan" not in out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StudyExists("taken", "go on by `hpt resume digits`"), 2, "error: taken\nhint: go on by `hpt resume digits`\n"),
        (LedgerError("torn\x1b[2J\nfile"), 1, "error: torn\\x1b[2J\nfile\n"),
        (RuntimeError("odd"), 1, "error: RuntimeError: odd\nhint: --debug shows where it happened\n"),
    ],
)
def test_errors_are_one_message_on_stderr(hpt: Hpt, study: FakeStudy, error: Exception, code: int, said: str) -> None:
    study.error = error
    assert hpt("run", "--task", "digits", "--json") == (code, "", said)


def test_ctrl_c_is_no_traceback(hpt: Hpt, study: FakeStudy) -> None:
    study.error = KeyboardInterrupt()
    code, out, err = hpt("run", "--task", "digits")
    assert (code, out) == (130, "")
    assert "hpt resume" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--debug", "run", "--task", "wine"], ["run", "--task", "wine", "--debug"]])
def test_debug_shows_the_traceback_without_secrets(
    hpt: Hpt, study: FakeStudy, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-123456789")
    study.error = RuntimeError("refused sk-123456789 at postgresql://me:pw@host")
    code, _, err = hpt(*arguments)
    assert code == 1
    assert "Traceback" in err
    assert "error: RuntimeError: refused *** at postgresql://***@host" in err
    assert "sk-123456789" not in err
    assert "me:pw" not in err


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    script = "import sys, os\nfrom agentic_hpt.cli import main\nos.close(0)\nsys.exit(main(['run', '--help']))"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert ended.stderr == b""


def test_trials_as_json(hpt: Hpt, study: FakeStudy) -> None:
    read = json.loads(hpt("trials", "demo", "--json")[1])["trials"]
    assert [t["id"] for t in read] == [0, 1, 2, 3]
    assert read[2] == {
        "id": 2,
        "state": "failed",
        "failure": "crash",
        "message": "boom\x1b[31m",
        "params": {"x": 0.9},
        "values": {},
        "worker": "x",
        "kind": "joint",
        "round": 1,
        "attempt": 1,
        "seed": 3,
        "seconds": None,
    }


def test_trials_can_be_filtered(hpt: Hpt, study: FakeStudy) -> None:
    def ids(*flags: str) -> list[int]:
        return [t["id"] for t in json.loads(hpt("trials", "demo", "--json", *flags)[1])["trials"]]

    assert ids("--top", "2") == [1, 3], "the lowest loss leads"
    assert ids("--state", "failed") == [2]
    assert ids("--state", "failed", "--top", "1") == []


def test_names_and_messages_cannot_steer_the_terminal(hpt: Hpt, study: FakeStudy) -> None:
    trials = hpt("trials", "demo")[1]
    assert "[bold]x\\x1b[2J" in trials
    assert "failed: crash" in trials
    assert "boom\\x1b[31m" in trials
    decisions = hpt("decisions", "demo")[1]
    assert "finalize [accepted]: [red]plateau\\x07" in decisions
    assert NAME in hpt("status")[1]
    assert all("\x1b" not in text and "\x07" not in text for text in (trials, decisions))


def test_effects_are_told_as_in_the_explanation_and_nothing_is_awaited_that_never_comes(
    hpt: Hpt, study: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = Effect(1, 0, "propose", "", stated=0.0, window=1, gain=None, trials=1, status="missing")
    view = study.open_view("demo")
    view.effects = lambda: (pruned,)
    monkeypatch.setattr(study, "open_view", lambda name, home=None: view)
    said = hpt("decisions", "demo")[1]
    assert "within 1 trial; after 1 trial none has a value: it did not come" in said
    assert "yet" not in said
    assert "    evidence: trial 1\n" in said, "it is one"


def test_decisions_best_and_status_as_json(hpt: Hpt, study: FakeStudy) -> None:
    (decision,) = json.loads(hpt("decisions", "demo", "--json")[1])["decisions"]
    assert decision["round"] == 1
    assert decision["actions"][0]["verdict_reason"] == "fine"
    assert json.loads(hpt("best", "demo", "--json")[1]) == {"trial": 1, "params": {"x": 0.1}, "values": {"loss": 0.2}}
    assert [s["study"] for s in json.loads(hpt("status", "--json")[1])["studies"]] == ["demo", NAME]
    assert [s["study"] for s in json.loads(hpt("status", "demo", "--json")[1])["studies"]] == ["demo"]
    assert "loss 0.2" in hpt("best", "demo")[1]
    assert "Selection gap" in hpt("status", "demo")[1]
    assert hpt("status", "other", "--json")[:2] == (2, "")


def test_best_of_a_study_without_complete_trials(hpt: Hpt, study: FakeStudy) -> None:
    study.trials = []
    assert json.loads(hpt("best", "demo", "--json")[1]) == {"trial": None, "params": {}, "values": {}}
    assert "no trial is complete" in hpt("best", "demo")[1]


def test_report_goes_where_it_is_told(hpt: Hpt, study: FakeStudy, tmp_path: Path) -> None:
    code, out, _ = hpt("report", "demo", "--json")
    assert code == 0
    assert json.loads(out) == {"report": str(tmp_path / "artifacts" / "report.html")}
    assert hpt("report", "demo", "--out", "here.html")[1].strip() == str(tmp_path / "here.html")
    assert "4 s" in (tmp_path / "here.html").read_text(encoding="utf-8")


def test_ui_of_a_server_that_runs_already_only_names_it(hpt: Hpt, study: FakeStudy) -> None:
    code, out, err = hpt("ui", "demo", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"url": "http://***@127.0.0.1:9", "serving": False}


def test_doctor_changes_nothing_and_shows_no_key(
    hpt: Hpt, study: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    code, out, _ = hpt("doctor", "--json", "--home", str(tmp_path / "home"))
    read = json.loads(out)
    checks = {check["name"]: check for check in read["checks"]}
    assert (code, read["ok"]) == (0, True)
    assert (checks["OPENAI_API_KEY"]["detail"], checks["ANTHROPIC_API_KEY"]["detail"]) == ("set", "not set")
    assert "sk-verysecret" not in out
    assert "threads" in checks["torch device"]["detail"]
    assert "--measure" in checks["executor auto"]["detail"]
    assert not (tmp_path / "home").exists()


def test_doctor_finds_broken_stores(hpt: Hpt, study: FakeStudy, tmp_path: Path) -> None:
    for name in ("ledger.db", "mlflow.db"):
        (tmp_path / name).write_text("this is no database, and long enough to be taken for a broken one" * 20)
    code, out, _ = hpt("doctor", "--json", "--home", str(tmp_path))
    wrong = [check["name"] for check in json.loads(out)["checks"] if check["ok"] is False]
    assert (code, wrong) == (1, ["ledger", "MLflow store"])
    assert "WRONG" in hpt("doctor", "--home", str(tmp_path))[1]


def test_doctor_finds_a_home_that_cannot_be(hpt: Hpt, study: FakeStudy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, _ = hpt("doctor", "--json", "--home", str(tmp_path / "file" / "home"))
    assert code == 1
    assert [c["name"] for c in json.loads(out)["checks"] if c["ok"] is False] == ["home"]
