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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import psutil

from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors import child, kin, warmup
from agentic_hpt.executors.deaths import KernelKills, death, told, with_log
from agentic_hpt.executors.gpus import VARIABLE as GPUS
from agentic_hpt.executors.gpus import Gpus, visible_gpus
from agentic_hpt.executors.patrol import Finding, Patrol
from agentic_hpt.executors.watch import TrialWatch, Watch
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, Outcome, Report

__all__ = ["Main", "ProcessExecutor", "Watching", "pickled"]

_STARTS = 4
_START_PAUSE = 0.25
"""A fork server that was killed takes a moment to be gone; until then a process can't be started."""
_GRACE = 2.0
"""Seconds that a process gets to end by itself after its answer, or after SIGTERM."""
_UNKILLABLE = 10.0
"""Seconds after SIGKILL in which a process has to be gone, unless it hangs in the kernel."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Looking for CUDA through NVML does not initialize it, so the server stays fit for forking.
_SERVER = {**dict.fromkeys(_THREADS, "1"), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
_SERVER_GONE = 255
"""What `multiprocessing` says of a process when only the dead server could have told its exit code."""
_ORPHANED = FailureKind.LOST_WORKER, "the server that trials are forked from was killed or does not answer"
_CANCELLED = Finding(FailureKind.CANCELLED, "the executor was closed while the trial ran")
_HUNG_UP = Finding(
    FailureKind.CRASH,
    "the trial closed its connection to hpt and ran on: did it close file descriptors of others (os.closerange)?",
)
# Starting a process borrows what the whole process has once: `__main__`'s attributes, the environment, and the
# standard library's own list of children.
_SPAWNING = threading.Lock()

P = ParamSpec("P")
T = TypeVar("T")
Main = Callable[[socket.socket, bytes, str, Job, Mapping[str, str]], None]
"""What a process runs: its channel, the pickled objective, the metric, the job, its environment."""
Watching = Callable[[socket.socket, int], Watch]
"""Makes the driver's side of a process from its channel and its sentinel."""


