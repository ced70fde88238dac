"""Putting the evidence together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.coordinator.credit import ModelScore, model_score
from agentic_hpt.coordinator.evidence.conclusions import Findings, conclusions
from agentic_hpt.coordinator.evidence.contrasts import (
    AtBound,
    Contrast,
    SharedRegion,
    at_bounds,
    contrasts,
    shared_regions,
    top_fifth,
)
from agentic_hpt.coordinator.evidence.history import curves, select_trials, table
from agentic_hpt.coordinator.evidence.shortening import cut, listed, short, shortened, told_space
from agentic_hpt.coordinator.evidence.told_constraints import told_constraints
from agentic_hpt.coordinator.evidence.told_decisions import told_decisions, told_effects, told_notes
from agentic_hpt.coordinator.evidence.told_front import told_front
from agentic_hpt.coordinator.evidence.told_outlook import told_outlook
from agentic_hpt.coordinator.evidence.told_stopping import told_stopping
from agentic_hpt.coordinator.guards import must_finalize, plateau
from agentic_hpt.coordinator.statistics import (
    Affordable,
    Cost,
    Noise,
    affordable,
    cost,
    least_gain,
    noise_in,
)
from agentic_hpt.coordinator.termination import prospect
from agentic_hpt.coordinator.undo import effects, incumbent
from agentic_hpt.past import Yield
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject, Trial
from agentic_hpt.steering import Steering

_ROUNDS = 12
_WORKERS = 12
_KINDS = 12
_DECLARED = 40
"""So many parameters are declared in the evidence, so many are columns of the table, the most important ones."""
_COLUMNS = 10
_CONTRASTS = 10
_INTERACTIONS = 5
_REGIONS = 3
_DESCRIPTION = 800
_FACTS = 30
_FACT = 200
_NAME = 40


def build_evidence(situation: Situation) -> JsonObject:
    """Give the evidence as plain data, the conclusions first.

    Its size is bounded: at most 60 trials, 12 rounds, 12 workers, 6 decisions, 10 notes, and the 40 most important
    parameters, 10 of them in the table; what is left out is counted. The trials' order plays no part.
    """
    situation = _in_order(situation)
    goal, space, steering, past = situation.goal, situation.space, situation.steering, situation.past
    trials, complete = past.finished, past.complete
    importance = situation.insights.importance
    names = sorted(space.names, key=lambda name: -importance.get(name, 0.0))
    free = list(steering.free(names))
    best = incumbent(situation)
    top, rest = top_fifth(past.ranked())
    noise = noise_in(past, situation.insights)
    sd = noise.sd if noise is not None and noise.source == "repeats" else None
    found = Findings(
        situation=situation,
        steering=steering,
        forced=must_finalize(situation),
        plateau=plateau(situation),
        best=best,
        noise=noise,
        prospect=prospect(situation),
        since_gain=past.since_gain(least_gain(sd)),
        contrasts=tuple(contrasts(space, free[:_CONTRASTS], top, rest)),
        bounds=tuple(at_bounds(space, free[:_DECLARED], steering.region, best, top)),
        failures={
            kind: tuple(shared_regions(space, names[:_DECLARED], past.failed[kind], complete)[:_REGIONS])
            for kind in sorted(past.failed)
        },
        failed={kind: len(group) for kind, group in sorted(past.failed.items())},
        kinds=tuple(past.yields("kind")),
        score=model_score(situation),
        cost=cost(space, past),
        affordable=affordable(situation.budget, situation.usage, situation.slots, past),
        effects=effects(situation),
    )
    workers = past.yields("worker")
    shown = names[:_DECLARED]
    evidence: JsonObject = {
        "conclusions": list(conclusions(found)),
        "study": cut(situation.study, 100),
        "description": cut(situation.description, _DESCRIPTION),
        "job": {cut(name, _NAME): short(fact, _FACT) for name, fact in list(situation.job.items())[:_FACTS]},
        "source": situation.source,
        "goal": {"metric": cut(goal.metric, 100), "direction": goal.direction, "target": goal.target},
        "space": told_space(space, shown),
        "steering": _steering(steering, shown),
        "round": situation.round,
        "budget": _budget(situation),
        "cost": _cost(found.cost, found.affordable),
        "counts": dict(sorted((str(state), count) for state, count in past.counts.items())),
        "best": _best(situation, best, names),
        "trials_since_best": found.plateau[0],
        "trials_since_gain_beyond_noise": found.since_gain,
        "plateau_after": found.plateau[1],
        "must_finalize": found.forced[1] if found.forced else None,
        "noise": _noise(found.noise),
        "outlook": told_outlook(situation, found.prospect),
        "rounds": [
            {
                "round": r.round,
                "trials": r.trials,
                "best_so_far": short(r.best_so_far),
                "median": short(r.median),
                "gain": short(r.gain),
            }
            for r in past.trend(_ROUNDS)
        ],
        "insights": _insights(situation, names),
        "top_fifth": [_contrast(c) for c in found.contrasts],
        "bounds": [_bound(b) for b in found.bounds[:_CONTRASTS]],
        "failures": [_failure(kind, found.failed[kind], regions) for kind, regions in found.failures.items()],
        "kinds": [_yield(y, "kind") for y in found.kinds[:_KINDS]],
        "workers": [_yield(y, "worker") for y in workers[:_WORKERS]],
        "curves": curves(situation),
        "trials": table(situation, select_trials(situation, trials), names[:_COLUMNS]),
        "decisions": told_decisions(situation.decisions),
        "effects": told_effects(found.effects),
        "model": _model(found.score),
        "notes": told_notes(situation),
    }
    left_out = {
        "parameters": max(0, len(space) - _DECLARED),
        "columns": max(0, len(space) - _COLUMNS),
        "workers": max(0, len(workers) - _WORKERS),
        "notes": max(0, len(situation.notes) - len(told_notes(situation))),
    }
    if goal.merges is not None:
        evidence["front"] = told_front(situation)
    constraints = told_constraints(situation, best, names[:_DECLARED])
    if constraints is not None:
        evidence["constraints"] = constraints
    stopping = told_stopping(situation)
    if stopping is not None:
        evidence["stopping"] = stopping
    if any(left_out.values()):
        evidence["left_out"] = {key: count for key, count in left_out.items() if count}
    return evidence


def _in_order(situation: Situation) -> Situation:
    """Give a situation whose trials stand in order of their ids."""
    order = situation.past.trials
    trials = situation.trials if list(situation.trials) == order else tuple(order)  # mostly they are the same objects
    return replace(situation, trials=trials, running=tuple(sorted(situation.running, key=lambda t: t.id)))


def _budget(situation: Situation) -> JsonObject:
    budget, usage = situation.budget, situation.usage
    seconds = None if budget.minutes is None else budget.minutes * 60
    amounts: dict[str, tuple[float, float | None]] = {
        "trials": (usage.trials, budget.trials),
        "seconds": (round(usage.seconds), seconds),
        "tokens": (usage.tokens, budget.tokens),
        "dollars": (usage.dollars, budget.dollars),
        "calls": (usage.calls, budget.calls),
    }
    return {
        name: {"used": short(used)}
        if of is None
        else {"used": short(used), "of": short(of), "left": short(max(0, of - used))}
        for name, (used, of) in amounts.items()
    }


def _cost(spent: Cost | None, more: Affordable) -> JsonObject | str:
    """Give what a trial takes, what that hangs on, and how many more there is time for."""
    if spent is None:
        return "not measured"
    entry: JsonObject = {
        "trials": spent.trials,
        "seconds": {"median": short(spent.median), "quartiles": [short(spent.low), short(spent.high)]},
        "seconds_by_kind": {kind: short(mean) for kind, mean in spent.kinds.items()},
        "driver": None
        if spent.driver is None
        else {"parameter": cut(spent.driver, _NAME), "rank_correlation": short(spent.correlation)},
    }
    if more.by_time:
        entry["trials_that_fit_the_time_left"] = more.trials
    return entry


def _noise(noise: Noise | None) -> JsonObject | str:
    """Give how much seeds alone move the metric; what neighbours say of it is no measure of a gain."""
    if noise is None:
        return "not measured"
    if noise.source == "neighbours":
        return {"at_most": short(noise.sd), "from": "neighbouring trials; nothing was repeated"}
    return {
        "sd": short(noise.sd),
        "interval": [short(noise.low), short(noise.high)],
        "repeats": noise.repeats,
        "least_real_gain": short(least_gain(noise.sd)),
    }


def _steering(steering: Steering, names: Sequence[str]) -> JsonObject:
    """Give what the decisions have made of the space: limits, priorities, and how often the limits changed."""
    return {
        "revision": steering.revision,
        "frozen": {name: short(value) for name, value in sorted(steering.frozen.items()) if name in names},
        "narrowed": {name: shortened(range_) for name, range_ in sorted(steering.region.items()) if name in names},
        "priorities": listed(steering.priorities),
    }


def _best(situation: Situation, best: Trial | None, names: Sequence[str]) -> JsonObject | None:
    """Give the incumbent, how it came about, and its mean where it ran on several seeds."""
    if best is None:
        return None
    goal = situation.goal
    runs = [goal.value(t) or 0.0 for t in situation.past.runs_like(best.params)]
    entry: JsonObject = {
        "trial": best.id,
        "value": short(goal.value(best)),
        "round": best.round,
        "kind": best.kind,
        "worker": cut(best.worker, 60),
        "tuned": listed(best.tuned),
        "params": {name: short(best.params[name]) for name in names[:_DECLARED] if name in best.params},
    }
    if len(runs) > 1:
        entry["runs"] = {"count": len(runs), "mean": short(sum(runs) / len(runs))}
    return entry


def _insights(situation: Situation, names: Sequence[str]) -> JsonObject | str:
    insights = situation.insights
    if not insights.importance:
        return "not worked out: too few trials, or nobody looks at them"
    return {
        "importance": {n: short(round(insights.importance.get(n, 0.0), 4)) for n in names[:_DECLARED]},
        "importance_sd": {n: short(round(sd, 4)) for n in names[:_COLUMNS] if (sd := insights.importance_sd.get(n))},
        "interactions": [
            {"a": i.a, "b": i.b, "strength": short(round(i.strength, 4)), "sd": short(round(i.sd, 4))}
            for i in insights.interactions[:_INTERACTIONS]
        ],
        "trials": insights.trials,
    }


def _contrast(contrast: Contrast) -> JsonObject:
    what = "shares" if isinstance(contrast.top[0], tuple) else "quartiles"
    return {
        "parameter": contrast.parameter,
        f"top_{what}": [_part(value) for value in contrast.top],
        f"rest_{what}": [_part(value) for value in contrast.rest],
        "differs": contrast.differs,
    }


def _part(value: object) -> object:
    return [short(part) for part in value] if isinstance(value, tuple) else short(value)


def _bound(bound: AtBound) -> JsonObject:
    return {
        "parameter": bound.parameter,
        "side": bound.side,
        "bound": bound.bound,
        "value": short(bound.value),
        "incumbent": bound.incumbent,
        "top_fifth": bound.top,
    }


def _failure(kind: str, count: int, regions: Sequence[SharedRegion]) -> JsonObject:
    shared = [
        {
            "parameter": region.parameter,
            "range": shortened(region.range),
            "failures": short(region.failures),
            "successes": short(region.successes),
        }
        for region in regions
    ]
    return {"kind": kind, "trials": count, "shared": shared}


def _yield(entry: Yield, key: str) -> JsonObject:
    return {
        key: cut(entry.name, 40),
        "trials": entry.trials,
        "complete": entry.complete,
        "improved_best": entry.improved_best,
        "gain_per_trial": short(entry.gain_per_trial),
        "percentile": short(round(entry.percentile, 3)) if entry.percentile is not None else None,
    }


def _model(score: ModelScore) -> JsonObject | str:
    """Give the model's own record; it is told the same figures by which its share follows."""
    if not score.proposals:
        return "no proposal has ended yet"
    return {
        "proposals": score.proposals,
        "complete": score.complete,
        "wins": score.wins,
        "percentile": short(score.percentile),
        "gain_per_proposal": short(score.gain),
        "gain_per_sampled_trial": short(score.sampler_gain),
        "intervals": score.intervals,
        "coverage": short(score.coverage),
        "error": short(score.error),
        "error_unit": score.error_unit,
    }
