"""The graph under LangGraph's own server, as `langgraph dev` starts it for LangGraph Studio."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import agentic_hpt as hpt
from agentic_hpt.testing import decide
from openai_server import OpenAIServer, says

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SPACE = {"x": {"float": [0.0, 1.0]}}
WINE: dict[str, Any] = {"study": "studio", "objective": {"task": "wine"}, "budget": {"trials": 6}, "seed": 0}


def cheap(name: str, trials: int, **changes: object) -> dict[str, Any]:
    """Describe a study of one parameter whose trials cost next to nothing."""
    return {
        "study": name,
        "objective": {"command": ["sh", "-c", 'echo "HPT {{\\"score\\": $0}}"', "{x}"]},
        "metric": "score",
        "space": SPACE,
        "budget": {"trials": trials},
        "trials_per_round": 3,
        **changes,
    }


@dataclass
class Server:
    """A running server."""

    url: str
    home: Path
    log: Path

    def thread(self) -> str:
        from langgraph_sdk import get_sync_client

        with get_sync_client(url=self.url, api_key=None) as client:
            return str(client.threads.create()["thread_id"])

    def run(self, given: dict[str, Any], thread: str | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run the graph to its end; give the thread's last state (or `error`), and the events on the way."""
        from langgraph_sdk import get_sync_client

        thread = thread or self.thread()
        events: list[dict[str, Any]] = []
        with get_sync_client(url=self.url, api_key=None) as client:
            for part in client.runs.stream(thread, "agentic_hpt", input=given, stream_mode="custom"):
                if part.event == "error":
                    return {"error": part.data}, events
                if part.event == "custom":
                    events.append(part.data)
            values = client.threads.get_state(thread)["values"]
            assert isinstance(values, dict)
            return values, events


