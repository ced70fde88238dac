"""What becomes of trials on Ray when workers die, stand still, or have no room; and what a Ray of our own lets in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest

import objectives_for_tests as jobs
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.ray import Cluster, RayExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Limits, Outcome, TrialState
from executor_runs import go, gone, job, wait_until_gone
from on_ray.conftest import CPUS, build

pytestmark = pytest.mark.usefixtures("ray_here")


def worker_of(trial: int) -> int:
    """Give the process of Ray that watches over a trial's process."""
    return next(p.pid for p in psutil.Process(trial).parents() if p.name().startswith("ray::"))


def mailbox() -> int:
    return next(p.pid for p in psutil.process_iter() if p.name().startswith("ray::Mailbox"))


def test_a_killed_worker_of_ray_loses_its_trial_and_leaves_nothing_running(tmp_path):
    file = tmp_path / "pids"

    def kill(report):
        os.kill(worker_of(int(file.read_text().split()[0])), signal.SIGKILL)
        return False

    [outcome] = go(build("ray", jobs.hangs_with_grandchild), job(tmp_path, {"file": str(file)}), on_report=kill)
    assert outcome.failure is FailureKind.LOST_WORKER
    assert [r.step for r in outcome.reports] == [0]
    for pid in map(int, file.read_text().split()):
        wait_until_gone(pid)


def test_a_worker_that_stands_still_is_lost_with_its_lease_and_ends_its_trial_when_it_goes_on(tmp_path):
    file = tmp_path / "pids"
    stopped: list[int] = []

    def stop(report):
        stopped.append(worker_of(int(file.read_text().split()[0])))
        os.kill(stopped[0], signal.SIGSTOP)
        return False

    [outcome] = go(
        build("ray", jobs.hangs_with_grandchild), job(tmp_path, {"file": str(file)}, lease=3), on_report=stop
    )
    assert outcome.failure is FailureKind.LOST_WORKER
    assert "no sign of life of the trial's worker for 3 s" in outcome.message
    with contextlib.suppress(ProcessLookupError):  # the end of Ray may have ended it already
        os.kill(stopped[0], signal.SIGCONT)
    for pid in map(int, file.read_text().split()):
        wait_until_gone(pid)


def test_a_lost_mailbox_loses_what_runs_and_the_next_trial_runs(tmp_path):
    file = tmp_path / "pids"

    def kill(report):
        os.kill(mailbox(), signal.SIGKILL)
        return False

    lost, well = go(
        build("ray", lambda params, trial: jobs.hangs_with_grandchild(params, trial) if params else 0.5),
        job(tmp_path, {"file": str(file)}),
        job(tmp_path, trial=4),
        on_report=kill,
    )
    assert lost.failure is FailureKind.LOST_WORKER
    assert "actor between hpt and its trials was lost" in lost.message
    assert well.state is TrialState.COMPLETE
    for pid in map(int, file.read_text().split()):
        wait_until_gone(pid)


def test_a_node_that_does_not_see_the_trials_folder_says_which_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("/proc/self/cwd/home")  # Ray's workers have another working directory, so another folder
    [outcome] = go(build("ray", jobs.nothing), job(folder))
    assert outcome.failure is FailureKind.LOST_WORKER
    assert f"does not see {folder}/3/artifacts" in outcome.message
    assert "that all nodes share" in outcome.message


@pytest.mark.parametrize(
    ("limits", "text"),
    [(Limits(threads=CPUS + 1), "4 CPUs"), (Limits(gpus=0.5), "0.5 GPUs"), (Limits(gpus=2), "2 GPUs")],
)
def test_a_trial_that_fits_on_no_node_is_refused_at_the_start(limits, text):
    async def main() -> None:
        executor = RayExecutor(FunctionObjective(jobs.nothing), "accuracy", 1, cluster=Cluster(), limits=limits)
        with pytest.raises(ConfigError, match=f"{text}.*no node has that: they have 3 CPUs and 0 GPUs.*autoscaling"):
            await executor.start()
        await executor.close()

    asyncio.run(main())


def test_a_trial_that_waits_for_room_can_be_cancelled(tmp_path):
    """Each of them takes the whole cluster."""

    async def main() -> tuple[Outcome, bool]:
        executor = RayExecutor(
            FunctionObjective(jobs.hangs_with_grandchild), "accuracy", 2, cluster=Cluster(), limits=Limits(threads=CPUS)
        )
        await executor.start()
        reported = asyncio.Event()

        def on_report(report) -> bool:
            reported.set()
            return False

        first = asyncio.create_task(executor.run(job(tmp_path, {"file": str(tmp_path / "first")}), on_report))
        await reported.wait()
        second = asyncio.create_task(
            executor.run(job(tmp_path, {"file": str(tmp_path / "second")}, trial=4), on_report)
        )
        await asyncio.sleep(0.5)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        runs = not gone(int((tmp_path / "first").read_text().split()[0]))
        await executor.close()
        return await first, runs

    outcome, first_ran_on = asyncio.run(main())
    assert first_ran_on
    assert outcome.failure is FailureKind.CANCELLED
    assert not (tmp_path / "second").exists()


def test_a_ray_of_our_own_listens_on_loopback_only_and_has_a_token():
    """Here is another address, at which a Ray that is started in any other way listens."""
    listening = {c.laddr.ip for c in psutil.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert "dashboard" not in {p.name() for p in psutil.process_iter()}
