"""Several objectives, told: what was wanted, the figures of a trial, the Pareto front and its knee."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agentic_hpt.fronts import frame_of, front_of, hypervolume_of, meeting
from agentic_hpt.records import Goal, Trial
from agentic_hpt.report.plain import counted, number, visible

__all__ = ["figures_of", "front_sentences", "heading", "values_text", "volume_words", "wanted"]


def wanted(goal: Goal) -> str:
    """Write what is optimized: `maximize accuracy and minimize latency`."""
    return " and ".join(f"{o.direction} {visible(o.metric)}" for o in goal.objectives)


def heading(goal: Goal) -> str:
    """Name the metrics, for the head of a column."""
    return ", ".join(visible(o.metric) for o in goal.objectives)


def figures_of(goal: Goal, trial: Trial) -> str:
    """Write a trial's objectives, without their names."""
    values = [trial.values.get(o.metric) if goal.value(trial) is not None else None for o in goal.objectives]
    return ", ".join(number(value) for value in values)


def values_text(values: Mapping[str, float]) -> str:
    """Write values with their metrics."""
    return ", ".join(f"{visible(metric)} {number(value)}" for metric, value in values.items())


def volume_words(goal: Goal, trials: Iterable[Trial]) -> str:
    """Say what the figure is that tells how far a search for several objectives was; empty with one objective."""
    reference = frame_of(goal, trials) if goal.several else None
    if reference is None:
        return ""
    return (
        "The hypervolume of the front, larger is better: its share of the box that ends at the reference point, "
        f"{values_text(reference)}."
    )


def front_sentences(goal: Goal, trials: Iterable[Trial]) -> Iterator[str]:
    """Say what the front and its knee are, and whether the targets were met; nothing with one objective."""
    if not goal.several:
        return
    trials = list(trials)
    points, reference = front_of(goal, trials), frame_of(goal, trials)
    knee = next((p for p in points if p.knee), None)
    if knee is None or reference is None:
        yield "No configuration stands on the Pareto front yet."
        return
    doubtful = sum(p.within_noise for p in points)
    open_ = f", {doubtful} of them only as far as the noise leaves open" if doubtful else ""
    volume = number(hypervolume_of(goal, trials), 4)
    yield (
        f"The Pareto front has {counted(len(points), 'configuration')}{open_}; its hypervolume is {volume} of the box "
        f"that ends at the reference point, {values_text(reference)}."
    )
    runs = f", the means of {knee.runs} runs" if knee.runs > 1 else ""
    yield f"Its knee, the configuration that is suggested, is trial {knee.trial.id}: {values_text(knee.values)}{runs}."
    targets = [o for o in goal.objectives if o.target is not None]
    if targets:
        signs = {"maximize": "≥", "minimize": "≤"}
        asked = " and ".join(f"{visible(o.metric)} {signs[o.direction]} {number(o.target)}" for o in targets)
        met = meeting(goal, trials)
        by = "were not met by one configuration" if met is None else f"were met at once, by trial {met.trial.id}"
        yield f"The targets, {asked}, {by}."
