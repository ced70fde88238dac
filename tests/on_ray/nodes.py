"""Whole studies on a cluster of several nodes: its GPUs, a driver that dies, one from outside, and a node that dies."""

from __future__ import annotations

import asyncio
import os
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster as Nodes

from agentic_hpt.config import StudyConfig
from agentic_hpt.executors.ray import Cluster, RayExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import Limits, TrialState
from agentic_hpt.study import Study, run_study
from executor_runs import job, wait_until_gone
from study_runs import describe, drive, finished

STORE = {"object_store_memory": 100 * 2**20}
CLIENT_PORT = 10_001
TRIALS = 10

# A trial that waits for the word to go on, and that finds its checkpoint when it is tried again.
WAITS = """
    import os
    from pathlib import Path

    HERE = Path({folder!r})

    def train(params, trial):
        kept = trial.checkpoint_dir / "step"
        found = step = int(kept.read_text()) if kept.exists() else 0
        (HERE / f"{{trial.id}}.{{trial.worker}}.{{found}}.pid").write_text(str(os.getpid()))
        while step < 3 or not (HERE / "go").exists():
            step += 1
            (trial.checkpoint_dir / "part").write_text(str(step))
            (trial.checkpoint_dir / "part").replace(kept)  # at once or not at all: the node goes in the middle of it
            trial.report(params["dropout"], step=step)
        return {{"score": params["dropout"], "found": found, "copied": int("_ray_pkg_" in __file__)}}
"""


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    """A head on which no trial runs, and two nodes with two CPUs each; the second has a GPU, or says so."""
    made = Nodes(True, head_node_args={"num_cpus": 0, "ray_client_server_port": CLIENT_PORT, **STORE})
    for gpus in (0, 1):
        made.add_node(num_cpus=2, num_gpus=gpus, **STORE)
    made.wait_for_nodes()
    return made  # it ends with the namespace that these tests run in


def on(address: str, folder: Path, **changes: object) -> dict[str, object]:
    """Describe a study of trials that wait, on the cluster."""
    ray = {"address": address, **changes.pop("ray", {})}  # type: ignore[dict-item]
    common = {"executor": "ray", "ray": ray, "budget": {"trials": TRIALS}, "fresh_seeds": 1, "pruner": "none"}
    return describe(folder, textwrap.dedent(WAITS.format(folder=str(folder))), **{**common, **changes})


def begun(folder: Path) -> set[int]:
    """Give the processes of trials that have begun."""
    return {int(text) for file in folder.glob("*.pid") if (text := file.read_text())}


def once_they_wait(folder: Path, trials: int, then: Callable[[], None]) -> threading.Thread:
    """Call a function once so many trials wait for the word."""

    def watch() -> None:
        while len(begun(folder)) < trials:
            time.sleep(0.05)
        then()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    return watcher


def check(study: Study, trials: int = TRIALS) -> None:
    """See that the budget was used up to the last trial."""
    counted = [t for t in study.trials() if t.counted]
    assert [t.state for t in counted] == [TrialState.COMPLETE] * trials
    assert [t.message for t in counted] == [""] * trials


def test_a_part_of_a_gpu_is_given_to_each_of_two_trials_at_once(nodes, tmp_path):
    def train(params):
        Path(params["mine"]).touch()
        while not Path(params["other"]).exists():
            pass
        return {"accuracy": 0.5, "gpu": int(os.environ["CUDA_VISIBLE_DEVICES"]), "mark": int(os.environ["MARK"])}

    async def main() -> list[dict]:
        limits = Limits(gpus=0.5)
        cluster = Cluster(nodes.address, env={"MARK": "7"})
        executor = RayExecutor(FunctionObjective(train), "accuracy", 2, cluster=cluster, limits=limits)
        await executor.start()
        a, b = str(tmp_path / "a"), str(tmp_path / "b")
        both = [
            executor.run(job(tmp_path, {"mine": a, "other": b}, trial=1, limits=limits), lambda report: False),
            executor.run(job(tmp_path, {"mine": b, "other": a}, trial=2, limits=limits), lambda report: False),
        ]
        outcomes = await asyncio.gather(*both)
        await executor.close()
        assert [o.message for o in outcomes] == ["", ""]
        return [dict(o.values) for o in outcomes]

    assert asyncio.run(main()) == [{"accuracy": 0.5, "gpu": 0.0, "mark": 7.0}] * 2


def test_a_study_takes_the_room_of_the_cluster_and_nodes_get_a_copy_of_its_folder(nodes, tmp_path):
    (tmp_path / "go").touch()
    description = on(nodes.address, tmp_path, ray={"working_dir": str(tmp_path)})
    run_study(StudyConfig.from_mapping(description), home=tmp_path / "home")
    study = Study.open("study", tmp_path / "home")
    check(study)
    assert study.config.parallel == 4
    assert {t.values["copied"] for t in study.trials()} == {1.0}


def test_a_study_runs_from_outside_the_cluster_through_rays_client(nodes, tmp_path):
    (tmp_path / "go").touch()
    description = on(f"ray://127.0.0.1:{CLIENT_PORT}", tmp_path, parallel=2, budget={"trials": 4})
    done = drive(description, tmp_path / "home")  # Ray's client leaves its marks on a process
    assert done.returncode == 0, done.stderr
    check(Study.open("study", tmp_path / "home"), 4)


def test_a_killed_driver_takes_its_trials_with_it_and_the_next_one_ends_the_study(nodes, tmp_path):
    home = tmp_path / "home"
    assert drive(on(nodes.address, tmp_path, parallel=4), home, "trial_started", 4).returncode == -9
    (tmp_path / "go").touch()
    assert drive(None, home, "trial", 3).returncode == -9
    kept = finished(home)
    assert len(kept) >= 2
    done = drive(None, home)
    assert done.returncode == 0, done.stderr
    check(Study.open("study", home))
    assert {number: trial for number, trial in finished(home).items() if number in kept} == kept
    for pid in begun(tmp_path):
        wait_until_gone(pid)


def test_a_node_that_dies_costs_no_trial_and_its_trials_go_on_from_their_checkpoints(nodes, tmp_path):
    killed: set[int] = set()

    def lose_a_node() -> None:
        [node] = [n for n in nodes.worker_nodes if n.get_resource_and_label_spec().num_gpus == 0]
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            killed.add(process.pid)
            process.kill()
        (tmp_path / "go").touch()

    watcher = once_they_wait(tmp_path, 4, lose_a_node)
    run_study(StudyConfig.from_mapping(on(nodes.address, tmp_path)), home=tmp_path / "home")
    watcher.join()
    study = Study.open("study", tmp_path / "home")
    check(study)
    again = [t for t in study.trials() if t.attempt > 1]
    assert len(again) == 2  # one for each CPU of the node
    assert len(killed & begun(tmp_path)) == 2
    assert {lost.trial for lost in study.lost_attempts()} == {t.id for t in again}
    assert all(t.attempt == 2 and t.values["found"] >= 1 for t in again)
    assert all(t.values["found"] == 0 for t in study.trials() if t.attempt == 1)
