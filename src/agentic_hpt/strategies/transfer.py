"""What earlier studies predict for a study's configurations, each weighted by how well it ranks the study's own trials.

The ranking-weighted ensemble of Feurer, Letham, Bakshy 2018 (arXiv:1802.02219): scales of tasks differ, so only the
order counts, and a study that misleads loses its weight as trials come in. Losses of a source are turned into normal
scores by their ranks (Salinas, Shen, Perrone 2020, arXiv:1909.13595).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from agentic_hpt.earlier import Usable
from agentic_hpt.strategies.encoding import Encoding, Floats, Mask
from agentic_hpt.strategies.gaussian import GaussianProcess

_MOST_TRIALS = 200
_LEAST_TRIALS = 5
_MOST_OWN = 150
_DRAWS = 200
_FEW = 3
_CHANCE = 0.5
_SURELY = 0.9


@dataclass(frozen=True)
class Informed:
    """A process that predicts what earlier studies do not: what they expect is added to what it does."""

    own: GaussianProcess
    prior: Prior
    weights: Floats

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Give mean and standard deviation at `rows`."""
        mean, sd = self.own.predict(rows)
        return mean + self.prior.expected(rows, self.weights), sd

    def draws(self, rows: Floats, count: int, dice: np.random.Generator) -> Floats:
        """Draw the function's values at `rows`, jointly; shape (count, len(rows))."""
        return self.own.draws(rows, count, dice) + self.prior.expected(rows, self.weights)

    def believing(self, rows: Floats) -> Informed:
        """Give it as if `rows` had ended at what is expected of them: for running trials."""
        return replace(self, own=self.own.believing(rows))


class Prior:
    """The surrogates of earlier studies over one space. Fitted once, when they are first needed."""

    def __init__(self, encoding: Encoding, earlier: Sequence[Usable]) -> None:
        self._encoding = encoding
        self._earlier = [study for study in earlier if len(study.losses) >= _LEAST_TRIALS]
        self._models: list[GaussianProcess] = []

    def inform(self, model: GaussianProcess) -> GaussianProcess | Informed:
        """Give a study's own model, fitted to standardized losses, with what the earlier studies know put in.

        They say what is expected where nothing was tried; the model is fitted anew to what is left over, so that it can
        put them right. Where none of them predicts the study's trials it stays as it is.
        """
        weights = self.weights(model.rows, model.outcomes, model.left_out()) if self._earlier else np.zeros(0)
        if not weights.any():
            return model
        rest = model.outcomes - self.expected(model.rows, weights)
        return Informed(model.refitted(rest), self, weights)

    def weights(self, rows: Floats, losses: Floats, own: Floats | None = None) -> Floats:
        """Give each source's weight, in [0, 1]; they sum to 1 at most, and what is left is the own model's.

        `rows` and `losses` are the study's complete trials, `own` what its own model predicts for each of them from the
        others. A weight is how often, over resampled trials, the source ranks them best. A source that does not surely
        rank better than chance, or ranks worse than the own model does at its worst, has none.
        """
        count = len(self._earlier)
        if not count or len(losses) < _FEW:
            return np.full(count, 1.0 / max(1, count))
        rows, losses = rows[-_MOST_OWN:], losses[-_MOST_OWN:]
        rankings = [model.predict(rows)[0] for model in self._fitted()]
        wrong = _misrankings(losses, rankings if own is None else [*rankings, own[-_MOST_OWN:]])
        sound: Mask = np.quantile(wrong[:count], _SURELY, axis=1) < _CHANCE
        if own is not None:
            sound &= np.median(wrong[:count], axis=1) <= np.quantile(wrong[count], 0.95)
        if not sound.any():
            return np.zeros(count)
        wrong[:count][~sound] = np.inf
        best = wrong == wrong.min(axis=0)
        weights: Floats = (best / best.sum(axis=0)).mean(axis=1)[:count]
        return weights

    def expected(self, rows: Floats, weights: Floats) -> Floats:
        """Give the weighted sum of the sources' predictions for rows, in standardized losses (less is better)."""
        found = np.zeros(len(rows))
        for model, weight in zip(self._fitted(), weights, strict=True):
            if weight > 0:
                found += weight * model.predict(rows)[0]
        return found

    def _fitted(self) -> list[GaussianProcess]:
        if len(self._models) < len(self._earlier):
            self._models = [self._fit(study) for study in self._earlier]
        return self._models

    def _fit(self, study: Usable) -> GaussianProcess:
        kept = telling(study.losses)
        rows = self._encoding.rows([study.params[i] for i in kept])
        scores = normal_scores(np.array([study.losses[i] for i in kept]))
        return GaussianProcess.fit(rows, scores, self._encoding.categorical)


def telling(losses: Sequence[float], most: int = _MOST_TRIALS) -> list[int]:
    """Choose the trials to learn from: all, or the best third of `most` and an even spread of the rest."""
    order = sorted(range(len(losses)), key=lambda i: (losses[i], i))
    if len(order) <= most:
        return sorted(order)
    best = most // 3
    spread = np.linspace(best, len(order) - 1, most - best).round().astype(int)
    return sorted([*order[:best], *(order[i] for i in spread)])


def normal_scores(losses: Floats) -> Floats:
    """Give the normal quantiles of the ranks; equal losses have the mean of theirs."""
    order = np.sort(losses)
    middle = (np.searchsorted(order, losses, "left") + np.searchsorted(order, losses, "right")) / 2
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(p)) for p in np.clip(middle / len(losses), 0.005, 0.995)])


def _misrankings(losses: Floats, predicted: Sequence[Floats]) -> Floats:
    """Give for each model, over resampled trials, the share of pairs that it ranks the wrong way; ties don't count."""
    count = len(losses)
    better = losses[:, None] < losses[None, :]
    dice = np.random.default_rng(count)
    drawn = np.array([np.bincount(dice.integers(count, size=count), minlength=count) for _ in range(_DRAWS)], float)
    pairs = np.einsum("bi,ij,bj->b", drawn, better.astype(float), drawn, optimize=True)
    found = np.empty((len(predicted), _DRAWS))
    for place, p in enumerate(predicted):
        wrong = better * ((p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :]))
        found[place] = np.einsum("bi,ij,bj->b", drawn, wrong, drawn, optimize=True)
    shares: Floats = found / np.maximum(pairs, 1e-12)
    return shares
