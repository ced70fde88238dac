"""What an uplift's runs say: regret by budget, paired differences with intervals, false wins, and one plain sentence.

Pure. A difference is taken within a seed, since two arms of one seed share the default and its luck; the seeds are what
is resampled (a percentile bootstrap, expanded for few seeds as Hesterberg does: doi 10.1080/00031305.2015.1089789).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from agentic_hpt.records import Goal, JsonObject, Trial

Arm = Literal["model", "rules", "shuffled"]
Verdict = Literal["worth it", "not shown", "harmful"]

ARMS: tuple[Arm, ...] = ("model", "rules", "shuffled")
SHARES = (0.1, 0.25, 0.5, 1.0)
"""The parts of the budget after which regret is looked at."""
ENOUGH_SEEDS = 5
"""With fewer seeds nothing is claimed, whatever the intervals say."""
ANYTIME = "anytime"
"""Regret averaged over the whole budget."""
FRESH = "fresh seeds"
"""Regret of the winner's mean on fresh seeds: the figure that luck can't flatter."""
RULE = (
    f"Rule: worth it if, over {ENOUGH_SEEDS} seeds or more, the 95 % interval of the paired difference in regret "
    "over the budget between model and rules lies below 0, and at the whole budget and on fresh seeds it does not "
    "lie above 0; harmful if one of the three lies above 0; not shown otherwise, and wherever the model's study has "
    "no result in a seed in which the rules' has one."
)
_RESAMPLES = 10_000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One study of one arm and seed. Values are the metric's; `None` where there was none."""

    arm: Arm
    seed: int
    study: str
    curve: tuple[float | None, ...]
    """The best value so far after each trial of the search, in their order."""
    default: float | None
    best: float | None
    """The winner's figure in the search."""
    fresh: float | None
    """The winner's mean on fresh seeds, their SD, and how many there were."""
    fresh_sd: float | None
    fresh_seeds: int
    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    fallbacks: int = 0
    asked: int = 0
    """Decisions for which the model was asked."""
    seconds: float = 0.0
    trials: int = 0


