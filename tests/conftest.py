"""Isolation shared by all tests: no variable of the person's environment reaches a test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# LangGraph and matplotlib read these when they are first imported, which a fixture would be too late for.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")

_OURS = ("MLFLOW_TRACKING_URI", "AGENTIC_HPT_HOME", "AGENTIC_HPT_LEDGER", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*_OURS, *(n for n in os.environ if n.startswith(("LANGSMITH_", "LANGCHAIN_")))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    # On a loaded machine a scripted model may take longer than a real decision that is worth a bridge.
    monkeypatch.setattr("agentic_hpt.config.BRIDGE_AFTER_SECONDS", 600.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that does not exist yet."""
    return tmp_path / "home"
