"""What a decision is told of several objectives: what a value means then, the front, its knee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentic_hpt.coordinator.evidence.shortening import cut, short
from agentic_hpt.fronts import FrontPoint, frame_of, front_of, hypervolume_of
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject

_POINTS = 20
_NAME = 40


def told_front(situation: Situation) -> JsonObject:
    """Give the objectives with the reference point, and at most 20 points of the front: the knee, and a spread."""
    goal = situation.goal.merges or situation.goal
    points = front_of(goal, situation.trials)
    reference = frame_of(goal, situation.trials) or {}
    shown = _spread(points)
    return {
        "objectives": [
            {
                "metric": cut(o.metric, _NAME),
                "direction": o.direction,
                "target": o.target,
                "reference": short(reference.get(o.metric)),
            }
            for o in goal.objectives
        ],
        "hypervolume": short(hypervolume_of(goal, situation.trials)),
        "size": len(points),
        "columns": ["trial", *(cut(o.metric, _NAME) for o in goal.objectives), "runs", "standing"],
        "rows": [[p.trial.id, *(short(v) for v in p.values.values()), p.runs, _standing(p)] for p in shown],
    }


def front_sentences(situation: Situation) -> Iterator[str]:
    """Say what the figures mean, how far the front is, and where its knee lies; nothing with one objective."""
    goal = situation.goal.merges
    if goal is None:
        return
    wanted = ", ".join(f"{o.direction} {cut(o.metric, _NAME)}" for o in goal.objectives)
    yield (
        f"Several objectives: {wanted}. A trial's value is the share of the box up to the reference point that it "
        "covers alone; gains are of the front's hypervolume."
    )
    points = front_of(goal, situation.trials)
    knee = next((p for p in points if p.knee), None)
    if knee is not None:
        volume = hypervolume_of(goal, situation.trials)
        yield f"The front has {len(points)} points, hypervolume {volume:.4g}; its knee: {values_text(knee.values)}."


def values_text(values: Mapping[str, float]) -> str:
    """Give values by metric on one line."""
    return ", ".join(f"{cut(metric, _NAME)} {value:.5g}" for metric, value in values.items())


def _standing(point: FrontPoint) -> str:
    return "knee" if point.knee else "within noise" if point.within_noise else "front"


def _spread(points: tuple[FrontPoint, ...]) -> list[FrontPoint]:
    if len(points) <= _POINTS:
        return list(points)
    chosen = {i * (len(points) - 1) // (_POINTS - 2) for i in range(_POINTS - 1)}
    return [p for place, p in enumerate(points) if p.knee or place in chosen]
