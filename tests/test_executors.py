"""What every executor must do, then what only one with processes can."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import objectives_for_tests as jobs
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.inline import InlineExecutor
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Outcome, Report, TrialState
from executor_runs import ENVIRONMENT, build, go, gone, job, wait_until_gone


@pytest.fixture(params=["inline", "processes"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- every executor -------------------------------------------------------------------------------------------------


def test_a_mapping_is_the_outcome_with_its_numbers_only(kind, tmp_path):
    [outcome] = go(build(kind, jobs.fine), job(tmp_path, {"x": 0.25}))
    assert outcome.state is TrialState.COMPLETE
    assert outcome.values == {"accuracy": 0.5, "extra": 1.0}
    assert outcome.seconds > 0


def test_a_number_is_the_metric(kind, tmp_path):
    [outcome] = go(build(kind, jobs.just_a_number), job(tmp_path, {"x": 3}))
    assert outcome.values == {"accuracy": 3.0}


def test_an_array_of_one_number_is_that_number(kind, tmp_path):
    [outcome] = go(build(kind, jobs.gives_an_array_of_one), job(tmp_path))
    assert outcome.values == {"accuracy": 0.75}


def test_a_final_job_scores_the_holdout_under_the_metrics_name(kind, tmp_path):
    [outcome] = go(build(kind, jobs.raises, lambda params: 0.75), job(tmp_path, final=True))
    assert outcome.values == {"accuracy": 0.75}


def test_reports_reach_the_driver_in_order_and_the_outcome(kind, tmp_path):
    seen: list[tuple[int, bool]] = []
    main_thread = threading.current_thread()

    def on_report(report: Report) -> bool:
        seen.append((report.step, threading.current_thread() is main_thread))
        return False

    [outcome] = go(build(kind, jobs.reports), job(tmp_path), on_report=on_report)
    assert seen == [(step, True) for step in range(5)]
    assert outcome.reports == tuple(Report(step, {"accuracy": step / 10}) for step in range(5))


def test_a_trial_is_pruned_at_the_report_that_says_so(kind, tmp_path):
    [outcome] = go(build(kind, jobs.reports_forever), job(tmp_path), on_report=lambda report: report.step == 3)
    assert outcome.state is TrialState.PRUNED
    assert [r.step for r in outcome.reports] == [0, 1, 2, 3]
    assert outcome.values == {}


@pytest.mark.parametrize(
    ("function", "failure", "text"),
    [
        (jobs.raises, FailureKind.CRASH, "ValueError: the learning rate is cursed"),
        (jobs.raises, FailureKind.CRASH, "in raises"),
        (jobs.exits, FailureKind.CRASH, "giving up"),
        (jobs.runs_out_of_memory, FailureKind.OUT_OF_MEMORY, "MemoryError"),
        (jobs.cuda_out_of_memory, FailureKind.OUT_OF_MEMORY, "2 GiB"),
        (jobs.torch_out_of_memory, FailureKind.OUT_OF_MEMORY, "no room"),
        (jobs.gives_nan, FailureKind.NAN, "nan"),
        (jobs.gives_too_much, FailureKind.NAN, "the metric 'accuracy' is -1e+200, too large to reckon with"),
        (jobs.reports_nan, FailureKind.NAN, "inf at step 0"),
        (jobs.reports_text, FailureKind.INVALID_OUTPUT, "'high'"),
        (jobs.reports_bad_step, FailureKind.INVALID_OUTPUT, "-1"),
        (jobs.gives_none, FailureKind.INVALID_OUTPUT, "nothing (None)"),
        (jobs.gives_text, FailureKind.INVALID_OUTPUT, "'0.9' (a str)"),
        (jobs.gives_true, FailureKind.INVALID_OUTPUT, "True"),
        (jobs.gives_numpy_true, FailureKind.INVALID_OUTPUT, "True"),
        (jobs.gives_other_metric, FailureKind.INVALID_OUTPUT, "'loss' but without the metric 'accuracy'"),
        (jobs.gives_text_metric, FailureKind.INVALID_OUTPUT, "'accuracy' as '0.9'"),
    ],
)
def test_a_failure_has_its_kind_and_says_why(kind, tmp_path, function, failure, text):
    [outcome] = go(build(kind, function), job(tmp_path))
    assert outcome.state is TrialState.FAILED
    assert outcome.failure is failure
    assert text in outcome.message
    assert outcome.values == {}
    assert len(outcome.message) <= 2000


def test_a_trial_has_its_folders_seed_and_number(kind, tmp_path):
    [outcome] = go(build(kind, jobs.names_its_folders), job(tmp_path, trial=9))
    assert outcome.values == {"accuracy": 11.0, "id": 9.0}
    assert (tmp_path / "9" / "artifacts" / "model.txt").read_text() == "weights"
    assert (tmp_path / "9" / "checkpoints" / "state.txt").read_text() == "state"


def test_a_trial_that_reports_past_its_time_limit_times_out(kind, tmp_path):
    [outcome] = go(build(kind, jobs.reports_forever), job(tmp_path, time_limit=0.2))
    assert outcome.failure is FailureKind.TIMEOUT
    assert "0.2 s" in outcome.message
    assert outcome.reports


def test_cancelling_stops_the_trial_and_the_executor_goes_on(kind, tmp_path):
    async def main() -> Outcome:
        executor = build(kind, jobs.reports)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        await executor.start()
        task = asyncio.create_task(executor.run(job(tmp_path, {"steps": 10**9}), on_report))
        await reported.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcome = await executor.run(job(tmp_path, {"steps": 1}, trial=4), on_report)
        await executor.close()
        return outcome

    assert asyncio.run(main()).state is TrialState.COMPLETE


def test_an_error_of_the_drivers_callback_is_raised_not_recorded(kind, tmp_path):
    def on_report(report: Report) -> bool:
        raise LookupError("the pruner broke")

    with pytest.raises(LookupError, match="the pruner broke"):
        go(build(kind, jobs.reports_forever), job(tmp_path), on_report=on_report)


def test_closing_ends_what_runs(kind, tmp_path):
    async def main() -> Outcome:
        executor = build(kind, jobs.reports_forever)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        await executor.start()
        task = asyncio.create_task(executor.run(job(tmp_path), on_report))
        await reported.wait()
        await executor.close()
        return await task

    assert asyncio.run(main()).state is not TrialState.COMPLETE


def test_a_lambda_and_a_closure_run(kind, tmp_path):
    factor = 3
    [outcome] = go(build(kind, lambda params: params["x"] * factor), job(tmp_path, {"x": 2}))
    assert outcome.values == {"accuracy": 6.0}


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "failure", "texts"),
    [
        (jobs.segfaults, FailureKind.CRASH, ["SIGSEGV", "just before the fault", "in segfaults"]),
        (jobs.is_killed, FailureKind.LOST_WORKER, ["SIGKILL"]),
        (jobs.leaves, FailureKind.CRASH, ["exit code 7", "a last word"]),
    ],
)
def test_a_dead_process_fails_its_trial_only(tmp_path, function, failure, texts):
    def train(params):
        return function(params) if params["bad"] else 0.5

    outcomes = go(build("processes", train), job(tmp_path, {"bad": True}), job(tmp_path, {"bad": False}, trial=4))
    assert outcomes[0].failure is failure
    for text in texts:
        assert text in outcomes[0].message
    assert "multiprocessing/" not in outcomes[0].message
    assert outcomes[1].state is TrialState.COMPLETE


def test_the_reports_of_a_killed_trial_are_kept(tmp_path):
    def train(params, trial):
        trial.report(0.25, step=0)
        os.kill(os.getpid(), signal.SIGKILL)

    [outcome] = go(build("processes", train), job(tmp_path))
    assert outcome.failure is FailureKind.LOST_WORKER
    assert outcome.reports == (Report(0, {"accuracy": 0.25}),)


def test_a_time_limit_kills_a_trial_that_ignores_sigterm_and_its_grandchild(tmp_path):
    file = tmp_path / "pids"
    [outcome] = go(build("processes", jobs.hangs_with_grandchild), job(tmp_path, {"file": str(file)}, time_limit=1.0))
    assert outcome.failure is FailureKind.TIMEOUT
    for pid in map(int, file.read_text().split()):
        wait_until_gone(pid)


def test_cancelling_kills_the_whole_group_before_it_returns(tmp_path):
    file = tmp_path / "pids"

    async def main() -> bool:
        executor = build("processes", jobs.hangs_with_grandchild)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        await executor.start()
        task = asyncio.create_task(executor.run(job(tmp_path, {"file": str(file)}), on_report))
        await reported.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        trial_gone = gone(int(file.read_text().split()[0]))
        await executor.close()
        return trial_gone

    assert asyncio.run(main())
    wait_until_gone(int(file.read_text().split()[1]))


def test_cancelling_while_the_process_is_being_started_leaves_none(tmp_path):
    async def main() -> None:
        executor = build("processes", jobs.reports)
        await executor.start()
        task = asyncio.create_task(executor.run(job(tmp_path, {"steps": 10**9}), lambda report: False))
        await asyncio.sleep(0)  # it has asked for its process, which is not there yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await executor.run(job(tmp_path, {"steps": 1}, trial=4), lambda report: False)
        await executor.close()

    asyncio.run(main())
    assert multiprocessing.active_children() == []


def test_closing_gives_a_running_trial_the_kind_cancelled(tmp_path):
    async def main() -> Outcome:
        executor = build("processes", jobs.hangs_with_grandchild)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        await executor.start()
        task = asyncio.create_task(executor.run(job(tmp_path, {"file": str(tmp_path / "pids")}), on_report))
        await reported.wait()
        await executor.close()
        return await task

    assert asyncio.run(main()).failure is FailureKind.CANCELLED


def test_what_a_finished_trial_left_running_is_killed(tmp_path):
    file = tmp_path / "pid"
    [outcome] = go(build("processes", jobs.leaves_grandchild), job(tmp_path, {"file": str(file)}))
    assert outcome.state is TrialState.COMPLETE
    wait_until_gone(int(file.read_text()))


def test_output_goes_to_the_log_not_to_the_driver(tmp_path, capfd):
    go(build("processes", jobs.prints), job(tmp_path))
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "3" / "artifacts" / "output.log").read_text().splitlines()
    assert sorted(log) == ["an error by python", "printed by a program", "printed by python"]


def test_a_trial_sees_the_drivers_environment_and_one_thread(tmp_path, monkeypatch):
    for mark in ("1", "2"):  # the second must not see what the server was started with
        monkeypatch.setenv("MARK", mark)
        [outcome] = go(build("processes", jobs.environment), job(tmp_path))
        assert outcome.values == {"accuracy": 0.5, "threads": 1.0, "mark": float(mark)}
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    [outcome] = go(build("processes", jobs.environment), job(tmp_path))
    assert outcome.values["threads"] == 3.0


def test_two_trials_run_at_once(tmp_path):
    """Each waits for the other's file: one after the other they would never end."""

    def train(params):
        Path(params["mine"]).touch()
        while not Path(params["other"]).exists():
            pass
        return 0.5

    async def main() -> list[Outcome]:
        executor = build("processes", train)
        await executor.start()
        a, b = str(tmp_path / "a"), str(tmp_path / "b")
        both = [
            executor.run(job(tmp_path, {"mine": a, "other": b}, trial=1), lambda report: False),
            executor.run(job(tmp_path, {"mine": b, "other": a}, trial=2), lambda report: False),
        ]
        outcomes = await asyncio.gather(*both)
        await executor.close()
        return outcomes

    assert [o.state for o in asyncio.run(main())] == [TrialState.COMPLETE] * 2


