"""What a person is told before they say whether a decision is to be in force, in lines of text. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject, Params
from agentic_hpt.report.actions import action_words, decider_words, listed, range_words
from agentic_hpt.report.plain import number, parameters, visible

__all__ = ["action_lines", "decision_lines", "evidence_lines"]

_MOST_LINES = 16
_MOST_CONFIGURATIONS = 5
_MOST_PARAMETERS = 8
_LONGEST = 300


def evidence_lines(text: str) -> list[str]:
    """Give the conclusions of rendered evidence, how the best value went, and which parameters matter."""
    try:
        evidence = json.loads(text)
    except ValueError:
        evidence = None
    if not isinstance(evidence, dict):
        return _cut(text.splitlines())
    found = _cut(str(said) for said in listed(evidence.get("conclusions")))
    rounds = [cast(JsonObject, entry) for entry in listed(evidence.get("rounds")) if isinstance(entry, Mapping)]
    trend = [f"{visible(r.get('round'))}: {number(r.get('best_so_far'))}" for r in rounds]
    if trend:
        found.append(f"best after each round: {', '.join(trend)}")
    insights = evidence.get("insights")
    weights = insights.get("importance") if isinstance(insights, Mapping) else None
    if isinstance(weights, Mapping) and weights:
        doubts = insights.get("importance_sd") if isinstance(insights, Mapping) else None
        doubts = doubts if isinstance(doubts, Mapping) else {}
        each = [
            f"{visible(name)} {number(weight)}{f' ± {number(doubts[name], 2)}' if name in doubts else ''}"
            for name, weight in weights.items()
        ]
        more = f" and {len(each) - _MOST_PARAMETERS} more" if len(each) > _MOST_PARAMETERS else ""
        found.append(f"importance: {', '.join(each[:_MOST_PARAMETERS])}{more}")
    elif isinstance(insights, str):
        found.append(f"importance: {_short(insights)}")
    return found


def decision_lines(decision: DecisionRecord) -> list[str]:
    """Give a decision: who decides, and each action in words with its verdict, its reason and the guard's."""
    when = f"after round {decision.round}" if decision.round else "before round 1"
    instead = f", in place of the model ({_short(decision.fallback)})" if decision.fallback else ""
    said = [f"{when} the decision of {decider_words(decision)}{instead} is:"]
    for action in decision.actions:
        by = f" by the {visible(action.by)}" if action.by and action.by != decision.kind else ""
        said.append(f"  {action_words(action)}{by} [{visible(action.verdict)}]: {_short(action.reason)}")
        if action.verdict_reason:
            said.append(f"    guard: {_short(action.verdict_reason)}")
        said += [f"    {line}" for line in action_lines(action)]
    return said


def action_lines(action: ActionRecord) -> list[str]:
    """Give what an action's words leave out: the configurations it proposes, the region it is held to."""
    told = action.detail if action.verdict != "refused" and action.detail else {**action.asked, **action.detail}
    found = []
    hypotheses = listed(told.get("hypotheses"))
    for position, entry in enumerate(listed(told.get("configurations"))):
        given = cast(JsonObject, entry) if isinstance(entry, Mapping) else {}
        asked = given.get("params")  # as it was asked for; what a guard let through is the bare configuration
        params, why = (asked, given.get("hypothesis")) if isinstance(asked, Mapping) else (given, None)
        why = hypotheses[position] if position < len(hypotheses) else why
        found.append(_short(parameters(cast(Params, params))) + (f" ({_short(why)})" if why else ""))
    more = len(found) - _MOST_CONFIGURATIONS
    found = [*found[:_MOST_CONFIGURATIONS], *([f"... {more} more"] if more > 0 else [])]
    region = told.get("region")
    if isinstance(region, Mapping):
        each = [f"{visible(name)} {range_words(r)}" for name, r in region.items() if isinstance(r, Mapping)]
        found += [f"within {_short(', '.join(each))}"] if each else []
    return found


def _cut(lines: Iterable[str]) -> list[str]:
    every = [_short(line) for line in lines]
    more = len(every) - _MOST_LINES
    if more <= 0:
        return every
    return [*every[:_MOST_LINES], f"... {more} more {'line' if more == 1 else 'lines'}"]


def _short(text: object) -> str:
    shown = visible(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
