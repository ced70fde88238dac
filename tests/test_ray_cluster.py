"""Ray without running it: what is asked for and what there is, addresses, what its errors say, the example files."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from agentic_hpt.cli.app import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind, MissingExtra
from agentic_hpt.executors.ray import Cluster
from agentic_hpt.records import Limits
from agentic_hpt.study import list_studies
from agentic_hpt.wiring import make_objective, sent_to_nodes, with_slots
from study_runs import describe

EXAMPLES = Path(__file__).parents[1] / "examples" / "cluster"


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_without_ray_the_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(MissingExtra, match=r"agentic-hpt\[ray\]"):
        Cluster()


def test_a_cluster_that_is_not_there_is_said_at_once_and_leaves_no_study(tmp_path, capsys):
    address = f"127.0.0.1:{free_port()}"
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(describe(tmp_path, executor="ray", ray={"address": address})))
    for arguments in ([], ["--parallel", "3"]):  # asked how much room it has, and not
        assert main(["run", str(study), "--home", str(tmp_path / "home"), *arguments]) == 2
        said = capsys.readouterr().err
        assert f"ray.address: nothing answers at {address}" in said
        assert "Traceback" not in said
    assert list_studies(tmp_path / "home") == []


@pytest.mark.parametrize("address", ["head", "head:port", "ray://head:port", "head:"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="write auto, host:port or ray://host:port"):
        Cluster(address).connect()


def test_a_study_runs_as_many_trials_at_once_as_the_cluster_had_room_for_when_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    config = StudyConfig.from_mapping(describe(tmp_path, executor="ray", limits={"threads": 3}))
    assert with_slots(config).parallel == 2
    assert with_slots(config.model_copy(update={"parallel": 5})).parallel == 5
    assert with_slots(config.model_copy(update={"executor": "processes"})).parallel is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert Cluster().slots(Limits(threads=1, gpus=0.4)) == 6
    assert Cluster().slots(Limits(threads=1, gpus=2)) == 1


def test_a_folder_to_copy_must_hold_the_objective(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "other").mkdir()
    described = describe(tmp_path / "code", executor="ray", ray={"working_dir": str(tmp_path / "other")})
    config = StudyConfig.from_mapping(described)
    with pytest.raises(ConfigError, match="does not hold the objective's folder"):
        sent_to_nodes(config, make_objective(config))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("OutOfMemoryError", FailureKind.OUT_OF_MEMORY),
        ("WorkerCrashedError", FailureKind.LOST_WORKER),
        ("NodeDiedError", FailureKind.LOST_WORKER),
        ("TaskCancelledError", FailureKind.LOST_WORKER),
        ("RaySystemError", FailureKind.LOST_WORKER),
        ("RuntimeEnvSetupError", FailureKind.LOST_WORKER),
    ],
)
def test_what_ends_a_task_is_the_clusters_doing_but_for_a_lack_of_memory(name, kind):
    exceptions = pytest.importorskip("ray.exceptions")
    from agentic_hpt.executors.ray.deaths import meaning

    error = getattr(exceptions, name)
    found, text = meaning(error() if name in ("WorkerCrashedError", "TaskCancelledError") else error("it was so"))
    assert found is kind
    assert 10 < len(text) <= 400


@pytest.mark.parametrize("file", [f for f in sorted(EXAMPLES.iterdir()) if f.is_file()], ids=lambda file: file.name)
def test_the_example_files_are_what_they_say(file):
    text = file.read_text()
    if file.suffix == ".sh":
        assert subprocess.run(["bash", "-n", str(file)], check=False).returncode == 0
    elif file.name == "study.yaml":
        config = StudyConfig.from_file(file)
        assert (config.executor, config.ray.working_dir) == ("ray", str(EXAMPLES))
    elif file.suffix == ".yaml":
        parts = list(yaml.safe_load_all(text))
        assert all(part["apiVersion"] and part["kind"] and part["metadata"]["name"] for part in parts)
    else:
        compile(text, str(file), "exec")
