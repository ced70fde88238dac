"""What a trial may use, what becomes of one that is stopped, killed or hangs, and of all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import objectives_for_tests as jobs
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.deaths import KernelKills, death
from agentic_hpt.executors.gpus import Gpus, visible_gpus
from agentic_hpt.executors.patrol import Patrol
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Job, Limits, Outcome, Report, TrialState
from executor_runs import ENVIRONMENT, build, go, gone, job, wait_until_gone

_WAYS = ("session", "daemon", "daemon without a program")
"""How a process that a trial starts leaves its group."""


def run_while(function: Callable[..., object], attempt: Job, meanwhile: Callable[[int], None]) -> Outcome:
    """Run a job, and call `meanwhile` with the pid in its file once it has reported."""

    async def main() -> Outcome:
        executor = build("processes", function)
        reported = asyncio.Event()

        def on_report(report: Report) -> bool:
            reported.set()
            return False

        await executor.start()
        running = asyncio.create_task(executor.run(attempt, on_report))
        await reported.wait()
        await asyncio.to_thread(meanwhile, int(Path(str(attempt.params["file"])).read_text()))
        outcome = await running
        await executor.close()
        return outcome

    return asyncio.run(main())


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        pass


def run_script(text: str, *arguments: str) -> list[str]:
    """Run a script in a process with a fork server of its own, and give the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_trial_beyond_its_memory_is_killed_with_what_it_started_and_the_figures_are_told(tmp_path):
    params = {"file": str(tmp_path / "pid"), "here": 60, "there": 60}
    [outcome] = go(build("processes", jobs.fills_memory), job(tmp_path, params, limits=Limits(memory_mb=100)))
    assert outcome.failure is FailureKind.OUT_OF_MEMORY
    assert "MiB with the process it started; its limit is 100" in outcome.message
    assert 100 < float(outcome.message.split()[3]) < 200
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_memory_that_trials_share_with_the_fork_server_counts_by_its_share(tmp_path):
    """Each of two trials and the server hold the same 240 MiB."""
    (tmp_path / "job.py").write_text(
        textwrap.dedent("""
            BLOCK = b"x" * (240 << 20)
            def train(params, trial):
                trial.report(0.1, step=0)
                return 0.5
        """)
    )
    lines = run_script(
        """
        import asyncio, sys
        import psutil
        from agentic_hpt.executors.processes import ProcessExecutor
        from agentic_hpt.objectives.function import load_function
        from agentic_hpt.records import Job, Limits

        async def main():
            executor = ProcessExecutor(load_function("job.py:train", sys.argv[1]), "accuracy", 2)
            await executor.start()
            sizes = []

            def on_report(report):
                sizes.append([psutil.Process(pid).memory_info().rss >> 20 for pid in executor._found])
                print(executor._patrol.look())
                return False

            folder = sys.argv[1]
            jobs = [Job("s", n, 1, {}, 0, "w", f"{folder}/{n}", folder, limits=Limits(memory_mb=200)) for n in (1, 2)]
            outcomes = await asyncio.gather(*(executor.run(job, on_report) for job in jobs))
            print([str(o.state) for o in outcomes], all(max(found) > 240 for found in sizes))
            await executor.close()

        asyncio.run(main())
        """,
        str(tmp_path),
    )
    assert lines == ["{}", "{}", "['complete', 'complete'] True"]


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A group whose processes together may use 64 MiB, for which the kernel sees."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"hpt-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(64 << 20))
            except OSError:
                group.rmdir()
                continue
            yield group
            group.rmdir()
            return
    pytest.skip("this machine lets nobody make a memory control group here")


def test_a_trial_that_the_kernel_kills_for_memory_is_out_of_memory(tmp_path, control_group):
    params = {"group": str(control_group), "bytes": 300 << 20}
    [outcome] = go(build("processes", jobs.is_killed_by_the_kernel), job(tmp_path, params))
    assert outcome.failure is FailureKind.OUT_OF_MEMORY
    assert "the kernel killed the trial's process" in outcome.message


