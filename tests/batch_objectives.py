"""A batch objective in plain Python whose trials do what their parameters say, and runs of its jobs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.batched import BatchedExecutor
from agentic_hpt.protocols import Batch, TrialHandle
from agentic_hpt.records import Job, JsonObject, Outcome, Params, Report


class Toy:
    """Each trial has `steps` steps, reports its score and the size of its list at each, and at step `at` does `does`.

    The score depends on the trial alone. Those of a `group` are evaluated together; more than `room` at once lack
    memory. `log` is a file that gets a line for each list. A step takes `pace` seconds, alone and together. `remarks`
    is said of each list.
    """

    has_holdout = True

    def __init__(
        self, room: int = 1000, log: Path | None = None, pace: tuple[float, float] = (0.0, 0.0), remarks: str = ""
    ) -> None:
        self.room, self.log, self.pace, self.remarks = room, log, pace, remarks

    def preload(self) -> tuple[str, ...]:
        return ()

    def facts(self, params: Params) -> JsonObject:
        return {}

    def run(self, params: Params, trial: TrialHandle) -> object:
        for step in range(int(params.get("steps", 3))):
            time.sleep(self.pace[0])
            trial.report({"score": _value(trial, step), "pid": os.getpid()}, step)
        return {"score": _value(trial, step), "pid": os.getpid()}

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        return {"score": params["value"] * 10, "pid": os.getpid()}

    def groups(self, params: Sequence[Params]) -> list[list[int]]:
        if any(p.get("does") == "break groups" for p in params):
            return [[0]]
        if any(p.get("does") == "divide for ever" for p in params):
            signal.pause()
        found: dict[object, list[int]] = {}
        for position, one in enumerate(params):
            found.setdefault(one.get("group", ""), []).append(position)
        return list(found.values())

    def run_batch(self, batch: Batch) -> None:
        trials = {trial.id: trial for trial in batch.trials}
        if self.log is not None:
            self.log.with_suffix(".pid").write_text(str(os.getpid()))
            with self.log.open("a") as lines:
                lines.write(" ".join(map(str, trials)) + "\n")
        if self.remarks:
            batch.remark(self.remarks)
        size = len(trials)
        for step in range(max(int(t.params.get("steps", 3)) for t in trials.values())):
            for trial in list(trials.values()):
                if step == trial.params.get("at", 1) and (does := trial.params.get("does")):
                    self._do(str(does), trial, batch, trials)
            time.sleep(self.pace[1])
            if size > self.room and step:
                raise MemoryError(f"no room for {size}")
            values = {i: {"score": _value(t, step), "size": size, "pid": os.getpid()} for i, t in trials.items()}
            for trial in batch.report(values, step):
                del trials[trial]
            for i in [i for i, t in trials.items() if step + 1 == int(t.params.get("steps", 3))]:
                batch.complete(i, {"score": _value(trials.pop(i), step), "pid": os.getpid()})
            if not trials:
                break
        if any(trial.params.get("does") == "never return" for trial in batch.trials):
            signal.pause()

    def _do(self, does: str, trial: TrialHandle, batch: Batch, trials: dict[int, TrialHandle]) -> None:
        if does == "segfault":
            print("just before the fault")
            os.kill(os.getpid(), signal.SIGSEGV)
        elif does == "lack memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        elif does == "raise":
            raise ValueError("the batch is cursed")
        elif does == "fail":
            batch.fail(trial.id, FailureKind.CRASH, "this one failed")
            del trials[trial.id]
        elif does == "speak NumPy":
            batch.complete(np.int64(trial.id), np.float32(1.0))
            del trials[trial.id]
        elif does == "say nonsense":
            batch.fail(trial.id, "bad luck", "what kind is that?")
        elif does == "be forgotten":
            del trials[trial.id]
        elif does == "wait":
            signal.pause()
        elif does == "fill memory":
            trial.held = b"x" * (int(trial.params["mb"]) << 20)
            signal.pause()
        elif does == "take a while":
            time.sleep(float(trial.params["seconds"]))


def _value(trial: TrialHandle, step: int) -> float:
    if trial.params.get("does") == "diverge" and step == trial.params.get("at", 1):
        return float("nan")
    return float(trial.params["value"]) + step / 10


def together(
    executor: BatchedExecutor,
    jobs: Sequence[Job],
    on_report: Callable[[int, Report], bool] = lambda trial, report: False,
) -> list[Outcome]:
    """Run jobs at once, and give their outcomes."""

    async def main() -> list[Outcome]:
        await executor.start()
        try:
            runs = [executor.run(job, lambda report, job=job: on_report(job.trial, report)) for job in jobs]
            return await asyncio.gather(*runs)
        finally:
            await executor.close()

    return asyncio.run(main())
