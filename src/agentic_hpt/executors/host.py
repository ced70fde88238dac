"""The process that evaluates batches, one after the other: its own side. Imports next to nothing, as a trial's does."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import cast

from agentic_hpt.errors import FailureKind, TrialFailure
from agentic_hpt.executors.child import end_all, outcome_json, rebuilt, settle, write
from agentic_hpt.executors.handle import TrialContext, failure_of, judged, read_report
from agentic_hpt.protocols import BatchObjective, Objective, TrialHandle
from agentic_hpt.records import Job, JsonObject, Limits, Outcome, Report

__all__ = ["main"]


def main(channel: socket.socket, payload: bytes, metric: str, job: Job, environment: Mapping[str, str]) -> None:
    """Evaluate the jobs of each message that arrives on `channel`, until the driver closes it.

    A message is a JSON object a line. `taken` says that jobs have come. For each list of trials that are evaluated
    together `began` tells their ids; then `report` the metrics at a `step`, which is answered with the ids to `stop`;
    `told` a trial's outcome. `remark` is for a person. `done` says that no trial is left. `job` is the process's own.
    """
    settle(job, environment)
    line = _Line(channel)
    objective: Objective | Outcome | None = None
    while True:
        jobs = [_job(fields) for fields in cast(list[JsonObject], line.hear()["jobs"])]
        line.say({"taken": len(jobs)})
        if objective is None:  # not before: from here on the trials' limits hold, and what ends the process is theirs
            objective = rebuilt(payload, job)
        if isinstance(objective, Outcome):
            _HostedBatch(jobs, metric, line).end_rest(objective)
        else:
            _evaluate(cast(BatchObjective, objective), jobs, metric, line)
        line.say({"done": True})


class _Line:
    """The connection to the driver."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._incoming = channel.makefile("rb")
        self._me = os.getpid()

    def say(self, message: JsonObject) -> None:
        """Send a message, if this is the process that was started, and no fork of it that came back."""
        if os.getpid() != self._me:
            os._exit(1)
        try:
            write(self._channel, message)
        except OSError as error:
            sys.exit(f"the connection to hpt is broken ({error}): did the objective close file descriptors of others?")

    def hear(self) -> JsonObject:
        """Wait for a message; the process ends where the driver has closed the channel."""
        heard = self._incoming.readline()
        if not heard:
            end_all()
        message: JsonObject = json.loads(heard)
        return message


class _HostedBatch:
    """The batch that the objective sees: judges what it says trial by trial, and passes it on."""

    def __init__(self, jobs: Sequence[Job], metric: str, line: _Line) -> None:
        self.jobs = {job.trial: job for job in sorted(jobs, key=lambda job: job.trial)}
        self.trials = [cast(TrialHandle, TrialContext(job, metric, _not_alone)) for job in self.jobs.values()]
        self.untold = dict.fromkeys(self.jobs)
        self._metric = metric
        self._line = line

    def report(self, metrics: Mapping[int, Mapping[str, float]], step: int) -> frozenset[int]:
        """Report metrics of many trials at `step` at once; give the ids of those that end here, told already."""
        read_report({}, step, self._metric)
        ended: set[int] = set()
        sent: list[tuple[int, Mapping[str, float]]] = []
        for trial, given in metrics.items():
            trial = self._known(trial)
            if trial not in self.untold:
                ended.add(trial)
                continue
            try:
                sent.append((trial, read_report(given, step, self._metric).metrics))
            except TrialFailure as failure:
                self._tell(trial, failure_of(failure))
                ended.add(trial)
        if sent:
            self._line.say({"report": sent, "step": int(step)})
            for trial in cast(list[int], self._line.hear()["stop"]):
                self.untold.pop(trial)
                ended.add(trial)
        return frozenset(ended)

    def complete(self, trial: int, answer: object) -> None:
        """Give a trial's metrics; what was told of it before counts."""
        trial = self._known(trial)
        self._tell(trial, judged(answer, (self._metric, *self.jobs[trial].objectives), {}))

    def fail(self, trial: int, kind: FailureKind, message: str) -> None:
        """Say that a trial failed, and why."""
        self._tell(self._known(trial), failure_of(TrialFailure(FailureKind(kind), message)))

    def remark(self, text: str) -> None:
        """Say how trials are evaluated where that isn't what a person would think."""
        self._line.say({"remark": str(text)})

    def end_rest(self, outcome: Outcome) -> None:
        """Give all that are not told yet the same outcome."""
        for trial in list(self.untold):
            self._tell(trial, outcome)

    def _tell(self, trial: int, outcome: Outcome) -> None:
        if trial in self.untold:
            self._line.say({"told": trial, **outcome_json(outcome)})
            del self.untold[trial]  # not before: a trial that was not told would be handed over again, for ever

    def _known(self, trial: int) -> int:
        """Give a trial's id as its job has it: the objective's may be a number of a library's, which is no JSON."""
        if trial not in self.jobs:
            text = f"the objective spoke of trial {trial!r}, which is not in its batch"
            raise TrialFailure(FailureKind.INVALID_OUTPUT, text)
        return self.jobs[trial].trial


def _evaluate(objective: BatchObjective, jobs: Sequence[Job], metric: str, line: _Line) -> None:
    """Evaluate jobs in the lists that the objective makes of them; a list that lacks memory goes on in two halves."""
    try:
        lists = _divided(objective, jobs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _HostedBatch(jobs, metric, line).end_rest(failure_of(error))
        return
    while lists:
        batch = _HostedBatch(lists.pop(0), metric, line)
        line.say({"began": list(batch.jobs)})
        outcome = _run(objective, batch)
        left = [batch.jobs[trial] for trial in batch.untold]
        if outcome.failure is FailureKind.OUT_OF_MEMORY and len(left) > 1:
            _free_memory()
            lists[:0] = [left[: len(left) // 2], left[len(left) // 2 :]]
        else:
            batch.end_rest(outcome)


def _divided(objective: BatchObjective, jobs: Sequence[Job]) -> list[list[Job]]:
    """Let the objective divide the jobs. Raises `TrialFailure` where it does not give each of them one place."""
    groups = objective.groups([job.params for job in jobs])
    if sorted(position for group in groups for position in group) != list(range(len(jobs))):
        text = f"the objective's groups of {len(jobs)} configurations don't hold each position once: {groups!r}"
        raise TrialFailure(FailureKind.INVALID_OUTPUT, text)
    return [[jobs[position] for position in group] for group in groups if group]


def _run(objective: BatchObjective, batch: _HostedBatch) -> Outcome:
    """Run a list, and give the outcome of those that nothing was told of."""
    try:
        objective.run_batch(batch)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failure_of(error)
    return Outcome.failed(FailureKind.INVALID_OUTPUT, "the objective ended its batch and said nothing of this trial")


def _free_memory() -> None:
    """Give back what the batch held that ran out of memory; its frames are gone by now."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _job(fields: JsonObject) -> Job:
    """Rebuild a job from a message."""
    rebuilt: dict[str, object] = {
        **fields,
        "limits": Limits(**cast(dict[str, float], fields["limits"])),  # type: ignore[arg-type]
        **{key: tuple(cast(list[str], fields[key])) for key in ("objectives", "measured")},
    }
    return Job(**rebuilt)  # type: ignore[arg-type]


def _not_alone(report: Report) -> bool:
    raise TrialFailure(FailureKind.CRASH, "a trial of a batch was reported alone: report it by the batch")
