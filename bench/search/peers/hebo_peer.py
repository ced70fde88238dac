"""HEBO with its own defaults, all parameters always there: it sees no conditions.

Its random beginning is cut to the two trials it insists on, which the first trials are. It doesn't know of what is
under way; where several may be, it suggests them together, as it was made to, and the harness ends all of them first.
pymoo's loops, in which it spends its time, are written over arrays (`pymoo_by_arrays`): its trials are the same, and
take half the CPU.
"""

from __future__ import annotations

import random
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import pymoo_by_arrays
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO
from protocol import Numbers, Optimizer, Parameter, Start, serve


class HeboRun:
    """A run of HEBO. Values of a stepped float travel as positions."""

    def __init__(self, start: Start) -> None:
        random.seed(start.seed)
        np.random.seed(start.seed)
        torch.manual_seed(start.seed)
        self._parameters = {p.name: p for p in start.space}
        space = DesignSpace().parse([_entry(p) for p in start.space])
        rand_sample = 2 if len(start.first) >= 2 else None
        self._hebo = HEBO(space, rand_sample=rand_sample, scramble_seed=start.seed)
        self._start = start
        self._asked: list[pd.DataFrame] = []
        self._waiting: list[pd.DataFrame] = []
        for params, value in start.first:
            whole = {p.name: _typed(p, params.get(p.name, p.default)) for p in start.space}
            self._hebo.observe(pd.DataFrame([whole]), np.array([[value]]))

    def ask(self) -> tuple[int, Numbers]:
        if not self._waiting:
            left = self._start.trials - len(self._start.first) - len(self._asked)
            several = self._hebo.suggest(n_suggestions=min(self._start.pending, left))
            self._waiting = [several.iloc[[place]] for place in range(len(several))]
        found = self._waiting.pop(0)
        self._asked.append(found)
        row = {p.name: _number(p, float(found[p.name].iloc[0])) for p in self._parameters.values()}
        return len(self._asked) - 1, row

    def tell(self, number: int, value: float) -> None:
        self._hebo.observe(self._asked[number], np.array([[value]]))


def _entry(p: Parameter) -> dict[str, object]:
    if p.kind == "categorical":
        return {"name": p.name, "type": "cat", "categories": list(range(int(p.high) + 1))}
    if p.step is not None:
        return {"name": p.name, "type": "int", "lb": 0, "ub": int((p.high - p.low) / p.step + 1e-9)}
    names = {("float", False): "num", ("float", True): "pow", ("int", True): "pow_int"}
    return {"name": p.name, "type": names.get((p.kind, p.log), "int"), "lb": p.low, "ub": p.high}


def _typed(p: Parameter, number: float) -> float:
    if p.step is not None:
        return round((number - p.low) / p.step)
    return number if p.kind == "float" else int(number)


def _number(p: Parameter, value: float) -> float:
    return p.low + p.step * value if p.step is not None else value


def make(start: Start) -> Optimizer:
    return HeboRun(start)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pymoo_by_arrays.install()
    serve(f"hebo {version('HEBO')}", make)
