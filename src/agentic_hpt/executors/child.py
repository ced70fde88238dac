"""The trial process's side. Imported in every trial process, so it imports next to nothing."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection, forkserver, parent_process
from pathlib import Path

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors import kin
from agentic_hpt.executors.handle import explain, run_objective
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, JsonObject, Outcome, Report, TrialState

__all__ = [
    "GO_ON",
    "OUTPUT_LOG",
    "STOP",
    "end_all",
    "main",
    "nothing",
    "outcome_json",
    "read_outcome",
    "rebuilt",
    "settle",
    "write",
]

OUTPUT_LOG = "output.log"
GO_ON, STOP = b"0", b"1"


def main(channel: socket.socket, payload: bytes, metric: str, job: Job, environment: Mapping[str, str]) -> None:
    """Run one attempt of a trial and send its reports and its outcome over `channel`, a JSON object a line.

    Each report is answered with one byte, `GO_ON` or `STOP`. `environment` replaces the fork server's own.
    """
    me = os.getpid()
    settle(job, environment)

    def send(report: Report) -> bool:
        write(channel, {"step": report.step, "metrics": dict(report.metrics)})
        answer = channel.recv(1)
        if not answer:
            end_all()
        return answer == STOP

    objective = rebuilt(payload, job)
    outcome = objective if isinstance(objective, Outcome) else run_objective(objective, job, metric, send)
    if os.getpid() != me:
        os._exit(1)  # a fork of the trial's process that came back from the objective: the answer isn't its to give
    try:
        write(channel, {**outcome_json(outcome), "left": kin.left_running()})
    except OSError as error:
        sys.exit(f"the trial's connection to hpt is broken ({error}): did it close file descriptors of others?")


def settle(job: Job, environment: Mapping[str, str]) -> None:
    """Make a forked process one of its own: its group, marks, end with the driver, signals, output, environment."""
    os.setsid()
    kin.take_in(environment[kin.VARIABLE])
    _leave_server()
    if (driver := parent_process()) is not None:
        threading.Thread(target=_die_with, args=(driver.sentinel, os.fstat(driver.sentinel)), daemon=True).start()
    _reset_signals()
    _redirect_output(Path(job.artifact_dir))
    os.environ.clear()
    os.environ.update(environment)
    _set_threads(job, environment)


def rebuilt(payload: bytes, job: Job) -> Objective | Outcome:
    """Unpickle the objective, and get its libraries ready for the job; or give the failure that it can't be had."""
    try:
        objective: Objective = pickle.loads(payload)
    except Exception as error:
        text = f"the objective can't be rebuilt in a trial's process: {explain(error)}"
        return Outcome.failed(FailureKind.CRASH, text)
    _share_gpu(job)
    return objective


def nothing() -> None:
    """Return at once: the task that shows a fork server to be ready."""


def read_outcome(message: Mapping[str, object], reports: tuple[Report, ...]) -> Outcome:
    """Rebuild the outcome from the message it was sent as; the reports are those that the driver got."""
    failure = message["failure"]
    return Outcome(
        TrialState(str(message["state"])),
        message["values"],  # type: ignore[arg-type]
        FailureKind(str(failure)) if failure is not None else None,
        str(message["message"]),
        seconds=float(message["seconds"]),  # type: ignore[arg-type]
        reports=reports,
    )


def outcome_json(outcome: Outcome) -> JsonObject:
    """Give an outcome as a message; its reports were sent before."""
    return {
        "state": outcome.state.value,
        "values": dict(outcome.values),
        "failure": outcome.failure.value if outcome.failure is not None else None,
        "message": outcome.message,
        "seconds": outcome.seconds,
    }


def write(channel: socket.socket, message: JsonObject) -> None:
    """Send a message."""
    channel.sendall(json.dumps(message).encode() + b"\n")


def _redirect_output(folder: Path) -> None:
    """Send file descriptors 1 and 2 to the trial's log, so that programs it starts write there too."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / OUTPUT_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    # Line by line: what a trial printed before it was killed is what explains it.
    sys.stdout, sys.stderr = (
        os.fdopen(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False) for fd in (1, 2)
    )
    faulthandler.enable(all_threads=False)


def _reset_signals() -> None:
    """Undo what was inherited: a trial must heed SIGTERM whatever the driver's shell or threads have blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def _leave_server() -> None:
    """Let go of the driver's fork server: it must end with the driver, and what a trial forks must be its own."""
    server = forkserver._forkserver
    held: int | None = vars(server)["_forkserver_alive_fd"]
    if held is not None:
        os.close(held)
        server.__init__()  # type: ignore[misc]


def _set_threads(job: Job, environment: Mapping[str, str]) -> None:
    """Set the threads of libraries that are loaded already: they read the server's environment, not this one."""
    threads = environment["OMP_NUM_THREADS"].split(",")[0]
    if "torch" in sys.modules and threads.isdecimal():
        sys.modules["torch"].set_num_threads(max(1, int(threads)))
    if "numpy" in sys.modules and job.limits.threads > 1:
        import threadpoolctl

        threadpoolctl.threadpool_limits(job.limits.threads)


def _share_gpu(job: Job) -> None:
    """Bound torch's memory on a GPU that others use too, once it is used: asking for it now would take some of it."""
    torch = sys.modules.get("torch")
    if torch is not None and 0 < job.limits.gpus < 1:
        torch.cuda._lazy_call(lambda: torch.cuda.set_per_process_memory_fraction(job.limits.gpus))


def _die_with(driver: int, held: os.stat_result) -> None:
    connection.wait([driver])
    try:
        if not os.path.samestat(os.fstat(driver), held):
            return
    except OSError:
        return  # it was the trial itself that closed it: the fork server sees to its end
    end_all()


def end_all() -> None:
    """End this process and all that it started."""
    kin.end_below(os.getpid())
    os.killpg(os.getpid(), signal.SIGKILL)
