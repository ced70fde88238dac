"""Preloaded by the fork server: imports what trials will need, once. Importing this module is what does the work.

The file named by `AGENTIC_HPT_WARMUP` holds what to import; without it nothing happens. Whatever fails here is left
to the trial, which meets the same failure and reports it.

When the driver is gone, however it ended, the server ends what trials still run: one that was stopped, or is held up
inside a library, can't do that itself.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypedDict

from agentic_hpt.executors import kin

__all__ = ["VARIABLE", "Warmup", "warm_up"]

VARIABLE = "AGENTIC_HPT_WARMUP"


class Warmup(TypedDict):
    """What the file holds, pickled."""

    path: list[str]
    """The driver's `sys.path`."""
    modules: Sequence[str]
    objective: bytes
    """Unpickled for what that imports: the user's own modules."""


def warm_up(file: str) -> None:
    """Import the modules named in `file`, then the user's code if it leaves the process fit for forking."""
    with open(file, "rb") as stream:
        todo: Warmup = pickle.load(stream)
    sys.path[:] = todo["path"]
    # The driver has shown once what imports print; and its standard output is not the server's to write to.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    _outlive_driver()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name in todo["modules"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        if _forks_well_after(todo["objective"]):
            _unpickle(todo["objective"])


def _outlive_driver() -> None:
    """Leave the driver's group and session, so that what ends these leaves this process, and end its trials at last."""
    with contextlib.suppress(OSError):
        os.setsid()
    server = os.getpid()

    def end_trials() -> None:
        if os.getpid() == server:
            kin.end_below(server)

    atexit.register(end_trials)
    shows = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        """Say nothing of a driver that was killed while it asked for a process."""
        if os.getpid() != server or not isinstance(error, EOFError | ConnectionError):
            shows(kind, error, frames)

    sys.excepthook = show


def _forks_well_after(objective: bytes) -> bool:
    """Try the user's imports in a fork first: one that starts threads or CUDA would break every later fork."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            before = _threads()
            if _unpickle(objective) and _threads() == before:
                torch = sys.modules.get("torch")
                code = int(torch is not None and torch.cuda.is_initialized())
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _unpickle(objective: bytes) -> bool:
    try:
        pickle.loads(objective)
    except BaseException:  # a module that calls sys.exit() must not end the server
        return False
    return True


def _threads() -> int:
    """Count this process's threads, native ones too; jemalloc's (pyarrow's, so pandas') survives a fork by itself."""
    names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    return sum(name != "jemalloc_bg_thd" for name in names)


if VARIABLE in os.environ:
    warm_up(os.environ.pop(VARIABLE))