@dataclass(frozen=True, slots=True)
class Baseline:
    """The default configuration on fresh seeds, for one seed of the uplift."""

    seed: int
    mean: float | None
    sd: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % interval; without bounds when there is one seed only."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def below(self) -> bool:
        """Whether all of it lies below 0."""
        return self.high is not None and self.high < 0

    @property
    def above(self) -> bool:
        """Whether all of it lies above 0."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True, slots=True)
class Wins:
    """How often an arm's winner beat the default in the search, and how often fresh seeds did not confirm it."""

    declared: int
    tested: int
    """Those of the declared ones that could be tested on fresh seeds."""
    false: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole of an uplift in figures. Regret is how much worse than the best known value, so less is better."""

    goal: Goal
    budget: int
    seeds: int
    best_known: float | None
    regret: Mapping[str, Mapping[Arm, Interval]]
    """By point of the budget (its number of trials as text), then `anytime` and `fresh seeds`."""
    against: Mapping[str, Mapping[Arm, Interval]]
    """The paired differences of the model's regret and another arm's, by the same points."""
    wins: Mapping[Arm, Wins]
    costs: Mapping[Arm, Mapping[str, float]]
    verdict: Verdict
    sentence: str

    def to_json(self) -> JsonObject:
        """Give the comparison as plain data."""
        return {**asdict(self), "rule": RULE}


def best_so_far(goal: Goal, trials: Sequence[Trial]) -> tuple[float | None, ...]:
    """Give the best value after each trial of the search, in the order in which they were started.

    A repeat finds nothing: what it has beyond the run that it repeats is luck.
    """
    found: list[float | None] = []
    best: float | None = None
    for trial in sorted((t for t in trials if t.counted), key=lambda t: t.id):
        value = goal.figure(trial)
        if value is not None and trial.kind != "repeat" and (best is None or goal.better(value, best)):
            best = value
        found.append(best)
    return tuple(found)


def compare(goal: Goal, budget: int, runs: Sequence[ArmRun], baselines: Sequence[Baseline]) -> Comparison:
    """Compare the arms. A seed in which an arm found nothing is left out of the points that need it."""
    seeds = sorted({run.seed for run in runs})
    held = {(run.arm, run.seed): run for run in runs}
    values = [v for run in runs for v in run.curve if v is not None]
    known = _best(goal, values)
    known_fresh = _best(goal, [run.fresh for run in runs if run.fresh is not None])
    points: dict[str, Callable[[ArmRun], float | None]] = {}
    for share in SHARES:
        after = max(1, math.ceil(share * budget))
        points[str(after)] = lambda run, after=after: _regret(goal, known, _at(run, after))  # type: ignore[misc]
    points[ANYTIME] = lambda run: _anytime(goal, known, run, budget)
    points[FRESH] = lambda run: _regret(goal, known_fresh, run.fresh)
    regret: dict[str, dict[Arm, Interval]] = {}
    against: dict[str, dict[Arm, Interval]] = {}
    lost: set[int] = set()
    for name, point in points.items():
        found = {key: r for key, run in held.items() if (r := point(run)) is not None}
        regret[name] = {arm: i for arm in ARMS if (i := interval([found[k] for k in sorted(found) if k[0] == arm]))}
        against[name] = {}
        lost |= {s for s in seeds if ("rules", s) in found and ("model", s) in held and ("model", s) not in found}
        for other in ARMS[1:]:
            pairs = [s for s in seeds if ("model", s) in found and (other, s) in found]
            difference = interval([found["model", s] - found[other, s] for s in pairs])
            if difference is not None:
                against[name][other] = difference
    noise = pooled_sd([(r.fresh_sd, r.fresh_seeds) for r in runs] + [(b.sd, b.seeds) for b in baselines])
    base = {b.seed: b for b in baselines}
    wins = {arm: _wins(goal, [r for r in runs if r.arm == arm], base, noise) for arm in ARMS}
    costs = {arm: _costs([r for r in runs if r.arm == arm]) for arm in ARMS}
    verdict = judge(against, len(seeds), str(max(1, budget)), len(lost))
    sentence = _sentence(verdict, against, len(seeds), str(max(1, budget)), costs["model"], len(lost))
    return Comparison(goal, budget, len(seeds), known, regret, against, wins, costs, verdict, sentence)


def interval(values: Sequence[float]) -> Interval | None:
    """Give the mean of `values`, one a seed, with its 95 % interval; `None` when there are none. Same in, same out."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, None, None, 1)
    if len(set(values)) == 1:
        return Interval(values[0], values[0], values[0], len(values))
    import numpy as np

    tail = _tail(len(values))
    dice = np.random.default_rng(0)
    means = np.asarray(values)[dice.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), len(values))


def pooled_sd(spreads: Sequence[tuple[float | None, int]]) -> float | None:
    """Pool SDs, each of so many values; `None` when no spread was measured."""
    known = [(sd, count - 1) for sd, count in spreads if sd is not None and count > 1]
    freedom = sum(free for _, free in known)
    return math.sqrt(sum(sd * sd * free for sd, free in known) / freedom) if freedom else None


def judge(against: Mapping[str, Mapping[Arm, Interval]], seeds: int, whole: str, lost: int = 0) -> Verdict:
    """Apply `RULE`; `whole` names the point at which the budget is spent.

    `lost` counts the seeds in which the model's study has no result though the rules' has one: they are in no pair, so
    that the pairs speak for the model.
    """
    differences = [against.get(name, {}).get("rules") for name in (ANYTIME, whole, FRESH)]
    if seeds < ENOUGH_SEEDS or any(d is not None and d.seeds < ENOUGH_SEEDS for d in differences):
        return "not shown"
    if any(d is not None and d.above for d in differences):
        return "harmful"
    return "worth it" if not lost and differences[0] is not None and differences[0].below else "not shown"


