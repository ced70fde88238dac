"""A Gaussian process over encoded configurations: mixed, conditional and noisy spaces.

Matérn 5/2 with a length scale for each parameter; unordered choices count as alike or not. A number that is not active
is where the middle of its range is, on another level: so distances are those of points in a space, and every set of
configurations has a covariance. (No point is equally far from all of a range.) Hyperparameters are the maximum a
posteriori, found by L-BFGS-B with exact gradients. The prior of the length scales grows with the root of the number of
parameters (Hvarfner, Hellsten, Nardi 2024, arXiv:2402.02229), so that many parameters don't make all points strangers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SQRT5 = math.sqrt(5.0)
_ONE_HAS_A_CHOICE = 0.5
"""The squared distance in an unordered choice that only one of two configurations has."""
_ONE_HAS_A_NUMBER = 5 / 12
"""The same in a number, beside that from the middle of its range: 1/2 on the mean, as in a choice."""
_JITTER = 1e-8
_EVALUATIONS = 60
_SCALE = 0.5
_SPREAD_OF_SCALES = 1.0
_NOISE = (math.log(1e-3), 3.0)
"""Mean and standard deviation of the noise variance's logarithm, for outcomes of variance 1."""
_LEAST_NOISE = math.log(1e-6)


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; outcomes are told and predicted on the scale it was fitted on (mean 0, variance 1)."""

    weights: Floats
    """The inverse squared length scales, one a parameter."""
    signal: float
    """The variance of the function."""
    noise: float
    """The variance of one observation's noise, in the same unit."""
    categorical: Mask
    rows: Floats
    outcomes: Floats
    _root: Floats
    _alpha: Floats
    _extra: Floats

    @classmethod
    def fit(cls, rows: Floats, outcomes: Floats, categorical: Mask, extra: Floats | None = None) -> GaussianProcess:
        """Fit to `rows` (n, d) and standardized `outcomes` (n); `extra` is noise variance beyond the common one."""
        extra = np.zeros(len(rows)) if extra is None else extra
        apart = _distances(rows, rows, categorical)
        count = rows.shape[1]
        usual = -2 * math.log(_SCALE * math.sqrt(count))
        start = np.array([*[usual] * count, 0.0, math.log(1e-2)])
        bounds = [(-9.0, 8.0)] * count + [(-4.0, 4.0), (_LEAST_NOISE, 1.0)]
        found = minimize(
            _loss,
            start,
            args=(apart, outcomes, extra, usual),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxfun": _EVALUATIONS, "maxiter": _EVALUATIONS},
        )
        theta = np.exp(found.x)
        return cls._solved(theta[:-2], float(theta[-2]), float(theta[-1]), categorical, rows, outcomes, extra)

    @classmethod
    def _solved(
        cls,
        weights: Floats,
        signal: float,
        noise: float,
        categorical: Mask,
        rows: Floats,
        outcomes: Floats,
        extra: Floats,
    ) -> GaussianProcess:
        covariance = signal * _matern(np.tensordot(weights, _distances(rows, rows, categorical), 1))
        jitter = noise + extra + _JITTER * max(1.0, signal)
        root = np.asarray(np.linalg.cholesky(covariance + np.diag(jitter)), dtype=np.float64)
        alpha = cho_solve((root, True), outcomes, check_finite=False)
        return cls(weights, signal, noise, categorical, rows, outcomes, root, alpha, extra)

    def believing(self, rows: Floats) -> GaussianProcess:
        """Give it as if `rows` had ended at what is expected of them (kriging believer): for running trials."""
        if not len(rows):
            return self
        expected, _ = self.predict(rows)
        whole = np.concatenate([self.rows, rows]), np.concatenate([self.outcomes, expected])
        extra = np.concatenate([self._extra, np.zeros(len(rows))])
        return self._solved(self.weights, self.signal, self.noise, self.categorical, *whole, extra)

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Give mean and standard deviation of the function (without an observation's noise) at `rows`."""
        covariance = self._to(rows)
        mean = covariance @ self._alpha
        half = solve_triangular(self._root, covariance.T, lower=True, check_finite=False)
        return mean, np.sqrt(np.maximum(self.signal - np.einsum("ij,ij->j", half, half), 1e-12))

    def refitted(self, outcomes: Floats) -> GaussianProcess:
        """Give the process fitted to other outcomes of the same rows."""
        return self.fit(self.rows, outcomes, self.categorical, self._extra)

    def left_out(self) -> Floats:
        """Give what is expected of each of its own rows by all the others."""
        inverse = cho_solve((self._root, True), np.eye(len(self.rows)), check_finite=False)
        expected: Floats = self.outcomes - self._alpha / np.diag(inverse)
        return expected

    def draws(self, rows: Floats, count: int, dice: np.random.Generator) -> Floats:
        """Draw the function's values at `rows`, jointly; shape (count, len(rows))."""
        half = solve_triangular(self._root, self._to(rows).T, lower=True, check_finite=False)
        own = self.signal * _matern(np.tensordot(self.weights, _distances(rows, rows, self.categorical), 1))
        values, vectors = np.linalg.eigh(own - half.T @ half)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn: Floats = self.predict(rows)[0] + dice.standard_normal((count, len(rows))) @ root.T
        return drawn

    def explaining(self, rows: Floats) -> tuple[Floats, Floats]:
        """Give what its own rows explain of others, shape (own, n), and the variance that is left at each of those.

        The covariance left between two of them is `covariance` less the product of their columns.
        """
        half: Floats = solve_triangular(self._root, self._to(rows).T, lower=True, check_finite=False)
        return half, np.maximum(self.signal - np.einsum("ij,ij->j", half, half), 1e-12)

    def covariance(self, rows: Floats, others: Floats) -> Floats:
        """Give the covariance of rows with others, before anything was seen."""
        return self.signal * _matern(np.tensordot(self.weights, _distances(rows, others, self.categorical), 1))

    def _to(self, rows: Floats) -> Floats:
        """Give the covariance of `rows` with the process's own."""
        squared = np.zeros((len(rows), len(self.rows)))
        whole = ~(np.isnan(rows).any(axis=0) | np.isnan(self.rows).any(axis=0))
        plain = whole & ~self.categorical
        if plain.any():  # the usual case, by one product of matrices
            scale = np.sqrt(self.weights[plain])
            a, b = rows[:, plain] * scale, self.rows[:, plain] * scale
            squared += np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T, 0.0)
        for j in np.flatnonzero(~plain):
            squared += self.weights[j] * _apart(rows[:, j], self.rows[:, j], bool(self.categorical[j]))
        return self.signal * _matern(squared)


