"""Each trial in a process of its own, forked from a server that has imported the heavy libraries already."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors import child, warmup
from agentic_hpt.executors.watch import Watch
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, Outcome, Report

__all__ = ["ProcessExecutor"]

_STARTS = 4
_START_PAUSE = 0.25
"""A fork server that was killed takes a moment to be gone; until then a process can't be started."""
_GRACE = 2.0
"""Seconds that a process gets to end by itself after its answer, or after SIGTERM."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Looking for CUDA through NVML does not initialize it, so the server stays fit for forking.
_SERVER = {**_ONE_THREAD, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# Starting a process borrows what the whole process has once: `__main__`'s attributes, the environment, and the
# standard library's own list of children.
_SPAWNING = threading.Lock()


class ProcessExecutor:
    """Run each trial in its own process and process group: a crash, a kill or a time limit ends that trial only.

    The objective is sent by value where it must be (`__main__`, lambdas, closures), so scripts need no
    `if __name__ == "__main__"`. Numeric libraries get one thread a trial, unless the environment says otherwise. What a
    trial prints goes to `output.log` in its artifact folder. Raises `ConfigError` for an objective that can't be sent.
    The fork server belongs to the Python process: the first executor started decides what it has imported.
    """

    def __init__(self, objective: Objective, metric: str, slots: int) -> None:
        import cloudpickle

        self.slots = slots
        self._metric = metric
        self._preload = objective.preload()
        try:
            self._payload: bytes = cloudpickle.dumps(objective)
        except Exception as error:
            raise ConfigError(
                f"the objective {objective!r} can't be sent to a trial's process: {error}",
                "it holds something that lives in one process only (an open file, a lock, a connection); "
                "make that inside the function, or use executor: inline",
            ) from error
        self._forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = (
            multiprocessing.get_context("forkserver") if self._forks else multiprocessing.get_context("spawn")
        )
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="hpt-launch")
        self._attempts: dict[asyncio.Task[Outcome], asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Boot the fork server and wait until it has imported what trials need; takes seconds with torch."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._boot)

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end; when cancelled, kill its process group first."""
        stop = asyncio.get_running_loop().create_future()
        # A task of its own: cancelling `run` must not cut short the cleaning up.
        attempt = asyncio.create_task(self._attempt(job, on_report, stop))
        self._attempts[attempt] = stop
        attempt.add_done_callback(self._attempts.pop)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            _set(stop)
            await asyncio.wait([attempt])
            raise

    async def close(self) -> None:
        """Kill what still runs; its outcome is a failure of kind `cancelled`."""
        attempts = dict(self._attempts)
        for stop in attempts.values():
            _set(stop)
        if attempts:
            await asyncio.wait(attempts)
        self._threads.shutdown(wait=False)

    async def _attempt(self, job: Job, on_report: Callable[[Report], bool], stop: asyncio.Future[None]) -> Outcome:
        loop = asyncio.get_running_loop()
        for left in reversed(range(_STARTS)):
            try:
                process, channel = await loop.run_in_executor(self._threads, self._launch, job)
                break
            except (OSError, EOFError) as error:
                if not left:
                    text = f"the trial's process could not be started: {error!r}"
                    return Outcome.failed(FailureKind.LOST_WORKER, text)
                await asyncio.sleep(_START_PAUSE)
        started = time.monotonic()
        pid = process.pid
        assert pid is not None, "the process has been started"
        watch = Watch(channel, process.sentinel, on_report)
        try:
            await _first(watch.ended, stop, timeout=job.limits.seconds)
            timed_out = not watch.ended.done() and not stop.done()
            if timed_out:
                _terminate(pid, signal.SIGTERM)
            if not (watch.ended.done() and watch.ended.exception()):
                await _first(watch.exited, stop, timeout=_GRACE)
            if not watch.exited.done():
                _terminate(pid, signal.SIGKILL)
                await _first(watch.exited)
            code = await loop.run_in_executor(self._threads, _reap, process)
            orphaned = code == 255 and _kill(pid, signal.SIGKILL, "process")
        finally:
            _kill(pid, signal.SIGKILL, "group")  # what the trial started and left behind
            watch.close()
        watch.ended.result()
        if watch.outcome is not None and not timed_out and not stop.done():
            return watch.outcome
        if stop.done():
            kind, message = FailureKind.CANCELLED, "the executor was closed while the trial ran"
        elif timed_out:
            kind, message = FailureKind.TIMEOUT, f"the trial exceeded its time limit of {job.limits.seconds:g} s"
        else:
            kind, message = _death(code, orphaned)
            message = _with_log(message, Path(job.artifact_dir) / child.OUTPUT_LOG)
        return Outcome.failed(kind, message, seconds=time.monotonic() - started, reports=tuple(watch.reports))

    def _boot(self) -> None:
        with tempfile.TemporaryDirectory(prefix="agentic-hpt-") as folder:
            if self._forks:
                file = Path(folder) / "warmup.pickle"
                todo = warmup.Warmup(path=_search_path(), modules=self._preload, objective=self._payload)
                file.write_bytes(pickle.dumps(todo))
                self._context.set_forkserver_preload([warmup.__name__])
                with _SPAWNING, _main_hidden(), _environment({**_SERVER, warmup.VARIABLE: str(file)}):
                    forkserver.ensure_running()
            process = self._context.Process(target=child.nothing)
            with _SPAWNING, _main_hidden():
                process.start()
            _reap(process)

    def _launch(self, job: Job) -> tuple[BaseProcess, socket.socket]:
        ours, theirs = socket.socketpair()
        try:
            process = self._context.Process(
                target=child.main,
                args=(theirs, self._payload, self._metric, job, _trial_environment()),
                name=f"hpt-trial-{job.trial}",
            )
            with _SPAWNING, _main_hidden():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return process, ours


