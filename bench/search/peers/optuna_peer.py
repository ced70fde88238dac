"""Optuna's samplers, each with its own defaults: define by run, declared scales, ordered choices as positions."""

from __future__ import annotations

import warnings

import optuna
from protocol import Numbers, Optimizer, Parameter, Start, active, serve


class OptunaRun:
    """A study with one of Optuna's samplers."""

    def __init__(self, start: Start) -> None:
        self._space = start.space
        self._study = optuna.create_study(sampler=_sampler(start))
        self._asked: dict[int, optuna.Trial] = {}
        distributions = {p.name: _distribution(p) for p in start.space}
        for params, value in start.first:
            mine = {name: _typed(distributions[name], number) for name, number in params.items()}
            used = {name: distributions[name] for name in params}
            self._study.add_trial(optuna.trial.create_trial(params=mine, distributions=used, value=value))

    def ask(self) -> tuple[int, Numbers]:
        trial = self._study.ask()
        self._asked[trial.number] = trial
        params: dict[str, float] = {}
        for parameter in self._space:
            if active(parameter, params):
                params[parameter.name] = _suggested(trial, parameter)
        return trial.number, params

    def tell(self, number: int, value: float) -> None:
        self._study.tell(self._asked.pop(number), value)


def _sampler(start: Start) -> optuna.samplers.BaseSampler:
    if start.arm == "random":
        return optuna.samplers.RandomSampler(seed=start.seed)
    if start.arm == "gp":
        import torch

        torch.set_num_threads(1)
        return optuna.samplers.GPSampler(seed=start.seed)
    if start.arm == "cmaes":
        # It looks at no trial that it didn't propose: the best of the first ones is where it starts.
        best = min(start.first, key=lambda trial: trial[1])[0] if start.first else {}
        x0 = {p.name: _typed(_distribution(p), best[p.name]) for p in start.space if p.name in best and not p.when}
        x0 = {p.name: x0[p.name] for p in start.space if p.name in x0 and p.kind != "categorical"}
        return optuna.samplers.CmaEsSampler(x0=x0 or None, seed=start.seed)
    return optuna.samplers.TPESampler(seed=start.seed)


def _distribution(p: Parameter) -> optuna.distributions.BaseDistribution:
    if p.kind == "categorical":
        return optuna.distributions.CategoricalDistribution(tuple(range(int(p.high) + 1)))
    if p.kind == "float":
        return optuna.distributions.FloatDistribution(p.low, p.high, log=p.log, step=p.step)
    return optuna.distributions.IntDistribution(int(p.low), int(p.high), log=p.log, step=int(p.step or 1))


def _typed(distribution: optuna.distributions.BaseDistribution, number: float) -> float:
    return number if isinstance(distribution, optuna.distributions.FloatDistribution) else int(number)


def _suggested(trial: optuna.Trial, p: Parameter) -> float:
    if p.kind == "categorical":
        return trial.suggest_categorical(p.name, tuple(range(int(p.high) + 1)))
    if p.kind == "float":
        return trial.suggest_float(p.name, p.low, p.high, log=p.log, step=p.step)
    return trial.suggest_int(p.name, int(p.low), int(p.high), log=p.log, step=int(p.step or 1))


def make(start: Start) -> Optimizer:
    return OptunaRun(start)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    serve(f"optuna {optuna.__version__}", make)
