"""The databases in which MLflow keeps runs where there is no server: made ready before MLflow opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from agentic_hpt.config import MLFLOW_SCHEMA, for_libpq
from agentic_hpt.errors import TrackerAway
from agentic_hpt.postgres import ServerLock, connect

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_MAKING_SECONDS = 120.0


def is_database(tracking_uri: str) -> bool:
    """Say whether MLflow keeps its runs in a database that it opens itself."""
    return tracking_uri.startswith(_DATABASES)


@contextmanager
def prepared(tracking_uri: str) -> Iterator[None]:
    """Make a store of ours ready to be opened; on PostgreSQL nobody else opens it while MLflow makes its tables.

    Raises `TrackerAway` or `ConfigError` when the store can't be had.
    """
    if MLFLOW_SCHEMA in tracking_uri:
        with _alone(for_libpq(tracking_uri)):
            yield
    else:
        if tracking_uri.startswith("sqlite:///"):
            _readable(Path(tracking_uri.removeprefix("sqlite:///")))
        yield


def check_files(location: str) -> None:
    """See that files can be put where an experiment has its own, if that is a folder. Raises `TrackerAway`."""
    if not location.startswith("file:"):
        return
    folder = Path(url2pathname(urlsplit(location).path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackerAway(
            f"the experiment's files belong into {folder}, which can't be written here: {error.strerror}",
            "it was made on another machine: use the same --home here, or an MLflow server",
        ) from None


@contextmanager
def _alone(url: str) -> Iterator[None]:
    lock = ServerLock(url, "mlflow tables")
    try:
        if not lock.wait(_MAKING_SECONDS):
            raise TrackerAway(f"another process has been making MLflow's tables for {_MAKING_SECONDS:.0f} s")
        with connect(url) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {MLFLOW_SCHEMA}")
        yield
    finally:
        lock.release()


def _readable(path: Path) -> None:
    """Make a new file one that can be read while it is written to: MLflow's own default locks readers out."""
    if path.name and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
