"""Configurations as rows of numbers, for surrogates: a column a parameter, scaled to [0, 1], nan where not active."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.records import Params, ParamValue
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Encoding:
    """Rows for the configurations of a space, and back.

    Numbers are scaled to [0, 1] (by their logarithm where declared), ordered choices by position; the column of an
    unordered choice holds the position itself (see `categorical`).
    """

    def __init__(self, space: SearchSpace, held: Params | None = None) -> None:
        """`held` are values that every row made here has, where they are active."""
        self.space = space
        self.names = space.names
        self._columns = [_Column(space[name]) for name in self.names]
        self._place = {name: j for j, name in enumerate(self.names)}
        self._held = {name: value for name, value in (held or {}).items() if name in space}
        self._fixed = {self._place[n]: self._columns[self._place[n]].encoded(v) for n, v in self._held.items()}
        self._conditions = [
            (self._place[name], [(self._place[p], self._wanted(p, w)) for p, w in space[name].when.items()])
            for name in space.order
            if space[name].when
        ]
        self.categorical: Mask = np.array([c.levels > 0 for c in self._columns])
        self.varies: Mask = np.array([c.varies and j not in self._fixed for j, c in enumerate(self._columns)])
        """Which columns have more than one value."""
        self.levels = tuple(c.levels for c in self._columns)
        """How many values an unordered choice has; 0 for the other parameters."""
        self.steps: Floats = np.array([c.step for c in self._columns])
        """The distance of neighbours on a column's grid; 0 where there is none (or it is uneven)."""

    def rows(self, configurations: Sequence[Params]) -> Floats:
        """Encode configurations, shape (n, parameters). Values outside the space's ranges lie outside [0, 1]."""
        found = np.full((len(configurations), len(self.names)), np.nan)
        for i, params in enumerate(configurations):
            for name, value in params.items():
                j = self._place.get(name)
                if j is not None:
                    found[i, j] = self._columns[j].encoded(value)
        return found

    def params(self, row: Floats) -> dict[str, ParamValue]:
        """Give the configuration of one row, on the grid; what is not active is left out."""
        columns = zip(self.names, self._columns, row, strict=True)
        drawn = {n: self._held[n] if n in self._held else c.decoded(float(v)) for n, c, v in columns if not np.isnan(v)}
        return self.space.complete(drawn)

    def uniform(self, count: int, dice: np.random.Generator) -> Floats:
        """Draw rows evenly, conditions not looked at; `snapped` makes configurations of them."""
        return self.scaled(dice.random((count, len(self.names))))

    def scaled(self, unit: Floats) -> Floats:
        """Turn points of the unit cube into rows: categories by equal parts."""
        found = unit.copy()
        for j in np.flatnonzero(self.categorical):
            found[:, j] = np.minimum(np.floor(unit[:, j] * self.levels[j]), self.levels[j] - 1)
        return found

    def snapped(self, rows: Floats) -> Floats:
        """Give rows inside the ranges and on the grids: what is missing is the default, what is not active nan."""
        found = rows.copy()
        for j, column in enumerate(self._columns):
            values = np.where(np.isnan(found[:, j]), column.default, found[:, j])
            found[:, j] = self._fixed[j] if j in self._fixed else column.snapped(values)
        for j, parents in self._conditions:  # parents come before their children
            active = np.ones(len(found), dtype=bool)
            for p, wanted in parents:
                active &= (np.abs(found[:, [p]] - wanted[None, :]) < 1e-9).any(axis=1)
            found[~active, j] = np.nan
        return found

    def moved_to(self, other: Encoding, rows: Floats) -> Floats:
        """Give rows of this encoding as `other` has them: its ranges may have another width.

        A parameter that only one of them has (limits may leave it no place) is left out, or not active.
        """
        found = np.full((len(rows), len(other.names)), np.nan)
        for place, name in enumerate(other.names):
            j = self._place.get(name)
            if j is not None:
                found[:, place] = self._columns[j].moved_to(other._columns[place], rows[:, j])
        return found

    def _wanted(self, name: str, wanted: object) -> Floats:
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        column = self._columns[self._place[name]]
        return np.array([column.encoded(cast(ParamValue, v)) for v in values])


class _Column:
    """One parameter's scale."""

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self.levels = len(parameter.values) if isinstance(parameter, Choice) and not parameter.ordered else 0
        self.step = 0.0
        if isinstance(parameter, Choice):
            self._last = len(parameter.values) - 1
            self._span = max(1, self._last)
            self.step = 1.0 if self.levels else 1 / self._span
        else:
            top = parameter.snap(parameter.high)
            self._low = math.log(parameter.low) if parameter.log else parameter.low
            self._width = ((math.log(top) if parameter.log else top) - self._low) or 1.0
            self._stepped = isinstance(parameter, Int) or parameter.step is not None
            if self._stepped and not parameter.log:
                self.step = cast(float, parameter.step) / self._width
        self.default = self.encoded(parameter.resolved_default())
        self.varies = len(parameter.values) > 1 if isinstance(parameter, Choice) else parameter.low < parameter.high

    def encoded(self, value: ParamValue) -> float:
        parameter = self._parameter
        if isinstance(parameter, Choice):
            try:
                place = parameter.index(value)
            except StopIteration:
                return math.nan
            return float(place) if self.levels else place / self._span
        number = cast(float, value)
        if parameter.log:
            number = math.log(number) if number > 0 else self._low
        return (number - self._low) / self._width

    def moved_to(self, other: _Column, codes: Floats) -> Floats:
        parameter = self._parameter
        if isinstance(parameter, Choice):
            if parameter is other._parameter:  # no need to look each of thousands of values up among them all
                same = np.arange(len(parameter.values)) / (1 if self.levels else self._span)
                table = np.append(same, math.nan)
            else:
                table = np.array([*(other.encoded(value) for value in parameter.values), math.nan])
            places = np.round(codes if self.levels else codes * self._span)
            return np.asarray(table[np.where(np.isnan(places), len(parameter.values), places).astype(int)])
        return (self._low + codes * self._width - other._low) / other._width

    def decoded(self, code: float) -> ParamValue:
        parameter = self._parameter
        if isinstance(parameter, Choice):
            return parameter.values[round(code if self.levels else code * self._span)]
        return parameter.snap(min(max(self._number(code), parameter.low), parameter.high))

    def snapped(self, codes: Floats) -> Floats:
        parameter = self._parameter
        if isinstance(parameter, Choice):
            if self.levels:
                return np.clip(np.round(codes), 0, self.levels - 1)
            return np.minimum(np.round(np.clip(codes, 0, 1) * self._span), self._last) / self._span
        codes = np.clip(codes, 0.0, 1.0)
        if not self._stepped:
            return codes
        step = cast(float, parameter.step)
        numbers = self._low + codes * self._width
        numbers = np.exp(numbers) if parameter.log else numbers
        grid = parameter.low + np.round((numbers - parameter.low) / step) * step
        return (
            (np.log(np.maximum(grid, 1e-300)) - self._low) / self._width
            if parameter.log
            else (grid - self._low) / self._width
        )

    def _number(self, code: float) -> float:
        number = self._low + code * self._width
        return math.exp(number) if cast(Float | Int, self._parameter).log else number
