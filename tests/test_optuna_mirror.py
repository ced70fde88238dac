"""Optuna's own storage as a door: what goes out can be read by Optuna, what comes in is history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.ledger import LedgerStore
from agentic_hpt.ledger.optuna_mirror import OptunaMirror, read_optuna
from agentic_hpt.records import Budget, Goal, Report, Trial, TrialState
from agentic_hpt.space import Choice, Float, Int, SearchSpace

# Optuna's RDB storage uses what SQLAlchemy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

SPACE = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True),
    width=Float(1 / 3, 2, step=0.1),
    depth=Int(1, 8, step=3),
    size=Choice([16, 32, 64], ordered=True),
    opt=Choice(["adam", "sgd", None]),
    nesterov=Choice([True, False], when={"opt": "sgd"}),
)
GOAL = Goal("accuracy")


def trial(number: int, state: TrialState = TrialState.COMPLETE, value: float = 0.5, **params: object) -> Trial:
    return Trial(
        number,
        SPACE.validated({**SPACE.default(), **params}),
        state,
        seed=number,
        worker="lr",
        kind="per_parameter",
        round=2,
        tuned=("lr",),
        values={"accuracy": value, "loss": 1.0} if state is TrialState.COMPLETE else {},
        failure=FailureKind.CRASH if state is TrialState.FAILED else None,
        reports=(Report(0, {"accuracy": 0.1, "loss": 3.0}), Report(1, {"loss": 2.0}), Report(4, {"accuracy": 0.4})),
        seconds=2.0,
    )


TRIALS = [
    trial(0, lr=0.1 / 3),
    trial(1, TrialState.PRUNED, opt="sgd", nesterov=True),
    trial(2, TrialState.FAILED, width=2),
    trial(3, TrialState.RUNNING),
    trial(4, value=-1e-9, width=1 / 3, depth=7, size=16, opt=None),
]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[str]:
    yield f"sqlite:///{tmp_path / 'optuna.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def mirror(storage: str, uid: str = "u1", goal: Goal = GOAL) -> OptunaMirror:
    return OptunaMirror(storage, "digits", uid, SPACE, goal)


def found(storage: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="digits", storage=storage).trials


# -- out ------------------------------------------------------------------------------------------------------------


def test_finished_trials_go_out_with_their_real_values(storage: str) -> None:
    assert mirror(storage)(TRIALS) == 4
    study = optuna.load_study(study_name="digits", storage=storage)
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == ["accuracy"]
    assert [t.state for t in study.trials] == [
        OptunaState.COMPLETE,
        OptunaState.PRUNED,
        OptunaState.FAIL,
        OptunaState.COMPLETE,
    ]
    sent = [t for t in TRIALS if t.finished]
    assert [t.params for t in study.trials] == [dict(t.params) for t in sent]
    assert [t.value for t in study.trials if t.state is OptunaState.COMPLETE] == [0.5, -1e-9]
    assert all(t.intermediate_values == {0: 0.1, 4: 0.4} for t in study.trials)
    assert [t.user_attrs["hpt_trial"] for t in study.trials] == [0, 1, 2, 4]
    assert study.best_trial.user_attrs["hpt_trial"] == 0


def test_each_trial_goes_out_once_also_after_reopening(storage: str) -> None:
    first = mirror(storage)
    assert first(TRIALS[:2]) == 2
    assert first(TRIALS[:2]) == 0
    again = mirror(storage)
    assert again(TRIALS[:3]) == 1
    done = [*TRIALS[:3], trial(3, value=0.75), TRIALS[4]]
    assert again(done) == 2
    assert again(done) == 0
    assert mirror(storage)(done) == 0
    assert [t.user_attrs["hpt_trial"] for t in found(storage)] == [0, 1, 2, 3, 4]


def test_a_trial_of_another_space_stays_out(storage: str) -> None:
    strange = Trial(9, {"old": 1}, TrialState.COMPLETE, 0, "w", "joint", 1, values={"accuracy": 1.0})
    assert mirror(storage)([strange, TRIALS[0]]) == 1


def test_an_earlier_study_of_that_name_keeps_its_mirror(storage: str) -> None:
    mirror(storage, uid="earlier")(TRIALS[:1])
    mirror(storage, uid="later")(TRIALS[:2])
    counts = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(storage)}
    assert counts == {"digits": 1, "digits-later": 2}


def test_somebodys_study_of_that_name_is_left_alone(storage: str) -> None:
    optuna.create_study(study_name="digits", storage=storage, direction="maximize").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(ConfigError, match="another study named 'digits'"):
        mirror(storage)(TRIALS)
    assert len(found(storage)) == 1


def test_a_storage_that_can_not_be_used_is_named_without_its_password(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/no/folder.db", "nonsense://me:hunter22@host/db", "not a url"):
        with pytest.raises(ConfigError, match="optuna_storage") as caught:
            mirror(url)(TRIALS)
        assert "hunter22" not in str(caught.value)
        assert "sqlite:///" in caught.value.hint


# -- in -------------------------------------------------------------------------------------------------------------


def earlier(storage: str, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(study_name="earlier", storage=storage, direction=direction)


def add(
    study: optuna.Study, params: dict[str, object], state: OptunaState = OptunaState.COMPLETE, value: float = 0.7
) -> None:
    kinds = {
        bool: optuna.distributions.CategoricalDistribution((True, False)),
        str: optuna.distributions.CategoricalDistribution(("adam", "sgd", "lion")),
        float: optuna.distributions.FloatDistribution(-9, 9),
        int: optuna.distributions.IntDistribution(-99, 99),
    }
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=value if state is OptunaState.COMPLETE else None,
            params=params,
            distributions={name: kinds[type(value)] for name, value in params.items()},
            intermediate_values={3: 0.6, 1: 0.2},
        )
    )


FITS: dict[str, object] = {"lr": 0.01, "width": 0.5, "depth": 4, "size": 32, "opt": "adam"}


def test_fitting_trials_come_in_and_the_others_are_counted(storage: str) -> None:
    study = earlier(storage)
    add(study, FITS)
    add(study, {**FITS, "opt": "sgd", "nesterov": False}, OptunaState.PRUNED)
    add(study, FITS, OptunaState.FAIL)
    add(study, {**FITS, "lr": 0.5})
    add(study, {**FITS, "opt": "lion"})
    add(study, {k: v for k, v in FITS.items() if k != "depth"})
    add(study, {**FITS, "extra": 1})
    add(study, {**FITS, "nesterov": True})
    study.ask()
    trials, unfit = read_optuna(storage, "earlier", SPACE, GOAL)
    assert unfit == 6
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert trials[0].params == SPACE.validated(FITS)
    assert trials[0].params["width"] == pytest.approx(1 / 3 + 0.2), "snapped to the grid"
    assert trials[0].values == {"accuracy": 0.7}
    assert trials[1].values == {}
    assert trials[0].reports == (Report(1, {"accuracy": 0.2}), Report(3, {"accuracy": 0.6}))
    assert {(t.kind, t.worker, t.round) for t in trials} == {("imported", "imported", 0)}
    assert len(study.trials) == 9, "nothing is written to the source"


def test_what_is_no_figure_does_not_come_in(storage: str) -> None:
    study = earlier(storage)
    for value in (math.inf, -1e200):
        add(study, FITS, value=value)
    add(study, FITS)
    trials, unfit = read_optuna(storage, "earlier", SPACE, GOAL)
    assert (len(trials), unfit) == (1, 2)


def test_a_study_of_another_direction_is_refused(storage: str) -> None:
    earlier(storage, "minimize")
    with pytest.raises(ConfigError, match=r"'earlier' has the directions \['minimize'\], this one 'maximize'"):
        read_optuna(storage, "earlier", SPACE, GOAL)


def test_a_study_of_two_objectives_is_refused(storage: str) -> None:
    optuna.create_study(study_name="earlier", storage=storage, directions=["maximize", "minimize"])
    with pytest.raises(ConfigError, match=r"directions \['maximize', 'minimize'\]"):
        read_optuna(storage, "earlier", SPACE, GOAL)


def test_a_study_that_is_not_there(storage: str, tmp_path: Path) -> None:
    earlier(storage)
    for url, name in ((storage, "nope"), (f"sqlite:///{tmp_path}/no/folder.db", "earlier"), ("not a url", "earlier")):
        with pytest.raises(ConfigError, match=f"import_optuna: the study '{name}' can't be read") as caught:
            read_optuna(url, name, SPACE, GOAL)
        assert caught.value.hint


# -- both -----------------------------------------------------------------------------------------------------------


def test_a_study_goes_out_and_comes_back_as_history(storage: str, tmp_path: Path) -> None:
    mirror(storage)(TRIALS)
    trials, unfit = read_optuna(storage, "digits", SPACE, GOAL)
    assert unfit == 1, "the failed one"
    store = LedgerStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger = store.open_study(store.create_study("next", {}), budget=Budget(trials=1), seed=0)
    assert ledger.import_trials(trials) == 3
    back = list(ledger.trials())
    assert [t.params for t in back] == [t.params for t in TRIALS if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert [GOAL.value(t) for t in back] == [0.5, None, -1e-9]
    assert all(t.reports == (Report(0, {"accuracy": 0.1}), Report(4, {"accuracy": 0.4})) for t in back)
    assert ledger.usage().trials == 0
    assert ledger.reserve(round_=1, worker="w", kind="joint", params={}, tuned=()) is not None
    store.close()
