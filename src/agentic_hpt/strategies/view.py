"""A sampler's view: an Optuna study in memory that holds the ledger's trials of one subspace.

Optuna's samplers want an Optuna study. This one is filled from the ledger's trials, so it is never the truth and never
saved; it grows with the ledger and is dropped with the round. A proposal depends on nothing but the trials and the
seed: the sampler is made anew for each, and the trial it was asked for is failed at once, which hides it from samplers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState as OptunaState

from agentic_hpt.records import Goal, Params, ParamValue, Trial, TrialState
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace
from agentic_hpt.strategies.history import Window

if TYPE_CHECKING:
    from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

Floats = NDArray[np.float64]
_CANDIDATES = 24
_LOT = 64
_MOST_WHOLE = 2**31
"""Beyond so many values a whole number is told as a real one: TPE works with half steps, which floats then lack."""

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution


class _Sampler(optuna.samplers.TPESampler):
    """TPE that is told which parameters every trial has, where Optuna's looks through all trials to find out."""

    def __init__(
        self, together: dict[str, BaseDistribution], seed: int, startup: int, candidates: int = _CANDIDATES
    ) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=startup,
            multivariate=len(together) > 1,
            constant_liar=True,
            n_ei_candidates=candidates,
        )
        self._together = together

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._together


