"""Earlier studies of related tasks: how they are read, what of them a space can take, and what they are worth."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.earlier import Usable, firsts, plain, usable
from agentic_hpt.errors import ConfigError
from agentic_hpt.ledger import reading_earlier as reading
from agentic_hpt.records import Assignment, EarlierStudy, Goal, Params, Trial, TrialState
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.strategies import Auto
from agentic_hpt.strategies.encoding import Encoding
from agentic_hpt.strategies.gaussian import GaussianProcess
from agentic_hpt.strategies.transfer import Informed, Prior, normal_scores, telling
from agentic_hpt.study import Study, resume_study
from agentic_hpt.study.result import Result
from study_runs import SPACE, describe, drive, finished

MIXED = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True, default=1e-3),
    n=Int(1, 9, default=3),
    opt=Choice(["adam", "sgd"]),
    momentum=Float(0.0, 0.9, default=0.5, when={"opt": "sgd"}),
)


def study(*entries: tuple[Params, float], source: str = "old", without: int = 0) -> EarlierStudy:
    return EarlierStudy(source, tuple(p for p, _ in entries), tuple(loss for _, loss in entries), without)


# -- what a space can take ------------------------------------------------------------------------------------------


def test_what_the_space_does_not_have_is_left_out_and_what_the_study_did_not_have_was_at_its_default() -> None:
    found = usable(study(({"lr": 0.01, "opt": "sgd", "width": 7}, 1.0), ({"lr": 0.02, "opt": "adam"}, 2.0)), MIXED)
    assert found.params == (
        {"lr": 0.01, "n": 3, "opt": "sgd", "momentum": 0.5},
        {"lr": 0.02, "n": 3, "opt": "adam"},
    )
    assert found.losses == (1.0, 2.0)
    assert found.told == (
        "2 of 2 trials of old can be used: n, momentum taken to be at the default there; width left out"
    )


def test_numbers_outside_the_ranges_are_learned_from_and_values_like_none_here_are_not() -> None:
    entries: list[tuple[Params, float]] = [
        ({"lr": 5.0, "n": 40.0, "opt": "adam"}, 1.0),
        ({"lr": 0.01, "n": 3, "opt": "lion"}, 2.0),
        ({"lr": -1.0, "n": 3, "opt": "adam"}, 3.0),
        ({"lr": 0.01, "n": 3.5, "opt": "adam"}, 4.0),
        ({"lr": "fast", "n": 3, "opt": "adam"}, 5.0),
    ]
    found = usable(study(*entries, without=2), MIXED)
    assert found.params == ({"lr": 5.0, "n": 40, "opt": "adam"},)
    assert found.told.startswith(
        "1 of 7 trials of old can be used: 2 lie where lr has no such value; 1 lie where opt has no such value; "
        "1 lie where n has no such value; 2 ended without a value"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False), ("None", None), ("adam", "adam")],
        *[("[1, 2]", "[1, 2]"), ("nan", "nan"), ("Infinity", "Infinity"), ("", ""), ("[" * 100_000, "[" * 100_000)],
    ],
)
def test_texts_stand_for_values(text: str, value: object) -> None:
    assert repr(plain(text)) == repr(value)


def test_values_that_went_through_text_find_their_choice() -> None:
    space = SearchSpace(a=Choice(["16", "32"]), b=Choice([True, False]), c=Choice([1.0, 2.0]), d=Choice([None, "l2"]))
    old = {"a": plain("16"), "b": plain("False"), "c": plain("2"), "d": plain("None")}
    assert usable(study((old, 1.0)), space).params == ({"a": "16", "b": False, "c": 2.0, "d": None},)


def test_the_best_of_each_study_is_tried_first_then_what_is_unlike_it() -> None:
    near: list[tuple[Params, float]] = [({"lr": 0.01, "n": 3, "opt": "adam"}, 0.0)]
    near += [({"lr": 0.0100001, "n": 3, "opt": "adam"}, 0.1), ({"lr": 0.09, "n": 9, "opt": "sgd"}, 0.2)]
    near += [({"lr": 5.0, "n": 3, "opt": "adam"}, -1.0)]
    one = usable(study(*near), MIXED)
    assert [p["lr"] for p in firsts([one], MIXED, 20, [])] == [0.01, 0.09], "the nearest to what is taken comes last"
    other = usable(study(({"lr": 0.002, "n": 1, "opt": "adam"}, 7.0)), MIXED)
    assert [p["lr"] for p in firsts([one, other], MIXED, None, [])] == [0.01, 0.002, 0.09]
    assert [p["lr"] for p in firsts([one, other], MIXED, 2, [])] == [0.01], "a small budget has one to spare"
    assert firsts([one], MIXED, 1, []) == (), "the default comes first"
    assert all(p["lr"] != 0.01 for p in firsts([one], MIXED, 100, [one.params[0]])), "none is given twice"


# -- the prior ------------------------------------------------------------------------------------------------------

PLANE = SearchSpace({f"x{i}": Float(0.0, 1.0) for i in range(3)})
ROWS = Encoding(PLANE)


def task(seed: int, shift: float = 0.0) -> Callable[[Params], float]:
    dice = np.random.default_rng(seed)
    optimum, curvature = dice.uniform(0.15, 0.85, 3), 10 ** dice.uniform(-0.5, 0.7, 3)
    optimum = optimum + shift * np.array([1, -1, 1])

    def loss(params: Params) -> float:
        x = np.array([params[name] for name in PLANE.names], dtype=float)
        return float(curvature @ (x - optimum) ** 2 + 0.2 * math.sin(6 * x[0] + 4 * x[1]))

    return loss


def drawn(count: int, seed: int) -> list[dict[str, float]]:
    return [dict(zip(PLANE.names, row, strict=True)) for row in np.random.default_rng(seed).random((count, 3)).tolist()]


def source(loss: Callable[[Params], float], seed: int, count: int = 60) -> Usable:
    params = drawn(count, seed + 900)
    return Usable("s", tuple(params), tuple(loss(p) for p in params), "")  # type: ignore[arg-type]


def observed(seed: int, count: int) -> GaussianProcess:
    params = drawn(count, seed)
    losses = np.array([task(seed)(p) for p in params])
    return GaussianProcess.fit(ROWS.rows(params), (losses - losses.mean()) / losses.std(), ROWS.categorical)


def test_a_study_that_predicts_has_weight_and_one_that_misleads_has_none() -> None:
    related = opposed = noise = 0.0
    for seed in range(6):
        dice = np.random.default_rng(seed)
        sources = [
            source(lambda p, s=seed: 100 + 50 * task(s, 0.03)(p), seed),  # type: ignore[misc]
            source(lambda p, s=seed: -task(s)(p), seed),  # type: ignore[misc]
            source(lambda p, d=dice: d.random(), seed),  # type: ignore[misc]
        ]
        own = observed(seed, 12)
        weights = Prior(ROWS, sources).weights(own.rows, own.outcomes, own.left_out())
        assert (weights >= 0).all()
        assert weights.sum() <= 1 + 1e-12
        related, opposed, noise = related + weights[0], opposed + weights[1], noise + weights[2]
    assert opposed == 0
    assert noise / 6 < 0.1
    assert related / 6 > 0.5


def test_a_study_gives_way_to_what_the_own_trials_say_better() -> None:
    near = source(task(0, 0.05), 0)
    weights = []
    for count in (6, 60):
        own = observed(0, count)
        weights.append(Prior(ROWS, [near]).weights(own.rows, own.outcomes, own.left_out())[0])
    assert weights[1] < 0.1 < weights[0]


def test_the_own_model_puts_right_what_the_prior_has_wrong() -> None:
    own = observed(3, 8)
    informed = Prior(ROWS, [source(task(3, 0.05), 3)]).inform(own)
    assert isinstance(informed, Informed)
    assert np.abs(informed.predict(own.rows)[0] - own.outcomes).max() < 0.15
    assert Prior(ROWS, [source(lambda p: -task(3)(p), 3)]).inform(own) is own
    assert Prior(ROWS, [source(task(3), 3, count=4)]).inform(own) is own, "too few trials to learn from"


def test_numbers_outside_the_ranges_do_not_disturb_what_is_predicted_inside() -> None:
    loss = task(1)
    params = [{n: 3 * v - 1 for n, v in p.items()} for p in drawn(150, 5)]
    wide = Usable("s", tuple(params), tuple(loss(p) for p in params), "")  # type: ignore[arg-type]
    prior, places = Prior(ROWS, [wide]), drawn(50, 6)
    told = prior.expected(ROWS.rows(places), np.ones(1))
    real = np.array([loss(p) for p in places])
    assert np.corrcoef(told, real)[0, 1] > 0.8


def test_of_many_trials_the_best_and_a_spread_of_the_rest_are_learned_from() -> None:
    losses = [float((7 * i) % 1000) for i in range(1000)]
    kept = telling(losses)
    assert len(kept) == len(set(kept)) == 200
    best = sorted(range(1000), key=losses.__getitem__)[:66]
    assert set(best) <= set(kept)
    assert max(losses[i] for i in kept) == 999
    assert telling([3.0, 1.0, 2.0]) == [0, 1, 2]


def test_scores_keep_the_order_and_ties_whatever_the_scale() -> None:
    scores = normal_scores(np.array([1e9, 2.0, 2.0, -5.0]))
    assert scores[3] < scores[1] == scores[2] < scores[0]
    assert np.allclose(scores, normal_scores(np.array([4.0, 3.0, 3.0, 1.0])))


def found_after(trials: int, seed: int, earlier: list[Usable]) -> float:
    """Give the loss of the best of so many trials, as `auto` proposes them."""
    loss, goal = task(seed), Goal("loss", "minimize")
    strategy = Auto(PLANE, goal, seed, earlier)
    first: list[Params] = [PLANE.default(), *firsts(earlier, PLANE, trials, [PLANE.default()])]
    told: list[Trial] = []
    for number in range(trials):
        if number < len(first):
            params: Params = first[number]
        else:
            proposal = strategy.propose(Assignment("ask", "ask", 0, 1, PLANE.names), told, 1000 * seed + number)
            assert proposal is not None
            params = proposal.params
        values = {"loss": loss(params)}
        told.append(Trial(number, params, TrialState.COMPLETE, 0, "ask", "ask", 0, PLANE.names, values=values))
    return min(t.values["loss"] for t in told)


@pytest.mark.slow
def test_a_related_study_is_worth_trials_and_misleading_ones_cost_next_to_none() -> None:
    """Over seeds; the figures of real tasks are in docs/benchmarks.md."""
    seeds = range(5)
    floor = {s: min(task(s)(p) for p in drawn(20_000, 77)) for s in seeds}

    def regret(trials: int, make: Callable[[int], list[Usable]]) -> float:
        behind = [max(found_after(trials, s, make(s)) - floor[s], 1e-3) for s in seeds]
        return float(np.mean(np.log10(behind)))

    assert regret(9, lambda s: [source(task(s, 0.03), s)]) < regret(9, lambda s: []) - 0.1
    assert regret(20, lambda s: [source(lambda p: -task(s)(p), s)]) < regret(20, lambda s: []) + 0.2


# -- reading --------------------------------------------------------------------------------------------------------


def test_a_table_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    file.write_text("lr,opt,acc,\n0.01,adam,0.9,x\n0.02, sgd ,nan,\n0.03,,0.8,\n0.04,sgd,1e200,\n0.05,sgd,,\n")
    found = reading.from_csv(file, "acc", "maximize")
    assert found.params == ({"lr": 0.01, "opt": "adam"}, {"lr": 0.03})
    assert found.losses == (-0.9, -0.8)
    assert (found.source, found.without) == ("old.csv", 3)


@pytest.mark.parametrize("prefix", ["values.", "metrics."])
def test_a_table_of_trials_as_it_is_written_is_one_of_earlier_trials(tmp_path: Path, prefix: str) -> None:
    head = f"trial,state,seed,params.lr,params.seed,{prefix}acc,{prefix}memory\n"
    (tmp_path / "trials.csv").write_text(f"{head}0,complete,77,0.01,5,0.9,40\n1,failed,78,0.02,6,,\n")
    found = reading.from_csv(tmp_path / "trials.csv", "acc", "maximize")
    assert found.params == ({"lr": 0.01, "seed": 5},)
    assert (found.losses, found.without) == ((-0.9,), 1)


def test_a_number_may_be_spelt_as_other_programs_do(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("x, n,c ,acc\n.5, +2,007,1.\n1.,3.0,1_0,.7\n5e-1,1E1,nan,+.25\n")
    found = reading.from_csv(tmp_path / "old.csv", "acc", "maximize")
    assert [p["x"] for p in found.params] == [0.5, 1.0, 0.5]
    assert [p["n"] for p in found.params] == [2, 3, 10]
    assert [p["c"] for p in found.params] == [7, "1_0", "nan"]
    assert found.losses == (-1.0, -0.7, -0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr,accuracy\n0.1,0.5\n", "no column 'acc'"),
        ("lr,acc\n0.1,0.5\n0.2,good\n", "line 3: acc is 'good', not a number"),
        ("", "no column 'acc'"),
        ("lr,lr,acc\n0.1,0.2,0.5\n", "two columns 'lr'"),
    ],
)
def test_a_table_that_can_not_be_used_says_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "old.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        reading.from_csv(tmp_path / "old.csv", "acc", "maximize")
    with pytest.raises(ConfigError, match="can't read"):
        reading.from_csv(tmp_path / "none.csv", "acc", "maximize")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "give exactly one of study, mlflow, csv and optuna, not none"),
        ({"study": "a", "csv": "b"}, "not study and csv"),
        ({"csv": "a", "home": "b"}, "home goes with study, not with csv"),
        ({"optuna": "a"}, "optuna needs storage"),
        ({"study": "a", "metrics": "b"}, "unknown key"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(source: object, words: str) -> None:
    described = {"study": "s", "metric": "m", "space": {"x": {"float": [0, 1]}}, "transfer": [source]}
    with pytest.raises(ConfigError, match=words):
        StudyConfig.from_mapping(described)


def test_a_table_lies_where_the_study_file_does(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("{study: s, metric: m, space: {x: {float: [0, 1]}}, transfer: [{csv: old.csv}]}")
    assert StudyConfig.from_file(file).transfer[0].csv == str(tmp_path / "old.csv")


# -- whole studies --------------------------------------------------------------------------------------------------


def run(home: Path, name: str, direction: str = "maximize", trials: int = 12, **options: object) -> Result:
    sign = 1 if direction == "maximize" else -1
    return hpt.tune(
        lambda params: {"score": -sign * (params["x"] - 0.7) ** 2, "other": params["x"]},
        {"x": hpt.Float(0.0, 1.0, default=0.1), "y": hpt.Int(1, 5)},
        metric="score",
        direction=direction,  # type: ignore[arg-type]
        study=name,
        home=home,
        budget=hpt.Budget(trials=trials),
        strategy="joint",
        executor="inline",
        mlflow={"enabled": False},
        fresh_seeds=0,
        trials_per_round=6,
        **options,  # type: ignore[arg-type]
    )


def test_earlier_trials_are_no_trials_of_the_study(home: Path) -> None:
    old = run(home, "old", target=None)
    events: list[Mapping[str, object]] = []
    new = run(home, "new", trials=20, direction="minimize", transfer=[{"study": "old"}], listener=events.append)
    assert [t.id for t in new.trials] == list(range(20))
    assert all(t.kind != "imported" for t in new.trials)
    assert old.best is not None
    first = new.trials[1]
    assert (first.kind, dict(first.params)) == ("initial", dict(old.best.params)), "its best is tried first"
    assert sum(t.kind == "initial" for t in new.trials) == 2
    held = Study.open("new", home).earlier()
    assert [(s.source, len(s.losses), min(s.losses)) for s in held] == [
        ("study 'old'", 12, -old.best.values["score"])
    ], "turned so that less is better, by the direction that the old study has"
    notices = [str(e["text"]) for e in events if e["type"] == "notice"]
    assert "earlier trials: 12 of 12 trials of study 'old' can be used" in notices


def test_what_broke_a_constraint_is_learned_from_but_not_begun_with(home: Path) -> None:
    old = run(home, "old", constraints=["other <= 0.6"])
    assert old.best is not None
    best = max(t.values["score"] for t in old.trials)
    assert best > old.best.values["score"], "what breaks it is better"
    new = run(home, "new", transfer=[{"study": "old"}])
    assert new.trials[1].params == old.best.params, "the old study's own constraint"
    (held,) = Study.open("new", home).earlier()
    assert min(held.losses) == -best
    small = run(home, "small", transfer=[{"study": "old"}], constraints=["other <= 0.3"])
    allowed = [t for t in old.trials if t.values["other"] <= 0.3]
    assert small.trials[1].params == max(allowed, key=lambda t: t.values["score"]).params


def test_what_was_read_is_kept_whatever_becomes_of_the_source(tmp_path: Path, home: Path) -> None:
    table = tmp_path / "old.csv"
    table.write_text("learning_rate,score\n0.01,0.5\n0.02,0.7\n")
    described = describe(tmp_path, transfer=[{"csv": str(table)}])
    assert drive(described, home, "trial", 3).returncode == -signal.SIGKILL
    table.unlink()
    before = finished(home)
    result = resume_study("study", home=home)
    after = finished(home)
    assert {number: after[number] for number in before} == before
    tried = [t.params["learning_rate"] for t in result.trials if t.kind == "initial"]
    assert tried == [0.02, 0.01]
    assert [s.losses for s in Study.open("study", home).earlier()] == [(-0.5, -0.7)]


@pytest.mark.parametrize(
    ("metric", "direction"), [(["other"], ["minimize"]), (["score", "other"], ["maximize", "minimize"])]
)
def test_an_earlier_study_knows_the_directions_of_its_metrics_however_they_are_given(
    home: Path, metric: list[str], direction: list[str]
) -> None:
    hpt.tune(
        lambda params: {"score": params["x"], "other": params["x"]},
        {"x": hpt.Float(0.0, 1.0, default=0.25)},
        metric=metric,
        direction=direction,  # type: ignore[arg-type]
        study="old",
        home=home,
        budget=hpt.Budget(trials=1),
        executor="inline",
        mlflow={"enabled": False},
        fresh_seeds=0,
    )
    found = reading.from_ledger(f"sqlite:///{home / 'ledger.db'}", "old", "other", "maximize")
    assert found.losses == (0.25,)


def test_a_replay_has_the_same_earlier_trials(home: Path) -> None:
    from agentic_hpt.study import replay_study

    run(home, "old")
    new = run(home, "new", transfer=[{"study": "old"}])
    again, likeness = replay_study(
        "new", home=home, objective=lambda p: {"score": -((p["x"] - 0.7) ** 2), "other": p["x"]}
    )
    assert likeness.assignments
    assert [dict(t.params) for t in again.trials] == [dict(t.params) for t in new.trials]


def test_those_who_own_their_loop_begin_with_the_best_of_earlier_studies(home: Path) -> None:
    old = run(home, "old")
    described = {**old.config.to_json(), "study": "new", "transfer": [{"study": "old"}]}
    with Study.create(StudyConfig.from_mapping(described), home=home) as study_:
        asked = [dict(study_.ask().params) for _ in range(2)]
    assert old.best is not None
    assert asked == [{"x": 0.1, "y": 3}, dict(old.best.params)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"study": "gone"}, "transfer: source 1: no study named 'gone'"),
        ({"study": "old", "metric": "loss"}, "no trial of the study 'old' has the metric 'loss'"),
        ({"study": "old", "home": "nowhere"}, "there is no ledger"),
        ({"optuna": "a", "storage": "sqlite:///none.db"}, "can't be read"),
        ({"mlflow": "a", "tracking_uri": "sqlite:///none.db"}, "there is no such file"),
    ],
)
def test_a_source_that_can_not_be_had_stops_before_anything_is_made(home: Path, source: object, words: str) -> None:
    run(home, "old", trials=2)
    with pytest.raises(ConfigError, match=words):
        run(home, "new", transfer=[source])
    assert not Path("none.db").exists() or "optuna" in str(source)
    with pytest.raises(ConfigError, match="no study named"):
        Study.open("new", home)


def test_a_source_without_any_parameter_of_the_study_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "old.csv").write_text("width,score\n3,0.5\n")
    with pytest.raises(ConfigError, match=r"source 1: old\.csv has none of the parameters x, y; it has width"):
        run(home, "new", transfer=[{"csv": str(tmp_path / "old.csv")}])


def test_a_study_in_an_optuna_storage_is_read(tmp_path: Path) -> None:
    import optuna

    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    made = optuna.create_study(storage=storage, study_name="o", direction="maximize")
    made.enqueue_trial({"x": 0.25})
    made.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    made.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    stopped = made.ask()
    stopped.report(0.9, 1)  # Optuna takes it for the value of a trial that it stops
    made.tell(stopped, state=optuna.trial.TrialState.PRUNED)
    found = reading.from_optuna(storage, "o", "whatever", "minimize")
    assert (found.params, found.losses, found.without) == (({"x": 0.25},), (-0.25,), 2)


@pytest.mark.slow
def test_an_mlflow_experiment_is_read_ours_and_others(tmp_path: Path, home: Path) -> None:
    described = describe(tmp_path, mlflow={"enabled": True, "wait_seconds": 120}, budget={"trials": 4})
    assert drive(described, home).returncode == 0
    from mlflow import MlflowClient

    from agentic_hpt.tracking.earlier import read_experiment

    uri = Study.open("study", home).tracking_uri
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("study").experiment_id
    foreign = client.create_run(experiment)
    client.log_param(foreign.info.run_id, "learning_rate", "0.05")
    client.log_metric(foreign.info.run_id, "score", 9.0)
    client.log_metric(foreign.info.run_id, "odd_name", 2.0)
    client.set_tag(foreign.info.run_id, "hpt.names", json.dumps({"odd_name": "odd@name"}))  # MLflow takes no @
    client.set_terminated(foreign.info.run_id)
    failed = client.create_run(experiment)
    client.set_terminated(failed.info.run_id, "FAILED")

    found, without = read_experiment(uri, "study", "score")
    own = {json.dumps(t.params, sort_keys=True): t.values.get("score") for t in Study.open("study", home).trials()}
    told = {json.dumps(params, sort_keys=True): value for params, value in found}
    assert told.pop(json.dumps({"learning_rate": 0.05})) == 9.0
    assert told == {params: value for params, value in own.items() if value is not None}
    assert without == 1 + sum(value is None for value in own.values())
    assert read_experiment(uri, "study", "odd@name")[0] == [({"learning_rate": 0.05}, 2.0)]
    assert set(json.loads(next(iter(told)))) == set(SPACE)
    with pytest.raises(ConfigError, match=r"no finished run has the metric 'loss'; the metrics are: .*score"):
        read_experiment(uri, "study", "loss")
    with pytest.raises(ConfigError, match="there is no such experiment"):
        read_experiment(uri, "other", "score")
