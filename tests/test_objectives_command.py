"""Programs as objectives, run for real."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
from pathlib import Path

import pytest

from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.handle import run_objective
from agentic_hpt.objectives.command import CommandObjective
from agentic_hpt.records import Job, Outcome, TrialState

NAMES = ("lr", "momentum", "fast", "kind")


def run(folder: Path, program: str, *arguments: str, params=None, on_report=lambda report: False) -> Outcome:
    (folder / "train.py").write_text(program)
    objective = CommandObjective([sys.executable, "train.py", *arguments], str(folder), NAMES, "accuracy")
    job = Job("s", 4, 1, params or {"lr": 0.1}, 99, "w", str(folder / "a"), str(folder / "c"))
    return run_objective(objective, job, "accuracy", on_report)


ECHO = "import json, sys; print('HPT', json.dumps({'accuracy': 1, 'n': len(sys.argv)})); print(sys.argv[1:])"


def arguments(folder: Path) -> list[str]:
    return eval((folder / "a" / "output.log").read_text())


def test_placeholders_become_values_without_a_shell(tmp_path):
    params = {"lr": 1e-05, "momentum": 0.9, "fast": True, "kind": "a b; $HOME"}
    outcome = run(tmp_path, ECHO, "--lr={lr}", "{fast}", "{kind}", "{{lr}}", "{lr}/{momentum}", params=params)
    assert outcome.state is TrialState.COMPLETE
    assert arguments(tmp_path) == ["--lr=1e-05", "true", "a b; $HOME", "{lr}", "1e-05/0.9"]


def test_an_argument_of_inactive_parameters_only_is_left_out(tmp_path):
    run(tmp_path, ECHO, "--momentum={momentum}", "{momentum}", "{lr}:{momentum}", "plain", params={"lr": 2})
    assert arguments(tmp_path) == ["2:", "plain"]


def test_the_environment_tells_of_the_trial(tmp_path):
    program = (
        "import os, json\nopen(os.environ['HPT_ARTIFACT_DIR'] + '/x', 'w').write(os.environ['HPT_SEED'])\n"
        "assert os.path.isdir(os.environ['HPT_CHECKPOINT_DIR'])\n"
        "print('HPT ' + json.dumps({'accuracy': json.loads(os.environ['HPT_PARAMS'])['lr'],"
        " 'trial': int(os.environ['HPT_TRIAL'])}))\n"
    )
    assert run(tmp_path, program, params={"lr": 0.25}).values == {"accuracy": 0.25, "trial": 4.0}
    assert (tmp_path / "a" / "x").read_text() == "99"


def test_reports_and_the_last_result_are_read_and_the_rest_is_logged(tmp_path):
    program = (
        'import sys\nprint("hello")\nprint(\'HPT {"step": 0, "accuracy": 0.1}\')\nprint(\'HPT {"accuracy": 0.2}\')\n'
        'print("warn", file=sys.stderr)\nprint(\'HPT {"step": 1, "accuracy": 0.3}\')\n'
        'print(\'HPT {"accuracy": 0.4}\')\nprint("HPTX bye", end="")'
    )
    outcome = run(tmp_path, program)
    assert outcome.values == {"accuracy": 0.4}
    assert [(r.step, r.metrics) for r in outcome.reports] == [(0, {"accuracy": 0.1}), (1, {"accuracy": 0.3})]
    assert (tmp_path / "a" / "output.log").read_text() == "hello\nHPTX bye\n"
    assert (tmp_path / "a" / "stderr.log").read_text() == "warn\n"


@pytest.mark.parametrize(
    ("program", "failure", "texts"),
    [
        ("print('HPT {accuracy: 1}')", FailureKind.INVALID_OUTPUT, ["HPT {accuracy: 1}", "not valid JSON"]),
        ("print('HPT [1]')", FailureKind.INVALID_OUTPUT, ["HPT [1]", "not a JSON object"]),
        ("print('HPT {\"loss\": 1}')", FailureKind.INVALID_OUTPUT, ["'loss'", "'accuracy'"]),
        ('print(\'HPT {"step": "x", "accuracy": 1}\')', FailureKind.INVALID_OUTPUT, ["step is 'x'"]),
        ("print('HPT {\"accuracy\": NaN}')", FailureKind.NAN, ["nan"]),
        ("print('done')", FailureKind.INVALID_OUTPUT, ["gave no result", 'HPT {"accuracy": 0.9}']),
        ("raise SystemExit('no disk')", FailureKind.CRASH, ["exit code 1", "no disk"]),
        ("print('HPT {\"accuracy\": 1}'); raise SystemExit(3)", FailureKind.CRASH, ["exit code 3"]),
        ("import os; os.kill(os.getpid(), 11)", FailureKind.CRASH, ["SIGSEGV"]),
        ("import os; os.kill(os.getpid(), 9)", FailureKind.LOST_WORKER, ["SIGKILL"]),
        ("raise SystemExit(137)", FailureKind.LOST_WORKER, ["SIGKILL"]),
        ("bytearray(1 << 60)", FailureKind.OUT_OF_MEMORY, ["exit code 1", "MemoryError"]),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", FailureKind.OUT_OF_MEMORY, ["2 GiB"]),
    ],
)
def test_failures_have_their_kind_and_say_why(tmp_path, program, failure, texts):
    outcome = run(tmp_path, program)
    assert outcome.failure is failure
    for text in texts:
        assert text in outcome.message


def test_an_exit_code_shows_this_attempts_standard_error_only(tmp_path):
    run(tmp_path, "raise SystemExit('the first attempt')")
    message = run(tmp_path, "raise SystemExit('the second attempt')").message
    assert "second" in message
    assert "first" not in message


def test_a_pruned_program_is_ended(tmp_path):
    program = (
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\n"
        'print(\'HPT {"step": 0, "accuracy": 0}\', flush=True)\ntime.sleep(600)\n'
    )
    assert run(tmp_path, program, on_report=lambda report: True).state is TrialState.PRUNED
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_a_child_that_holds_the_output_open_does_not_keep_the_trial(tmp_path):
    program = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\nopen('pid', 'w').write(str(child.pid))\n"
        "print('HPT {\"accuracy\": 1}')\n"
    )
    assert run(tmp_path, program).values == {"accuracy": 1.0}
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 9)
    with open(os.pidfd_open(pid), "rb", buffering=0) as fd:
        select.select([fd], [], [])


def test_a_program_that_vanishes_fails_its_trial(tmp_path):
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\necho 'HPT {\"accuracy\": 1}'\n")
    script.chmod(0o755)
    objective = CommandObjective(["./job"], str(tmp_path), NAMES, "accuracy")
    job = Job("s", 4, 1, {}, 0, "w", str(tmp_path / "a"), str(tmp_path / "c"))
    assert run_objective(objective, job, "accuracy", lambda report: False).values == {"accuracy": 1.0}
    script.unlink()
    outcome = run_objective(objective, job, "accuracy", lambda report: False)
    assert outcome.failure is FailureKind.CRASH
    assert "could not be started" in outcome.message


@pytest.mark.parametrize(
    ("argv", "folder", "text"),
    [
        (["sh", "--lr={rl}"], ".", r"unknown placeholder \{rl\}.*lr, momentum"),
        (["sh", json.dumps({"a": 1})], ".", "unknown placeholder"),
        (["no-such-program-anywhere"], ".", "no program 'no-such-program-anywhere'"),
        (["./absent"], ".", "no program './absent'"),
        (["sh"], "/no/such/folder", "no folder /no/such/folder"),
        ([], ".", "empty"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(argv, folder, text):
    with pytest.raises(ConfigError, match=text):
        CommandObjective(argv, folder, NAMES, "accuracy")


def test_a_program_is_found_on_the_search_path_and_in_the_folder(tmp_path):
    assert repr(CommandObjective(["sh", "-c"], None, NAMES, "a")) == f"{shutil.which('sh')} -c"
    (tmp_path / "own").write_text("#!/bin/sh\n")
    (tmp_path / "own").chmod(0o755)
    assert repr(CommandObjective(["own"], str(tmp_path), NAMES, "a")) == str(tmp_path / "own")
    assert CommandObjective.has_holdout is False
