"""SMAC3: the facade for hyperparameters (a random forest and expected improvement), with its own defaults.

Its initial design is replaced by the first trials; where there are none it has its own. A configuration is evaluated
once (`deterministic`), as everybody's is.
"""

from __future__ import annotations

import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

from ConfigSpace import (
    AndConjunction,
    CategoricalHyperparameter,
    Configuration,
    ConfigurationSpace,
    InCondition,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from protocol import Numbers, Optimizer, Parameter, Start, serve
from smac import HyperparameterOptimizationFacade as Facade
from smac import Scenario
from smac.runhistory import TrialInfo, TrialValue


class SmacRun:
    """A run of the facade. Values of a stepped float travel as positions."""

    def __init__(self, start: Start) -> None:
        self._parameters = {p.name: p for p in start.space}
        self._space = ConfigurationSpace(seed=start.seed)
        mine = {p.name: _hyperparameter(p) for p in start.space}
        self._space.add(*mine.values())
        for p in start.space:
            found = [
                InCondition(mine[p.name], mine[parent], [_typed(self._parameters[parent], w) for w in wanted])
                for parent, wanted in p.when.items()
            ]
            if found:
                self._space.add(found[0] if len(found) == 1 else AndConjunction(*found))
        self._folder = tempfile.TemporaryDirectory()  # gone with the run
        scenario = Scenario(
            self._space,
            n_trials=start.trials,
            deterministic=True,
            seed=start.seed,
            output_directory=Path(self._folder.name),
        )
        design = Facade.get_initial_design(scenario, n_configs=0 if start.first else None)
        self._smac = Facade(scenario, _never, initial_design=design, logging_level=False, overwrite=True)
        self._asked: dict[int, TrialInfo] = {}
        self._count = 0
        for params, value in start.first:
            values = {name: _typed(self._parameters[name], number) for name, number in params.items()}
            info = TrialInfo(Configuration(self._space, values=values), seed=0)
            self._smac.tell(info, TrialValue(cost=value), save=False)

    def ask(self) -> tuple[int, Numbers]:
        info = self._smac.ask()
        self._count += 1
        self._asked[self._count] = info
        values = dict(info.config).items()
        return self._count, {name: _number(self._parameters[name], value) for name, value in values}

    def tell(self, number: int, value: float) -> None:
        self._smac.tell(self._asked.pop(number), TrialValue(cost=value), save=False)


def _never(config: Configuration, seed: int = 0) -> float:
    raise RuntimeError("the harness evaluates")


def _hyperparameter(p: Parameter):  # type: ignore[no-untyped-def]
    if p.kind == "categorical":
        return CategoricalHyperparameter(p.name, list(range(int(p.high) + 1)), default_value=int(p.default))
    if p.kind == "ordered":
        return OrdinalHyperparameter(p.name, list(range(int(p.high) + 1)), default_value=int(p.default))
    if p.step is not None:
        top = int((p.high - p.low) / p.step + 1e-9)
        return UniformIntegerHyperparameter(p.name, 0, top, default_value=_typed(p, p.default))
    if p.kind == "int":
        return UniformIntegerHyperparameter(p.name, int(p.low), int(p.high), int(p.default), log=p.log)
    return UniformFloatHyperparameter(p.name, p.low, p.high, p.default, log=p.log)


def _typed(p: Parameter, number: float) -> float:
    if p.step is not None:
        return round((number - p.low) / p.step)
    return number if p.kind == "float" else int(number)


def _number(p: Parameter, value: float) -> float:
    return p.low + p.step * float(value) if p.step is not None else float(value)


def make(start: Start) -> Optimizer:
    return SmacRun(start)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve(f"smac {version('smac')}", make)