def test_two_hundred_trials_leak_no_descriptor_and_no_child(tmp_path):
    async def main() -> tuple[set[str], set[str]]:
        executor = build("processes", jobs.nothing)
        await executor.start()
        before: set[str] = set()
        for number in range(200):
            outcome = await executor.run(job(tmp_path, trial=number), lambda report: False)
            assert outcome.values == {"accuracy": 0.5}
            if number == 0:
                before = set(os.listdir("/proc/self/fd"))
        after = set(os.listdir("/proc/self/fd"))
        await executor.close()
        return before, after

    before, after = asyncio.run(main())
    assert len(after) <= len(before)


def test_an_objective_that_cant_be_sent_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"unpicklable_closure.*can't be sent.*lock"):
        build("processes", jobs.unpicklable_closure())


SCRIPT = """
import asyncio, json, sys
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Job

print("main runs")
SCALE = 3

class Model:
    def score(self, x):
        return x * SCALE

def train(params, trial):
    print("from the trial")
    trial.report(0.1, step=0)
    return {"accuracy": Model().score(params["x"])}

async def main():
    executor = ProcessExecutor(FunctionObjective(train), "accuracy", 1)
    await executor.start()
    job = Job("s", 0, 1, {"x": 2}, 0, "w", sys.argv[1] + "/a", sys.argv[1] + "/c")
    outcome = await executor.run(job, lambda report: False)
    await executor.close()
    print(json.dumps([outcome.values, outcome.message, __file__]))

asyncio.run(main())
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "main runs"
    assert json.loads(second) == [{"accuracy": 6.0}, "", str(script)]


DRIVER = """
import asyncio, sys
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Job
import objectives_for_tests