def test_a_kill_is_the_kernels_only_where_its_count_grew_of_late_and_each_growth_counts_once(tmp_path):
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 5\noom_kill 7\n")
    kills = KernelKills(file)
    kills.look()
    assert death(-signal.SIGKILL, kills)[0] is FailureKind.LOST_WORKER
    file.write_text("nr_free_pages 5\noom_kill 9\n")
    kills.look()  # a big process dies only after that
    assert death(-signal.SIGSEGV, kills)[0] is FailureKind.CRASH
    assert [death(-signal.SIGKILL, kills)[0].value for _ in range(3)] == ["out_of_memory"] * 2 + ["lost_worker"]
    assert death(-signal.SIGKILL, KernelKills(tmp_path / "none"))[0] is FailureKind.LOST_WORKER


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_libraries_say_of_short_memory_is_known(tmp_path, error):
    def train(params):
        raise error

    assert go(build("inline", train), job(tmp_path))[0].failure is FailureKind.OUT_OF_MEMORY


def test_what_numpy_says_of_short_memory_is_known(tmp_path):
    def train(params):
        import numpy

        return numpy.zeros(1 << 50)

    [outcome] = go(build("inline", train), job(tmp_path))
    assert outcome.failure is FailureKind.OUT_OF_MEMORY
    assert "Unable to allocate" in outcome.message


# --- threads and GPUs -----------------------------------------------------------------------------------------------


def test_a_trial_gets_its_threads_whatever_the_environment_says_of_them(tmp_path, monkeypatch):
    executor = build("processes", jobs.variables)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    [outcome] = go(executor, job(tmp_path, limits=Limits(threads=3)))
    assert outcome.values["threads"] == 3


def test_libraries_that_the_server_has_loaded_get_the_trials_threads_too(tmp_path):
    (tmp_path / "job.py").write_text(
        "import os\nimport numpy\nimport threadpoolctl\nLOADED_IN = os.getpid()\n"
        "def train(params):\n"
        "    counts = {pool['num_threads'] for pool in threadpoolctl.threadpool_info()}\n"
        "    return {'accuracy': float(counts == {params['threads']}), 'preloaded': LOADED_IN != os.getpid()}\n"
    )
    lines = run_script(
        """
        import asyncio, sys
        from agentic_hpt.executors.processes import ProcessExecutor
        from agentic_hpt.objectives.function import load_function
        from agentic_hpt.records import Job, Limits

        async def main():
            executor = ProcessExecutor(load_function("job.py:train", sys.argv[1]), "accuracy", 1)
            await executor.start()
            for n in (1, 2):
                job = Job("s", n, 1, {"threads": n}, 0, "w", f"{sys.argv[1]}/{n}", "c", limits=Limits(threads=n))
                print(dict((await executor.run(job, lambda report: False)).values))
            await executor.close()

        asyncio.run(main())
        """,
        str(tmp_path),
    )
    assert lines == ["{'accuracy': 1.0}"] * 2


@pytest.mark.parametrize(
    ("devices", "each", "slots", "taken"),
    [
        ("ab", 0.5, 4, ["a", "b", "a", "b"]),
        ("ab", 0.4, 4, ["a", "b", "a", "b"]),
        ("ab", 1, 2, ["a", "b"]),
        ("abcd", 2, 2, ["ab", "cd"]),
        ("a", 0.1, 10, ["a"] * 10),
    ],
)
def test_gpus_are_handed_out_the_least_used_first_and_never_more_than_whole(devices, each, slots, taken):
    gpus = Gpus(devices, each, slots)
    assert ["".join(gpus.take()) for _ in range(slots)] == taken
    gpus.give_back(taken[0])
    assert "".join(gpus.take()) == taken[0]
    with pytest.raises(
        ConfigError, match=f"limits.gpus: {each:g} for each of {slots + 1} trials at once; .* {len(devices)} GPU"
    ):
        Gpus(devices, each, slots + 1)


