"""Connecting to Ray: to a cluster that is there, or to one of our own on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from agentic_hpt.errors import ConfigError, MissingExtra
from agentic_hpt.executors.gpus import visible_gpus
from agentic_hpt.records import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cluster"]

_ADDRESS = "RAY_ADDRESS"
_LOOPBACK = "127.0.0.1"
_CLIENT, _CLIENT_PORT = "ray://", "10001"
_CLIENT_TRIES = 3
"""The head starts a server for each client, which on a busy one may take longer than it waits."""
_CONNECT_SECONDS = 5.0
_TRY_SECONDS = 60.0
"""Ray itself tries for minutes, and heeds no signal while it does."""
_STORE_BYTES = 128 * 2**20
"""Of the object store: nothing but the objective lies there. Ray's own choice is a third of the memory."""
_LONGEST = 36
"""Of a folder for Ray's files: a socket's path may have 107 characters, and the rest of it takes 65."""
_TRY = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error'); ray.shutdown()"


class Cluster:
    """A connection to Ray, one a process. Where Python is connected already, that connection is used and left alone.

    Without an `address`, here or in `RAY_ADDRESS`, Ray is started on this machine: it listens on loopback only, lets in
    only those who have its token, shows no dashboard, and ends with the connection or with this process. Raises
    `MissingExtra` where Ray is not installed.
    """

    def __init__(
        self, address: str | None = None, env: Mapping[str, str] | None = None, working_dir: str | None = None
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra("executor: ray", "ray")
        self._address = address or os.environ.get(_ADDRESS) or None
        self._env = dict(env or {})
        self._working_dir = working_dir
        self._ours = False
        self._folder: Path | None = None
        self._before: dict[str, str | None] = {}

    @property
    def told(self) -> str:
        """Say in a sentence what trials run on, and what it opens to others."""
        if self._address is not None:
            return f"trials run on the Ray cluster at {self._address}, which sees what this study sends"
        return "trials run on a Ray of their own on this machine: it listens on loopback only, and ends with the study"

    def connect(self, cpus: int = 0) -> None:
        """Connect, or start Ray: takes seconds. Raises `ConfigError` when the cluster does not answer.

        A Ray of our own has as many CPUs as this machine, or `cpus` if that is more: its trials share them then. It
        ends with the thread that calls this.
        """
        if _connected():
            if self._env or self._working_dir:
                raise ConfigError(
                    "ray: env and working_dir can't be set: this process is connected to Ray already",
                    "give them to your own ray.init(runtime_env=...), or let hpt connect",
                )
            return
        if self._address is None:
            self._close_off()
        environment = {"env_vars": self._env} if self._env else {}
        if self._working_dir:
            environment["working_dir"] = self._working_dir  # type: ignore[assignment]
        if self._address is None:
            self._start(environment, max(cpus, _cores()))
        else:
            self._join(self._address, environment)
        self._ours = True

    def close(self) -> None:
        """Disconnect, and end a Ray of our own."""
        if self._ours:
            import ray

            self._ours = False
            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()

    def slots(self, limits: Limits) -> int:
        """Give how many trials the cluster has room for now, when nothing else runs there; at least one.

        Connects for that, and disconnects again; a Ray of our own is not started for it.
        """
        if self._address is None and not _connected():
            machine = {"CPU": float(_cores()), "GPU": float(len(visible_gpus(os.environ)) if limits.gpus else 0)}
            return max(1, _room(machine, limits))
        self.connect()
        try:
            return max(1, sum(_room(resources, limits) for resources in self._nodes()))
        finally:
            self.close()

    def check_room(self, limits: Limits) -> None:
        """Raise `ConfigError` when no node is large enough for a trial: it would wait for ever."""
        nodes = self._nodes()
        if any(_room(resources, limits) for resources in nodes):
            return
        wanted = f"{limits.threads} CPUs" + (f" and {limits.gpus:g} GPUs" if limits.gpus else "")
        there = ", ".join(sorted({f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes}))
        raise ConfigError(
            f"a trial takes {wanted} (limits.threads, limits.gpus), and no node has that: they have {there or '0'}",
            "lower the limits, add such a node, or set ray.autoscaling: true where the cluster adds it by itself",
        )

    def _nodes(self) -> list[Mapping[str, float]]:
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def _start(self, environment: Mapping[str, object], cpus: int) -> None:
        import ray

        with _own_signals(), _quiet():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                runtime_env=environment or None,
                log_to_driver=False,
                logging_level="error",
                _temp_dir=str(self._folder) if len(str(self._folder)) <= _LONGEST else None,
            )
        where = {str(node["NodeManagerAddress"]) for node in ray.nodes()}
        if where != {_LOOPBACK}:
            logging.getLogger(__name__).warning(
                "Ray listens at %s, not on loopback only: it was imported before hpt could tell it; its token is asked "
                "for there. Let hpt import it, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before you do.",
                ", ".join(where),
            )

    def _close_off(self) -> None:
        """Set what keeps others out of a Ray of our own. Ray reads it when it is imported, or never."""
        self._folder = Path(tempfile.mkdtemp(prefix="hpt-ray-"))
        self._set({"RAY_USAGE_STATS_ENABLED": "0"})
        if "RAY_AUTH_MODE" not in os.environ:
            token = self._folder / "token"
            token.touch(mode=0o600)
            token.write_text(_token())
            self._set({"RAY_AUTH_TOKEN_PATH": str(token)})
            self._before["RAY_AUTH_MODE"] = None  # where Ray was imported already it sets that itself
        fresh = "ray" not in sys.modules
        if _heeds_us():
            self._set({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})  # Ray's word for: stay on loopback
        if fresh and "RAY_AUTH_MODE" not in os.environ:
            self._set({"RAY_AUTH_MODE": "token"})

    def _join(self, address: str, environment: Mapping[str, object]) -> None:
        import ray

        _try(address)
        for left in reversed(range(_CLIENT_TRIES if address.startswith(_CLIENT) else 1)):
            try:
                with _own_signals(), _quiet():
                    ray.init(
                        address=address,
                        runtime_env=environment or None,
                        log_to_driver=False,
                        logging_level="error",
                    )
                return
            except Exception as error:
                ray.shutdown()  # else the next connection finds what is left of this one
                if not left:
                    raise ConfigError(f"ray.address: {address}: {error}", _hint(address)) from error

    def _set(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _room(resources: Mapping[str, float], limits: Limits) -> int:
    fit = resources.get("CPU", 0.0) / limits.threads
    if limits.gpus:
        each = limits.gpus
        gpus = resources.get("GPU", 0.0)
        fit = min(fit, gpus * int(1 / each + 1e-9) if each < 1 else gpus / each)
    return int(fit + 1e-9)


def _try(address: str) -> None:
    """See in some seconds whether there is a Ray behind an address, by a process that can be killed."""
    if address != "auto":
        rest = address.removeprefix(_CLIENT)
        host, _, port = rest.rpartition(":") if ":" in rest else (rest, "", _CLIENT_PORT)
        if not port.isdecimal() or (":" not in rest and not address.startswith(_CLIENT)):
            raise ConfigError(f"ray.address: {address!r} is no address", "write auto, host:port or ray://host:port")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"ray.address: nothing answers at {address}: {error}", _hint(address)) from None
    if not address.startswith(_CLIENT):  # which gives up by itself
        _try_ray(address)


