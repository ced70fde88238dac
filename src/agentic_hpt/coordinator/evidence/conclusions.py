"""What follows from the evidence, in plain sentences: small models follow conclusions better than figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from agentic_hpt.coordinator.credit import ModelScore
from agentic_hpt.coordinator.evidence.contrasts import AtBound, Contrast, SharedRegion
from agentic_hpt.coordinator.evidence.shortening import cut, share, short
from agentic_hpt.coordinator.evidence.told_constraints import constraint_sentences
from agentic_hpt.coordinator.evidence.told_front import front_sentences
from agentic_hpt.coordinator.evidence.told_outlook import outlook_sentences
from agentic_hpt.coordinator.statistics import Affordable, Cost, Noise, least_gain
from agentic_hpt.coordinator.termination import Prospect
from agentic_hpt.coordinator.undo import Effect
from agentic_hpt.past import Yield
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Range, Trial
from agentic_hpt.steering import Steering

_SENTENCES = 16
_SENTENCE = 240
_A_KIND = 3
"""So many sentences of one kind (bounds, failures, contrasts, effects) at most."""
_LEAST_SECONDS = 1.0
"""What a shorter trial takes is worth a sentence only where time is short."""
_LITTLE = 0.1
_FEW = 5
_COVERAGE = 0.8
_COVERED_TOO_SELDOM = 0.6


@dataclass(frozen=True, slots=True)
class Findings:
    """What was computed from a situation, once."""

    situation: Situation
    steering: Steering
    forced: tuple[str, str] | None
    plateau: tuple[int, int]
    best: Trial | None
    noise: Noise | None
    prospect: Prospect | None
    since_gain: int
    contrasts: tuple[Contrast, ...]
    bounds: tuple[AtBound, ...]
    failures: Mapping[str, tuple[SharedRegion, ...]]
    failed: Mapping[str, int]
    kinds: tuple[Yield, ...]
    score: ModelScore
    effects: tuple[Effect, ...]
    cost: Cost | None
    affordable: Affordable


def conclusions(found: Findings) -> tuple[str, ...]:
    """Give at most 16 sentences, what matters most first."""
    return tuple(cut(sentence, _SENTENCE) for sentence in islice(_sentences(found), _SENTENCES))


def _sentences(found: Findings) -> Iterator[str]:
    yield from _standing(found)
    yield from constraint_sentences(found.situation, found.best)
    yield from front_sentences(found.situation)
    yield from _noise(found)
    yield from _cost(found)
    yield from _importance(found)
    explained = sorted(found.failures.items(), key=lambda entry: (not entry[1], -found.failed[entry[0]], entry[0]))
    for kind, regions in explained[:_A_KIND]:
        yield from _failures(kind, found.failed[kind], regions)
    yield from islice((_bound(b) for b in found.bounds), _A_KIND)
    yield from islice((_contrast(c) for c in found.contrasts if c.differs), _A_KIND)
    yield from islice(_effects(found.effects), _A_KIND)
    yield from _arms(found)
    yield from _model(found.score)


def _standing(found: Findings) -> Iterator[str]:
    goal, best = found.situation.goal, found.best
    if found.forced is not None:
        yield f"The search is over: {found.forced[1]}."
    if best is None:
        if not any(goal.value(t) is not None for t in found.situation.trials):
            yield "No trial is complete yet."
        return
    mean = found.situation.past.estimates().get(best.id)
    value = cast(float, goal.value(best)) if mean is None else mean
    what = goal.metric if mean is None else f"mean {goal.metric} of its runs"
    how = f"round {best.round}, worker {cut(best.worker, 40)}"
    yield f"Trial {best.id} is the best so far: {what} {value:.5g} ({how})."
    since, needed = found.plateau
    if found.since_gain >= needed:
        yield f"This is a plateau: {found.since_gain} trials without a gain beyond noise."
    elif found.since_gain >= needed / 2:
        yield f"Gains have become rare: {found.since_gain} trials without one beyond noise; {needed} are a plateau."
    elif since == 0:
        yield "The newest trial is the best one: the search still climbs."


def _noise(found: Findings) -> Iterator[str]:
    if found.best is None:
        return
    noise = found.noise
    if noise is None:
        yield "Noise was not measured: to repeat the best trial would tell luck from merit."
    elif noise.source == "neighbours":
        yield f"Nothing was repeated; by neighbouring trials, seeds move the figure by at most {noise.sd:.3g} (SD)."
    elif noise.sd == 0:
        yield "Repeated trials gave the same value: no noise was seen, so any gain counts."
    else:
        yield f"Only a gain above {least_gain(noise.sd):.3g} is more than noise (SD over seeds {noise.sd:.3g})."
    yield from outlook_sentences(found.situation, found.prospect)


def _cost(found: Findings) -> Iterator[str]:
    spent, more, situation = found.cost, found.affordable, found.situation
    if spent is None or (spent.median < _LEAST_SECONDS and not more.by_time):
        return
    said = [f"a trial takes about {float(f'{spent.median:.2g}'):g} s"]
    if spent.driver is not None:
        said.append(f"{cut(spent.driver, 60)} drives it (rank correlation {spent.correlation:.1f})")
    if more.by_time and situation.budget.minutes is not None:
        left = max(0.0, situation.budget.minutes - situation.usage.seconds / 60)
        said.append(f"about {more.trials} more trials fit the {left:.3g} minutes left")
    yield f"{said[0].capitalize()}{''.join('; ' + part for part in said[1:])}."


def _importance(found: Findings) -> Iterator[str]:
    insights, space = found.situation.insights, found.situation.space
    free = [name for name in insights.importance if name in space and name not in found.steering.frozen]
    ranked = sorted(free, key=lambda name: -insights.importance[name])
    if ranked:
        told = (f"{n} ({share(insights.importance[n], insights.importance_sd.get(n, 0.0))})" for n in ranked[:3])
        yield f"What matters most: {', '.join(told)}."
        telling = {c.parameter for c in found.contrasts if c.differs}
        telling.update(parent for name in space for parent in space[name].when)  # it acts through what hangs on it
        little = [n for n in ranked[::-1] if insights.importance[n] < _LITTLE / len(space) and n not in telling]
        if little and len(ranked) > len(little):
            yield f"What hardly matters: {', '.join(little[:_A_KIND])}; trials spent there bring little."
    for pair in insights.interactions[:2]:
        strength = share(pair.strength, pair.sd)
        yield f"{pair.a} and {pair.b} interact (strength {strength}): tune them together, not one at a time."


def _failures(kind: str, count: int, regions: tuple[SharedRegion, ...]) -> Iterator[str]:
    if not regions:
        if count >= _FEW and kind not in ("lost_worker", "cancelled"):
            yield f"{count} trials failed by {kind}; no range of a parameter explains them."
        return
    region = regions[0]
    yield (
        f"{region.failures:.0%} of {count} failures by {kind} have {region.parameter} {_range(region.range)}, where "
        f"{region.successes:.0%} of the complete trials lie: keep away from there."
    )


def _bound(bound: AtBound) -> str:
    who = "the best trial and the best fifth lie" if bound.incumbent and bound.top else "the best trial lies"
    if not bound.incumbent:
        who = "the best fifth lies"
    side = "lower" if bound.side == "low" else "upper"
    what = "it can be widened" if bound.bound == "narrowed" else "it can't be widened"
    return f"{bound.parameter}: {who} on its {bound.bound} {side} bound, {short(bound.value)}; {what}."


def _contrast(contrast: Contrast) -> str:
    top, rest = contrast.top, contrast.rest
    if isinstance(top[0], tuple) and isinstance(rest[0], tuple):
        return f"{contrast.parameter}: {short(top[0][0])} prevails in the best fifth ({top[0][1]:.0%} of it)."
    return (
        f"{contrast.parameter}: the best fifth lies around {short(top[1])} ({short(top[0])} to {short(top[2])}), "
        f"the rest around {short(rest[1])}."
    )


def _effects(effects: Sequence[Effect]) -> Iterator[str]:
    """Tell the latest broken promise of each type and parameter."""
    told = set()
    for effect in effects[::-1]:
        if effect.status in ("missing", "reversed") and (effect.type, effect.parameter) not in told:
            told.add((effect.type, effect.parameter))
            yield _effect(effect)


def _effect(effect: Effect) -> str:
    gain = "nothing" if effect.gain is None or effect.gain <= 0 else f"{effect.gain:.3g}"
    about = f" of {cut(effect.parameter, 60)}" if effect.parameter else ""
    end = "; it was taken back" if effect.status == "reversed" else ""
    promised = f"promised {effect.stated:.3g} and " if effect.stated else ""
    return f"The {effect.type}{about} after round {effect.round} {promised}brought {gain}{end}."


def _arms(found: Findings) -> Iterator[str]:
    queued = ("default", "initial", "imported", "repeat", "promotion")
    arms = [y for y in found.kinds if y.trials >= _FEW and y.name not in queued]
    if len(arms) < 2:
        return
    pays = max(arms, key=lambda y: (y.gain_per_trial, y.percentile or 0.0, y.name))
    if pays.gain_per_trial > 0:
        yield f"Of the kinds of workers, {pays.name} brought the largest gain a trial ({pays.gain_per_trial:.3g})."


def _model(score: ModelScore) -> Iterator[str]:
    if not score.proposals:
        return
    stand = "no better than" if (score.percentile or 0.0) <= 0.5 else "better than"
    yield (
        f"Of your {score.proposals} proposals {score.wins} beat all others; on the whole they were {stand} the "
        "sampler's trials of the same rounds."
    )
    if score.intervals >= _A_KIND and score.coverage is not None and score.coverage < _COVERED_TOO_SELDOM:
        yield f"Your intervals held {score.coverage:.0%} of the values, {_COVERAGE:.0%} is right: state wider ones."


def _range(range_: Range) -> str:
    if "values" in range_:
        values = cast(list[object], range_["values"])
        return "in " + ", ".join(str(short(v)) for v in values[:6]) + ("" if len(values) <= 6 else ", ...")
    if range_["low"] == range_["high"]:
        return f"at {short(range_['low'])}"
    return f"from {short(range_['low'])} to {short(range_['high'])}"
