"""`hpt uplift`: whole comparisons on a bowl, with scripted models."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from agentic_hpt.cli import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject, Report, Trial, TrialState
from agentic_hpt.study import Study, list_studies
from agentic_hpt.study.shuffling import plain, shuffled
from agentic_hpt.study.uplift import Uplift, run_uplift
from agentic_hpt.study.uplift_statistics import ANYTIME
from agentic_hpt.testing import ScriptedChatModel, decide
from situations import situation, trial
from study_runs import describe

BOWL = """
def train(params):
    return {"score": -((params["x"] - 1.25) ** 2) - (params["y"] - 8.5) ** 2}

def score(params):
    raise AssertionError("an uplift must leave the holdout alone")
"""
SPACE = {"x": {"float": [0.0, 10.0], "default": 5.0}, "y": {"float": [0.0, 10.0], "default": 5.0}}
BEST = {"x": 1.25, "y": 8.5}


def config(folder: Path, **changes: object) -> StudyConfig:
    described = describe(
        folder, BOWL, study="bowl", space=SPACE, budget={"trials": 8}, trials_per_round=4, strategy="joint", **changes
    )
    described["objective"] = {"python": "train.py:train", "final": "train.py:score", "folder": str(folder)}
    return StudyConfig.from_mapping(described)


def knowing() -> ScriptedChatModel:
    """Give a model that knows the optimum, whatever it is shown."""
    return ScriptedChatModel(answers=[decide("propose", configurations=[{"params": BEST, "hypothesis": "I know"}])])


@pytest.fixture(autouse=True, scope="module")
def waiting() -> Iterator[None]:
    """Have no trials go on while a model thinks: on a slow machine they would make the arms differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentic_hpt.config.BRIDGE_AFTER_SECONDS", 60.0)
        yield


def arms(events: list[JsonObject]) -> list[tuple[object, object]]:
    return [(e["arm"], e["seed"]) for e in events if e["type"] == "uplift" and e["state"] == "begins"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Uplift, list[JsonObject], Path]:
    folder = tmp_path_factory.mktemp("known")
    events: list[JsonObject] = []
    found = run_uplift(
        config(folder, target=-0.001), seeds=5, home=folder, chat_model=knowing(), listener=events.append
    )
    return found, events, folder


Known = tuple[Uplift, list[JsonObject], Path]


def test_a_model_that_knows_the_optimum_is_worth_it_but_was_not_learning(known: Known) -> None:
    found, _, _ = known
    comparison = found.comparison
    assert (comparison.verdict, comparison.seeds, found.exit_code) == ("worth it", 5, 0)
    assert comparison.against[ANYTIME]["rules"].below
    assert "not shown to do better than when it was fed shuffled outcomes" in comparison.sentence
    assert comparison.best_known == 0.0
    assert comparison.regret["8"]["model"].mean == 0.0
    assert comparison.costs["model"]["fallbacks"] == 0
    assert comparison.costs["model"]["tokens"] > 0
    assert comparison.costs["rules"]["calls"] == 0
    assert (comparison.wins["model"].declared, comparison.wins["model"].false) == (5, 0)


def test_the_arms_have_the_same_default_budget_and_seeds(known: Known) -> None:
    found, events, folder = known
    home = folder / "uplift-bowl"
    assert arms(events) == [(arm, seed) for seed in range(5) for arm in ("default", "rules", "model", "shuffled")]
    assert found.home == home
    assert list_studies(folder) == [], "the home itself gets no studies"
    for run in found.runs:
        study = Study.open(run.study, home)
        trials = study.trials()
        assert dict(next(t for t in trials if t.kind == "default").params) == {"x": 5.0, "y": 5.0}
        assert (study.config.seed, len(trials), study.config.target) == (run.seed, 8, None)
        assert run.default == pytest.approx(-(3.75**2) - 3.5**2)
    for baseline in found.baselines:
        study = Study.open(f"bowl-uplift-default-{baseline.seed}", home)
        assert [t.kind for t in study.trials()] == ["default"]
        assert baseline.mean == pytest.approx(-(3.75**2) - 3.5**2)
        assert baseline.seeds == 2


def test_a_finished_uplift_is_not_run_again(known: Known) -> None:
    found, _, folder = known
    events: list[JsonObject] = []
    model = ScriptedChatModel(answers=["never asked"])
    again = run_uplift(config(folder, target=-0.001), seeds=5, home=folder, chat_model=model, listener=events.append)
    assert model.prompts == []
    assert [e["state"] for e in events] == ["kept"] * 20
    assert again.comparison.to_json() == found.comparison.to_json()