@lru_cache(maxsize=1)
def _try_ray(address: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"ray.address: what answers at {address} is no Ray cluster, or it did not let us in for {_TRY_SECONDS:g} s",
            _hint(address),
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and " W " not in line[:50]]
        raise ConfigError(f"ray.address: {address} can't be used: {(lines or ['no reason given'])[-1]}", _hint(address))


def _hint(address: str) -> str:
    if address == "auto":
        return "run on a node of the cluster, or write its address: host:port, or ray://host:port from outside"
    return "is the cluster up (`ray status`), the port right (6379, or 10001 for ray://), RAY_AUTH_MODE set as there?"


@lru_cache(maxsize=1)
def _heeds_us() -> bool:
    """Say whether this process's Ray can be kept on loopback: it asks once, when it is imported."""
    return "ray" not in sys.modules


@lru_cache(maxsize=1)
def _token() -> str:
    """Give this process's token: Ray reads it once, so a second cluster of our own must have the same."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of signals: Ray puts its own in the place of those that stop a study cleanly."""
    main = threading.current_thread() is threading.main_thread()
    kept: Callable[[int, FrameType | None], object] | int | None = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and kept is not None:
            signal.signal(signal.SIGTERM, kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray says while it starts out of the user's sight; what goes wrong it raises."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