@pytest.mark.parametrize(
    ("variable", "found"),
    [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("1, GPU-8a,-1,3", ("1", "GPU-8a")), ("NoDevFiles", ())],
)
def test_the_environment_says_which_gpus_there_are(variable, found):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == found


def test_without_the_variable_the_driver_says_which_gpus_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-aa)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-bb)'\n"
        "echo '  MIG 1g.10gb     Device  0: (UUID: MIG-cc)'\necho '  MIG 1g.10gb     Device  1: (UUID: MIG-dd)'\n"
    )
    tool.chmod(stat.S_IRWXU)
    assert visible_gpus({}) == ("GPU-aa", "MIG-cc", "MIG-dd")


@pytest.mark.parametrize(("each", "seen"), [(1, {"3", "5"}), (0.5, {"3", "5"})])
def test_trials_at_once_see_different_gpus(tmp_path, monkeypatch, each, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    executor = ProcessExecutor(FunctionObjective(jobs.waits_for_the_other), "accuracy", 2, gpus=each)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")

    async def main() -> list[Outcome]:
        await executor.start()
        both = [
            executor.run(job(tmp_path, {"mine": mine, "other": other}, trial=n), lambda report: False)
            for n, (mine, other) in enumerate([(a, b), (b, a)])
        ]
        outcomes = await asyncio.gather(*both)
        await executor.close()
        return outcomes

    assert [o.state for o in asyncio.run(main())] == [TrialState.COMPLETE] * 2
    assert {Path(a).read_text(), Path(b).read_text()} == seen


def test_too_few_gpus_are_told_before_anything_runs(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"1 GPU \(0\)") as caught:
        ProcessExecutor(FunctionObjective(jobs.nothing), "accuracy", 4, gpus=1)
    assert "parallel: 1" in caught.value.hint


@pytest.mark.parametrize("limits", [{"memory_mb": 500}, {"threads": 2}, {"gpus": 0.5}])
def test_what_only_a_process_can_be_held_to_does_not_go_with_inline(limits):
    [key] = limits
    with pytest.raises(ConfigError, match=f"limits.{key} does not go with executor: inline"):
        StudyConfig.from_mapping(
            {"study": "s", "objective": {"task": "digits"}, "executor": "inline", "limits": limits}
        )


# --- what a trial started -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "end"),
    [
        *((how, end) for how in _WAYS for end in ("returns", "killed", "waits")),
        ("daemon without variables", "returns"),  # nothing is left to know it by where the trial is killed
        ("daemon without variables", "waits"),
    ],
)
def test_what_left_the_trials_group_ends_with_the_trial(tmp_path, how, end):
    file = tmp_path / "pid"
    limits = Limits(seconds=1.0 if end == "waits" else None)
    [outcome] = go(
        build("processes", jobs.starts_a_process),
        job(tmp_path, {"file": str(file), "how": how, "end": end}, limits=limits),
    )
    assert outcome.failure is {"killed": FailureKind.LOST_WORKER, "waits": FailureKind.TIMEOUT}.get(end)
    assert gone(int(file.read_text()))