class ProcessExecutor:
    """Run each trial in its own process and process group: a crash, a kill or a limit ends that trial only.

    The objective is sent by value where it must be (`__main__`, lambdas, closures), so scripts need no
    `if __name__ == "__main__"`. Numeric libraries get one thread a trial, unless the environment or the job's limits
    say otherwise; with `gpus` each trial sees as many of this machine's, or a part of one. What a trial prints goes to
    `output.log` in its artifact folder. What it started ends with it. Raises `ConfigError` for an objective that can't
    be sent, and for too few GPUs.
    The fork server belongs to the Python process: the first executor started decides what it has imported.
    """

    def __init__(self, objective: Objective, metric: str, slots: int, *, gpus: float = 0.0) -> None:
        self.slots = slots
        self._metric = metric
        self._preload = objective.preload()
        self._payload = pickled(objective)
        self._forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = (
            multiprocessing.get_context("forkserver") if self._forks else multiprocessing.get_context("spawn")
        )
        self._gpus = Gpus(visible_gpus(os.environ), gpus, slots) if gpus else None
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="hpt-launch")
        self._booting: int | None = None
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="hpt-patrol")
        self._patrol = Patrol(_server_pid)
        self._patrolling: asyncio.Task[None] | None = None
        self._found: dict[int, asyncio.Future[Finding]] = {}
        self._kills = KernelKills()
        self._attempts: dict[asyncio.Task[Outcome], asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Boot the fork server and wait until it has imported what trials need; takes seconds with torch."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._boot)

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end; when cancelled, kill its process group first."""
        return await self.attend(job, child.main, lambda channel, sentinel: TrialWatch(channel, sentinel, on_report))

    async def attend(self, job: Job, main: Main, watching: Watching) -> Outcome:
        """Run `main` in a process of its own, followed by what `watching` makes, to the end of that process."""
        stop = asyncio.get_running_loop().create_future()
        # A task of its own: cancelling `attend` must not cut short the cleaning up.
        attempt = asyncio.create_task(self._attempt(job, main, watching, stop))
        self._attempts[attempt] = stop
        attempt.add_done_callback(self._attempts.pop)
        if self._patrolling is None or self._patrolling.done():
            self._patrolling = asyncio.create_task(self._patrol_on())
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
        if self._patrolling is not None:
            self._patrolling.cancel()
        if (server := self._booting) is not None:  # what it imports may take long, and nobody needs it any more
            _terminate(server, signal.SIGKILL)
        for threads in (self._threads, self._looking):
            threads.shutdown(wait=False)

    async def _attempt(self, job: Job, main: Main, watching: Watching, stop: asyncio.Future[None]) -> Outcome:
        self._patrol.expect(job)
        devices = self._gpus.take() if self._gpus else ()
        try:
            if job.attempt > 1:
                await self._aside(kin.end, kin.earlier_marks(job))
            try:
                process, channel = await self._started(job, main, _trial_environment(job, devices))
            except (OSError, EOFError) as error:
                text = f"the trial's process could not be started: {error!r}"
                return Outcome.failed(FailureKind.LOST_WORKER, text)
            return await self._follow(job, process, watching(channel, process.sentinel), stop)
        finally:
            if self._gpus:
                self._gpus.give_back(devices)

    async def _started(self, job: Job, main: Main, environment: Mapping[str, str]) -> tuple[BaseProcess, socket.socket]:
        loop = asyncio.get_running_loop()
        for _ in range(_STARTS - 1):
            with contextlib.suppress(OSError, EOFError):
                return await loop.run_in_executor(self._threads, self._launch, job, main, environment)
            await asyncio.sleep(_START_PAUSE)
        return await loop.run_in_executor(self._threads, self._launch, job, main, environment)

    async def _follow(self, job: Job, process: BaseProcess, watch: Watch, stop: asyncio.Future[None]) -> Outcome:
        """Follow a trial's process to its end, or end it; then end what it has started and left running."""
        began = time.monotonic()
        pid = process.pid
        assert pid is not None, "the process has been started"
        loop, exited = asyncio.get_running_loop(), watch.exited
        found = self._found[pid] = loop.create_future()
        self._patrol.follow(pid, job)
        left: list[psutil.Process | int] = []
        try:
            await _first(watch.ended, stop, found, timeout=job.limits.seconds)
            verdict = _verdict(job, watch, stop, found)
            if verdict is not None:
                watch.give_up()
                left += await self._aside(kin.below, pid)  # while it lives: its death lets go of them
                _terminate(pid, signal.SIGTERM if verdict.kind is FailureKind.TIMEOUT else signal.SIGKILL)
            if not (watch.ended.done() and watch.ended.exception()):
                await _first(exited, stop, timeout=_GRACE)
            if not exited.done():
                if verdict is None and watch.outcome is None and kin.runs(pid):
                    verdict = _CANCELLED if stop.done() else _HUNG_UP
                left += await self._aside(kin.below, pid)
                _terminate(pid, signal.SIGKILL)
                await _first(exited, timeout=_UNKILLABLE)
            code = await loop.run_in_executor(self._threads, _reap, process) if exited.done() else _let_go(process)
            orphaned = code == _SERVER_GONE and _kill(pid, 0, "process")
            if orphaned:
                left += await self._aside(kin.below, pid)
                _kill(pid, signal.SIGKILL, "process")
        finally:
            _kill(pid, signal.SIGKILL, "group")
            self._patrol.leave(pid)
            del self._found[pid]
            watch.close()
        if verdict is not None or watch.left != []:
            await self._aside(kin.end, [kin.mark_of(job)], [*left, *(watch.left or ())])
        if watch.ended.done():
            watch.ended.result()  # raises what the driver's own callback did
        if verdict is None and watch.outcome is not None:
            return told(watch.outcome, self._kills)
        if verdict is None:
            kind, text = _ORPHANED if orphaned else death(code, self._kills)
            verdict = Finding(kind, with_log(text, Path(job.artifact_dir) / child.OUTPUT_LOG))
        seconds = time.monotonic() - began
        return Outcome.failed(verdict.kind, verdict.message, seconds=seconds, reports=tuple(watch.reports))

    async def _patrol_on(self) -> None:
        """Look at what runs now and then, while anything does."""
        self._kills = KernelKills()
        while self._attempts:
            await asyncio.sleep(self._patrol.pause)
            self._kills.look()
            for pid, finding in (await self._aside(self._patrol.look)).items():
                if pid in self._found and not self._found[pid].done():
                    self._found[pid].set_result(finding)

    async def _aside(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Look at processes, which takes milliseconds, without holding up the loop; a launch may take much longer."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, lambda: call(*args, **kwargs))

    def _boot(self) -> None:
        with tempfile.TemporaryDirectory(prefix="agentic-hpt-") as folder:
            if self._forks:
                file = Path(folder) / "warmup.pickle"
                todo = warmup.Warmup(path=_search_path(), modules=self._preload, objective=self._payload)
                file.write_bytes(pickle.dumps(todo))
                self._context.set_forkserver_preload([warmup.__name__, child.__name__])
                with _SPAWNING, _main_hidden(), _environment({**_SERVER, warmup.VARIABLE: str(file)}):
                    ran = _server_runs()
                    forkserver.ensure_running()
                    self._booting = None if ran else _server_pid()
            try:
                process = self._context.Process(target=child.nothing)
                with _SPAWNING, _main_hidden():
                    process.start()
                _reap(process)
            finally:
                self._booting = None

    def _launch(self, job: Job, main: Main, environment: Mapping[str, str]) -> tuple[BaseProcess, socket.socket]:
        if self._forks and not _server_runs():
            self._boot()
        ours, theirs = socket.socketpair()
        try:
            process = self._context.Process(
                target=main,
                args=(theirs, self._payload, self._metric, job, environment),
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


def pickled(objective: Objective) -> bytes:
    """Pickle an objective for a trial's process. Raises `ConfigError` when that can't be done."""
    import cloudpickle

    try:
        payload: bytes = cloudpickle.dumps(objective)
    except Exception as error:
        raise ConfigError(
            f"the objective {objective!r} can't be sent to a trial's process: {error}",
            "it holds something that lives in one process only (an open file, a lock, a connection); "
            "make that inside the function, or use executor: inline",
        ) from error
    return payload


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


def _let_go(process: BaseProcess) -> int:
    """Leave to the kernel a process that it can't end; Python would wait for it when it exits."""
    with _SPAWNING:
        vars(multiprocessing.process)["_children"].discard(process)
    return _SERVER_GONE


def _terminate(pid: int, signum: signal.Signals) -> None:
    """Signal a running trial's group, or the process itself while it has not made its group yet."""
    if not _kill(pid, signum, "group"):
        _kill(pid, signum, "process")


def _kill(pid: int, signum: int, what: Literal["group", "process"]) -> bool:
    """Send a signal and say whether there was anything to get it."""
    try:
        (os.killpg if what == "group" else os.kill)(pid, signum)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


def _verdict(job: Job, watch: Watch, stop: asyncio.Future[None], found: asyncio.Future[Finding]) -> Finding | None:
    """Say why a trial has to be ended; `None` where it came to its own end first."""
    if watch.ended.done():
        return None
    if stop.done():
        return _CANCELLED
    if found.done():
        return found.result()
    return Finding(FailureKind.TIMEOUT, f"the trial exceeded its time limit of {job.limits.seconds:g} s")


def _server_pid() -> int | None:
    pid: int | None = vars(forkserver._forkserver)["_forkserver_pid"]
    return pid


def _server_runs() -> bool:
    pid = _server_pid()
    with contextlib.suppress(ChildProcessError):
        return pid is not None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def _trial_environment(job: Job, devices: Sequence[str]) -> dict[str, str]:
    environment = {**dict.fromkeys(_THREADS, "1"), **os.environ, kin.VARIABLE: kin.mark_of(job)}
    if job.limits.threads > 1:
        environment |= dict.fromkeys(_THREADS, str(job.limits.threads))
    if devices:
        environment[GPUS] = ",".join(devices)
    return environment


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
