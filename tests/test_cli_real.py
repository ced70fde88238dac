"""The command line over real studies, in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

JOB = """\
import json, os, sys
params = json.loads(os.environ["HPT_PARAMS"])
print("chatter of the job")
if params["n"] == 1:
    sys.exit("n=1 \\x1b[31mcannot")
print("HPT", json.dumps({"loss": (params["x"] - 0.3) ** 2}))
"""
STUDY = """\
study: job
objective: {command: [PYTHON, job.py]}
metric: loss
direction: minimize
space: {x: {float: [0.0, 1.0]}, n: {int: [1, 2], default: 2}}
budget: {trials: 6}
executor: inline
fresh_seeds: 1
mlflow: {enabled: false}
"""


def hpt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentic_hpt.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTIC_HPT", "MLFLOW"))}
    return {**kept, "NO_COLOR": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "job.py").write_text(JOB)
    (folder / "s.yaml").write_text(STUDY.replace("PYTHON", json.dumps(sys.executable)))
    return folder, hpt(folder, "run", "s.yaml", "--json")


def test_run_answers_with_the_document_alone(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = ran
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["trials"]["total"] == 6
    assert document["best"]["values"]["loss"] <= 0.04, "no worse than the default's"
    assert document["final"]["fresh_seeds"] == 1
    assert (folder / "hpt-home" / "ledger.db").exists()
    assert "[6/6] trial 5" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_study_can_be_looked_at(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = ran
    document = json.loads(ended.stdout)
    assert json.loads(hpt(folder, "best", "job", "--json").stdout) == document["best"]
    trials = json.loads(hpt(folder, "trials", "job", "--json").stdout)["trials"]
    assert [t["id"] for t in trials] == list(range(6))
    assert sum(t["failure"] == "crash" for t in trials) == document["trials"]["failed"]
    (status,) = json.loads(hpt(folder, "status", "--json").stdout)["studies"]
    assert (status["study"], status["status"], status["trials"]) == ("job", "finalized", 6)
    decisions = json.loads(hpt(folder, "decisions", "job", "--json").stdout)["decisions"]
    assert decisions[-1]["actions"][0]["type"] == "finalize"
    report = hpt(folder, "report", "job", "--out", "r.html")
    assert report.stdout.strip() == str(folder / "r.html")
    assert "\x1b" not in (folder / "r.html").read_text(encoding="utf-8")


def test_a_taken_name_is_refused_and_a_finished_study_is_not_run_again(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = ran
    again = hpt(folder, "run", "s.yaml", "--json")
    assert (again.returncode, again.stdout) == (2, "")
    assert "hpt resume job" in again.stderr
    resumed = hpt(folder, "resume", "job", "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout) == json.loads(ended.stdout)
    assert "trial 0" not in resumed.stderr


def test_looking_makes_no_home(tmp_path: Path) -> None:
    assert json.loads(hpt(tmp_path, "status", "--json").stdout) == {"studies": []}
    for verb in ("trials", "best", "decisions", "report", "ui", "resume"):
        ended = hpt(tmp_path, verb, "none")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "no study named 'none'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def _as_at_a_terminal() -> None:
    """Let Ctrl-C end what is started: where the tests are a script's background job, it would be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ui_serves_on_this_machine_until_it_is_told_to_end(
    ran: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = ran
    (folder / "ui.yaml").write_text(
        (folder / "s.yaml").read_text().replace("study: job", "study: shown").replace("enabled: false", "enabled: true")
    )
    assert hpt(folder, "run", "ui.yaml", "--trials", "2").returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        taken = hpt(folder, "ui", "shown", "--port", str(port))
        assert taken.returncode == 2
        assert "--port" in taken.stderr
    command = [sys.executable, "-m", "agentic_hpt.cli", "ui", "shown", "--port", str(port), "--json"]
    with (
        (tmp_path / "err").open("w") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=_as_at_a_terminal,
        ) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not _answers(f"{url}/health"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"ended with {server.wait(0.3)}")
            assert time.monotonic() < deadline
        server.send_signal(signal.SIGINT)
        out, _ = server.communicate(timeout=60)
    assert server.returncode == 0, (tmp_path / "err").read_text()
    assert json.loads(out) == {"url": url, "serving": True}
    assert not _answers(f"{url}/health"), "nothing of the server is left"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
