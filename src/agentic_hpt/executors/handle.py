"""What an objective sees of its trial, and the one place that turns what it does into an outcome."""

from __future__ import annotations

import errno
import math
import numbers
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import cast

from agentic_hpt.errors import ConfigError, FailureKind, Pruned, TrialFailure, tells_out_of_memory
from agentic_hpt.protocols import Objective, TrialHandle
from agentic_hpt.records import Job, Outcome, Params, Report, is_figure

__all__ = ["TrialContext", "failure_of", "judged", "number_of", "read_report", "run_objective"]

_MESSAGE_LIMIT = 2000
_SHOWN = 200
_REMEDY = "return the metric's number, or a mapping that holds each metric"


class TrialContext:
    """The `trial` of an objective: a job's facts, and `report`. Its folders are made when they are first asked for."""

    def __init__(self, job: Job, metric: str, send_report: Callable[[Report], bool]) -> None:
        self.id = job.trial
        self.params: Params = job.params
        self.seed = job.seed
        self.worker = job.worker
        self.reports: list[Report] = []
        self._job = job
        self._metric = metric
        self._send = send_report

    @cached_property
    def artifact_dir(self) -> Path:
        """The trial's own folder; what is left there stays."""
        return _made(self._job.artifact_dir)

    @cached_property
    def checkpoint_dir(self) -> Path:
        """A folder kept across a retry of the same trial."""
        return _made(self._job.checkpoint_dir)

    def report(self, metrics: Mapping[str, float] | float, step: int) -> None:
        """Report intermediate metrics at `step` (0, 1, ...); one number stands for the study's metric.

        Raises `Pruned` when the trial should stop, `TrialFailure` for what is not a finite number or a step.
        """
        report = read_report(metrics, step, self._metric)
        self.reports.append(report)
        if self._send(report):
            raise Pruned(f"trial {self.id} was stopped at step {step}")


def run_objective(objective: Objective, job: Job, metric: str, send_report: Callable[[Report], bool]) -> Outcome:
    """Run one attempt in this thread and say what became of it; `KeyboardInterrupt` alone is let through.

    A final job's score on the holdout is stored under the metric's name. Seconds and peak memory are measured where the
    job says so, and what the objective itself gives under these names counts before them.
    """
    trial = TrialContext(job, metric, send_report)
    started = time.perf_counter()
    try:
        run = objective.holdout if job.final else objective.run
        answer = run(job.params, cast(TrialHandle, trial))  # its folders are read, never set
        outcome = judged(answer, (metric, *(() if job.final else job.objectives)), _measured(job, started))
    except Pruned:
        outcome = Outcome.pruned()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        outcome = failure_of(error)
    seconds = time.perf_counter() - started
    return Outcome(
        outcome.state, outcome.values, outcome.failure, outcome.message, seconds=seconds, reports=tuple(trial.reports)
    )


def read_report(metrics: Mapping[str, float] | float, step: int, metric: str) -> Report:
    """Read what an objective reports. Raises `TrialFailure` for what is not a finite number or a step."""
    if not _is_step(step):
        raise TrialFailure(FailureKind.INVALID_OUTPUT, f"report: step is {step!r}; give a whole number from 0 on")
    values: dict[str, float] = {}
    for name, value in (metrics if isinstance(metrics, Mapping) else {metric: metrics}).items():
        number = number_of(value)
        if number is None or not isinstance(name, str):
            raise TrialFailure(
                FailureKind.INVALID_OUTPUT, f"report: {name!r} is {_shown(value)}; report names with numbers"
            )
        if not is_figure(number):
            raise TrialFailure(FailureKind.NAN, f"report: {name!r} is {_no_figure(number)} at step {step}")
        values[name] = number
    return Report(int(step), values)


def failure_of(error: BaseException) -> Outcome:
    """Give the failed outcome that an exception of the objective means."""
    if isinstance(error, TrialFailure):
        return Outcome.failed(error.kind, _maskable(error.message, _MESSAGE_LIMIT)[-_MESSAGE_LIMIT:])
    if isinstance(error, ConfigError):  # what it was given can't be used, and it says why: no fault in its code
        return Outcome.failed(FailureKind.INVALID_OUTPUT, _maskable(str(error), _MESSAGE_LIMIT)[:_MESSAGE_LIMIT])
    if isinstance(error, SystemExit):
        text = f"the objective called sys.exit({error.code!r}) before it gave its metric"
        return Outcome.failed(FailureKind.CRASH, _with_frames(text, error))
    return Outcome.failed(FailureKind.OUT_OF_MEMORY if _is_out_of_memory(error) else FailureKind.CRASH, explain(error))


