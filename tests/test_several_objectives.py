"""Studies with several objectives: what is best then, the front under noise, the trend, and whole runs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli import main
from agentic_hpt.coordinator.evidence import build_evidence, render
from agentic_hpt.coordinator.guards import must_finalize, plateau
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.handle import run_objective
from agentic_hpt.fronts import front_of, hypervolume_of, meeting
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import COVERED, Goal, Job, ObjectiveSpec, OutcomeConstraint, Report, Trial, TrialState
from agentic_hpt.report.several import front_sentences
from agentic_hpt.strategies import FrontPruner
from agentic_hpt.strategies.view import SamplerView
from situations import SPACE, situation, trial

TWO = Goal("accuracy", "maximize", others=(ObjectiveSpec("latency", "minimize"),))
POINTS = [(0.5, 90.0), (0.9, 80.0), (0.95, 100.0), (0.6, 20.0), (0.4, 95.0)]
"""Of accuracy and latency: the second, third and fourth are the front, the fourth is its knee."""


def trials_at(points: Sequence[tuple[float, float]], **changes: object) -> list[Trial]:
    return [trial(i, a, values={"accuracy": a, "latency": b}, **changes) for i, (a, b) in enumerate(points)]


def rerun(number: int, of: Trial, accuracy: float, latency: float) -> Trial:
    values = {"accuracy": accuracy, "latency": latency}
    return trial(number, accuracy, values=values, params=of.params, kind="repeat", worker=f"repeat-{of.id}")


# -- what is best -----------------------------------------------------------------------------------------------------


def test_losses_are_to_be_minimised_and_only_of_whole_trials() -> None:
    assert TWO.losses(trials_at(POINTS)[1]) == (-0.9, 80.0)
    assert TWO.losses(trial(0, 0.5)) is None, "the latency is missing"
    assert TWO.losses(trial(0)) is None


def test_the_best_is_the_knee_and_the_front_leads_the_ranking() -> None:
    trials = trials_at(POINTS)
    best = TWO.best(trials)
    assert best is not None
    assert best.id == 3
    ranked = [t.id for t in TWO.ranked(trials)]
    assert set(ranked[:3]) == {1, 2, 3}
    assert ranked[0] == 3
    assert set(ranked) == {0, 1, 2, 3, 4}
    assert best is trials[3], "a trial as it was given, without the figures of the merged view"


def test_one_objective_is_as_it_was() -> None:
    goal, trials = Goal("accuracy"), [trial(0, 0.5), trial(1, 0.7)]
    assert goal.merged(trials) == (goal, tuple(trials))
    assert front_of(goal, trials) == ()


def test_the_given_reference_decides_what_counts() -> None:
    """Beyond the reference point a trial covers nothing, however good it is in the other objective."""
    strict = Goal("accuracy", "maximize", others=(ObjectiveSpec("latency", "minimize"),), reference=0.8)
    best = strict.best(trials_at(POINTS))
    assert best is not None
    assert best.id == 1


def test_a_trial_that_breaks_a_constraint_is_on_no_front() -> None:
    bound = OutcomeConstraint("accuracy >= 0.8", ("accuracy",))
    goal = Goal("accuracy", "maximize", constraints=(bound,), others=TWO.others)
    trials = trials_at(POINTS)
    assert {p.trial.id for p in front_of(goal, trials)} == {1, 2}
    best = goal.best(trials)
    assert best is not None
    assert best.id == 1
    merged, shown = goal.merged(trials)
    assert max(merged.figure(t) or 0.0 for t in shown) < (hypervolume_of(TWO, trials) or 0.0)


# -- the front under noise --------------------------------------------------------------------------------------------


def test_without_repeats_every_difference_counts() -> None:
    points = front_of(TWO, trials_at([(0.9, 50.0), (0.899, 50.0), (0.8, 10.0)]))
    assert [p.trial.id for p in points] == [0, 2]
    assert not any(p.within_noise for p in points)


def test_with_noise_a_point_leaves_the_front_only_when_it_is_beaten_beyond_it() -> None:
    trials = trials_at([(0.9, 50.0), (0.89, 52.0), (0.7, 60.0), (0.6, 10.0)])
    trials += [rerun(4, trials[0], 0.88, 50.0), rerun(5, trials[0], 0.92, 50.0)]
    points = {p.trial.id: p for p in front_of(TWO, trials)}
    assert set(points) == {0, 1, 3}, "0.89 may be better than 0.9 by luck; 0.7 is not"
    assert [number for number, p in points.items() if p.within_noise] == [1]
    assert points[0].runs == 3
    assert points[0].values == pytest.approx({"accuracy": 0.9, "latency": 50.0})


def test_a_lucky_run_is_no_front_once_its_mean_is_known() -> None:
    trials = trials_at([(0.99, 50.0), (0.9, 40.0)])
    assert len(front_of(TWO, trials)) == 2
    trials += [rerun(2, trials[0], 0.5, 50.0), rerun(3, trials[0], 0.6, 50.0)]
    knee = TWO.best(trials)
    assert knee is not None
    assert knee.id == 1


def test_targets_must_be_met_by_one_configuration_and_by_its_mean() -> None:
    goal = Goal("accuracy", "maximize", 0.85, others=(ObjectiveSpec("latency", "minimize", 30.0),))
    trials = trials_at(POINTS)
    assert meeting(goal, trials) is None, "one has the accuracy, another one the latency"
    lucky = trial(5, 0.9, values={"accuracy": 0.9, "latency": 25.0})
    met = meeting(goal, [*trials, lucky])
    assert met is not None
    assert met.trial.id == 5
    assert meeting(goal, [*trials, lucky, rerun(6, lucky, 0.7, 25.0)]) is None
    assert "were met at once, by trial 5" in " ".join(front_sentences(goal, [*trials, lucky]))


# -- what a decision sees ---------------------------------------------------------------------------------------------


def test_a_situation_has_one_figure_a_trial_and_the_hypervolume_as_its_trend() -> None:
    seen = situation(goal=TWO, trials=tuple(trials_at(POINTS)))
    assert seen.goal.metric == COVERED
    assert seen.goal.merges == TWO
    gains = seen.past.improvements()
    assert list(gains) == [0, 1, 2, 3], "the last one is dominated: it moves nothing"
    (only,) = seen.past.trend(5)
    assert only.best_so_far == pytest.approx(hypervolume_of(TWO, trials_at(POINTS)))


def test_a_plateau_counts_from_the_last_move_of_the_front_not_from_the_knee() -> None:
    seen = situation(goal=TWO, trials=tuple(trials_at([(0.6, 20.0), (0.5, 90.0), (0.95, 80.0), (0.4, 95.0)])))
    best = seen.goal.best(seen.trials)
    assert best is not None
    assert best.id == 0
    assert plateau(seen)[0] == 1


def test_a_narrowed_range_must_keep_the_whole_front() -> None:
    """The best fifth of a study that has ten points on its front would be two of them."""
    curve = [(i / 10, 10.0 * i) for i in range(10)]
    seen = situation(goal=TWO, trials=tuple(trials_at([*curve, (0.1, 95.0)])))
    assert {t.id for t in seen.goal.leading(seen.trials)} == set(range(10))


def test_the_policy_ends_a_study_when_all_targets_are_met_at_once() -> None:
    goal = Goal("accuracy", "maximize", 0.85, others=(ObjectiveSpec("latency", "minimize", 30.0),))
    assert must_finalize(situation(goal=goal, trials=tuple(trials_at(POINTS)))) is None
    forced = must_finalize(situation(goal=goal, trials=tuple(trials_at([*POINTS, (0.9, 25.0)]))))
    assert forced is not None
    assert forced[0] == "target"
    assert "accuracy 0.9, latency 25" in forced[1]


def test_the_evidence_tells_the_front_in_bounded_size() -> None:
    curve = [(i / 100, float(i)) for i in range(60)]
    evidence = build_evidence(situation(goal=TWO, trials=tuple(trials_at(curve))))
    told = evidence["front"]
    assert isinstance(told, dict)
    assert told["size"] == 60
    assert len(told["rows"]) <= 20
    assert sum(row[-1] == "knee" for row in told["rows"]) == 1
    assert [o["metric"] for o in told["objectives"]] == ["accuracy", "latency"]
    table = evidence["trials"]
    assert isinstance(table, dict)
    assert table["columns"][:6] == ["trial", "round", "worker", "value", "accuracy", "latency"]
    conclusions = " ".join(map(str, evidence["conclusions"]))  # type: ignore[call-overload]
    assert "Several objectives: maximize accuracy, minimize latency" in conclusions
    assert json.loads(render(evidence))["front"]["size"] == 60
    assert "front" not in build_evidence(situation())


# -- samplers and pruning ---------------------------------------------------------------------------------------------


def test_a_sampler_is_told_of_all_objectives() -> None:
    """Two studies that differ in the second objective alone get other proposals."""
    proposals = []
    for latency in (1.0, -1.0):
        trials = [
            trial(
                i,
                0.5,
                params={"layers": 1 + 2 * (i % 5), "rate": 10 ** (-1 - i / 10), "optimizer": "adam"},
                values={"accuracy": i / 30, "latency": latency * i},
            )
            for i in range(30)
        ]
        view = SamplerView(SPACE, TWO, ("layers", "rate"), {"optimizer": "adam"})
        view.sync([*trials, trial(30), trial(31, state=TrialState.PRUNED, reports=(Report(0, {"accuracy": 0.1}),))])
        proposals.append(view.propose(3))
    assert proposals[0] != proposals[1]


def pruner_with(curves: Sequence[tuple[float, float]]) -> FrontPruner:
    pruner = FrontPruner(TWO)
    for number, (accuracy, latency) in enumerate(curves):
        for step in range(4):
            pruner.should_stop(number, Report(step, {"accuracy": accuracy * (step + 1) / 4, "latency": latency}))
        pruner.ended(number, complete=True)
    return pruner


SIX = [(0.9, 90.0), (0.8, 60.0), (0.7, 40.0), (0.6, 30.0), (0.85, 70.0), (0.75, 50.0)]


def test_only_what_most_trials_beat_in_everything_is_stopped() -> None:
    pruner = pruner_with(SIX)
    assert not pruner.should_stop(10, Report(2, {"accuracy": 0.1, "latency": 5.0})), "poor, but the fastest"
    assert not pruner.should_stop(11, Report(2, {"accuracy": 0.95, "latency": 500.0})), "slow, but the best"
    assert not pruner.should_stop(12, Report(2, {"accuracy": 0.5, "latency": 55.0})), "only two of six beat it"
    assert pruner.should_stop(13, Report(2, {"accuracy": 0.1, "latency": 95.0}))


def test_a_report_without_an_objective_stops_nothing() -> None:
    pruner = pruner_with(SIX)
    assert not pruner.should_stop(10, Report(3, {"accuracy": 0.0}))
    early = FrontPruner(TWO)
    assert not early.should_stop(0, Report(3, {"accuracy": 0.0, "latency": 1e9})), "nothing to compare with yet"


# -- what a trial gives -----------------------------------------------------------------------------------------------


def job(tmp_path: Path, **more: object) -> Job:
    folder = str(tmp_path)
    return Job("s", 0, 1, {"x": 0.5}, 1, "w", folder, folder, **more)  # type: ignore[arg-type]


def test_seconds_and_memory_are_measured_where_they_are_looked_at(tmp_path: Path) -> None:
    objective = FunctionObjective(lambda params: {"accuracy": 0.5})
    plain = run_objective(objective, job(tmp_path), "accuracy", lambda report: False)
    assert plain.values == {"accuracy": 0.5}
    measured = job(tmp_path, objectives=("seconds", "memory_mb"), measured=("seconds", "memory_mb"))
    outcome = run_objective(objective, measured, "accuracy", lambda report: False)
    assert outcome.state is TrialState.COMPLETE
    assert outcome.values["seconds"] >= 0
    assert 5 < outcome.values["memory_mb"] < 1e6, "megabytes, not kilobytes or bytes"


def test_what_the_objective_itself_gives_under_such_a_name_wins(tmp_path: Path) -> None:
    objective = FunctionObjective(lambda params: {"accuracy": 0.5, "seconds": 7.0})
    measured = job(tmp_path, objectives=("seconds",), measured=("seconds",))
    assert run_objective(objective, measured, "accuracy", lambda report: False).values["seconds"] == 7.0


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ({"accuracy": 0.5}, FailureKind.INVALID_OUTPUT, "without the metric 'latency'"),
        (0.5, FailureKind.INVALID_OUTPUT, "one number, so there is none for the metric 'latency'"),
        ({"accuracy": 0.5, "latency": "slow"}, FailureKind.INVALID_OUTPUT, "'latency' as 'slow'"),
        ({"accuracy": 0.5, "latency": float("nan")}, FailureKind.NAN, "the metric 'latency' is nan"),
    ],
)
def test_a_trial_without_one_of_its_objectives_has_no_value(
    tmp_path: Path, answer: object, kind: FailureKind, said: str
) -> None:
    objective = FunctionObjective(lambda params: answer)
    outcome = run_objective(objective, job(tmp_path, objectives=("latency",)), "accuracy", lambda report: False)
    assert (outcome.state, outcome.failure, dict(outcome.values)) == (TrialState.FAILED, kind, {})
    assert said in outcome.message


# -- whole runs -------------------------------------------------------------------------------------------------------


def two(params: dict[str, float]) -> dict[str, float]:
    x, y = params["x"], params["y"]
    return {"error": (x - 0.2) ** 2 + 0.3 * y, "cost": (x - 0.8) ** 2 + 0.3 * y}


def run_two(home: Path, **more: object) -> hpt.Result:
    settings: dict[str, object] = {
        "metric": ["error", "cost"],
        "direction": "minimize",
        "budget": hpt.Budget(trials=24),
        "strategy": "joint",
        "executor": "inline",
        "mlflow": {"enabled": False},
        "fresh_seeds": 1,
        "study": "two",
        "home": home,
    }
    return hpt.tune(two, {"x": hpt.Float(0.0, 1.0), "y": hpt.Float(0.0, 1.0)}, **{**settings, **more})  # type: ignore[arg-type]


def test_a_study_with_two_objectives_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = run_two(tmp_path)
    assert (result.status, result.stopped_by) == ("finalized", "budget.trials")
    document = result.to_json()
    assert (document["metric"], document["direction"]) == (["error", "cost"], ["minimize", "minimize"])
    knees = [point for point in result.pareto if point.knee]
    assert result.best is not None
    assert [knee.trial.id for knee in knees] == [result.best.id]
    assert len(result.pareto) >= 3
    assert json.loads(json.dumps(document["pareto"]))[0].keys() >= {"trial", "values", "runs", "knee", "within_noise"}
    assert result.final is not None
    assert result.final.means == pytest.approx({m: result.best.values[m] for m in ("error", "cost")})

    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Pareto front" in page
    assert f"Its knee, the configuration that is suggested, is trial {result.best.id}" in page
    reference = re.search(r"that ends at the reference point, (error \S+, cost [\d.]+\d)", page)
    assert reference is not None
    assert (
        "The hypervolume of the front, larger is better: its share of the box that ends at the reference point, "
        f"{reference[1]}. It rose to: 0." in page
    )
    assert page.count('<th class="n">most covered alone</th>') == 2, "of rounds and of workers"
    assert (result.artifacts / "front.png").is_file()

    def said(*arguments: str) -> str:
        """Call the command line and give its output; `--json` claims stdout for good, so it is given back."""
        capfd.readouterr()
        stdout, descriptor = sys.stdout, os.dup(1)
        assert main([*arguments, "--home", str(tmp_path)]) == 0
        sys.stdout.flush()
        sys.stdout = stdout
        os.dup2(descriptor, 1)
        os.close(descriptor)
        return capfd.readouterr().out

    best = json.loads(said("best", "two", "--json"))
    assert best["trial"] == result.best.id
    assert len(best["pareto"]) == len(result.pareto)
    assert json.loads(said("status", "--json"))["studies"][0]["best"].keys() == {"error", "cost"}
    head = said("trials", "two", "--top", "3").splitlines()[0]
    assert "error" in head
    assert "cost" in head
    told = said("explain", "two")
    assert "minimize error and minimize cost" in told
    assert "hypervolume" in told


def test_the_end_of_a_study_without_a_feasible_trial_has_no_knee(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_two(tmp_path, budget=hpt.Budget(trials=2), constraints=["cost <= -1"])
    capsys.readouterr()
    assert main(["status", "two", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no trial satisfies the constraints" in said
    assert "knee" not in said


def test_the_same_study_takes_the_same_course_again(tmp_path: Path) -> None:
    first, again = (run_two(tmp_path / name, strategy="auto", budget=hpt.Budget(trials=16)) for name in ("a", "b"))
    assert [t.params for t in first.trials] == [t.params for t in again.trials]


def test_a_study_ends_when_one_trial_meets_all_targets(tmp_path: Path) -> None:
    result = run_two(tmp_path, target={"error": 0.3, "cost": 0.4}, budget=hpt.Budget(trials=60))
    assert result.stopped_by == "target"
    assert any(t.values.get("error", 9) <= 0.3 and t.values.get("cost", 9) <= 0.4 for t in result.trials)


def test_an_objective_without_the_second_metric_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without the metric 'latency'"):
        run_two(tmp_path, metric=["error", "latency"])


def test_telling_a_trial_needs_all_objectives(tmp_path: Path) -> None:
    space = {"x": {"float": [0, 1]}}
    described = {"study": "asked", "metric": ["a", "b"], "space": space, "mlflow": {"enabled": False}}
    with hpt.Study.create(hpt.StudyConfig.from_mapping(described), home=tmp_path) as study:
        asked = study.ask()
        with pytest.raises(ConfigError, match="no finite number for the metric 'b'"):
            study.tell(asked.id, {"a": 1.0})
        study.tell(asked.id, {"a": 1.0, "b": 2.0})
        again = study.ask()
        study.tell(again.id, {"a": 0.5, "b": 3.0})
        assert len(study.result().pareto) == 2


@pytest.mark.slow
def test_the_built_in_job_is_tuned_for_accuracy_and_size(tmp_path: Path) -> None:
    described = {
        "study": "small",
        "objective": {"task": "wine"},
        "metric": ["accuracy", "parameters", "latency_ms"],
        "direction": ["maximize", "minimize", "minimize"],
        "space": {"hidden_dim": {"choice": [4, 64], "ordered": True}, "epochs": {"int": [1, 4]}},
        "budget": {"trials": 5},
        "executor": "inline",
        "mlflow": {"enabled": False},
        "fresh_seeds": 1,
    }
    config = hpt.StudyConfig.from_mapping(described)
    from agentic_hpt.study import run_study

    result = run_study(config, home=tmp_path)
    assert result.status == "finalized"
    done = [t for t in result.trials if t.state is TrialState.COMPLETE]
    assert len({t.values["parameters"] for t in done if t.params["hidden_dim"] == 4}) == 1
    assert all(t.values["latency_ms"] > 0 for t in done)
    assert result.pareto
    assert result.final is not None
    assert set(result.final.means) == {"accuracy", "parameters", "latency_ms"}


def test_the_optuna_copy_has_both_objectives_and_is_read_back(tmp_path: Path) -> None:
    import optuna

    from agentic_hpt.ledger.optuna_mirror import read_optuna

    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    result = run_two(tmp_path, optuna_storage=storage, budget=hpt.Budget(trials=6))
    copied = optuna.load_study(storage=storage, study_name="two")
    assert copied.metric_names == ["error", "cost"]
    assert [t.values for t in copied.trials] == [
        [t.values["error"], t.values["cost"]] for t in result.trials if t.counted
    ]
    goal = Goal("cost", "minimize", others=(ObjectiveSpec("error", "minimize"),))
    found, left_out = read_optuna(storage, "two", result.config.space, goal)
    assert left_out == 0
    assert [dict(t.values) for t in found] == [dict(t.values) for t in result.trials if t.counted], "told apart by name"


def test_once_trials_reach_all_targets_the_best_is_one_of_them() -> None:
    both = Goal("accuracy", "maximize", 0.85, others=(ObjectiveSpec("latency", "minimize", 90.0),))
    best = both.best(trials_at(POINTS))
    assert best is not None
    assert best.id == 1  # the knee of the whole front, trial 3, misses the accuracy
    assert TWO.best(trials_at(POINTS)).id == 3  # type: ignore[union-attr]


def test_a_lucky_run_reaches_no_targets_once_its_mean_is_known() -> None:
    both = Goal("accuracy", "maximize", 0.85, others=(ObjectiveSpec("latency", "minimize", 90.0),))
    lucky, sound = trials_at([(0.99, 40.0), (0.86, 80.0)])
    trials = [lucky, sound, rerun(2, lucky, 0.3, 40.0)]
    met, best = meeting(both, trials), both.best(trials)
    assert met is not None
    assert met.trial.id == 1
    assert best is not None
    assert best.id == 1
    (knee,) = [point for point in front_of(both, trials) if point.knee]
    assert knee.trial.id == 1


def test_a_trial_that_breaks_a_constraint_moves_no_front() -> None:
    limited = Goal(
        "accuracy",
        others=(ObjectiveSpec("latency", "minimize"),),
        constraints=(OutcomeConstraint("latency <= 10", ("latency",)),),
    )
    seen = situation(goal=limited, trials=tuple(trials_at(POINTS)))
    assert seen.past.furthest() is None
    assert not seen.past.improvements()
    assert plateau(seen)[0] == 0, "the search has not found what it looks for"
    assert hypervolume_of(limited, trials_at(POINTS)) is None