def test_another_study_of_the_same_name_is_refused_and_fresh_begins_anew(known: Known) -> None:
    folder = known[2]
    with pytest.raises(ConfigError, match="an uplift of this study with other settings"):
        run_uplift(config(folder, fresh_seeds=1), seeds=1, home=folder, chat_model=knowing())


def test_a_model_that_answers_garbage_does_no_harm_and_its_failures_are_counted(tmp_path: Path) -> None:
    model = ScriptedChatModel(answers=["I would rather not say."])
    whole = run_uplift(config(tmp_path), seeds=3, home=tmp_path, chat_model=model)
    found = whole.comparison
    costs = found.costs["model"]
    assert found.verdict == "not shown"
    assert {r.curve for r in whole.runs if r.arm == "model"} == {r.curve for r in whole.runs if r.arm == "rules"}
    assert costs["fallbacks"] == costs["asked"] > 0
    assert f"In {int(costs['asked'])} of the {int(costs['asked'])} decisions" in found.sentence
    assert costs["calls"] == 2 * costs["asked"], "each question has one repair round"


def shown(prompt: str) -> dict[int, tuple[object, float]]:
    """Read the trials of a prompt's evidence: id, configuration and value."""
    _, _, rest = prompt.partition("<data>\n")
    table = json.loads(rest.partition("\n</data>")[0]).get("trials") or {"columns": [], "rows": []}
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return {row["trial"]: ({name: row[name] for name in SPACE}, row["value"]) for row in rows}


def test_the_shuffled_arm_is_shown_the_values_of_other_trials(tmp_path: Path) -> None:
    model = ScriptedChatModel(answers=[decide("continue")])
    begins: dict[str, int] = {}

    def listen(event: JsonObject) -> None:
        if event["type"] == "uplift" and event["state"] == "begins":
            begins[str(event["arm"])] = len(model.prompts)

    run_uplift(config(tmp_path), seeds=1, home=tmp_path, chat_model=model, listener=listen)
    honest = model.prompts[begins["model"] : begins["shuffled"]]
    control = model.prompts[begins["shuffled"] :]

    def truth(params: object) -> float:
        point = cast(dict[str, float], params)
        return -((point["x"] - 1.25) ** 2) - (point["y"] - 8.5) ** 2

    def right(prompts: list[str]) -> list[bool]:
        found = [entry for prompt in prompts for entry in shown(prompt).values()]
        assert len(found) >= 4
        return [value == pytest.approx(truth(params), rel=0.01) for params, value in found]

    assert all(right(honest))
    assert not any(right(control))
    assert all("50 % is spent" not in p for p in model.prompts), "why the model is asked could quote the truth"
    assert all("uplift" not in p and "shuffled" not in p for p in model.prompts), "the arm's name would give it away"
    home = tmp_path / "uplift-bowl"
    same = [
        [dict(t.params) for t in Study.open(f"bowl-uplift-{arm}-0", home).trials() if t.round == 1]
        for arm in ("model", "shuffled")
    ]
    assert same[0] == same[1], "the samplers see the truth"


SAID = (
    DecisionRecord(1, "rules", (ActionRecord("continue", "best accuracy 0.6", (), "accepted", "trial 5"),)),
    DecisionRecord(
        2,
        "llm",
        (
            ActionRecord("continue", "mine", (), "accepted", "0.6"),
            ActionRecord("unfreeze", "trial 5 has 0.6", (), "accepted", "the policy", {"parameter": "x"}, by="policy"),
        ),
    ),
)


def test_shuffling_deals_the_same_outcomes_out_anew() -> None:
    true = situation([0.1, 0.2, None, 0.4, 0.5, 0.6])
    true = replace(true, trials=(*true.trials, running()), decisions=SAID)
    fake = shuffled("digits", 3)(true)

    def outcome(s: Situation) -> list[object]:
        return [(t.state, t.values.get("accuracy"), t.failure) for t in s.trials]

    changed = [a != b for a, b in zip(outcome(fake), outcome(true), strict=True)]
    assert changed == [True] * 6 + [False], "every finished trial has another's, a running one has none"
    assert sorted(map(str, outcome(fake))) == sorted(map(str, outcome(true)))
    assert [(t.id, t.params, t.worker, t.seed) for t in fake.trials] == [
        (t.id, t.params, t.worker, t.seed) for t in true.trials
    ]
    assert fake.trials[-1] == true.trials[-1], "a running trial has no outcome"
    assert shuffled("digits", 3)(true) == fake
    assert [a.reason for d in fake.decisions for a in d.actions] == ["", "mine", ""], "others quote the truth"
    assert not any(a.verdict_reason for d in fake.decisions for a in d.actions)
    assert outcome(shuffled("digits", 4)(true)) != outcome(fake)
    curve = replace(running(), reports=(Report(0, {"accuracy": 0.7}),))
    reporting = replace(true, trials=(*true.trials[:-1], curve), running=(curve,))
    unheard = shuffled("digits", 3)(reporting)
    assert (unheard.trials[-1].reports, unheard.running[0].reports) == ((), ()), "what is under way is true as well"
    assert plain("name")(true).study == "name"
    assert plain("name")(true).trials == true.trials


