"""Import from, and export to, an Optuna storage; the ledger stays the truth.

Other Optuna processes and optuna-dashboard read the mirror. Nothing is ever read back from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agentic_hpt.config import mask_secrets
from agentic_hpt.errors import ConfigError, SpaceError
from agentic_hpt.records import Direction, Goal, Params, Report, Trial, TrialState, is_figure
from agentic_hpt.space import Choice, Float, SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_NUMBER = "hpt_trial"


class OptunaMirror:
    """Copies finished trials to a study in an Optuna storage, each once, also over restarts."""

    def __init__(self, storage: str, study: str, uid: str, space: SearchSpace, goal: Goal) -> None:
        self._storage = storage
        self._name = study
        self._uid = uid
        self._space = space
        self._goal = goal
        self._study: Study | None = None
        self._copied: set[int] = set()

    def __call__(self, trials: Sequence[Trial]) -> int:
        """Copy the finished trials that are not there yet and give how many these were."""
        study = self._open()
        new = [t for t in trials if t.finished and t.id not in self._copied and self._space.contains(t.params)]
        for trial in new:
            study.add_trial(self._frozen(trial))
            self._copied.add(trial.id)
        return len(new)

    def _open(self) -> Study:
        if self._study is None:
            self._study = open_mirror(self._storage, self._name, self._uid, self._goal)
            self._copied = {
                t.user_attrs[_NUMBER] for t in self._study.get_trials(deepcopy=False) if _NUMBER in t.user_attrs
            }
        return self._study

    def _frozen(self, trial: Trial) -> FrozenTrial:
        import optuna

        states = {
            TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
            TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
            TrialState.FAILED: optuna.trial.TrialState.FAIL,
        }
        metrics = [o.metric for o in self._goal.objectives]
        reports = [] if self._goal.several else trial.reports  # Optuna has one value a step only
        whole = all(metric in trial.values for metric in metrics)
        broken = self._goal.violations(trial) or ()
        return optuna.trial.create_trial(
            state=states[trial.state],
            constraints={c.text: by for c, by in zip(self._goal.constraints, broken, strict=False)},
            values=[trial.values[metric] for metric in metrics] if whole else None,
            params=dict(trial.params),
            distributions={name: _distribution(self._space, name) for name in trial.params},
            intermediate_values={r.step: r.metrics[metrics[0]] for r in reports if metrics[0] in r.metrics},
            user_attrs={_NUMBER: trial.id, "hpt_worker": trial.worker, "hpt_round": trial.round},
        )


def open_mirror(storage: str, name: str, uid: str, goal: Goal) -> Study:
    """Open or create the mirror's study; where an earlier study mirrors under `name`, as `name-uid`.

    Raises `ConfigError` when the storage can't be used, or holds somebody else's study of that name.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, directions=[o.direction for o in goal.objectives], load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy's, a driver's, Optuna's: whatever the URL brings
        raise ConfigError(
            f"optuna_storage: {mask_secrets(storage)!r} can't be used: {mask_secrets(str(error))[:300]}",
            "give a URL such as sqlite:///optuna.db",
        ) from None
    owner = study.user_attrs.get("hpt_uid")
    if owner not in (None, uid) and not name.endswith(uid):
        return open_mirror(storage, f"{name}-{uid}", uid, goal)  # an archived study of this name has it
    if owner not in (None, uid) or (owner is None and study.get_trials(deepcopy=False)):
        raise ConfigError(
            f"optuna_storage: the storage holds another study named {name!r}", "use another storage or study name"
        )
    study.set_user_attr("hpt_uid", uid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([o.metric for o in goal.objectives])
    return study


def read_optuna(storage: str, name: str, space: SearchSpace, goal: Goal) -> tuple[list[Trial], int]:
    """Read a study's finished trials that fit the space; give them, and how many did not fit.

    Several objectives are told apart by the names that the study has for them, else by their order. Raises
    `ConfigError` when the storage can't be read, or the study is not there or has other directions.
    """
    study, found = _loaded(storage, name, "import_optuna")
    metrics = [o.metric for o in goal.objectives]
    named = study.metric_names if goal.several and sorted(study.metric_names or ()) == sorted(metrics) else None
    metrics = named or metrics
    wanted = {o.metric: o.direction for o in goal.objectives}
    directions = [d.name.lower() for d in study.directions]
    if directions != [wanted[metric] for metric in metrics]:
        raise ConfigError(
            f"import_optuna: the study {name!r} has the directions {directions}, this one "
            f"{' and '.join(repr(wanted[metric]) for metric in metrics)}",
            "set direction to the same",
        )
    ended = [entry for entry in found if entry.state.is_finished()]
    trials = [t for t in (_trial(entry, space, metrics, name) for entry in ended) if t is not None]
    return trials, len(ended) - len(trials)


def complete_trials(storage: str, name: str, metric: str) -> tuple[list[tuple[Params, float]], Direction | None, int]:
    """Read configuration and value of a study's complete trials, the direction, and how many ended without a value.

    Of several objectives `metric` is taken. Raises `ConfigError` when the storage can't be read or has no such study.
    """
    study, found = _loaded(storage, name, "transfer")
    names = study.metric_names or ([metric] if len(study.directions) == 1 else [])
    place = 0 if len(study.directions) == 1 else next((i for i, n in enumerate(names) if n == metric), None)
    if place is None:
        raise ConfigError(
            f"transfer: the Optuna study {name!r} has {len(study.directions)} objectives, and none is named {metric!r}",
            f"name one by metric: {', '.join(names) or '(it has no names for them)'}",
        )
    ended = [t for t in found if t.state.is_finished()]
    complete = [t for t in ended if t.state.name == "COMPLETE" and t.values]  # a pruned one has its last report there
    values: list[tuple[Params, float]] = [(dict(t.params), t.values[place]) for t in complete]
    minimize = study.directions[place].name == "MINIMIZE"
    return values, "minimize" if minimize else "maximize", len(ended) - len(values)


def _loaded(storage: str, name: str, key: str) -> tuple[Study, list[FrozenTrial]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(storage=storage, study_name=name)
        return study, study.get_trials(deepcopy=False)
    except Exception as error:  # a missing study, a missing table, a driver's error
        why = mask_secrets(f"{type(error).__name__}: {error}")[:300]
        raise ConfigError(
            f"{key}: the study {name!r} can't be read from {mask_secrets(storage)!r}: {why}",
            "check the URL and the study's name",
        ) from None


def _trial(entry: FrozenTrial, space: SearchSpace, metrics: Sequence[str], source: str) -> Trial | None:
    import optuna

    try:
        params = space.validated(entry.params)
    except SpaceError:
        return None
    if entry.state is optuna.trial.TrialState.COMPLETE and entry.values and all(map(is_figure, entry.values)):
        state, values = TrialState.COMPLETE, dict(zip(metrics, map(float, entry.values), strict=True))
    elif entry.state is optuna.trial.TrialState.PRUNED:
        state, values = TrialState.PRUNED, {}
    else:
        return None
    steps: Iterable[tuple[int, float]] = sorted((s, v) for s, v in entry.intermediate_values.items() if is_figure(v))
    return Trial(
        id=0,
        params=params,
        state=state,
        seed=0,
        worker="imported",
        kind="imported",
        round=0,
        tuned=space.names,
        values=values,
        message=f"trial {entry.number} of an Optuna study",
        source=source,
        seconds=entry.duration.total_seconds() if entry.duration else None,
        reports=tuple(Report(step, {metrics[0]: value}) for step, value in steps),
    )


def _distribution(space: SearchSpace, name: str) -> BaseDistribution:
    """Give a parameter's distribution with its real values, as a person reads it in a dashboard."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    p = space[name]
    if isinstance(p, Choice):
        return CategoricalDistribution(tuple(p.values))
    if isinstance(p, Float):
        # Without its step: Optuna would refuse values that lie on our grid, but not to the last digit on its own.
        return FloatDistribution(p.low, p.high, log=p.log)
    return IntDistribution(p.low, p.snap(p.high), log=p.log, step=p.step)