def explain(error: BaseException) -> str:
    """Give an exception's own line, and under it the end of its traceback without this package's outer frames."""
    return _with_frames("".join(traceback.format_exception_only(error)).strip(), error)


def _with_frames(text: str, error: BaseException) -> str:
    head = _maskable(text, _MESSAGE_LIMIT // 2)[: _MESSAGE_LIMIT // 2]
    frames = "".join(traceback.format_tb(_user_frames(error.__traceback__))).rstrip()
    frames = _maskable(frames, _MESSAGE_LIMIT // 2)
    return f"{head}\n{frames[-(_MESSAGE_LIMIT - len(head) - 1) :]}" if frames else head


def judged(answer: object, metrics: Sequence[str], measured: Mapping[str, float]) -> Outcome:
    """Read what an objective returned; entries beside the metrics that aren't finite numbers are left out."""
    given = {**measured, **(answer if isinstance(answer, Mapping) else {metrics[0]: answer})}
    for metric in metrics:
        if metric not in given and isinstance(answer, Mapping):
            keys = ", ".join(map(repr, answer)) or "nothing"
            return _invalid(f"the objective returned a mapping with {keys} but without the metric {metric!r}")
        if metric not in given:
            return _invalid(f"the objective returned one number, so there is none for the metric {metric!r}")
        value = number_of(given[metric])
        if value is None:
            what = f"{metric!r} as {_shown(given[metric])}" if isinstance(answer, Mapping) else _shown(answer)
            return _invalid(f"the objective returned {what}, not a number for the metric {metric!r}")
        if not is_figure(value):
            return Outcome.failed(FailureKind.NAN, f"the metric {metric!r} is {_no_figure(value)}")
    numbers_ = {str(name): number_of(entry) for name, entry in given.items()}
    return Outcome.complete({name: n for name, n in numbers_.items() if n is not None and is_figure(n)})


def _measured(job: Job, started: float) -> dict[str, float]:
    """Give the seconds since `started`, and the peak memory of this process or the largest it started, as asked for."""
    found: dict[str, float] = {}
    if "seconds" in job.measured:
        found["seconds"] = time.perf_counter() - started
    if "memory_mb" in job.measured:
        import resource

        peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        found["memory_mb"] = max(peaks) / (2**20 if sys.platform == "darwin" else 2**10)
    return found


def _invalid(message: str) -> Outcome:
    return Outcome.failed(FailureKind.INVALID_OUTPUT, f"{message}; {_REMEDY}")


def _is_step(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) >= 0


def number_of(value: object) -> float | None:
    """Give `value` as a float if it is one number of any library (a NumPy scalar, a tensor of one element)."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        plain = value.item() if hasattr(value, "item") else value  # a tensor with a gradient can't be made a float
        return None if isinstance(plain, bool) else float(plain)
    except Exception:  # a tensor of many elements, say; libraries differ in what they raise
        return None


def _no_figure(value: float) -> str:
    return f"{value}, too large to reckon with" if math.isfinite(value) else str(value)


def _shown(value: object) -> str:
    shown = _maskable(repr(value), _SHOWN)[:_SHOWN]
    return "nothing (None)" if value is None else f"{shown} (a {type(value).__name__})"


def _maskable(text: str, limit: int) -> str:
    """Give a text that is about to be cut: with its secrets masked, since half of one would not be known as one."""
    if len(text) <= limit:
        return text  # the driver masks what it is told
    from agentic_hpt.config import mask_secrets  # takes a while to import: not for trials that go well

    return mask_secrets(text)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or any(c.__name__ == "OutOfMemoryError" for c in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and tells_out_of_memory(str(error))


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    inner = frames
    while inner is not None and str(inner.tb_frame.f_globals.get("__name__")).startswith("agentic_hpt."):
        inner = inner.tb_next
    return inner or frames


def _made(folder: str) -> Path:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path