async def main():
    executor = ProcessExecutor(FunctionObjective(objectives_for_tests.hangs_with_grandchild), "accuracy", 1)
    await executor.start()
    folder = sys.argv[1]
    job = Job("s", 0, 1, {"file": folder + "/pids"}, 0, "w", folder + "/a", folder + "/c")
    await executor.run(job, lambda report: print("reported", flush=True))

asyncio.run(main())
"""


def test_a_killed_driver_takes_its_trials_and_their_children_with_it(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "reported\n"
        driver.kill()
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        wait_until_gone(pid)


WARM = """
import asyncio, sys
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import load_function
from agentic_hpt.records import Job

async def main():
    executor = ProcessExecutor(load_function("job.py:train", sys.argv[1]), "accuracy", 1)
    await executor.start()
    for number in (1, 2):
        folder = f"{sys.argv[1]}/{number}"
        outcome = await executor.run(Job("s", number, 1, {}, 0, "w", folder, folder), lambda report: False)
        print(outcome.message or int(outcome.values["imported_in"]))
    await executor.close()

asyncio.run(main())
"""

JOB = """
import os
import beside
{extra}
IMPORTED_IN = os.getpid()
def train(params):
    return {{"accuracy": beside.VALUE, "imported_in": IMPORTED_IN}}
