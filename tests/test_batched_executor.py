"""The executor that evaluates many trials at once in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.batched import BatchedExecutor
from agentic_hpt.executors.hosting import Host
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.records import Job, JsonObject, Limits, Outcome, Report, TrialState
from batch_objectives import Toy, together
from executor_runs import ENVIRONMENT, job, wait_until_gone


def executor(slots: int, **kwargs: object) -> BatchedExecutor:
    """Make one that runs what waits once all slots are taken; `hear` aside, the arguments are the objective's."""
    hear = kwargs.pop("hear", lambda trial, report: None)
    return BatchedExecutor(Toy(**kwargs), "score", slots, hear=hear)


def jobs(folder: Path, *changes: dict[str, object], **of_all: object) -> list[Job]:
    """Make a job for each of the parameters' changes."""
    limits = of_all.pop("limits", None)
    return [
        job(folder, {"value": number, **of_all, **change}, trial=number, limits=limits)
        for number, change in enumerate(changes)
    ]


def test_trials_that_arrive_together_are_evaluated_together_and_told_each_for_itself(tmp_path):
    seen: dict[int, list[int]] = {}

    def on_report(trial: int, report: Report) -> bool:
        seen.setdefault(trial, []).append(report.step)
        return False

    outcomes = together(executor(4), jobs(tmp_path, {}, {"steps": 2}, {}, {}), on_report)
    assert [o.state for o in outcomes] == [TrialState.COMPLETE] * 4
    assert [o.values["score"] for o in outcomes] == pytest.approx([0.2, 1.1, 2.2, 3.2])
    assert len({o.values["pid"] for o in outcomes}) == 1
    assert seen == {0: [0, 1, 2], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2]}
    assert [r.metrics["size"] for r in outcomes[0].reports] == [4, 4, 4]
    assert all(o.seconds > 0 for o in outcomes)


def test_what_one_trial_does_is_its_own_failure(tmp_path):
    todo = jobs(tmp_path, {}, {"does": "diverge"}, {"does": "fail"}, {"does": "be forgotten"}, {})
    fine, diverged, failed, forgotten, last = together(executor(5), todo)
    assert fine.values["score"] == pytest.approx(0.2)
    assert last.values["score"] == pytest.approx(4.2)
    assert (diverged.failure, failed.failure) == (FailureKind.NAN, FailureKind.CRASH)
    assert "nan at step 1" in diverged.message
    assert [r.step for r in diverged.reports] == [0]
    assert failed.message == "this one failed"
    assert forgotten.failure is FailureKind.INVALID_OUTPUT
    assert "said nothing of this trial" in forgotten.message


def test_a_trial_may_be_named_by_a_number_of_a_library(tmp_path):
    outcomes = together(executor(2), jobs(tmp_path, {"does": "speak NumPy"}, {}))
    assert [o.values["score"] for o in outcomes] == pytest.approx([1.0, 1.2])


def test_a_failure_of_no_known_kind_is_refused_and_its_trial_is_told(tmp_path):
    outcomes = together(executor(2), jobs(tmp_path, {"does": "say nonsense"}, {}))
    assert {o.failure for o in outcomes} == {FailureKind.CRASH}
    assert "'bad luck' is not a valid FailureKind" in outcomes[0].message


def test_what_a_list_raises_is_the_failure_of_those_not_told_yet(tmp_path):
    todo = jobs(tmp_path, {"steps": 1}, {"does": "raise"}, {}, {"group": "other"})
    told, cursed, neighbour, other = together(executor(4), todo)
    assert told.state is TrialState.COMPLETE
    assert cursed.failure is neighbour.failure is FailureKind.CRASH
    assert "ValueError: the batch is cursed" in neighbour.message
    assert other.state is TrialState.COMPLETE


def test_groups_that_forget_a_configuration_are_refused(tmp_path):
    outcomes = together(executor(2), jobs(tmp_path, {"does": "break groups"}, {}))
    assert {o.failure for o in outcomes} == {FailureKind.INVALID_OUTPUT}
    assert "don't hold each position once" in outcomes[0].message


class _Unbuildable(Toy):
    def __reduce__(self):
        return int, ("no number",)


def test_an_objective_that_cannot_be_rebuilt_there_fails_all_with_a_word(tmp_path):
    outcomes = together(BatchedExecutor(_Unbuildable(), "score", 2), jobs(tmp_path, {}, {}))
    assert {o.failure for o in outcomes} == {FailureKind.CRASH}
    assert "the objective can't be rebuilt in a trial's process: ValueError" in outcomes[0].message


