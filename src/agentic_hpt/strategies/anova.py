"""Which share of a function's variance each parameter explains, and each pair beyond its two: a functional ANOVA.

The function is known by draws from a surrogate at the points of an even design, so that each share comes with how
unsure it is (Sobol 1993; Hooker 2007; of surrogates Hutter et al. 2014, here of a Gaussian process).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.strategies.encoding import Encoding

Floats = NDArray[np.float64]
Basis = Mapping[int, Floats]
"""For each parameter (by its column) what a function of it alone is made of: orthonormal columns of mean 0."""

_DEGREE = 3
_MOST_DEGREE_OF_A_PAIR = 4
_MOST_LEVELS = 12
_LEAST_ROWS_A_COLUMN = 4


def basis_of(encoding: Encoding, design: Floats, free: NDArray[np.intp]) -> dict[int, Floats]:
    """Give the columns that stand for each of the `free` parameters over a design; none where one does not vary.

    Numbers have polynomials, zero where they are not active; of unordered choices each value has a column. The more
    parameters, the lower their degree.
    """
    degree = max(1, min(_DEGREE, len(design) // _LEAST_ROWS_A_COLUMN // max(1, len(free))))
    found: dict[int, Floats] = {}
    for j in free.tolist():
        column = design[:, j]
        active = ~np.isnan(column)
        if encoding.levels[j]:
            places = range(min(_MOST_LEVELS, encoding.levels[j]))
            raw = np.stack([(column == place).astype(float) for place in places], axis=1)
        else:
            scaled = 2 * np.where(active, column, 0.5) - 1
            raw = np.stack([scaled**power for power in range(1, degree + 1)], axis=1)
        raw[~active] = 0.0
        raw[active] -= raw[active].mean(axis=0) if active.any() else 0.0
        columns = _orthonormal(raw)
        if columns.shape[1]:
            found[j] = columns
    return found


def variances(functions: Floats, basis: Basis) -> tuple[dict[int, Floats], dict[tuple[int, int], Floats]]:
    """Give the variance that each parameter explains alone, and each pair beyond its two, for each of the functions.

    `functions` has a column each, over the design's rows. What a share would have by chance is taken off, so that one
    that explains nothing is around 0, below it as often as above.
    """
    count = len(functions)
    centered = functions - functions.mean(axis=0)
    own = _orthonormal(np.concatenate(list(basis.values()), axis=1))
    effects, *_ = np.linalg.lstsq(np.concatenate(list(basis.values()), axis=1), centered, rcond=None)
    left = centered - own @ (own.T @ centered)
    rest = (left**2).sum(axis=0)
    chance = rest / max(1, count - 1 - own.shape[1])
    alone: dict[int, Floats] = {}
    first = 0
    for j, columns in basis.items():
        width = columns.shape[1]
        part = effects[first : first + width]
        alone[j] = ((part**2).sum(axis=0) - width * chance) / count
        first += width
    pairs: dict[tuple[int, int], Floats] = {}
    for a, b in combinations(basis, 2):
        columns = _together(basis[a], basis[b])
        columns = _orthonormal(columns - own @ (own.T @ columns))
        width = columns.shape[1]
        explained = ((columns.T @ left) ** 2).sum(axis=0)
        freedom = max(1, count - 1 - own.shape[1] - width)
        pairs[a, b] = (explained - width * (rest - explained) / freedom) / count
    return alone, pairs


def _together(a: Floats, b: Floats) -> Floats:
    """Give the products of two parameters' columns, of polynomials those up to the fourth degree."""
    most = _MOST_DEGREE_OF_A_PAIR if max(a.shape[1], b.shape[1]) <= _DEGREE else a.shape[1] + b.shape[1]
    return np.stack(
        [a[:, i] * b[:, k] for i in range(a.shape[1]) for k in range(b.shape[1]) if i + k + 2 <= most], axis=1
    )


def _orthonormal(columns: Floats) -> Floats:
    """Give orthonormal columns that span the same, without those that add nothing."""
    if not columns.shape[1]:
        return columns
    scale = np.sqrt((columns**2).sum(axis=0))
    kept = columns[:, scale > 1e-9] / scale[scale > 1e-9]
    vectors, triangle = np.linalg.qr(kept)
    found: Floats = vectors[:, np.abs(np.diag(triangle)) > 1e-6]
    return found