def wait_for(what: str, is_there: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        threading.Event().wait(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    # The repository's own file with its paths made absolute: the server leaves files in its working directory.
    described = json.loads((ROOT / "langgraph.json").read_text())
    described["dependencies"] = [str(ROOT / path) for path in described["dependencies"]]
    described["graphs"] = {name: str(ROOT / target) for name, target in described["graphs"].items()}
    (folder / "langgraph.json").write_text(json.dumps(described))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = ("API_KEY", "LANGSMITH", "LANGCHAIN", "MLFLOW", "AGENTIC_HPT", "PYTHONWARNINGS")
    environment = {k: v for k, v in os.environ.items() if not any(word in k for word in secret)}
    environment |= {
        "AGENTIC_HPT_HOME": str(folder / "home"),
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGSMITH_TRACING": "false",
        "MPLBACKEND": "Agg",
        "NO_PROXY": "127.0.0.1",
    }
    command = [str(Path(sys.executable).with_name("langgraph")), "dev", "--no-browser", "--no-reload"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for("the server", lambda: answers(f"{url}/ok") or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Server(url, folder / "home", log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wait_for("the server's processes to end", lambda: group_is_gone(process.pid))


@pytest.fixture(scope="module")
def wine(server: Server) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The built-in task, run once for the tests of this file."""
    return server.run(WINE)


def test_a_study_runs_to_its_end_and_its_figures_are_in_the_state(
    server: Server, wine: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    state, events = wine
    assert state.get("status") == "finalized", state.get("error") or server.log.read_text()[-3000:]
    assert 0.5 < state["result"]["holdout"] <= 1.0
    assert state["result"]["fresh_seeds"] == 3
    types = {e["type"] for e in events}
    assert {"round", "trial_started", "trial", "decision", "final"} <= types
    assert [e["source"] for e in events if e["type"] == "decision"] == ["mlflow"] * state["round"]


def test_the_study_is_in_the_ledger_and_open_to_everybody(server: Server, wine: object) -> None:
    (study,) = [s for s in hpt.list_studies(server.home) if s["study"] == "studio"]
    assert study["status"] == "finalized"
    with hpt.Study.open("studio", server.home) as opened:
        assert [t.counted for t in opened.trials()].count(True) == study["trials"] <= 6
        wait_for("the study's lock", lambda: not opened._held())


def test_its_runs_are_in_mlflow(server: Server, wine: object) -> None:
    from mlflow import MlflowClient

    with hpt.Study.open("studio", server.home) as study:
        trials, decisions = study.trials(), study.decisions()
        client = MlflowClient(study.tracking_uri)
    last = 3 + 1  # fresh seeds, and the holdout
    expected = 1 + len(trials) + len(decisions) + last

    def runs() -> list[Any]:
        experiment = client.get_experiment_by_name("studio")
        return list(client.search_runs([experiment.experiment_id])) if experiment is not None else []

    wait_for("MLflow's runs", lambda: len(runs()) >= expected)
    found = runs()
    assert len(found) == expected
    logged = {int(r.data.tags["hpt.trial"]) for r in found if "hpt.trial" in r.data.tags}
    assert logged == set(range(len(trials) + last))


def test_a_name_that_is_taken_is_refused_with_the_remedy_and_nothing_is_mixed(server: Server, wine: object) -> None:
    before = hpt.list_studies(server.home)
    state, events = server.run({**WINE, "seed": 1})
    assert "a study named 'studio' is in this home already" in state["error"]["message"]
    assert events == []
    assert hpt.list_studies(server.home) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"study": "nothing"}, "the input names no objective"),
        ({}, "the input names no objective"),
        ({"study": "a/../b", "objective": {"task": "wine"}}, "can't be a study's name"),
        ({"study": "bad", "objective": {"task": "wine"}, "budget": {"trials": 0}}, "budget.trials"),
        (
            {"study": "bad", "objective": {"python": "no_such_module:train"}, "metric": "m", "space": SPACE},
            "no_such_module",
        ),
    ],
)
def test_bad_input_is_refused_in_plain_words(server: Server, given: dict[str, Any], words: str) -> None:
    state, _ = server.run(given)
    assert words in state["error"]["message"]
    assert "bad" not in [s["study"] for s in hpt.list_studies(server.home)]


def test_a_thread_runs_one_study_after_the_other(server: Server) -> None:
    thread = server.thread()
    first, _ = server.run(cheap("first", 7), thread)
    second, events = server.run(cheap("second", 30), thread)
    assert (first.get("status"), second.get("status")) == ("finalized", "finalized"), (first, second)
    assert first["uid"] != second["uid"]
    assert second["study"] == "second"
    assert sum(e["type"] == "trial_started" and e["worker"] != "fresh-seed" for e in events) == 30
    assert [e["round"] for e in events if e["type"] == "decision"] == list(range(1, second["round"] + 1))
    assert second["round"] * 3 > 25  # more steps than LangGraph once allowed by default


def test_a_model_decides_in_the_server_too(server: Server) -> None:
    proposal = decide("propose", "try the end", configurations=[{"params": {"x": 1.0}}])
    with OpenAIServer(says(proposal), says(decide("continue"))) as model:
        coordinator = {"model": "openai:test-model", "base_url": model.url}
        state, events = server.run(cheap("advised", 9, coordinator=coordinator))
    assert state.get("status") == "finalized", state
    decisions = [e for e in events if e["type"] == "decision"]
    assert [d["kind"] for d in decisions][:2] == ["llm", "llm"]
    opening = {a["type"]: a["verdict"] for a in decisions[0]["actions"]}
    assert opening["propose"] == "accepted", (decisions[0], len(model.requests))
    with hpt.Study.open("advised", server.home) as study:
        ran = [(dict(t.params), str(t.state), t.message) for t in study.trials() if t.kind == "proposals"]
    assert ran == [({"x": 1.0}, "complete", "")], decisions
    assert state["result"]["validation_best"] == 1.0
    assert all(d["fallback"] is None for d in decisions)


def test_a_person_decides_in_the_server_while_trials_go_on(server: Server) -> None:
    """As Studio does it: the run ends at the interrupt, another one brings the answer."""
    from langgraph_sdk import get_sync_client

    thread = server.thread()
    given = cheap("asked", 12, coordinator={"approve": True}, trials_per_round=3)
    state, events = server.run(given, thread)
    assert not state.get("result"), state
    answers: list[dict[str, Any]] = [
        {"answer": "edit", "actions": [{"type": "propose", "reason": "I", "configurations": [{"params": {"x": 1.0}}]}]},
        {"answer": "nonsense"},
        {"answer": "edit", "actions": [{"type": "stop_trial", "reason": "I", "trial": 9999}]},
        {"answer": "refuse", "comment": "no"},
    ]
    asked: list[tuple[int, str]] = []
    with get_sync_client(url=server.url, api_key=None) as client:
        while True:
            found = client.threads.get_state(thread)
            waiting = [i for task in found["tasks"] for i in task["interrupts"]]
            if not waiting:
                break
            request = waiting[0]["value"]
            asked.append((request["round"], request["problem"]))
            assert request["evidence"]
            assert "continue" in request["may"]
            if request["round"] == 0:
                wait_for("trials to go on", lambda: len(hpt.Study.open("asked", server.home).trials()) >= 3)
            resume = answers.pop(0) if answers else "approve"
            for part in client.runs.stream(thread, "agentic_hpt", command={"resume": resume}, stream_mode="custom"):
                assert part.event != "error", part.data
                if part.event == "custom":
                    events.append(part.data)
        values = found["values"]
    assert values["status"] == "finalized", values
    assert values["result"]["validation_best"] == 1.0
    assert [round_ for round_, _ in asked][:4] == [0, 1, 1, 1]
    assert [bool(problem) for _, problem in asked][:4] == [False, False, True, True]
    assert asked[3][1].startswith("the guards refuse all of the edit:\nstop_trial: ")
    with hpt.Study.open("asked", server.home) as study:
        assert [d.review for d in study.decisions()][:2] == ["edit", "refuse: no"]
        assert study.decisions()[0].bridged >= 2
        assert len([t for t in study.trials() if t.counted]) == 12


def test_a_study_that_fails_later_says_why_and_is_let_go(server: Server) -> None:
    given = cheap("refused", 6, objective={"command": ["sh", "-c", "echo nothing {x}"]})
    state, _ = server.run(given)
    assert "the objective's first answer can't be used" in state["error"]["message"]
    assert "refused" not in [s["study"] for s in hpt.list_studies(server.home)], "the name stays free"
    again, _ = server.run(cheap("refused", 6))
    assert again.get("status") == "finalized", again


def test_a_cancelled_run_lets_its_study_go(server: Server) -> None:
    from langgraph_sdk import get_sync_client

    slow = ["sh", "-c", 'sleep 600; echo "HPT {{\\"score\\": $0}}"', "{x}"]
    thread = server.thread()
    with get_sync_client(url=server.url, api_key=None) as client:
        given = cheap("cancelled", 6, objective={"command": slow})
        started = client.runs.create(thread, "agentic_hpt", input=given)
        wait_for("the study to run", lambda: _status(server, "cancelled") == "running")
        client.runs.cancel(thread, started["run_id"])
        wait_for("the study to be let go", lambda: _status(server, "cancelled") == "stopped")


def _status(server: Server, name: str) -> object:
    return next((s["status"] for s in hpt.list_studies(server.home) if s["study"] == name), None)


def test_no_node_blocked_the_servers_event_loop(server: Server, wine: object) -> None:
    """Runs last: the server raises for blocking calls, and says so in its log."""
    log = server.log.read_text()
    assert "Blocking call" not in log
    assert "BlockingError" not in log