class _Batch(_Sampler):
    """TPE for many trials at once: for each group of parameters it asks for, the answers of all of them.

    Each trial has candidates of its own, drawn from the same estimators, and the best of them, as if it were asked for
    alone: only the estimators, which are most of the work, are made once.
    """

    def __init__(self, together: dict[str, BaseDistribution], seed: int, startup: int, count: int) -> None:
        super().__init__(together, seed, startup, candidates=_CANDIDATES * count)
        self._count = count
        self.answers: dict[str, list[float]] = {}

    def _compute_acquisition_func(
        self, samples: dict[str, Floats], mpe_below: _ParzenEstimator, mpe_above: _ParzenEstimator
    ) -> Floats:
        values: Floats = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        best = values.reshape(self._count, -1).argmax(axis=1) + np.arange(self._count) * (len(values) // self._count)
        self.answers.update({name: [float(v) for v in drawn[best]] for name, drawn in samples.items()})
        return values


class SamplerView:
    """The trials of one subspace as Optuna sees them. `tuned` are proposed, `held` are fixed.

    Multivariate TPE (Watanabe 2023, arXiv:2304.11127) with the constant liar for running trials; trials that failed for
    a reason of their own are shown as pruned without a report, which ranks them last.
    """

    def __init__(self, space: SearchSpace, goal: Goal, tuned: Sequence[str], held: Params) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._goal = goal
        self._tuned = tuple(name for name in tuned if name in space)  # a condition may have no place in a region
        self._held = dict(held)
        self._distributions = {name: distribution(space[name]) for name in self._tuned}
        unconditional = {n: d for n, d in self._distributions.items() if not space[n].when and not d.single()}
        together = dict(sorted(unconditional.items())) if len(self._tuned) > 1 else {}
        self._together: dict[str, BaseDistribution] = dict(together)
        self._startup = 4 if len(self._tuned) == 1 else 10
        self._window = Window(goal)
        self._begin()

    def _begin(self) -> None:
        goal = self._goal
        self._storage = optuna.storages.InMemoryStorage()  # with one study, so a trial's id is its number
        self._study = optuna.create_study(
            directions=["minimize"] * len(goal.objectives) if goal.several else [goal.direction], storage=self._storage
        )
        self._shown: list[int] = []
        self._running: dict[int, int] = {}
        self._ended: set[int] = set()

    def sync(self, trials: Sequence[Trial]) -> None:
        """Take in new trials, and the ends of those known as running; of a long history a window is shown."""
        trials = self._window.of(trials)
        shown = [trial.id for trial in trials]
        if shown[: len(self._shown)] != self._shown:
            self._begin()
        self._shown = shown
        for trial in trials:
            if trial.id in self._ended or (trial.id in self._running and not trial.finished):
                continue
            frozen = self._frozen(trial)
            if trial.finished:
                self._ended.add(trial.id)
            if trial.id in self._running:
                self._end(self._running.pop(trial.id), frozen)
            elif frozen is not None:
                if not trial.finished:
                    self._running[trial.id] = len(self._study.get_trials(deepcopy=False))
                self._study.add_trial(frozen)

    def _end(self, number: int, frozen: FrozenTrial | None) -> None:
        """End a running trial where it stands: a sampler looks at the order of trials, so it stays the ledger's."""
        if frozen is None:
            self._study.tell(number, state=OptunaState.FAIL)
        elif frozen.state is OptunaState.COMPLETE:
            for key, told in frozen.system_attrs.items():  # what it breaks
                self._storage.set_trial_system_attr(number, key, told)
            self._study.tell(number, frozen.values)
        else:
            for step, value in frozen.intermediate_values.items():
                self._storage.set_trial_intermediate_value(number, step, value)
            self._study.tell(number, state=OptunaState.PRUNED)

    def propose(self, seed: int) -> dict[str, ParamValue]:
        """Give a configuration: sampled values for `tuned`, those of `held` for the rest."""
        self._study.sampler = _Sampler(self._together, seed, self._startup)
        asked = self._study.ask()
        params: dict[str, ParamValue] = {}
        for name in self._space.order:
            if not self._space.is_active(name, params):
                continue
            parameter = self._space[name]
            if name in self._distributions:
                params[name] = to_value(parameter, suggest(asked, name, self._distributions[name]))
            else:
                params[name] = self._held[name] if name in self._held else parameter.resolved_default()
        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return {name: params[name] for name in self._space if name in params}

    @property
    def knows(self) -> bool:
        """Whether enough trials have ended to propose from them."""
        ended = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE, OptunaState.PRUNED))
        return len(ended) >= self._startup

    def propose_many(self, seed: int, count: int) -> Iterator[dict[str, ParamValue]]:
        """Give configurations to try together, some more than `count`, as some may be tried already.

        After every 64 the sampler is told of those before as running.
        """
        told: list[int] = []
        try:
            for lot in range(-(-count // _LOT) + 1):
                found = self._lot((seed + lot) % 2**32, min(count, _LOT))
                yield from found
                for params in found:
                    told.append(len(self._study.get_trials(deepcopy=False)))
                    self._study.add_trial(self._running_with(params))
        finally:
            for number in told:
                self._study.tell(number, state=OptunaState.FAIL)

    def _lot(self, seed: int, count: int) -> list[dict[str, ParamValue]]:
        sampler = self._study.sampler = _Batch(self._together, seed, self._startup, count)
        asked = self._study.ask()
        answers: dict[str, list[object]] = {}
        for name, wanted in self._distributions.items():
            one = suggest(asked, name, wanted)  # a parameter with one value is not sampled
            known = sampler.answers.get(name)
            answers[name] = [one] * count if known is None else [wanted.to_external_repr(value) for value in known]
        self._study.tell(asked, state=OptunaState.FAIL)
        found = []
        for place in range(count):
            params: dict[str, ParamValue] = {}
            for name in self._space.order:
                if not self._space.is_active(name, params):
                    continue
                parameter = self._space[name]
                if name in answers:
                    params[name] = to_value(parameter, answers[name][place])
                else:
                    params[name] = self._held[name] if name in self._held else parameter.resolved_default()
            found.append({name: params[name] for name in self._space if name in params})
        return found

    def _frozen(self, trial: Trial) -> FrozenTrial | None:
        from optuna.trial import TrialState as OptunaState

        if trial.state is TrialState.RUNNING:
            return self._running_with(trial.params)
        params, distributions = self._told(trial.params)
        value = self._goal.value(trial)
        if value is not None:
            broken = self._goal.violations(trial)
            if broken is None:
                return None  # what was not measured would pass for satisfied
            told = {str(place): by for place, by in enumerate(broken)}
            losses = self._goal.losses(trial) if self._goal.several else (value,)
            if losses is None:
                return None
            return create_trial(values=losses, params=params, distributions=distributions, constraints=told)
        reports: dict[int, float] = {}
        if trial.state is TrialState.PRUNED and not self._goal.several:  # Optuna ranks reports by one direction only
            reports = {r.step: r.metrics[self._goal.metric] for r in trial.reports if self._goal.metric in r.metrics}
        elif trial.failure and trial.failure.infrastructure:
            return None
        return create_trial(
            state=OptunaState.PRUNED, params=params, distributions=distributions, intermediate_values=reports
        )

    def _running_with(self, params: Params) -> FrozenTrial:
        told, distributions = self._told(params)
        return create_trial(state=OptunaState.RUNNING, params=told, distributions=distributions)

    def _told(self, params: Params) -> tuple[dict[str, object], dict[str, BaseDistribution]]:
        """Give the tuned parameters of a configuration as Optuna is told them."""
        names = [name for name in self._tuned if name in params]
        return (
            {name: to_internal(self._space[name], params[name]) for name in names},
            {name: self._distributions[name] for name in names},
        )


def distribution(parameter: Parameter) -> Distribution:
    """Give the parameter's Optuna distribution; choices and stepped numbers are told by position.

    A stepped float by its value would have to lie on Optuna's decimal grid, which need not be ours to the last digit.
    """
    if isinstance(parameter, Float):
        if parameter.step is not None:
            return IntDistribution(0, position(parameter, parameter.step, parameter.snap(parameter.high)))
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Int):
        if (parameter.high - parameter.low) // parameter.step > _MOST_WHOLE:
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        return IntDistribution(parameter.low, parameter.snap(parameter.high), log=parameter.log, step=parameter.step)
    if parameter.ordered:
        return IntDistribution(0, len(parameter.values) - 1)
    return CategoricalDistribution(tuple(range(len(parameter.values))))


def suggest(trial: OptunaTrial, name: str, wanted: Distribution) -> object:
    """Ask an Optuna trial for a value of a distribution."""
    if isinstance(wanted, CategoricalDistribution):
        return trial.suggest_categorical(name, wanted.choices)
    if isinstance(wanted, FloatDistribution):
        return trial.suggest_float(name, wanted.low, wanted.high, log=wanted.log)
    return trial.suggest_int(name, wanted.low, wanted.high, log=wanted.log, step=wanted.step)


def to_internal(parameter: Parameter, value: ParamValue) -> object:
    """Give a parameter's value as Optuna is told it."""
    if isinstance(parameter, Choice):
        return parameter.index(value)
    if isinstance(parameter, Float) and parameter.step is not None:
        return position(parameter, parameter.step, cast(float, value))
    return value


def to_value(parameter: Parameter, internal: object) -> ParamValue:
    """Give the parameter's value for what Optuna said, inside the bounds and on the grid."""
    if isinstance(parameter, Choice):
        return parameter.values[int(internal)]  # type: ignore[call-overload]
    number = float(internal)  # type: ignore[arg-type]
    if isinstance(parameter, Float) and parameter.step is not None:
        number = parameter.low + number * parameter.step
    return parameter.snap(min(max(number, parameter.low), parameter.high))


def position(parameter: Float, step: float, value: float) -> int:
    """Give how many steps from `low` a value of a stepped float lies."""
    return round((value - parameter.low) / step)
