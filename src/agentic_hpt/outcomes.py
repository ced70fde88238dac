"""What the outcome constraints say of a study: how many trials satisfy each, and how surely one configuration does.

Near the border a single run tells little: the probability is that of one more run, on a fresh seed, under a normal
model. Its mean is that of the configuration's runs, its SD the one over seeds of what the constraint compares, pooled
over all configurations that ran more than once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentic_hpt.records import (
    ConfigurationKey,
    Goal,
    JsonObject,
    OutcomeConstraint,
    Params,
    Trial,
    TrialState,
    configuration_key,
)

__all__ = ["Standing", "breaks", "constrained", "nearest", "on_fresh_seeds", "standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a study and one of its configurations stand to one outcome constraint."""

    text: str
    measured: int
    """Complete trials of the search that measured it."""
    satisfied: int
    value: float | None = None
    """The metric's mean over the configuration's runs; `None` where several metrics are compared, or it has none."""
    margin: float | None = None
    """The mean of what its runs break; at most 0 where they satisfy it."""
    runs: int = 0
    probability: float | None = None
    """That one more run satisfies it; `None` while no configuration ran twice."""

    @property
    def holds(self) -> bool | None:
        """Whether the configuration satisfies it by the mean of its runs; `None` where it was not measured."""
        return None if self.margin is None else self.margin <= 0

    def to_json(self) -> JsonObject:
        """Give it as `hpt best --json` shows it."""
        return {
            "text": self.text,
            "value": self.value,
            "satisfied": self.holds,
            "probability": self.probability,
            "margin": self.margin,
            "trials_satisfied": self.satisfied,
            "trials_measured": self.measured,
        }


def standings(goal: Goal, trials: Sequence[Trial], params: Params | None = None) -> tuple[Standing, ...]:
    """Say for each outcome constraint how the trials stand to it, and how the configuration `params` does.

    Repeats and runs on fresh seeds that are among `trials` count as runs of their configuration.
    """
    if not goal.constraints:
        return ()
    done = [t for t in trials if t.state is TrialState.COMPLETE and t.kind != "holdout"]
    groups = _runs(done, params)
    mine = groups.get(configuration_key(params), []) if params is not None else []
    return tuple(_standing(constraint, done, groups.values(), mine) for constraint in goal.constraints)


def on_fresh_seeds(goal: Goal, fresh: Sequence[Trial]) -> tuple[JsonObject, ...]:
    """Say how the runs of one configuration on fresh seeds, by which nothing was chosen, stand to each constraint."""
    known = standings(goal, fresh, fresh[0].params if fresh else None)
    return tuple({"text": s.text, "value": s.value, "satisfied": s.holds, "margin": s.margin} for s in known)


def nearest(goal: Goal, trials: Iterable[Trial]) -> Trial | None:
    """Give the complete trial that breaks the outcome constraints least: the best one where some satisfy them."""
    return next(iter(goal.ranked(trials)), None)


def constrained(goal: Goal, trials: Sequence[Trial], best: Trial | None) -> JsonObject:
    """Give `constraints`, how the best trial stands to each, and where there is none `nearest`: of what it is told."""
    shown = best if best is not None else nearest(goal, (t for t in trials if t.counted))
    told = [s.to_json() for s in standings(goal, trials, shown.params if shown is not None else None)]
    if best is not None or shown is None:
        return {"constraints": told}
    closest = {"trial": shown.id, "params": dict(shown.params), "values": dict(shown.values)}
    return {"constraints": told, "nearest": closest}


def breaks(goal: Goal, trial: Trial) -> list[str]:
    """Say in words which outcome constraints a complete trial breaks, and by how much."""
    told = []
    for constraint in goal.constraints:
        margin = constraint.margin(trial)
        if margin is None:
            told.append(f"{constraint.text}: not measured")
        elif margin > 0:
            told.append(f"{constraint.text}: broken{f' by {margin:.4g}' if margin < math.inf else ''}")
    return told


def _runs(done: Sequence[Trial], params: Params | None) -> dict[ConfigurationKey, list[Trial]]:
    """Group the runs of the configurations that may have run more than once, and of `params`."""
    wanted = [t.params for t in done if t.kind in ("repeat", "fresh_seed")]
    keys = {configuration_key(p) for p in (*wanted, *([] if params is None else [params]))}
    groups: dict[ConfigurationKey, list[Trial]] = {}
    for trial in done if keys else ():
        key = configuration_key(trial.params)
        if key in keys:
            groups.setdefault(key, []).append(trial)
    return groups


def _standing(
    constraint: OutcomeConstraint, done: Sequence[Trial], groups: Iterable[Sequence[Trial]], mine: Sequence[Trial]
) -> Standing:
    searched = [m for t in done if t.counted and (m := constraint.margin(t)) is not None]
    own = [m for t in mine if (m := constraint.margin(t)) is not None]
    values = [t.values[constraint.metrics[0]] for t in mine if constraint.metrics[0] in t.values]
    margin = statistics.fmean(own) if own else None
    return Standing(
        text=constraint.text,
        measured=len(searched),
        satisfied=sum(m <= 0 for m in searched),
        value=statistics.fmean(values) if values and len(constraint.metrics) == 1 else None,
        margin=margin,
        runs=len(own),
        probability=None if margin is None else _probability(margin, len(own), _noise(constraint, groups)),
    )


def _noise(constraint: OutcomeConstraint, groups: Iterable[Sequence[Trial]]) -> float | None:
    """Give the SD over seeds of what a constraint compares, pooled; `None` when nothing ran twice."""
    known = [[m for t in group if (m := constraint.margin(t)) is not None and m < math.inf] for group in groups]
    repeated = [margins for margins in known if len(margins) > 1]
    freedom = sum(len(margins) - 1 for margins in repeated)
    if not freedom:
        return None
    return math.sqrt(math.fsum((len(m) - 1) * statistics.variance(m) for m in repeated) / freedom)


def _probability(margin: float, runs: int, sd: float | None) -> float | None:
    """Give the probability that one more run breaks nothing: the mean of `runs` runs is `margin`."""
    if sd is None:
        return None
    if sd == 0 or math.isinf(margin):
        return float(margin <= 0)
    return 0.5 * (1 + math.erf(-margin / (sd * math.sqrt(1 + 1 / runs)) / math.sqrt(2)))
