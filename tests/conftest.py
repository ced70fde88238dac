"""Isolation shared by all tests: no variable of the person's environment reaches a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from postgres_server import PostgresServer

# LangGraph and matplotlib read these when they are first imported, which a fixture would be too late for.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")

_OURS = ("MLFLOW_TRACKING_URI", "AGENTIC_HPT_HOME", "AGENTIC_HPT_LEDGER", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


def _forget() -> None:
    for name in [n for n in os.environ if n in _OURS or n.startswith(("LANGSMITH_", "LANGCHAIN_"))]:
        del os.environ[name]


_forget()  # fixtures of a module or the session begin before those of a test


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    _forget()
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    # On a loaded machine a scripted model may take longer than a real decision that is worth a bridge.
    monkeypatch.setattr("agentic_hpt.config.BRIDGE_AFTER_SECONDS", 600.0)
    yield
    _forget()  # MLflow's own functions leave their address in the environment


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that does not exist yet."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PostgresServer]:
    from postgres_server import PostgresServer, why_missing

    missing = why_missing()
    if missing is not None:
        pytest.skip(missing)
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres(_postgres_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL server that runs, one for all tests of a process; `url()` makes a database of one's own."""
    _postgres_server.resume()
    _postgres_server.start()
    return _postgres_server
