"""Python functions as objectives: how they may be called, and how they are found by name."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cloudpickle
import pytest

from agentic_hpt.errors import ConfigError
from agentic_hpt.objectives.function import FunctionObjective, load_function

TRIAL = object()


def both(params, trial):
    return params, trial


class Callable_:
    def __call__(self, params, trial=None):
        return params, trial


def test_params_alone_or_with_the_trial():
    assert FunctionObjective(lambda params: params).run({"x": 1}, TRIAL) == {"x": 1}
    assert FunctionObjective(both).run({"x": 1}, TRIAL) == ({"x": 1}, TRIAL)
    assert FunctionObjective(Callable_()).run({"x": 1}, TRIAL) == ({"x": 1}, TRIAL)


def test_a_second_parameter_with_a_default_is_the_functions_own():
    assert FunctionObjective(lambda params, epochs=5: epochs).run({}, TRIAL) == 5


def test_an_objective_cant_change_the_trials_parameters():
    params = {"x": 1}
    FunctionObjective(lambda p: p.pop("x")).run(params, TRIAL)
    assert params == {"x": 1}


def test_the_final_function_is_the_holdout():
    assert not FunctionObjective(both).has_holdout
    objective = FunctionObjective(both, lambda params: 7)
    assert objective.has_holdout
    assert objective.holdout({}, TRIAL) == 7


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (3, "not a function"),
        (lambda: 1, "can't be called with the parameters"),
        (lambda a, b, c: 1, "can't be called with the parameters"),
        (lambda params, *, key: 1, "can't be called with the parameters"),
    ],
)
def test_what_cant_be_called_is_refused(function, text):
    with pytest.raises(ConfigError, match=text):
        FunctionObjective(function)
    with pytest.raises(ConfigError, match=text):
        FunctionObjective(both, function)


def test_an_async_function_is_refused():
    async def train(params):
        return 1

    with pytest.raises(ConfigError, match="async"):
        FunctionObjective(train)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    """Leave `sys.path` and the modules as they were."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_is_found_from_the_folder_with_what_lies_beside_it(tmp_path, capsys):
    (tmp_path / "beside_train.py").write_text("VALUE = 4\n")
    (tmp_path / "train.py").write_text(
        "import beside_train\nprint('hello')\nCALLS = []\n"
        "def train(params):\n    CALLS.append(1)\n    return beside_train.VALUE + len(CALLS)\n"
        "def test(params):\n    return 0.5\n"
    )
    objective = load_function("train.py:train", str(tmp_path), "train.py:test")
    assert objective.run({}, TRIAL) == 5
    assert objective.holdout({}, TRIAL) == 0.5
    assert load_function("train.py:train", str(tmp_path)).run({}, TRIAL) == 6, "the file was imported twice"
    assert capsys.readouterr() == ("", "hello\n")
    assert "train" not in sys.modules


def test_a_file_pickles_as_its_name_and_loads_in_another_process(tmp_path):
    (tmp_path / "train.py").write_text("def train(params):\n    return params['x']\n")
    data = cloudpickle.dumps(load_function("train.py:train", str(tmp_path)))
    assert len(data) < 500
    (tmp_path / "pickle").write_bytes(data)
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb')).run({{'x': 3}}, None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "3\n"


def test_a_module_is_found_on_the_path_or_in_the_folder(tmp_path):
    (tmp_path / "package_here").mkdir()
    (tmp_path / "package_here" / "jobs.py").write_text("class A:\n    @staticmethod\n    def train(p): return 8\n")
    objective = load_function("package_here.jobs:A.train", str(tmp_path))
    assert objective.run({}, TRIAL) == 8
    assert pickle.loads(pickle.dumps(objective)).run({}, TRIAL) == 8


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("absent.py:train", "no file .*absent.py"),
        ("train.py:tain", "no 'tain'.*defines train"),
        ("train.py:LIMIT", "is a int"),
        ("broken.py:train", "importing .*broken.py failed: SyntaxError"),
        ("raising.py:train", "failed: RuntimeError: no data here"),
        ("leaving.py:train", "failed: SystemExit"),
        ("no_such_module_at_all:train", "No module named 'no_such_module_at_all'"),
        ("train.py", "does not name a function"),
    ],
)
def test_a_wrong_name_says_which_part_is_wrong(tmp_path, spec, text):
    (tmp_path / "train.py").write_text("LIMIT = 3\ndef train(params):\n    return 1\n")
    (tmp_path / "broken.py").write_text("def train(:\n")
    (tmp_path / "raising.py").write_text("raise RuntimeError('no data here')\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    for _ in range(2):  # a failed import must not leave half a module behind
        with pytest.raises(ConfigError, match=text):
            load_function(spec, str(tmp_path))


def test_preload_names_heavy_libraries_wherever_they_are_imported(tmp_path):
    assert FunctionObjective(both).preload() == ()
    (tmp_path / "lazy.py").write_text(
        "def build():\n    import torch.nn as nn\n    return nn\ndef train(params):\n    return build()\n"
    )
    assert load_function("lazy.py:train", str(tmp_path)).preload() == ("torch", "torch._dynamo")
    (tmp_path / "eager.py").write_text("import numpy as np\ndef train(params):\n    return np.mean([1])\n")
    assert load_function("eager.py:train", str(tmp_path)).preload() == ("numpy",)