def _set(stop: asyncio.Future[None]) -> None:
    if not stop.done():
        stop.set_result(None)


async def _first(*events: asyncio.Future[None], timeout: float | None = None) -> None:
    await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _reap(process: BaseProcess) -> int:
    """Take a process's exit code once it has ended. Under the lock: starting another one polls them all."""
    with _SPAWNING:
        process.join()
        code = process.exitcode
        process.close()
    return 0 if code is None else code


def _terminate(pid: int, signum: signal.Signals) -> None:
    """Signal a running trial's group, or the process itself while it has not made its group yet."""
    if not _kill(pid, signum, "group"):
        _kill(pid, signum, "process")


def _kill(pid: int, signum: signal.Signals, what: Literal["group", "process"]) -> bool:
    """Send a signal and say whether there was anything to get it."""
    try:
        (os.killpg if what == "group" else os.kill)(pid, signum)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


def _death(code: int, orphaned: bool) -> tuple[FailureKind, str]:
    """Say of a process that gave no answer what ended it."""
    if orphaned:  # only the server could have told the exit code
        return FailureKind.LOST_WORKER, "the server that trials are forked from was killed"
    if code == -signal.SIGKILL:
        return FailureKind.LOST_WORKER, "the trial's process was killed from outside (SIGKILL; out of memory, perhaps)"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return FailureKind.CRASH, f"the trial's process died by {name} ({signal.strsignal(-code)})"
    return FailureKind.CRASH, f"the trial's process ended with exit code {code} before it gave an answer"


def _with_log(message: str, log: Path) -> str:
    """Add the end of the trial's output; the interpreter's own frames in a fault's traceback say nothing."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16_384))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return message
    telling = [x for x in lines if x.strip() and "multiprocessing/" not in x and not x.startswith("Extension modules")]
    return "\n".join([message, *telling[-10:]])[:2000]


def _trial_environment() -> dict[str, str]:
    return {**_ONE_THREAD, **os.environ}


def _search_path() -> list[str]:
    return [entry or os.getcwd() for entry in sys.path]


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables, where they aren't set already, for a process that is started meanwhile."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing the user's script again in every child: it may have no guard."""
    names = sys.modules["__main__"].__dict__
    kept: dict[str, object] = {name: names[name] for name in ("__file__", "__spec__") if name in names}
    names["__spec__"] = None
    names.pop("__file__", None)
    try:
        yield
    finally:
        names.update(kept)