def test_a_program_s_own_daemon_ends_with_the_trial(tmp_path):
    from agentic_hpt.objectives.command import CommandObjective

    file = str(tmp_path / "pid")
    script = f"import os; os.setsid(); open({file!r}, 'w').write(str(os.getpid())); import time; time.sleep(600)"
    program = (
        f"import subprocess, sys, os\nsubprocess.Popen([sys.executable, '-S', '-c', {script!r}])\n"
        f"while not (os.path.exists({file!r}) and open({file!r}).read()): pass\n"
        "print('HPT {\"accuracy\": 0.5}', flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "program.py").write_text(program)
    objective = CommandObjective([sys.executable, "program.py"], str(tmp_path), [], "accuracy")
    [outcome] = go(ProcessExecutor(objective, "accuracy", 1), job(tmp_path))
    assert outcome.failure is FailureKind.LOST_WORKER
    assert gone(int(Path(file).read_text()))


DRIVER = """
    import asyncio, json, sys
    from multiprocessing import forkserver
    from agentic_hpt.executors.processes import ProcessExecutor
    from agentic_hpt.objectives.function import FunctionObjective
    from agentic_hpt.records import Job
    import objectives_for_tests

    async def main():
        folder, name, params = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        executor = ProcessExecutor(FunctionObjective(getattr(objectives_for_tests, name)), "accuracy", 1)
        await executor.start()
        job = Job("s", 3, 1, params, 0, "w", folder + "/3/artifacts", folder + "/3/checkpoints")
        pid = lambda: next(iter(executor._found))
        await executor.run(job, lambda report: print(forkserver._forkserver._forkserver_pid, pid(), flush=True))

    asyncio.run(main())
"""


@contextlib.contextmanager
def a_driver(folder: Path, name: str, params: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run a trial in a driver of its own; give the driver, its fork server and the trial's process."""
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), name, params]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as driver:
        assert driver.stdout is not None
        server, trial = map(int, driver.stdout.readline().split())
        process = psutil.Process(trial)
        try:
            yield driver, server, trial
        finally:
            driver.kill()
            with contextlib.suppress(psutil.Error):  # where the test failed
                process.kill()


@pytest.mark.parametrize("how", _WAYS)
def test_a_killed_driver_leaves_none_of_what_its_trials_started(tmp_path, how):
    params = f'{{"file": "{tmp_path}/pid", "how": "{how}", "end": "waits"}}'
    with a_driver(tmp_path, "starts_a_process", params) as (driver, server, trial):
        driver.kill()
        for pid in (server, trial, int((tmp_path / "pid").read_text())):
            wait_until_gone(pid)


@pytest.mark.parametrize("state", ["stopped", "holds the interpreter"])
def test_a_killed_driver_leaves_no_trial_that_cant_end_itself(tmp_path, state):
    holds = 600 if state == "holds the interpreter" else 0
    params = f'{{"file": "{tmp_path}/pid", "holds_the_interpreter": {holds}}}'
    with a_driver(tmp_path, "tells_pid_and_waits", params) as (driver, server, trial):
        if state == "stopped":
            stop(trial)
        driver.kill()
        wait_until_gone(trial)
        wait_until_gone(server)


