"""`hpt doctor`: is the installation whole, the home writable, are the stores readable?"""

from __future__ import annotations

import asyncio
import base64
import os
import platform
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import click

from agentic_hpt import postgres
from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import table
from agentic_hpt.config import MlflowConfig, Settings, StudyConfig, for_libpq, is_postgres, mask_secrets, shown
from agentic_hpt.errors import HptError, NoLedger
from agentic_hpt.report.plain import counted, visible

if TYPE_CHECKING:
    from rich.console import Console

_LIBRARIES = ("agentic-hpt", "langgraph", "langchain", "optuna", "mlflow", "torch", "scikit-learn", "sqlalchemy")
_EXTRAS = {
    "openai": "langchain_openai",
    "anthropic": "langchain_anthropic",
    "ollama": "langchain_ollama",
    "dashboard": "optuna_dashboard",
    "postgres": "psycopg",
    "ray": "ray",
    "studio": "langgraph_cli",
}
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_TORCH = (
    "import torch; g = torch.cuda.is_available(); "
    "print(torch.get_num_threads(), 'threads;', torch.cuda.get_device_name(0) if g else 'no GPU')"
)
_MEASURED_TASK = "digits"
_UNMEASURED = "measured before each study of 100 trials or more that can be batched; now with --measure"
_Check = tuple[str, bool | None, str]
"""What was looked at, whether it is as it must be (`None`: a fact, good either way), and what was found."""


@click.command("doctor")
@click.option("--measure", is_flag=True, help="Measure for some seconds whether batches of trials pay here.")
@verb
def command(measure: bool, home: str | None) -> Answer:
    """Check the installation, the home and the stores. Changes nothing. Exit code 1 when something is wrong."""
    checks = list(_checks(Settings.load(home), measure))
    healthy = all(ok is not False for _, ok, _ in checks)
    document = {"ok": healthy, "checks": [{"name": n, "ok": ok, "detail": detail} for n, ok, detail in checks]}
    return Answer(document, lambda console: _show(console, checks), 0 if healthy else 1)


def _checks(settings: Settings, measure: bool) -> Iterator[_Check]:
    yield "python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform(terse=True)}"
    for library in _LIBRARIES:
        yield library, *_version(library)
    yield "cores", None, f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    yield "torch device", *_tried(_torch)
    yield "executor auto", None, _measured() if measure else _UNMEASURED
    for extra, module in _EXTRAS.items():
        there, found = _version(module.replace("_", "-"))
        yield f"extra {extra}", None, found if there else f"not installed: pip install 'agentic-hpt[{extra}]'"
    for key in _KEYS:
        yield key, None, "set" if settings.has_variable(key) else "not set"
    yield "home", *_home(settings.home)
    yield from stores(settings)


def _measured() -> str:
    """Say what `executor: auto` would choose for a built-in job."""
    from agentic_hpt import wiring

    described = {"objective": {"task": _MEASURED_TASK}, "budget": {"trials": 1000}, "executor": "auto"}
    config = StudyConfig.from_mapping(described, where="doctor")
    told: list[str] = []
    asyncio.run(wiring.choose_executor(config, wiring.make_objective(config), told.append))
    return f"{told[-1]} (task {_MEASURED_TASK})"


def stores(settings: Settings) -> Iterator[_Check]:
    """Check the ledger and MLflow's store."""
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
    from agentic_hpt.ledger import LedgerStore
    from agentic_hpt.ledger.schema import SCHEMA_VERSION

    where = shown(settings.ledger_url).removeprefix("sqlite:///")
    if is_postgres(settings.ledger_url):
        with postgres.connect(settings.ledger_url) as connection:
            where = f"{where}: answers, version {connection.info.server_version // 10000}"
    try:
        store = LedgerStore(settings.ledger_url, create=False)
    except NoLedger:
        return f"{where}: no ledger there yet, will be made"
    with closing(store):
        studies = counted(len(store.list_studies()), "study", "studies")
        return f"{where}: {studies}, store version {SCHEMA_VERSION}"


def _mlflow(uri: str) -> str:
    """Look at the store without MLflow's own client, which would create or migrate it."""
    masked = mask_secrets(uri)
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(_health(uri), timeout=5):
                return f"{masked}: answers"
        except urllib.error.HTTPError as error:
            raise HptError(f"{masked}: answers with status {error.code}") from None
        except (ValueError, HTTPException):  # its message holds what was taken for a port: a part of a password, say
            raise HptError(f"{masked}: is no address; percent-encode what is special in user and password") from None
    if uri.startswith("postgresql"):
        return _mlflow_on_postgres(for_libpq(uri))
    if not uri.startswith("sqlite:///"):
        return f"{masked}: not looked into"
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.exists():
        return f"{masked}: not there yet, will be made"
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return f"{masked}: revision {revision[0]}"


def _health(uri: str) -> urllib.request.Request:
    """Give the question whether the server is well; urllib takes no user and password in an address."""
    address = urlsplit(f"{uri.rstrip('/')}/health")
    login, _, host = address.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(address._replace(netloc=host)))
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(unquote(login).encode()).decode()}")
    return request


def _mlflow_on_postgres(url: str) -> str:
    with postgres.connect(url) as connection:
        there = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
        if there is None or there[0] is None:
            return f"{shown(url)}: not there yet, will be made"
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return f"{shown(url)}: revision {revision[0] if revision else 'unknown'}"


def _show(console: Console, checks: list[_Check]) -> None:
    shown = table("", "what", "found")
    marks = {True: "ok", False: "WRONG", None: ""}
    for name, ok, detail in checks:
        shown.add_row(marks[ok], name, visible(detail))
    console.print(shown)