def test_a_list_that_lacks_memory_goes_on_in_halves_and_nothing_told_is_lost(tmp_path):
    log = tmp_path / "log"
    asked: list[tuple[int, int]] = []

    def on_report(trial: int, report: Report) -> bool:
        asked.append((trial, report.step))
        return False

    todo = jobs(tmp_path, {"steps": 1}, *[{} for _ in range(6)])
    outcomes = together(executor(7, room=3, log=log), todo, on_report)
    assert [o.values["score"] for o in outcomes] == pytest.approx([0, *(n + 0.2 for n in range(1, 7))])
    assert log.read_text().splitlines() == ["0 1 2 3 4 5 6", "1 2 3", "4 5 6"]
    assert [r.step for r in outcomes[3].reports] == [0, 1, 2]
    assert [r.metrics["size"] for r in outcomes[3].reports] == [3, 3, 3]
    assert len(asked) == len(set(asked))  # what is reported again is no news


def test_a_trial_that_lacks_memory_alone_fails_so(tmp_path):
    log = tmp_path / "log"
    todo = jobs(tmp_path, {}, {}, {"does": "lack memory"}, {})
    outcomes = together(executor(4, log=log), todo)
    assert [o.failure for o in outcomes] == [None, None, FailureKind.OUT_OF_MEMORY, None]
    assert "2 GiB" in outcomes[2].message
    assert log.read_text().splitlines() == ["0 1 2 3", "0 1", "2 3", "2", "3"]


def test_a_fault_of_one_trial_costs_that_trial_only(tmp_path):
    log = tmp_path / "log"
    todo = jobs(tmp_path, {}, {}, {}, {"does": "segfault"}, {"group": "other"})
    outcomes = together(executor(5, log=log), todo)
    assert [o.failure for o in outcomes] == [None, None, None, FailureKind.CRASH, None]
    assert "SIGSEGV" in outcomes[3].message
    assert "just before the fault" in outcomes[3].message
    assert log.read_text().splitlines() == ["0 1 2 3", "0 1", "2 3", "2", "3", "4"]


def test_a_process_killed_from_outside_loses_the_list_under_way_and_no_other(tmp_path):
    def on_report(trial: int, report: Report) -> bool:
        if trial == 1 and report.step == 1:
            os.kill(int(report.metrics["pid"]), signal.SIGKILL)
        return False

    todo = jobs(tmp_path, {"group": "first"}, {"does": "wait", "at": 2}, {}, {"group": "last"})
    first, lost, neighbour, last = together(executor(4), todo, on_report)
    assert lost.failure is neighbour.failure is FailureKind.LOST_WORKER
    assert "in a batch of 2 trials" in lost.message
    assert [r.step for r in lost.reports] == [0, 1]
    assert first.state is last.state is TrialState.COMPLETE
    assert first.values["pid"] != last.values["pid"]


def test_a_process_that_died_before_it_took_its_trials_costs_none_of_them(tmp_path):
    async def main() -> list[Outcome]:
        runner = executor(1)
        first, second = jobs(tmp_path, {}, {})
        told = await runner.run(first, lambda report: False)
        await asyncio.wait([runner._serving])
        os.kill(int(told.values["pid"]), signal.SIGSEGV)
        wait_until_gone(int(told.values["pid"]))  # the loop stands still: the executor hasn't heard of it
        other = await runner.run(second, lambda report: False)
        await runner.close()
        return [told, other]

    told, other = asyncio.run(main())
    assert told.state is other.state is TrialState.COMPLETE
    assert told.values["pid"] != other.values["pid"]


class _Fatal(Toy):
    def __reduce__(self):
        return os.abort, ()


def test_a_process_that_dies_of_the_objective_itself_is_the_trials_failure(tmp_path):
    [outcome] = together(BatchedExecutor(_Fatal(), "score", 1), jobs(tmp_path, {}))
    assert outcome.failure is FailureKind.CRASH
    assert "SIGABRT" in outcome.message


def test_one_that_should_stop_leaves_and_the_others_go_on(tmp_path):
    todo = jobs(tmp_path, {}, {}, {})
    outcomes = together(executor(3), todo, lambda trial, report: trial == 1 and report.step == 1)
    assert [o.state for o in outcomes] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert [r.step for r in outcomes[1].reports] == [0, 1]


def test_all_of_a_step_is_heard_before_anyone_is_judged(tmp_path):
    course: list[tuple[str, int]] = []

    def on_report(trial: int, report: Report) -> bool:
        course.append(("judged", trial))
        return False

    def hear(trial: int, report: Report) -> None:
        course.append(("heard", trial))

    together(executor(3, hear=hear), jobs(tmp_path, {}, {}, {}, steps=1), on_report)
    assert course == [*(("heard", n) for n in range(3)), *(("judged", n) for n in range(3))]