def running() -> Trial:
    return trial(6, 0.0, state=TrialState.RUNNING, values={})


@pytest.mark.parametrize(
    ("changes", "seeds", "said"),
    [
        ({}, 0, "at least one seed"),
        ({"budget": {"minutes": 1}}, 1, "no budget of trials"),
        ({}, 1, "no model to be judged"),
        ({"coordinator": {"model": "nonesuch:m"}}, 1, "'nonesuch' is not installed"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, object], seeds: int, said: str
) -> None:
    described = config(tmp_path).to_json()
    with pytest.raises(ConfigError, match=said):
        run_uplift(StudyConfig.from_mapping({**described, **changes}), seeds=seeds, home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_an_interrupted_uplift_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[JsonObject] = []

    def stop(event: JsonObject) -> None:
        began.append(event)
        if event["type"] == "uplift" and event["arm"] == "model" and event["state"] == "begins":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_uplift(config(tmp_path), seeds=1, home=tmp_path, chat_model=knowing(), listener=stop)
    events: list[JsonObject] = []
    found = run_uplift(config(tmp_path), seeds=1, home=tmp_path, chat_model=knowing(), listener=events.append)
    assert [(e["arm"], e["state"]) for e in events if e["type"] == "uplift"] == [
        ("default", "kept"),
        ("rules", "kept"),
        ("model", "begins"),
        ("model", "ended"),
        ("shuffled", "begins"),
        ("shuffled", "ended"),
    ]
    assert (found.finished, found.planned) == (4, 4)


def test_ctrl_c_stops_an_uplift_like_a_study(tmp_path: Path) -> None:
    def stop(event: JsonObject) -> None:
        if event["type"] == "trial" and event["worker"] == "joint":
            os.kill(os.getpid(), signal.SIGINT)

    stopped = run_uplift(config(tmp_path), seeds=1, home=tmp_path, chat_model=knowing(), listener=stop)
    assert (stopped.exit_code, stopped.finished, stopped.planned) == (130, 1, 4)
    assert stopped.comparison.verdict == "not shown"
    assert Study.open("bowl-uplift-rules-0", tmp_path / "uplift-bowl").status == "stopped"
    found = run_uplift(config(tmp_path), seeds=1, home=tmp_path, chat_model=knowing())
    assert (found.exit_code, found.finished) == (0, 4)
    assert [run.trials for run in found.runs] == [8, 8, 8]


def test_the_command_prints_the_comparison_and_a_line_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model can't be reached: the rules stand in, and the sentence says so."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    file = tmp_path / "study.yaml"
    config(tmp_path)
    file.write_text(
        "study: bowl\nobjective: {python: 'train.py:train'}\nmetric: score\n"
        "space: {x: {float: [0, 10]}, y: {float: [0, 10]}}\nbudget: {trials: 50}\nexecutor: inline\nfresh_seeds: 2\n"
        "mlflow: {enabled: false}\ncoordinator: {retries: 0}\n"
    )
    arguments = ["uplift", str(file), "--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1", "--seeds", "1"]
    assert main([*arguments, "--trials", "4", "--home", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("[")]
    assert [line.split(":")[0] for line in lines] == [
        "[1/4] seed 0, default",
        "[2/4] seed 0, rules",
        "[3/4] seed 0, model",
        "[4/4] seed 0, shuffled",
    ]
    assert "fallback" in lines[2]
    assert "best -" in lines[1]
    for part in (
        "uplift of openai:m on bowl: 1 seed, 4 trials each",
        "model - shuffled",
        "over the budget",
        "on fresh seeds",
        "Not shown: 1 seed can't show it, take 5 or more.",
        "the model failed and the rules stood in",
        "Rule: worth it if",
    ):
        assert part in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model to be judged"),
        (["--model", "openai:m", "--seeds", "0"], "at least one seed"),
        (["--model", "m"], "provider:name"),
    ],
)
def test_the_command_refuses_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study: a\nobjective: {task: wine}\nbudget: {trials: 5}\n")
    assert main(["uplift", str(file), *arguments, "--home", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