def _distances(a: Floats, b: Floats, categorical: Mask) -> Floats:
    """Give the squared distances of all pairs in each parameter, shape (d, len(a), len(b))."""
    return np.stack([_apart(a[:, j], b[:, j], bool(categorical[j])) for j in range(a.shape[1])])


def _apart(a: Floats, b: Floats, categorical: bool) -> Floats:
    out_a, out_b = np.isnan(a), np.isnan(b)
    one = out_a[:, None] != out_b[None, :]
    if categorical:
        apart: Floats = (a[:, None] != b[None, :]).astype(float)
        apart[out_a[:, None] & out_b[None, :]] = 0.0
        apart[one] = _ONE_HAS_A_CHOICE
        return apart
    placed: Floats = (np.where(out_a, 0.5, a)[:, None] - np.where(out_b, 0.5, b)[None, :]) ** 2
    placed[one] += _ONE_HAS_A_NUMBER
    return placed


def _matern(squared: Floats) -> Floats:
    distance = np.sqrt(squared)
    return (1 + _SQRT5 * distance + 5 / 3 * squared) * np.exp(-_SQRT5 * distance)


def _loss(theta: Floats, apart: Floats, outcomes: Floats, extra: Floats, usual: float) -> tuple[float, Floats]:
    """Give the negative log posterior and its gradient; `theta` are logarithms: weights, signal, noise."""
    weights, signal, noise = np.exp(theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
    squared = np.tensordot(weights, apart, 1)
    distance = np.sqrt(squared)
    decay = np.exp(-_SQRT5 * distance)
    covariance = signal * (1 + _SQRT5 * distance + 5 / 3 * squared) * decay
    slope = -signal * (5 / 6) * (1 + _SQRT5 * distance) * decay
    try:
        root = np.linalg.cholesky(covariance + np.diag(noise + extra + _JITTER * max(1.0, signal)))
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = cho_solve((root, True), np.eye(len(outcomes)), check_finite=False)
    alpha = inverse @ outcomes
    value = 0.5 * float(outcomes @ alpha) + float(np.log(np.diag(root)).sum())
    pull = 0.5 * (inverse - np.outer(alpha, alpha))
    gradient = np.empty_like(theta)
    gradient[:-2] = np.tensordot(apart, pull * slope, 2) * weights
    gradient[-2] = float((pull * covariance).sum())
    gradient[-1] = float(np.trace(pull)) * noise
    for part, mean, sd in ((slice(0, -2), usual, _SPREAD_OF_SCALES), (-2, 0.0, 1.0), (-1, *_NOISE)):
        off = (theta[part] - mean) / sd
        value += 0.5 * float(np.sum(off * off))
        gradient[part] += off / sd
    return value, gradient
