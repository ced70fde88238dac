"""The study description: YAML as people expect it, every mistake named, presets, settings, masked secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_hpt.config import Settings, StudyConfig, check_study_name, mask_secrets, read_study_file, shown
from agentic_hpt.errors import ConfigError, SpaceError
from agentic_hpt.presets import TASKS, task_study
from agentic_hpt.records import Budget, Goal
from agentic_hpt.space import Float, SearchSpace

SPACE = {"lr": {"float": [1e-5, 0.1], "log": True}}


def described(**rest: object) -> StudyConfig:
    return StudyConfig.from_mapping({"study": "s", "metric": "accuracy", "space": SPACE, **rest})


def refused(**rest: object) -> str:
    with pytest.raises(ConfigError) as caught:
        described(**rest)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value.message


def read(text: str, path: Path | None = None) -> dict[str, object]:
    path = path or Path("study.yaml")
    path.write_text(text, encoding="utf-8")
    return read_study_file(path)


# -- YAML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("1.0e-5", 1e-5),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("1_000", 1000),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'1e-5'", "1e-5"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("{a: [1, 2]}", {"a": [1, 2]}),
    ],
)
def test_yaml_values(text: str, value: object) -> None:
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study: a\nmetric: b\nstudy: c\n", ["'study' stands twice", "line 3"]),
        ("space:\n  lr: {float: [0, 1]}\n  lr: {float: [0, 2]}\n", ["'lr' stands twice", "line 3"]),
        ("a: [1\n", ["not valid YAML"]),
        ("a: b: c\n", ["not valid YAML", "line 1"]),
        ("\tstudy: a\n", ["not valid YAML"]),
        ("? [1, 2]\n: 3\n", ["can't be a key"]),
        ("a: &x {b: *x}\n", ["not valid YAML"]),
        ("a: !!python/object:os.system x\n", ["not valid YAML", "python/object"]),
        ("when: 2026-13-45\n", ["not valid YAML", "month"]),
        ("a: " + "[" * 5000, ["not valid YAML"]),
        ("", ["does not hold a mapping"]),
        ("- 1\n", ["does not hold a mapping"]),
        ("just text\n", ["does not hold a mapping"]),
    ],
)
def test_a_file_that_is_no_study_file(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert "study.yaml" in caught.value.message
    assert all(part in caught.value.message for part in said)
    assert caught.value.hint


def test_a_merge_key_shares_what_stands_elsewhere() -> None:
    assert read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ConfigError, match="can't read the study file"):
            read_study_file(path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00study")
    with pytest.raises(ConfigError, match=r"can't read the study file .*binary\.yaml"):
        read_study_file(tmp_path / "binary.yaml")


# -- files and overrides --------------------------------------------------------------------------------------------

FILE = """
study: digits
objective: {python: "train.py:train"}
metric: accuracy
space: {lr: {float: [1e-5, 1e-1], log: true}}
budget: {trials: 50, minutes: 5}
seed: 3
"""


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("large", "is no mapping"),
        ([1], "is no mapping"),
        ({f"f{i}": i for i in range(21)}, "21 facts are too many"),
        ({"": 1}, "'' can't name a fact"),
        ({"n" * 41: 1}, "can't name a fact"),
        ({"rows\nand more": 1}, "can't name a fact"),
        ({3: 1}, "3 can't name a fact"),
        ({"note": "x" * 201}, "note has 201 characters; give at most 200"),
        ({"rows": [1, 2]}, "rows: [1, 2] is neither a number nor a text"),
        ({"rows": None}, "rows: None is neither"),
        ({"rows": float("nan")}, "rows: nan is neither"),
    ],
)
def test_facts_of_the_job_are_few_short_and_plain(job: object, said: str) -> None:
    message = refused(job=job)
    assert message.startswith("study: job: ")
    assert said in message


def test_facts_of_the_job_are_kept_as_they_are() -> None:
    facts = {"rows": 50_000, "noise": 0.25, "model": "m" * 200, "balanced": False, **{f"f{i}": i for i in range(16)}}
    config = described(job=facts)
    assert config.job == facts
    assert StudyConfig.from_mapping(config.to_json()) == config
    assert described().job == {}


def test_overrides_lie_over_the_file_and_the_budget_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(FILE)
    config = StudyConfig.from_file(path, {"budget": {"trials": 7}, "seed": 9, "target": 0.9})
    assert (config.budget.trials, config.budget.minutes, config.seed, config.target) == (7, 5.0, 9, 0.9)
    plain = StudyConfig.from_file(str(path))
    assert (plain.budget.trials, plain.seed, plain.target) == (50, 3, None)
    assert plain.space == SearchSpace(lr=Float(1e-5, 1e-1, log=True))


def test_relative_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "study.yaml"
    path.write_text(FILE)
    objective = StudyConfig.from_file(Path("sub/study.yaml")).objective
    assert objective is not None
    assert objective.folder == str(tmp_path / "sub")
    path.write_text(FILE.replace('"train.py:train"', '"train.py:train", folder: /elsewhere'))
    objective = StudyConfig.from_file(path).objective
    assert objective is not None
    assert objective.folder == "/elsewhere"


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace("seed", "sed"))
    with pytest.raises(ConfigError, match=r"mine\.yaml: sed: unknown key; did you mean 'seed'\?"):
        StudyConfig.from_file(path)
    path.write_text(FILE.replace("1e-5", "1e5"))
    with pytest.raises(SpaceError, match=r"mine\.yaml: parameter 'lr': the range \[100000\.0, 0\.1\] is empty"):
        StudyConfig.from_file(path)


# -- keys and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ({"direktion": "maximize"}, "direktion: unknown key; did you mean 'direction'?"),
        ({"zzz": 1}, "zzz: unknown key; known keys: study, objective, metric"),
        ({"failures": 3}, "failures: 3: input should be a mapping of keys to values"),
        ({"budget": {"trails": 5}}, "budget.trails: unknown key; did you mean 'trials'?"),
        ({"mlflow": {"uri": "x", "enable": True}}, "mlflow.enable: unknown key; did you mean 'enabled'?"),
        (
            {"coordinator": {"price": {"input": 1, "outptu": 2}}},
            "coordinator.price.outptu: unknown key; did you mean 'output'?",
        ),
        ({"coordinator": {"price": {"input": 1}}}, "coordinator.price.output: this key is missing"),
        ({"budget": {"trials": 0}}, "budget.trials: 0: "),
        ({"budget": {"trials": "many"}}, "budget.trials: 'many': "),
        ({"budget": {"trials": 2.5}}, "budget.trials: 2.5: "),
        ({"budget": {"minutes": -1}}, "budget.minutes: -1: "),
        ({"budget": {"trials": 5, "minutes": float("inf")}}, "budget.minutes: inf: "),
        ({"budget": 5}, "budget: 5: "),
        ({"budget": {}}, "give trials or minutes"),
        ({"budget": {"tokens": 5}}, "give trials or minutes"),
        ({"direction": "up"}, "direction: 'up': input should be 'maximize' or 'minimize'"),
        ({"target": "high"}, "target: 'high': "),
        ({"target": float("nan")}, "target: nan: "),
        ({"metric": ""}, "metric: '': "),
        ({"metric": 5}, "metric: 5: "),
        ({"metric": ["a", "b", "a"]}, "metric: 'a' stands twice"),
        ({"metric": ["a", "b", "c", "d", "e"]}, "metric: 5 metrics; give 1 to 4"),
        ({"metric": []}, "metric: 0 metrics; give 1 to 4"),
        ({"metric": "hypervolume"}, "metric: 'hypervolume': the study itself computes this"),
        ({"metric": ["a", "b"], "direction": ["maximize"]}, "direction: 1 directions for 2 metrics"),
        ({"metric": ["a", "b"], "direction": ["maximize", "up"]}, "direction: 'up': input should be"),
        ({"metric": ["a", "b"], "target": 0.5}, "target: 0.5 is of which metric? Write target: {a: 0.5}"),
        ({"metric": ["a", "b"], "target": {"c": 0.5}}, "target: 'c' is none of the metrics, a, b"),
        ({"metric": ["a", "b"], "target": {"a": "much"}}, "target: 'much': give a finite number"),
        ({"target": 10**400}, "give a finite number"),
        ({"metric": ["a", "b"], "reference": {"c": 1}}, "reference: 'c' is none of the metrics, a, b"),
        ({"metric": "a", "reference": {"a": 1}}, "reference: it goes with several metrics only"),
        ({"parallel": 0}, "parallel: 0: "),
        ({"parallel": 2, "executor": "inline"}, "parallel: 2 does not go with executor: inline"),
        ({"executor": "dask"}, "executor: 'dask': "),
        ({"strategy": "magic"}, "strategy: 'magic': "),
        ({"seed": -1}, "seed: -1: "),
        ({"seed": 2**32}, "seed: 4294967296: "),
        ({"coordinator": "gpt"}, "coordinator.model: 'gpt': "),
        ({"coordinator": 5}, "coordinator: 5: "),
        ({"objective": {"task": "cifar"}}, "objective.task: 'cifar' is no built-in task"),
        ({"objective": {}}, "exactly one of task, python and command, not none"),
        (
            {"objective": {"task": "digits", "command": ["x"]}},
            "exactly one of task, python and command, not task and command",
        ),
        ({"objective": {"python": "train.py"}}, "objective.python: 'train.py': "),
        ({"objective": {"command": []}}, "objective.command: "),
        ({"objective": {"command": "python train.py"}}, "objective.command: 'python train.py': "),
        ({"objective": {"command": ["x"], "final": "a:b"}}, "final goes with python only"),
        ({"budget": {"trials": 5, "dollars": 1}, "coordinator": "openai:m"}, "budget.dollars needs coordinator.price"),
        ({"space": {"lr": {"float": [1, 0]}}}, "parameter 'lr': the range [1, 0] is empty"),
        ({"space": None}, "the search space is None"),
        ({"limits": {"seconds": 0}}, "limits.seconds: 0: "),
        ({"import_optuna": {"storage": "sqlite:///x.db"}}, "import_optuna.study: this key is missing"),
    ],
)
def test_a_mistake_names_key_value_and_remedy(rest: dict[str, object], said: str) -> None:
    assert said in refused(**rest)


def test_all_mistakes_are_named_at_once() -> None:
    message = refused(seed=-1, parallel=0, nope=1)
    assert {line.split(":")[1].strip() for line in message.splitlines()} == {"seed", "parallel", "nope"}


def test_missing_keys_and_no_mapping() -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_mapping({}, where="flags")
    assert [f"flags: {key}: this key is missing" for key in ("study", "metric", "space")] == (
        caught.value.message.splitlines()
    )
    with pytest.raises(ConfigError, match="a study description is a mapping, not list"):
        StudyConfig.from_mapping([1])


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b",
        "../a",
        "a\\b",
        "a\nb",
        "a\x00",
        "a\x1b[31m",
        "x" * 101,
        "-a",
        ".a",
        " a",
        "a ",
        "a.",
        "é",
        5,
        None,
    ],
)
def test_a_name_that_no_study_can_have(name: object) -> None:
    assert repr(name) in refused(study=name)
    with pytest.raises(ConfigError):
        check_study_name(name)


@pytest.mark.parametrize("name", ["a", "0", "my study 2", "a.b_c-d", "x" * 100])
def test_a_name_that_a_study_can_have(name: str) -> None:
    assert described(study=name).study == name


@given(st.text(max_size=12))
def test_a_name_is_one_safe_folder(name: str) -> None:
    try:
        check_study_name(name)
    except ConfigError:
        return
    assert Path(name).name == name
    assert name.isprintable()
    assert name.strip(" .") == name


# -- what is left out, and shorthand --------------------------------------------------------------------------------


def test_shorthand_for_the_coordinator() -> None:
    assert described(coordinator="rules") == described()
    assert described(coordinator="openai:gpt-5-mini").coordinator.model == "openai:gpt-5-mini"
    assert described(coordinator="rules").coordinator.model is None


def test_a_budget_record_stands_for_its_keys() -> None:
    config = described(budget=Budget(trials=4, minutes=2.0, tokens=10))
    assert config.limits_of_study == Budget(trials=4, minutes=2.0, tokens=10)


def test_what_is_worked_out_of_a_description_is_kept_and_worked_out_anew_for_a_changed_one() -> None:
    config = described(budget={"trials": 7}, limits={"seconds": 5}, initial=[{"lr": 0.01}])
    names = ("goal", "measured", "limits_of_trial", "limits_of_study", "initial_configurations")
    before = {name: getattr(config, name) for name in names}
    assert all(getattr(config, name) is value for name, value in before.items()), "a trial asks for them several times"
    assert config == described(budget={"trials": 7}, limits={"seconds": 5}, initial=[{"lr": 0.01}])
    other = {"budget": {"trials": 9}, "limits": {"seconds": 6}, "initial": [{"lr": 0.02}], "metric": "seconds"}
    wanted = described(**other)
    changed = config.model_copy(update={name: getattr(wanted, name) for name in other})
    assert {name: getattr(changed, name) for name in names} == {name: getattr(wanted, name) for name in names}
    assert all(getattr(changed, name) != value for name, value in before.items())
    assert {name: getattr(config, name) for name in names} == before


def test_derived_figures() -> None:
    space = {"a": {"int": [1, 2]}, "b": {"int": [1, 2]}}
    assert described(space=space, parallel=2).round_trials == 8
    assert described(space=space, strategy="per_parameter").round_trials == 6
    assert described(space=space, strategy="joint", parallel=2).round_trials == 8
    assert described(space=space, strategy="joint", parallel=6).round_trials == 12
    assert described(space=space, trials_per_round=5).round_trials == 5
    assert described(executor="inline").slots == 1
    assert described(parallel=3).slots == 3
    assert described().slots >= 1
    assert described(direction="minimize", target=0.1).goal == Goal("accuracy", "minimize", 0.1)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_fills_in_what_is_left_out(task: str) -> None:
    config = StudyConfig.from_mapping({"objective": {"task": task}})
    preset = task_study(task)
    assert config.study == task
    assert config.metric == preset["metric"]
    assert config.target == preset["target"]
    assert config.space == SearchSpace.from_json(preset["space"])
    assert {"trials": config.budget.trials} == preset["budget"]


def test_what_is_given_wins_over_the_tasks_preset() -> None:
    config = StudyConfig.from_mapping({"objective": {"task": "digits"}, "study": "mine", "budget": {"minutes": 1}})
    assert (config.study, config.budget.trials, config.budget.minutes, config.target) == ("mine", None, 1.0, 0.992)
    other = StudyConfig.from_mapping({"objective": {"task": "digits"}, "metric": "loss", "direction": "minimize"})
    assert other.target is None, "the preset's target is of another metric"
    narrow = StudyConfig.from_mapping({"objective": {"task": "digits"}, "space": SPACE})
    assert (narrow.target, narrow.space.names) == (None, ("lr",))


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"objective": {"task": "wine"}, "target": None},
        {"objective": {"command": ["python", "t.py", "{lr}"], "folder": "/x"}, "budget": {"minutes": 0.5}},
        {
            "objective": {"python": "m:f", "final": "m:g"},
            "target": 0.1 + 0.2,
            "direction": "minimize",
            "space": {"o": {"choice": [True, None, "x", 1.5]}, "m": {"float": [0, 1], "when": {"o": [True, None]}}},
            "coordinator": {"model": "openai:m", "price": {"input": 1, "output": 2}, "temperature": 0},
            "budget": {"trials": 3, "dollars": 0.5, "tokens": 100},
            "limits": {"seconds": 5},
            "mlflow": {"enabled": False},
            "optuna_storage": "sqlite:///o.db",
            "import_optuna": {"storage": "sqlite:///e.db", "study": "earlier"},
            "description": "schön",
        },
    ],
)
def test_a_description_survives_json(rest: dict[str, object]) -> None:
    config = described(**rest)
    assert StudyConfig.from_mapping(json.loads(json.dumps(config.to_json()))) == config


# -- settings -------------------------------------------------------------------------------------------------------


def test_home_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings.load().home == tmp_path / "hpt-home"
    monkeypatch.setenv("AGENTIC_HPT_HOME", str(tmp_path / "env"))
    assert Settings.load().home == tmp_path / "env"
    assert Settings.load("given").home == tmp_path / "given"
    monkeypatch.setenv("AGENTIC_HPT_HOME", "")
    assert Settings.load().home == tmp_path / "hpt-home"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.load("~/h").home == tmp_path / "h"


def test_where_things_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(home)
    assert settings.ledger_url == f"sqlite:///{home}/ledger.db"
    assert settings.checkpoints == f"sqlite:///{home}/checkpoints.db"
    assert settings.artifacts("s-1") == home / "artifacts" / "s-1"
    assert not home.exists(), "loading settings writes nothing"
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", "sqlite:////var/l.db")
    assert Settings.load(home).ledger_url == "sqlite:////var/l.db"


def test_tracking_uri_precedence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = described().mlflow
    assert Settings.load(home).resolve_tracking_uri(config) == f"sqlite:///{home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert Settings.load(home).resolve_tracking_uri(config) == "http://server"
    given_ = described(mlflow={"tracking_uri": "http://mine"}).mlflow
    assert Settings.load(home).resolve_tracking_uri(given_) == "http://mine"


def test_postgresql_holds_ledger_checkpoints_and_mlflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        monkeypatch.setenv("AGENTIC_HPT_LEDGER", f"{scheme}://me:p%40w@db.host:5433/hpt?sslmode=verify-full")
        settings = Settings.load(home)
        assert settings.ledger_url.startswith("postgresql://me:p%40w@db.host:5433/hpt?")
        assert "sslmode=verify-full" in settings.ledger_url
        assert "connect_timeout=10" in settings.ledger_url
        assert settings.checkpoints == settings.ledger_url
        store = settings.resolve_tracking_uri(described().mlflow)
        assert store.startswith("postgresql+psycopg://me:p%40w@db.host:5433/hpt?")
        assert store.endswith("options=-csearch_path%3Dhpt_mlflow")
        assert shown(store) == "postgresql+psycopg://***@db.host:5433/hpt"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert Settings.load(home).resolve_tracking_uri(described().mlflow) == "http://server"


def test_what_an_address_of_postgresql_says_itself_holds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AGENTIC_HPT_LEDGER", "postgresql:///hpt?host=/run/pg&connect_timeout=3&options=-cstatement_timeout=0"
    )
    settings = Settings.load(home)
    assert settings.ledger_url.startswith("postgresql:///hpt?")
    assert "host=%2Frun%2Fpg" in settings.ledger_url
    assert "connect_timeout=3" in settings.ledger_url
    assert settings.mlflow_store.endswith("options=-cstatement_timeout%3D0%20-csearch_path%3Dhpt_mlflow")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mysql://me:hunter22@host/db", "no store that can be used"),
        ("postgresql://me:hunter22@host", "names no database"),
        ("postgresql://me:hunter22@host/", "names no database"),
        ("postgresql://me:hunter22@22@host/db", "can't be read"),
        ("postgresql://me:hunter22/22@host/db", "can't be read"),
        ("postgresql://me:hunter22?22@host/db", "can't be read"),
        ("postgresql://me:hunter22#22@host/db", "can't be read"),
        ("postgresql://me:hunter22@[host/db", "is no address"),
        ("postgresql://me:hunter22@host:port/db", "port"),
        ("postgresql://me:hunter22@host:99999/db", "port"),
    ],
)
def test_an_address_that_is_wrong_is_refused_without_its_password(
    address: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", address)
    with pytest.raises(ConfigError, match="AGENTIC_HPT_LEDGER") as caught:
        Settings.load()
    assert problem in caught.value.message
    assert "hunter22" not in str(caught.value)
    assert mask_secrets(caught.value.hint or "") == caught.value.hint, "a hint is readable where it is shown"


def test_a_home_is_made_and_left_clean(home: Path) -> None:
    settings = Settings.load(home / "deep")
    settings.create()
    settings.create()
    assert [p.name for p in (home / "deep").iterdir()] == ["artifacts"]


def test_a_home_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "home", Path("/proc/agentic-hpt")):
        with pytest.raises(ConfigError, match="can't be written") as caught:
            Settings.load(folder).create()
        assert str(folder) in caught.value.message
        assert "--home" in caught.value.hint


def test_has_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load()
    assert not settings.has_variable("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert not settings.has_variable("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert settings.has_variable("OPENAI_API_KEY")


# -- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg://me:p@ss@host/db", "postgresql+psycopg://***@host/db"),
        ("at http://u@h/ and https://a:b@c:80/x", "at http://***@h/ and https://***@c:80/x"),
        ("http://host/a@b", "http://host/a@b"),
        ("write to me@host", "write to me@host"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_values_of_secret_variables_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12345678")
    monkeypatch.setenv("my_password", "correct horse")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("HARMLESS", "visible-value")
    text = "sk-12345678, correct horse, abc, visible-value"
    assert mask_secrets(text) == "***, ***, abc, visible-value"


def test_a_wrong_value_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12345678")
    message = refused(mlflow={"tracking_uri": ["http://u:hunter22@h", "sk-12345678"]})
    assert "mlflow.tracking_uri" in message
    assert "hunter22" not in message
    assert "sk-12345678" not in message