def test_the_next_attempt_ends_what_is_left_of_the_one_before(tmp_path):
    """The driver and the fork server are killed at once, while the trial is stopped: none can end it."""
    params = f'{{"file": "{tmp_path}/pid", "how": "daemon", "end": "waits"}}'
    with a_driver(tmp_path, "starts_a_process", params) as (driver, server, trial):
        stop(trial)
        stop(server)
        os.kill(driver.pid, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        wait_until_gone(server)
        left = trial, int((tmp_path / "pid").read_text())
        assert not any(map(gone, left))
        go(build("processes", jobs.nothing), job(tmp_path, trial=4, attempt=2))  # another trial's
        assert not any(map(gone, left))
        [outcome] = go(build("processes", jobs.nothing), job(tmp_path, trial=3, attempt=2))
        assert outcome.state is TrialState.COMPLETE
        assert all(map(gone, left))


# --- stalls ---------------------------------------------------------------------------------------------------------


def test_a_trial_that_is_stopped_for_its_lease_is_lost(tmp_path):
    attempt = job(tmp_path, {"file": str(tmp_path / "pid")}, lease=0.5)
    outcome = run_while(jobs.tells_pid_and_waits, attempt, lambda pid: os.kill(pid, signal.SIGSTOP))
    assert outcome.failure is FailureKind.LOST_WORKER
    assert "gave no sign of life for 0.5 s: it was stopped (SIGSTOP)" in outcome.message
    assert [r.step for r in outcome.reports] == [0]
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_trial_that_is_stopped_for_a_while_goes_on(tmp_path):
    def pause(pid: int) -> None:
        stop(pid)
        os.kill(pid, signal.SIGCONT)

    attempt = job(tmp_path, {"file": str(tmp_path / "pid"), "holds_the_interpreter": 1})
    assert run_while(jobs.tells_pid_and_waits, attempt, pause).values == {"accuracy": 0.5}


def test_a_trial_that_says_nothing_and_holds_the_interpreter_is_alive(tmp_path):
    def look(pid: int) -> None:
        patrol = Patrol(lambda: None)
        patrol.follow(pid, job(tmp_path, lease=1e-9))
        assert [patrol.look() for _ in range(5)] == [{}] * 5
        stop(pid)
        patrol.look()
        assert set(patrol.look()) == {pid}
        os.kill(pid, signal.SIGCONT)

    attempt = job(tmp_path, {"file": str(tmp_path / "pid"), "holds_the_interpreter": 1})
    assert run_while(jobs.tells_pid_and_waits, attempt, look).values == {"accuracy": 0.5}


def test_who_looks_seldom_does_not_take_the_time_between_for_a_stall(tmp_path, monkeypatch):
    """The driver itself was stopped for an hour: it has not seen that the trial stood still."""
    with subprocess.Popen(["sleep", "600"]) as process:
        stop(process.pid)
        patrol = Patrol(lambda: None)
        patrol.follow(process.pid, job(tmp_path, lease=30))
        patrol.look()
        now = patrol._watched[process.pid][0]._looked
        monkeypatch.setattr("time.monotonic", lambda: now + 3600)
        found = patrol.look()
        monkeypatch.undo()
        process.kill()
    assert found == {}


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A group whose processes hang in the kernel while it is frozen, and can't be killed."""
    group = Path("/sys/fs/cgroup/freezer") / f"hpt-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this machine lets nobody make a freezer control group here")
    yield group
    (group / "freezer.state").write_text("THAWED")
    for pid in map(int, (group / "cgroup.procs").read_text().split()):
        wait_until_gone(pid)
    while (group / "cgroup.procs").read_text():
        pass
    group.rmdir()


def test_a_trial_that_hangs_in_the_kernel_and_cant_be_killed_is_lost_and_waited_for_no_more(
    tmp_path, monkeypatch, freezer
):
    def freeze(pid: int) -> None:
        (freezer / "cgroup.procs").write_text(str(pid))
        (freezer / "freezer.state").write_text("FROZEN")

    monkeypatch.setattr("agentic_hpt.executors.processes._UNKILLABLE", 0.1)
    monkeypatch.setattr("agentic_hpt.executors.kin._SECONDS", 0.1)
    outcome = run_while(jobs.tells_pid_and_waits, job(tmp_path, {"file": str(tmp_path / "pid")}, lease=0.5), freeze)
    assert outcome.failure is FailureKind.LOST_WORKER
    assert "for 0.5 s: it hung in the kernel" in outcome.message
    assert not gone(int((tmp_path / "pid").read_text()))
    assert multiprocessing.active_children() == []


# --- answers --------------------------------------------------------------------------------------------------------


def test_what_a_trial_says_after_it_was_given_up_is_not_taken(tmp_path):
    [outcome] = go(build("processes", jobs.answers_when_terminated), job(tmp_path, time_limit=0.5))
    assert outcome.failure is FailureKind.TIMEOUT
    assert outcome.values == {}
    assert [r.step for r in outcome.reports] == [0]


def test_a_fork_of_the_trial_that_returns_first_gives_no_answer(tmp_path):
    assert go(build("processes", jobs.comes_back_twice), job(tmp_path))[0].values == {"accuracy": 0.9}


@pytest.mark.parametrize(("waits", "text"), [(False, "did it close file descriptors"), (True, "closed its connection")])
def test_a_trial_that_closes_its_connection_fails_and_is_told_why(tmp_path, waits, text):
    [outcome] = go(build("processes", jobs.closes_what_is_not_its_own), job(tmp_path, {"waits": waits}))
    assert outcome.failure is FailureKind.CRASH
    assert text in outcome.message


