"""`hpt doctor`: is the installation whole, the home writable, are the stores readable?"""

from __future__ import annotations

import importlib.util
import os
import platform
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import table
from agentic_hpt.config import MlflowConfig, Settings, mask_secrets
from agentic_hpt.errors import HptError
from agentic_hpt.report.plain import visible

if TYPE_CHECKING:
    from rich.console import Console

_LIBRARIES = ("agentic-hpt", "langgraph", "langchain", "optuna", "mlflow", "torch", "scikit-learn", "sqlalchemy")
_EXTRAS = {
    "openai": "langchain_openai",
    "anthropic": "langchain_anthropic",
    "ollama": "langchain_ollama",
    "dashboard": "optuna_dashboard",
    "studio": "langgraph_cli",
}
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_TORCH = (
    "import torch; g = torch.cuda.is_available(); "
    "print(torch.get_num_threads(), 'threads;', torch.cuda.get_device_name(0) if g else 'no GPU')"
)
_Check = tuple[str, bool | None, str]
"""What was looked at, whether it is as it must be (`None`: a fact, good either way), and what was found."""


@click.command("doctor")
@verb
def command(home: str | None) -> Answer:
    """Check the installation, the home and the stores. Changes nothing. Exit code 1 when something is wrong."""
    checks = list(_checks(Settings.load(home)))
    healthy = all(ok is not False for _, ok, _ in checks)
    document = {"ok": healthy, "checks": [{"name": n, "ok": ok, "detail": detail} for n, ok, detail in checks]}
    return Answer(document, lambda console: _show(console, checks), 0 if healthy else 1)


def _checks(settings: Settings) -> Iterator[_Check]:
    yield "python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform(terse=True)}"
    for library in _LIBRARIES:
        yield library, *_version(library)
    yield "cores", None, f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    yield "torch device", *_tried(_torch)
    for extra, module in _EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        yield f"extra {extra}", None, "installed" if there else f"not installed: pip install 'agentic-hpt[{extra}]'"
    for key in _KEYS:
        yield key, None, "set" if settings.has_variable(key) else "not set"
    yield "home", *_home(settings.home)
    yield "ledger", *_tried(lambda: _ledger(settings))
    yield "MLflow store", *_tried(lambda: _mlflow(settings.resolve_tracking_uri(MlflowConfig())))


def _version(library: str) -> tuple[bool, str]:
    try:
        return True, version(library)
    except PackageNotFoundError:
        return False, "not installed"


def _tried(look: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, look()
    except HptError as error:
        return False, mask_secrets(str(error))
    except (OSError, subprocess.SubprocessError, sqlite3.Error) as error:
        return False, mask_secrets(f"{type(error).__name__}: {error}")


def _torch() -> str:
    """Ask torch in a process of its own: a broken driver must not take the doctor down."""
    asked = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=False)
    if asked.returncode != 0:
        raise HptError(f"it can't be used: {(asked.stderr.strip().splitlines() or ['no message'])[-1]}")
    return asked.stdout.strip()


def _home(home: Path) -> tuple[bool, str]:
    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False, f"{home}: can't be written; choose another with --home or AGENTIC_HPT_HOME"
    return True, f"{home}" if folder == home else f"{home}: not there yet, will be made"


def _ledger(settings: Settings) -> str:
    path = Path(settings.ledger_url.removeprefix("sqlite:///"))
    if not path.exists():
        return f"{path}: not there yet, will be made"
    from agentic_hpt.ledger import LedgerStore
    from agentic_hpt.ledger.schema import SCHEMA_VERSION

    with closing(LedgerStore(settings.ledger_url, create=False)) as store:
        return f"{path}: {len(store.list_studies())} studies, store version {SCHEMA_VERSION}"


def _mlflow(uri: str) -> str:
    """Look at the store without MLflow's own client, which would create or migrate it."""
    masked = mask_secrets(uri)
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                return f"{masked}: answers"
        except urllib.error.HTTPError as error:
            raise HptError(f"{masked}: answers with status {error.code}") from None
    if not uri.startswith("sqlite:///"):
        return f"{masked}: not looked into"
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.exists():
        return f"{masked}: not there yet, will be made"
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return f"{masked}: revision {revision[0]}"


def _show(console: Console, checks: list[_Check]) -> None:
    shown = table("", "what", "found")
    marks = {True: "ok", False: "WRONG", None: ""}
    for name, ok, detail in checks:
        shown.add_row(marks[ok], name, visible(detail))
    console.print(shown)