"""


@pytest.mark.parametrize(
    ("extra", "times"),
    [
        ("", 1),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", 2),
    ],
)
def test_the_users_file_is_imported_once_for_all_trials_unless_it_starts_threads(tmp_path, extra, times):
    (tmp_path / "beside.py").write_text("VALUE = 0.5\nprint('imported')\n")
    (tmp_path / "job.py").write_text(JOB.format(extra=extra))
    (tmp_path / "driver.py").write_text(WARM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == "imported\n"
    pids = done.stdout.split()
    assert len(pids) == 2
    assert len(set(pids)) == times


def test_killing_the_fork_server_loses_the_trial_not_the_study(tmp_path):
    script = textwrap.dedent("""
        import asyncio, os, signal, sys
        from multiprocessing import forkserver
        from agentic_hpt.executors.processes import ProcessExecutor
        from agentic_hpt.objectives.function import FunctionObjective
        from agentic_hpt.records import Job
        import objectives_for_tests as jobs

        def job(number, params):
            return Job("s", number, 1, params, 0, "w", f"{sys.argv[1]}/{number}", f"{sys.argv[1]}/{number}")

        def on_report(report):
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
            return False

        async def main():
            executor = ProcessExecutor(FunctionObjective(jobs.hangs_with_grandchild), "accuracy", 1)
            await executor.start()
            outcome = await executor.run(job(1, {"file": sys.argv[1] + "/pids"}), on_report)
            print(outcome.failure)
            again = ProcessExecutor(FunctionObjective(jobs.nothing), "accuracy", 1)
            print((await again.run(job(2, {}), on_report)).state)

        asyncio.run(main())
    """)
    (tmp_path / "driver.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.stdout.split() == ["lost_worker", "complete"]
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        wait_until_gone(pid)


def test_a_process_that_could_not_be_started_is_started_again(tmp_path, monkeypatch):
    """As when the fork server was killed a moment ago."""
    launch, refused = ProcessExecutor._launch, [EOFError(), ConnectionResetError()]

    def refusing(self, *args):
        if refused:
            raise refused.pop()
        return launch(self, *args)

    monkeypatch.setattr(ProcessExecutor, "_launch", refusing)
    outcome = go(ProcessExecutor(FunctionObjective(jobs.nothing), "accuracy", 1), job(tmp_path))[0]
    assert outcome.state is TrialState.COMPLETE
    refused.extend([EOFError()] * 10)
    outcome = go(ProcessExecutor(FunctionObjective(jobs.nothing), "accuracy", 1), job(tmp_path))[0]
    assert outcome.failure is FailureKind.LOST_WORKER
    assert "could not be started: EOFError()" in outcome.message


def test_an_inline_trial_leaves_the_event_loop_free(tmp_path):
    """The trial waits for what only the loop can give it."""

    async def main() -> Outcome:
        release = threading.Event()
        executor = InlineExecutor(FunctionObjective(lambda params: float(release.wait())), "accuracy")
        task = asyncio.create_task(executor.run(job(tmp_path), lambda report: False))
        await asyncio.sleep(0)
        release.set()
        outcome = await task
        await executor.close()
        return outcome

    assert asyncio.run(main()).values == {"accuracy": 1.0}
