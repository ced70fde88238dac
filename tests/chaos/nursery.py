"""A process that has imported what a driver needs and forks one on request: hundreds of kills cost no imports.

What it forks runs the command line as `hpt` does, and is killed for real. It speaks JSON lines: see `Nursery`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

MODULES = (
    "agentic_hpt.cli.run",
    "agentic_hpt.cli.resume",
    "agentic_hpt.cli.live",
    "agentic_hpt.coordinator",
    "agentic_hpt.executors.inline",
    "agentic_hpt.executors.processes",
    "agentic_hpt.graph",
    "agentic_hpt.ledger",
    "agentic_hpt.objectives.function",
    "agentic_hpt.report.figures",
    "agentic_hpt.report.html",
    "agentic_hpt.strategies",
    "agentic_hpt.study",
    "agentic_hpt.study.looping",
    "agentic_hpt.tracking.client",
    "agentic_hpt.wiring",
    "aiosqlite",
    "langgraph.checkpoint.sqlite.aio",
)
_THE_USERS = ("AGENTIC_HPT_", "MLFLOW_", "LANGSMITH_", "LANGCHAIN_")
_DEADLINE = 180.0


class Driver:
    """One driver; `poll` gives its exit code once it has ended, that of a signal as a negative number."""

    def __init__(self, pid: int, poll: Callable[[], int | None]) -> None:
        self.pid = pid
        self._poll = poll
        self._code: int | None = None

    def poll(self) -> int | None:
        """Give its exit code once it has ended."""
        if self._code is None:
            self._code = self._poll()
        return self._code

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = _DEADLINE) -> int:
        """Wait for its end and give the exit code; one that takes too long is a fault of its own."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, 9)
                raise AssertionError(f"the driver {self.pid} did not end within {seconds:g} s")
            time.sleep(0.02)
        return code


class Nursery:
    """The warm process, as its user sees it."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_THE_USERS)}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._answer() == "ready"

    def ask(self, request: Mapping[str, object]) -> object:
        """Send a request and give its answer."""
        stdin = cast(IO[bytes], self._process.stdin)
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.flush()
        return self._answer()

    def start(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        file_size: int | None = None,
    ) -> Driver:
        """Fork `hpt ARGUMENTS`; what it prints goes to `log`. No file of it may grow beyond `file_size` bytes."""
        request = {"op": "start", "arguments": list(arguments), "log": str(log), "file_size": file_size}
        pid = cast(int, self.ask({**request, "environment": dict(environment or {})}))
        return Driver(pid, lambda: cast("int | None", self.ask({"op": "poll", "pid": pid})))

    def close(self) -> None:
        """End it."""
        cast(IO[bytes], self._process.stdin).close()
        self._process.wait(30)
        cast(IO[bytes], self._process.stdout).close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _answer(self) -> object:
        line = cast(IO[bytes], self._process.stdout).readline()
        if not line:
            raise AssertionError("the nursery has ended")
        return json.loads(line)


def _serve() -> None:
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    tasks = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ["one"]
    if len(tasks) != 1 or "torch" in sys.modules:
        raise SystemExit(f"what was imported leaves no process fit for forking: {len(tasks)} threads")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    answer("ready")
    for line in iter(sys.stdin.buffer.raw.readline, b""):  # type: ignore[attr-defined]
        request = json.loads(line)
        if request["op"] == "poll":
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer(os.waitstatus_to_exitcode(status) if pid else None)
            continue
        pid = os.fork()
        if pid == 0:
            answers.detach()
            _become_driver(request)
        answer(pid)


def _become_driver(request: Mapping[str, object]) -> None:
    code = 70
    try:
        os.setsid()
        log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 64)
        os.environ.update(cast("dict[str, str]", request["environment"]))
        if request["file_size"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (cast(int, request["file_size"]),) * 2)
        from agentic_hpt.cli.app import main

        code = main(cast("list[str]", request["arguments"]))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