def test_an_error_of_the_drivers_callback_is_raised_and_the_others_go_on(tmp_path):
    def broken(report: Report) -> bool:
        raise LookupError("the pruner broke")

    async def main() -> tuple[object, object]:
        runner = executor(2)
        first, second = jobs(tmp_path, {}, {})
        found = await asyncio.gather(
            runner.run(first, broken), runner.run(second, lambda report: False), return_exceptions=True
        )
        await runner.close()
        return found[0], found[1]

    error, other = asyncio.run(main())
    assert isinstance(error, LookupError)
    assert other.state is TrialState.COMPLETE


def test_the_final_job_runs_alone_in_a_process_of_its_own(tmp_path):
    [search] = jobs(tmp_path, {"value": 4})
    final = job(tmp_path, {"value": 4}, trial=9, final=True)
    outcome, scored = together(executor(2), [search, final])
    assert scored.values["score"] == 40.0
    assert scored.values["pid"] != outcome.values["pid"]


def test_a_trial_that_is_given_up_leaves_and_the_others_go_on(tmp_path):
    async def main() -> list[object]:
        runner = executor(2)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        first, second = jobs(tmp_path, {"steps": 10**6}, {"steps": 40, "does": "take a while", "seconds": 0.2})
        given_up = asyncio.create_task(runner.run(first, on_report))
        other = asyncio.create_task(runner.run(second, on_report))
        await reported.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        outcome = await other
        [later] = jobs(tmp_path, {})
        again = await runner.run(later, on_report)
        await runner.close()
        return [outcome.values["score"], outcome.values["pid"] == again.values["pid"]]

    score, same_process = asyncio.run(main())
    assert score == pytest.approx(4.9)
    assert same_process


def test_when_all_are_given_up_the_process_is_killed_and_the_next_has_another(tmp_path):
    async def main() -> tuple[int, float]:
        runner = executor(2)
        reported: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def on_report(report: Report) -> bool:
            if not reported.done():
                reported.set_result(report.metrics["pid"])
            return False

        todo = jobs(tmp_path, {"does": "wait"}, {"does": "wait"})
        tasks = [asyncio.create_task(runner.run(j, on_report)) for j in todo]
        pid = int(await reported)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        outcome = (await asyncio.gather(*(runner.run(j, lambda report: False) for j in jobs(tmp_path, {}, {}))))[0]
        await runner.close()
        return pid, outcome.values["pid"]

    before, after = asyncio.run(main())
    assert before != after
    wait_until_gone(before)


def test_a_process_that_is_killed_twice_is_waited_for_all_the_same(tmp_path):
    async def main() -> bool:
        processes = ProcessExecutor(Toy(), "score", 1)
        heard: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        host = Host(processes, job(tmp_path))

        def hear(message: Mapping[str, object]) -> JsonObject | None:
            if "report" in message:
                heard.set_result(int(message["report"][0][1]["pid"]))
            return None

        evaluating = asyncio.create_task(host.evaluate(jobs(tmp_path, {}), hear))
        pid = await heard
        for _ in range(2):
            host.kill()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await host.ended()
        there = psutil.pid_exists(pid)
        assert await evaluating is None
        await processes.close()
        return there

    assert not asyncio.run(main())


def test_closing_ends_what_runs_and_what_waits(tmp_path):
    async def main() -> tuple[list[object], int]:
        runner = executor(3)
        reported: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def on_report(report: Report) -> bool:
            reported.set_result(report.metrics["pid"])
            return False

        running, waiting = jobs(tmp_path, {"does": "wait"}, {})
        task = asyncio.create_task(runner.run(running, on_report))
        pid = int(await reported)
        late = asyncio.create_task(runner.run(waiting, lambda report: False))
        await asyncio.sleep(0)
        await runner.close()
        return [(await task).failure, (await late).failure], pid

    failures, pid = asyncio.run(main())
    assert failures == [FailureKind.CANCELLED] * 2
    wait_until_gone(pid)


def test_what_waits_while_a_list_is_under_way_goes_together_into_the_next(tmp_path):
    log = tmp_path / "log"

    async def main() -> None:
        runner = executor(4, log=log)
        reported = asyncio.Event()
        [first, *rest] = jobs(tmp_path, {"steps": 10**6}, {}, {}, {})
        go_on = True

        def on_report(report: Report) -> bool:
            reported.set()
            return not go_on

        running = asyncio.create_task(runner.run(first, on_report))
        await reported.wait()
        others = [asyncio.create_task(runner.run(j, lambda report: False)) for j in rest]
        await asyncio.sleep(0)
        go_on = False
        await asyncio.gather(running, *others)
        await runner.close()

    asyncio.run(main())
    assert log.read_text().splitlines() == ["0", "1 2 3"]


