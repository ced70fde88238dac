"""The arms of the portfolio: ways to propose that all learn from the same trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.earlier import Usable
from agentic_hpt.records import Arm, Assignment, Goal, Outlook, Params, ParamValue, Trial, TrialState
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.acquisition import Box, Score, most_promising, mutants, quasi_random, spread_rows
from agentic_hpt.strategies.batch import Pool
from agentic_hpt.strategies.belief import Belief, own_process
from agentic_hpt.strategies.chance import Chance
from agentic_hpt.strategies.curves import estimated_final
from agentic_hpt.strategies.encoding import Encoding, Mask
from agentic_hpt.strategies.evolution import evolved
from agentic_hpt.strategies.history import Window, of_arm
from agentic_hpt.strategies.observed import Observed, observed
from agentic_hpt.strategies.scales import How
from agentic_hpt.strategies.threads import one_thread
from agentic_hpt.strategies.transfer import Prior

Floats = NDArray[np.float64]
Configuration = dict[str, ParamValue]

LEAST = 4
"""So many trials with a value a surrogate needs; before, draws cover the space evenly."""
_FEWER = 80
"""So many trials of each kind tell how likely others are to fail: cheap samplers ask for it too."""
_LEAST_OUTLOOK = 10
_DRAWS = 400
_AROUND = 8
_COVER = 256
_ALONE, _LOTS = 32, 8
"""A batch of up to 32 rows takes a search a row; a larger one about eight."""
_EVEN, _FEW_EVEN = 2048, 512
_NEAREST = 6
_LEAST_NEAREST = 20
_WIDTH, _MOST_WIDTH, _LEAST_WIDTH = 0.4, 0.8, 2.0**-8
_GAINS = 2
_LEAST_PATIENCE = 3
_ALIKE = 1e-3
_FAR = 0.2


class Arms:
    """Gives candidates of one study's arms, the best first. Same trials and seed, same candidates."""

    def __init__(self, space: SearchSpace, goal: Goal, seed: int = 0, earlier: Sequence[Usable] = ()) -> None:
        self._goal = goal
        self._seed = seed
        self._encoding = Encoding(space)
        self._prior = Prior(self._encoding, earlier) if earlier else None
        self._beliefs: dict[tuple[object, ...], Belief] = {}
        self._window = Window(goal)

    def candidates(
        self, arm: Arm, assignment: Assignment, within: SearchSpace, trials: Sequence[Trial], seed: int, count: int = 1
    ) -> Iterator[Configuration]:
        """Give configurations of the subspace `within` that an arm would try, best first; some may be tried already.

        With a `count` above 1 the first ones are those to try together.
        """
        encoding = Encoding(within, {n: v for n, v in assignment.held.items() if n not in assignment.tuned})
        dice = np.random.default_rng(seed)
        turn, whole = len(trials), trials
        trials = self._window.of(trials)
        seen = observed(self._encoding, self._goal, trials, estimated_final(trials, self._goal))
        evolved_rows = evolved(encoding, self._goal, whole, seed, count) if arm == "cmaes" else None
        if arm == "quasi" or len(seen.rows) < LEAST:
            rows: Iterable[Floats] = self._even(encoding, turn, count)
        elif evolved_rows is not None:
            rows = evolved_rows
        elif arm == "local":
            rows = self._local(encoding, seen, trials, turn, dice, count)
        elif arm == "niche":
            rows = self._niche(encoding, seen, trials, dice, count)
        else:
            rows = self._global(encoding, seen, trials, turn, dice, count)
        known: set[bytes] = set()
        for row in rows:
            key = row.tobytes()
            if key not in known:
                known.add(key)
                yield encoding.params(row)

    def chance(self, trials: Sequence[Trial]) -> Callable[[Sequence[Params]], Floats] | None:
        """Give what says how likely configurations are to end with a value; `None` while too little is known."""
        trials = self._window.of(trials)
        if not any(trial.state is TrialState.FAILED for trial in trials):  # mostly; it is asked for each proposal
            return None
        seen = observed(self._encoding, self._goal, trials, {}, _FEWER)
        learned = Chance.of(seen, self._encoding.categorical) if len(seen.rows) >= LEAST else None
        if learned is None:
            return None
        return lambda params: np.exp(learned.log(self._encoding.rows(params)))

    def outlook(self, trials: Sequence[Trial], round_trials: int) -> Outlook | None:
        """Say what one more round is expected to bring; `None` with several objectives, or too few trials.

        Of the surrogate's draws at the most promising places it is the mean of what the best of `round_trials` of them
        gains on the incumbent.
        """
        with one_thread():
            return self._outlook(trials, round_trials)

    def _outlook(self, trials: Sequence[Trial], round_trials: int) -> Outlook | None:
        finished = self._window.of([t for t in trials if t.finished])
        seen = observed(self._encoding, self._goal, finished, estimated_final(finished, self._goal))
        if self._goal.several or len(seen.rows) < _LEAST_OUTLOOK or not seen.feasible.any():
            return None
        belief = self._belief(seen, "power")
        dice = np.random.default_rng(0)
        around = seen.rows[_best(seen, _AROUND)]
        rows, _ = most_promising(self._encoding, self._score(belief, self._encoding, finished), around, dice)
        rows = rows[:: max(1, len(rows) // round_trials)][:round_trials]
        process, scale, best = belief.objectives[0], belief.scales[0], belief.best or 0.0
        lowest = np.minimum(process.draws(rows, _DRAWS, dice).min(axis=1), best)
        gains = scale.untold(np.array([best])) - scale.untold(lowest)
        noise = math.sqrt(own_process(process).noise)
        ends = scale.untold(np.array([best - noise, best + noise]))
        return Outlook(float(gains.mean()), float(gains.std()), float(ends[1] - ends[0]) / 2, len(seen.rows))

    def _even(self, encoding: Encoding, turn: int, count: int) -> Floats:
        return quasi_random(encoding, turn, _COVER + count - 1, self._seed)

    def _search(
        self,
        encoding: Encoding,
        beliefs: Sequence[Belief],
        worth: Callable[[Belief], Score],
        around: Floats,
        dice: np.random.Generator,
        count: int,
        box: Box | None = None,
    ) -> Iterator[Floats]:
        """Give the most promising rows, best first; of more than one to try together, each knowing those before it.

        For each row of a small batch the space is searched anew, under the next of the `beliefs`, as if they were asked
        for one by one. Those of a large one come in lots, which share a search.
        """
        if count == 1:
            yield from most_promising(encoding, worth(beliefs[0]), around, dice, box)[0]
            return
        size = 1 if count <= _ALONE else count // _LOTS
        chosen = np.zeros((0, len(encoding.names)))
        for lot in range(2 * count // size):  # some are tried already, or alike
            belief = beliefs[lot % len(beliefs)].believing(encoding.moved_to(self._encoding, chosen))
            score = worth(belief)
            rows, scores = most_promising(encoding, score, around, dice, box, _FEW_EVEN if lot else _EVEN)
            places = [0] if np.isfinite(scores[0]) else []
            if size > 1:
                rows = np.concatenate([rows, spread_rows(encoding, around, dice, box, _FEW_EVEN)])
                rows = rows[np.unique(np.nan_to_num(rows, nan=-1.0), axis=0, return_index=True)[1]]
                places = Pool(belief, encoding.moved_to(self._encoding, rows), score(rows)).choose(size)
            if not places:
                return
            chosen = np.concatenate([chosen, rows[places]])
            yield from rows[places]

    def _global(
        self,
        encoding: Encoding,
        seen: Observed,
        trials: Sequence[Trial],
        turn: int,
        dice: np.random.Generator,
        count: int,
    ) -> Iterator[Floats]:
        """Search the whole subspace under a process fitted to the whole history, its losses scaled by turns."""
        beliefs = self._by_turns(seen, turn, count)
        around = self._encoding.moved_to(encoding, seen.rows[_best(seen, _AROUND)])
        return self._search(encoding, beliefs, lambda b: self._score(b, encoding, trials), around, dice, count)

    def _local(
        self,
        encoding: Encoding,
        seen: Observed,
        trials: Sequence[Trial],
        turn: int,
        dice: np.random.Generator,
        count: int,
    ) -> Iterator[Floats]:
        """Search a box around the incumbent under a process fitted to the trials nearest to it.

        The box widens with success and shrinks without, as TuRBO's trust region (Eriksson et al. 2019,
        arXiv:1910.01739).
        """
        center = int(_best(seen, 1)[0])
        apart = _apart(seen.rows, seen.rows[center], self._encoding)
        nearest = max(_LEAST_NEAREST, _NEAREST * seen.rows.shape[1])
        near = seen.chosen(np.sort(np.argsort(apart, kind="stable")[:nearest]))
        beliefs = self._by_turns(near, turn // 2, count)
        here = self._encoding.moved_to(encoding, seen.rows[[center]])
        half = width_of_box(self._goal, trials, len(encoding.names)) / 2
        middle = np.clip(np.where(np.isnan(here[0]), 0.5, here[0]), 0.0, 1.0)
        reach = np.maximum(half, encoding.steps)  # a grid's neighbours are always near
        box = np.clip(middle - reach, 0.0, 1.0), np.clip(middle + reach, 0.0, 1.0)
        parents = encoding.snapped(here)
        yield from self._search(
            encoding, beliefs, lambda b: self._score(b, encoding, trials), parents, dice, count, box
        )
        yield from mutants(encoding, np.repeat(parents, 64, axis=0), 2 * half, dice)

    def _score(self, belief: Belief, encoding: Encoding, trials: Sequence[Trial]) -> Score:
        """Give what rows of a subspace are worth: nothing where tried on a grid, or where a constraint is broken."""
        grid = bool((encoding.categorical | (encoding.steps > 0)).all())
        tried = {row.tobytes() for row in np.round(encoding.rows([t.params for t in trials]), 9)} if grid else set()

        def worth(rows: Floats) -> Floats:
            found = belief.worth(encoding.moved_to(self._encoding, rows))
            if tried:
                found[[row.tobytes() in tried for row in np.round(rows, 9)]] = -np.inf
            if encoding.space.constraints:
                found[[not encoding.space.allows(encoding.params(row)) for row in rows]] = -np.inf
            return found

        return worth

    def _niche(
        self, encoding: Encoding, seen: Observed, trials: Sequence[Trial], dice: np.random.Generator, count: int
    ) -> Iterator[Floats]:
        """Search where the incumbent is not, to better what is best there: another basin may be deeper in the end.

        By turns that is where one of the unordered choices has another value than the incumbent, and where the
        parameters as a whole are far from it.
        """
        belief = self._belief(seen, "power")
        row = seen.rows[_best(seen, 1)[0]]
        had = sum(of_arm(t, "niche") for t in trials)
        names, varying = self._encoding.names, {encoding.names[j] for j in np.flatnonzero(encoding.varies)}
        ways = [j for j in np.flatnonzero(self._encoding.categorical) if names[j] in varying and not np.isnan(row[j])]
        way = [*ways, None][had % (len(ways) + 1)]

        def elsewhere(rows: Floats) -> Mask:
            if way is None:
                return _apart(rows, row, self._encoding) > _FAR * math.sqrt(rows.shape[1])
            return np.asarray(rows[:, way] != row[way])

        there = elsewhere(seen.rows) & seen.feasible
        if there.any():
            told = belief.scales[0].told(seen.losses[there, 0])
            known = np.concatenate([seen.rows[there], seen.running[elsewhere(seen.running)]])
            belief = replace(belief, best=float(min(told.min(), belief.objectives[0].predict(known)[0].min())))

        def there_only(belief: Belief) -> Score:
            score = self._score(belief, encoding, trials)

            def worth(rows: Floats) -> Floats:
                found = score(rows)
                found[~elsewhere(encoding.moved_to(self._encoding, rows))] = -np.inf
                return found

            return worth

        chosen = np.flatnonzero(there)[np.argsort(seen.losses[there, 0], kind="stable")[:_AROUND]]
        around = self._encoding.moved_to(encoding, seen.rows[chosen])
        return self._search(encoding, [belief], there_only, around, dice, count)

    def _by_turns(self, seen: Observed, turn: int, count: int) -> list[Belief]:
        """Give the belief whose turn it is to scale the losses; for more than one trial, both."""
        hows: tuple[How, How] = ("log", "power") if turn % 2 else ("power", "log")
        return [self._belief(seen, how) for how in hows[: 1 if count == 1 else 2]]

    def _belief(self, seen: Observed, how: How) -> Belief:
        """Fit, or give what was fitted to the same trials: the workers of a round ask one after the other."""
        parts = seen.rows, seen.losses, seen.sds, seen.violations, seen.failed, seen.running
        key = how, *((part.shape, part.tobytes()) for part in parts)
        if key not in self._beliefs:
            references = tuple(None if o.reference is None else o.loss(o.reference) for o in self._goal.objectives)
            self._beliefs = {key: Belief.of(seen, self._encoding.categorical, self._prior, references, how)}
        return self._beliefs[key]


def width_of_box(goal: Goal, trials: Sequence[Trial], parameters: int) -> float:
    """Give the width of the local arm's box, as a share of each range, by how its trials fared so far."""
    width, gains, misses = _WIDTH, 0, 0
    patience = max(_LEAST_PATIENCE, parameters // 2)
    best: float | None = None
    for trial in sorted((t for t in trials if t.finished), key=lambda t: t.id):
        losses = goal.losses(trial)
        loss = losses[0] if losses is not None and goal.feasible(trial) else None
        better = loss is not None and (best is None or loss < best - _ALIKE * abs(best))
        if of_arm(trial, "local"):
            gains, misses = (gains + 1, 0) if better else (0, misses + 1)
            if gains == _GAINS:
                width, gains = min(_MOST_WIDTH, 2 * width), 0
            elif misses == patience:
                width, misses = width / 2, 0
            if width < _LEAST_WIDTH:
                width = _WIDTH
        if loss is not None and (best is None or loss < best):
            best = loss
    return width


def _best(seen: Observed, count: int) -> NDArray[np.intp]:
    """Give the best rows: feasible ones by loss (of several objectives by turns), then those that break least."""
    ranks = np.argsort(np.argsort(seen.losses, axis=0, kind="stable"), axis=0, kind="stable").min(axis=1)
    broken = np.where(np.isnan(seen.violations), np.inf, np.maximum(seen.violations, 0.0)).sum(axis=1)
    return np.lexsort((ranks, seen.sds > 0, broken))[:count]


def _apart(rows: Floats, row: Floats, encoding: Encoding) -> Floats:
    apart = np.where(encoding.categorical, 0.3 * (rows != row), np.abs(rows - row))
    apart = np.where(np.isnan(rows) & np.isnan(row), 0.0, np.where(np.isnan(apart), 0.5, apart))
    found: Floats = np.sqrt((apart**2).sum(axis=1))
    return found
