"""Ax: its client with its own choice of methods (BoTorch), all parameters always there: Ax sees no conditions.

The first trials are attached; that they are enough to begin with is Ax's own rule
(`use_existing_trials_for_initialization`); the centre of the space, with which it begins, is left out then.
"""

from __future__ import annotations

import logging
import random
import warnings
from importlib.metadata import version

import numpy as np
import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from protocol import Numbers, Optimizer, Parameter, Start, serve


class AxRun:
    """An experiment of Ax. Values of a stepped float travel as positions."""

    def __init__(self, start: Start) -> None:
        random.seed(start.seed)
        np.random.seed(start.seed)
        torch.manual_seed(start.seed)
        self._parameters = {p.name: p for p in start.space}
        self._client = Client(random_seed=start.seed)
        self._client.configure_experiment(parameters=[_config(p) for p in start.space])
        self._client.configure_optimization(objective="-loss")
        self._client.configure_generation_strategy(
            initialization_random_seed=start.seed, initialize_with_center=not start.first
        )
        for params, value in start.first:
            whole = {p.name: _typed(p, params.get(p.name, p.default)) for p in start.space}
            self.tell(self._client.attach_trial(parameters=whole), value)

    def ask(self) -> tuple[int, Numbers]:
        ((number, found),) = self._client.get_next_trials(max_trials=1).items()
        return number, {name: _number(self._parameters[name], float(value)) for name, value in found.items()}

    def tell(self, number: int, value: float) -> None:
        self._client.complete_trial(trial_index=number, raw_data={"loss": value})


def _config(p: Parameter) -> RangeParameterConfig | ChoiceParameterConfig:
    if p.kind in ("categorical", "ordered"):
        values = list(range(int(p.high) + 1))
        return ChoiceParameterConfig(
            name=p.name, values=values, parameter_type="int", is_ordered=p.kind == "ordered" or len(values) == 2
        )
    if p.step is not None:
        return RangeParameterConfig(
            name=p.name, bounds=(0, int((p.high - p.low) / p.step + 1e-9)), parameter_type="int"
        )
    scaling = "log" if p.log else "linear"
    return RangeParameterConfig(name=p.name, bounds=(p.low, p.high), parameter_type=p.kind, scaling=scaling)  # type: ignore[arg-type]


def _typed(p: Parameter, number: float) -> float:
    if p.step is not None:
        return round((number - p.low) / p.step)
    return number if p.kind == "float" else int(number)


def _number(p: Parameter, value: float) -> float:
    return p.low + p.step * value if p.step is not None else value


def make(start: Start) -> Optimizer:
    return AxRun(start)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve(f"ax {version('ax-platform')}, botorch {version('botorch')}", make)
