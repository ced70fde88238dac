"""`hpt ui`: a study's runs in MLflow's web page, or its Optuna mirror in optuna-dashboard."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError, HptError, MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

_HOST = "127.0.0.1"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_STORAGE = "AGENTIC_HPT_DASHBOARD_STORAGE"
# The storage goes by the environment, as MLflow's does: a command line can be read by other users.
_DASHBOARD = (
    "import os, sys; from importlib.metadata import entry_points as e; "
    f"sys.argv.insert(1, os.environ.pop('{_STORAGE}')); "
    "sys.exit(next(iter(e(group='console_scripts', name='optuna-dashboard'))).load()())"
)


@click.command("ui")
@click.argument("study")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port. [5000, or 8080 with --optuna]")
@click.option("--optuna", is_flag=True, help="Show the study's Optuna storage in optuna-dashboard instead.")
@verb
def command(study: str, port: int | None, optuna: bool, home: str | None) -> Answer:
    """Serve the runs of STUDY as a web page on this machine only, until Ctrl-C."""
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    if optuna:
        return _dashboard(view.config, port or 8080)
    return _mlflow(view.config, view.tracking_uri, port or 5000)


def _mlflow(config: StudyConfig, uri: str, port: int) -> Answer:
    if not config.mlflow.enabled:
        raise ConfigError(f"the study {config.study!r} does not log to MLflow", "see `hpt report` and `hpt trials`")
    if uri.startswith(("http://", "https://")):
        masked = mask_secrets(uri)
        return Answer(
            {"url": masked, "serving": False}, lambda console: console.print(f"MLflow already runs: {masked}")
        )
    # one worker keeps it small; the store goes by the environment, as a command line can be read by other users
    arguments = ["-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    return _served("MLflow", port, arguments, {**_QUIET, "MLFLOW_BACKEND_STORE_URI": uri})


def _dashboard(config: StudyConfig, port: int) -> Answer:
    if config.optuna_storage is None:
        raise ConfigError(
            f"the study {config.study!r} has no Optuna storage", "set optuna_storage in the study file of a new study"
        )
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise MissingExtra("the Optuna dashboard", "dashboard")
    arguments = ["-c", _DASHBOARD, "--host", _HOST, "--port", str(port), "--quiet"]
    return _served("optuna-dashboard", port, arguments, {_STORAGE: config.optuna_storage})


def _served(what: str, port: int, arguments: Sequence[str], environment: Mapping[str, str]) -> Answer:
    _check_free(port)
    url = f"http://{_HOST}:{port}"

    def show(console: Console) -> None:
        console.print(f"{what}: {url} (takes some seconds to start; Ctrl-C ends it)")

    return Answer({"url": url, "serving": True}, show, afterwards=lambda: _serve(what, arguments, environment))


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigError(f"port {port} can't be used: {error.strerror}", "choose another with --port") from None


def _serve(what: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the server until it ends or Ctrl-C; then nothing of it is left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=2,  # stdout may hold a JSON document
        start_new_session=True,
    )
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        _end(server)
    raise HptError(f"{what} ended by itself with exit code {code}", "its own message stands above")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Kill the server with its workers, gently first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