def _sentence(
    verdict: Verdict,
    against: Mapping[str, Mapping[Arm, Interval]],
    seeds: int,
    whole: str,
    cost: Mapping[str, float],
    lost: int,
) -> str:
    versus = against[ANYTIME].get("rules")
    if versus is None:
        return "Not shown: no seed has a result of both the model and the rules."
    if verdict == "worth it":
        said = f"Worth it: over the budget the model was ahead of the rules by {-versus.mean:.3g} on average."
    elif verdict == "harmful":
        names = {ANYTIME: "over the budget", whole: "when the budget was spent", FRESH: "on fresh seeds"}
        behind = [f"{names[n]} by {d.mean:.3g}" for n in names if (d := against[n].get("rules")) and d.above]
        said = f"Harmful: the model was behind the rules {', '.join(behind)} on average."
    elif seeds < ENOUGH_SEEDS:
        said = f"Not shown: {seeds} seed{'' if seeds == 1 else 's'} can't show it, take {ENOUGH_SEEDS} or more."
    elif lost:
        said = f"Not shown: in {lost} of {seeds} seeds the model's study has no result where the rules' has one."
    elif (both := min(d["rules"].seeds for d in against.values() if "rules" in d)) < ENOUGH_SEEDS:
        said = f"Not shown: in {both} of {seeds} seeds both have a result, {ENOUGH_SEEDS} or more are needed."
    else:
        said = "Not shown: between the model and the rules lies no more than chance explains."
    if verdict == "worth it" and "rules" not in against[FRESH]:
        said += " No winner was run on fresh seeds, so how much of the lead is luck is not known."
    control = against[ANYTIME].get("shuffled")
    learnt = control is not None and control.seeds >= ENOUGH_SEEDS and control.below
    if verdict == "worth it" and not learnt:
        said += (
            " It was not shown to do better than when it was fed shuffled outcomes: what it brought may be what it knew"
            " beforehand, without learning from them."
        )
    elif verdict != "worth it" and seeds >= ENOUGH_SEEDS and control is not None and not learnt:
        said += " Nor was it shown to do better than when it was fed shuffled outcomes."
    asked, failed = int(cost["asked"]), int(cost["fallbacks"])
    if failed:
        said += f" In {failed} of the {asked} decisions for which it was asked the model failed and the rules stood in."
    return said


def _wins(goal: Goal, runs: Sequence[ArmRun], base: Mapping[int, Baseline], noise: float | None) -> Wins:
    declared = tested = false = 0
    for run in runs:
        if run.best is None or run.default is None or not goal.better(run.best, run.default):
            continue
        declared += 1
        default = base.get(run.seed)
        if run.fresh is None or default is None or default.mean is None:
            continue
        tested += 1
        gain = run.fresh - default.mean if goal.direction == "maximize" else default.mean - run.fresh
        error = 0.0 if noise is None else noise * math.sqrt(1 / run.fresh_seeds + 1 / default.seeds)
        false += gain <= 2 * error
    return Wins(declared, tested, false)


def _costs(runs: Sequence[ArmRun]) -> dict[str, float]:
    names = ("calls", "tokens", "dollars", "asked", "fallbacks", "trials", "seconds")
    return {name: sum(getattr(run, name) for run in runs) for name in names}


def _best(goal: Goal, values: Sequence[float]) -> float | None:
    return (max if goal.direction == "maximize" else min)(values) if values else None


def _regret(goal: Goal, known: float | None, value: float | None) -> float | None:
    if known is None or value is None:
        return None
    return known - value if goal.direction == "maximize" else value - known


def _at(run: ArmRun, trials: int) -> float | None:
    """Give the best value after so many trials; a search that ended before stays where it ended."""
    return run.curve[min(trials, len(run.curve)) - 1] if run.curve else None


def _anytime(goal: Goal, known: float | None, run: ArmRun, budget: int) -> float | None:
    """Average the regret over the budget, from the first trial with a value on."""
    found = [r for n in range(1, budget + 1) if (r := _regret(goal, known, _at(run, n))) is not None]
    return statistics.fmean(found) if found else None


def _tail(count: int) -> float:
    """Give the share of resampled means beyond each end: narrower than 2.5 % when there are few seeds.

    Student's quantile comes from the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).
    """
    normal = statistics.NormalDist()
    z, free = normal.inv_cdf((1 + _LEVEL) / 2), count - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    return normal.cdf(-math.sqrt(count / free) * t)