def test_beyond_the_time_limit_trials_end_at_their_next_report(tmp_path):
    todo = jobs(tmp_path, {"steps": 10**9}, {"steps": 10**9}, limits=Limits(seconds=0.3))
    outcomes = together(executor(2), todo)
    assert [o.failure for o in outcomes] == [FailureKind.TIMEOUT] * 2
    assert "0.3 s, counted from the beginning of its batch" in outcomes[0].message
    assert outcomes[0].reports


def test_beyond_the_time_limit_a_process_without_reports_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("agentic_hpt.executors.evaluation._GRACE", 0.1)
    todo = jobs(tmp_path, {"does": "wait"}, {}, {"group": "other"}, limits=Limits(seconds=1.0))
    outcomes = together(executor(3), todo)
    assert [o.failure for o in outcomes] == [FailureKind.TIMEOUT, FailureKind.TIMEOUT, None]


def test_the_time_behind_the_last_report_counts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("agentic_hpt.executors.evaluation._GRACE", 0.1)
    [late] = together(executor(1), jobs(tmp_path, {"does": "wait", "at": 0}, limits=Limits(seconds=0.5)))
    assert late.failure is FailureKind.TIMEOUT
    assert late.seconds >= 0.5


def test_the_time_until_a_process_dies_counts_for_all_of_its_list(tmp_path):
    todo = jobs(tmp_path, {"does": "take a while", "seconds": 0.6, "at": 0}, {"does": "segfault", "at": 0})
    sound, faulty = together(executor(2), todo)
    assert (sound.state, faulty.failure) == (TrialState.COMPLETE, FailureKind.CRASH)
    assert faulty.seconds > 0.1  # its share of the first try; alone it dies at once


def test_beyond_the_time_limit_an_objective_that_does_not_divide_trials_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("agentic_hpt.executors.evaluation._GRACE", 0.1)

    async def main() -> tuple[list[Outcome], Outcome]:
        runner = executor(2)
        hanging = jobs(tmp_path, {"does": "divide for ever"}, {}, limits=Limits(seconds=1.0))
        late = await asyncio.gather(*(runner.run(j, lambda report: False) for j in hanging))
        [sound] = jobs(tmp_path, {}, limits=Limits(seconds=1.0))
        later = await runner.run(sound, lambda report: False)
        await runner.close()
        return late, later

    late, later = asyncio.run(main())
    assert [o.failure for o in late] == [FailureKind.TIMEOUT] * 2
    assert late[0].message == "the trial exceeded its time limit of 1 s before its batch began"
    assert sum(o.seconds for o in late) >= 1.0
    assert later.state is TrialState.COMPLETE


def test_beyond_the_time_limit_a_batch_that_told_all_and_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("agentic_hpt.executors.evaluation._GRACE", 0.1)
    todo = jobs(tmp_path, {"group": 1, "does": "never return"}, {"group": 2}, limits=Limits(seconds=1.0))
    told, other = together(executor(2), todo)
    assert told.state is other.state is TrialState.COMPLETE
    assert told.values["pid"] != other.values["pid"]


def test_the_process_outlives_the_time_limit_of_a_trial(tmp_path):
    todo = jobs(
        tmp_path, {"group": 1, "does": "take a while", "seconds": 1.2}, {"group": 2}, limits=Limits(seconds=1.0)
    )
    late, other = together(executor(2), todo)
    assert late.failure is FailureKind.TIMEOUT
    assert [r.metrics["pid"] for r in late.reports] == [other.values["pid"]] * 2


def test_a_process_that_uses_too_much_memory_is_ended_and_its_list_tried_in_halves(tmp_path):
    todo = jobs(tmp_path, {}, {"does": "fill memory", "mb": 400}, {}, limits=Limits(memory_mb=300))
    outcomes = together(executor(3), todo)
    assert [o.failure for o in outcomes] == [None, FailureKind.OUT_OF_MEMORY, None]
    assert "its limit is 300" in outcomes[1].message


DRIVER = """
import asyncio, sys
from pathlib import Path
from agentic_hpt.executors.batched import BatchedExecutor
from batch_objectives import Toy
from executor_runs import job

async def main():
    executor = BatchedExecutor(Toy(), "score", 2)
    folder = Path(sys.argv[1])
    todo = [job(folder, {"value": n, "does": "wait"}, trial=n) for n in range(2)]
    await asyncio.gather(*(executor.run(j, lambda report: print(report.metrics["pid"], flush=True)) for j in todo))

asyncio.run(main())
"""


def test_a_killed_driver_takes_the_process_with_it(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as driver:
        assert driver.stdout is not None
        pid = int(float(driver.stdout.readline()))
        driver.kill()
    wait_until_gone(pid)