def test_a_trial_that_leaves_without_an_answer_is_told_so(tmp_path):
    [outcome] = go(build("processes", jobs.leaves_with(0)), job(tmp_path))
    assert outcome.failure is FailureKind.CRASH
    assert "ended with exit code 0 before it gave an answer" in outcome.message
    [outcome] = go(build("inline", lambda params: sys.exit(0)), job(tmp_path))
    assert outcome.failure is FailureKind.CRASH
    assert outcome.message.startswith("the objective called sys.exit(0) before it gave its metric")


def test_the_next_attempts_find_what_killed_ones_left_in_the_checkpoint_folder(tmp_path):
    attempts = [job(tmp_path, attempt=number) for number in (1, 2, 3)]
    outcomes = go(build("processes", jobs.counts_in_its_checkpoint), *attempts)
    assert [o.failure for o in outcomes] == [FailureKind.LOST_WORKER, FailureKind.LOST_WORKER, None]
    assert outcomes[2].values == {"accuracy": 0.5, "attempts before": 2}


# --- the fork server ------------------------------------------------------------------------------------------------


SERVER = """
    import asyncio, os, signal, sys
    from multiprocessing import forkserver
    from agentic_hpt.executors.processes import ProcessExecutor
    from agentic_hpt.objectives.function import load_function
    from agentic_hpt.records import Job

    def job(number, **params):
        folder = f"{sys.argv[1]}/{number}"
        return Job("s", number, 1, params, 0, "w", folder, folder, lease=0.5)

    async def main():
        executor = ProcessExecutor(load_function("job.py:train", sys.argv[1]), "accuracy", 4)
        await executor.start()
        reported = asyncio.Semaphore(0)

        def on_report(report):
            reported.release()
            return False

        async def all_report():
            for _ in range(4):
                await reported.acquire()

        running = [asyncio.create_task(executor.run(job(n, waits=True), on_report)) for n in range(4)]
        await all_report()
        os.kill(forkserver._forkserver._forkserver_pid, getattr(signal, sys.argv[2]))
        if sys.argv[2] == "SIGKILL":
            print(*[(await task).failure for task in running])
        again = [await executor.run(job(10 + n, waits=False), lambda report: False) for n in range(2)]
        print(*[outcome.state for outcome in again], len({outcome.values["loaded_in"] for outcome in again}))
        await executor.close()
        print(*[(await task).failure for task in running])

    asyncio.run(main())
"""


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_a_fork_server_that_is_gone_loses_what_ran_and_the_next_one_is_as_warm(tmp_path, signal_name):
    (tmp_path / "job.py").write_text(
        "import os, signal\nLOADED_IN = os.getpid()\n"
        "def train(params, trial):\n"
        "    if params['waits']:\n        trial.report(0.1, step=0)\n        signal.pause()\n"
        "    return {'accuracy': 0.5, 'loaded_in': LOADED_IN}\n"
    )
    lines = run_script(SERVER, str(tmp_path), signal_name)
    lost = " ".join(["lost_worker"] * 4)
    assert lines == ([lost] if signal_name == "SIGKILL" else []) + ["complete complete 1", lost]


def test_a_driver_that_is_gone_before_it_has_asked_leaves_no_traceback_of_the_fork_server(tmp_path):
    script = """
        import asyncio, os, socket, sys
        from multiprocessing import forkserver
        import psutil
        from agentic_hpt.executors.processes import ProcessExecutor
        from agentic_hpt.objectives.function import load_function

        async def main():
            executor = ProcessExecutor(load_function("job.py:train", sys.argv[1]), "accuracy", 1)
            await executor.start()
            server = psutil.Process(forkserver._forkserver._forkserver_pid)
            with socket.socket(socket.AF_UNIX) as asking:  # as `connect_to_new_process` does, killed there
                asking.connect(forkserver._forkserver._forkserver_address)
            server.wait()
            print("gone")
            await executor.close()

        asyncio.run(main())
    """
    (tmp_path / "job.py").write_text("def train(params, trial):\n    return 0.5\n")
    assert run_script(script, str(tmp_path)) == ["gone"]
