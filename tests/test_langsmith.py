"""LangSmith tracing works when its variables are set; a server here stands for LangSmith's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

INGEST = {
    "use_multipart_endpoint": False,
    "size_limit": 100,
    "size_limit_bytes": 20_000_000,
    "scale_up_nthreads_limit": 2,
    "scale_up_qsize_trigger": 1000,
}
STUDY = """
import agentic_hpt as hpt
from agentic_hpt.testing import ScriptedChatModel, decide

result = hpt.tune(
    lambda params: params["x"],
    {"x": hpt.Float(0.0, 1.0)},
    metric="score",
    study="traced",
    budget=hpt.Budget(trials=6),
    trials_per_round=3,
    coordinator=ScriptedChatModel(answers=[decide("continue")]),
    executor="inline",
    mlflow={"enabled": False},
)
print(result.status)
"""


@pytest.fixture
def langsmith() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Give the address of a server that takes whatever is posted to it, and what it took."""
    posted: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(json.dumps({"version": "0.8", "batch_ingest_config": INGEST}).encode())

        def do_POST(self) -> None:
            posted.append((self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0))))
            self._answer(b"{}")

        def do_PATCH(self) -> None:
            self.do_POST()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    server.server_close()
    thread.join()


def run(tmp_path: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STUDY],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **variables},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runs_are_traced_when_asked_for(tmp_path: Path, langsmith: tuple[str, list[tuple[str, bytes]]]) -> None:
    address, posted = langsmith
    traced = {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": address, "LANGSMITH_API_KEY": "for-a-test"}
    assert "finalized" in run(tmp_path, **traced)
    bodies = b"".join(body for _, body in posted)
    assert b"coordinator" in bodies, "the graph's nodes are traced"
    assert b"ScriptedChatModel" in bodies, "the model's calls are traced"


def test_tracing_to_nowhere_does_not_harm_the_study(tmp_path: Path) -> None:
    nowhere = {
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": "http://127.0.0.1:9",
        "LANGSMITH_API_KEY": "for-a-test",
    }
    assert "finalized" in run(tmp_path, **nowhere)
