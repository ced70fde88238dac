"""What the model's proposals brought, and the share of a round that they may have now.

A proposal is measured against the sampler's trials of its own round, for late trials have it harder than early ones.
An account bounds what a useless model costs: it opens with a tenth of the trial budget, each proposal is paid from it,
and only winners pay back.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import cast

from agentic_hpt.coordinator.statistics import beyond_noise, share_beaten, worth_of
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, ConfigurationKey, Goal, Params, Trial, configuration_key

_MOST = 0.5
_DECAY = 0.7
_FLOOR = 0.05
_TRIGGERS = ("failures", "surprise", "plateau")
_ACCOUNT_SHARE = 0.1
_LEAST_ACCOUNT = 3
_UNKNOWN_BUDGET = 50
_PRIOR = 4
"""Proposals as good as the sampler's trials that every model is credited with: few data move its merit little."""
_WIN = 2.0
_POOR = 0.3
"""A proposal that beats a smaller share of the sampler's trials is a bad one."""
_LEAST_TO_JUDGE = 3
_MOST_MERIT = 2.0
_SAMPLED = ("per_parameter", "group", "joint", "outside", "bridge", "combination")

Expected = tuple[float, float | None, float | None]


@dataclass(frozen=True, slots=True)
class ModelScore:
    """How the model's proposals and predictions did. Figures are `None` where nothing was measured."""

    proposals: int = 0
    """Proposals that ran to an end; the failed and pruned ones are among them."""
    complete: int = 0
    running: int = 0
    wins: int = 0
    """Proposals that beat all found up to the end of their round, the earlier ones of the model too, beyond noise."""
    percentile: float | None = None
    """Where they stand on average among the sampler's trials of their rounds: 1 above all, 0.5 like these, 0 below."""
    gain: float | None = None
    """The mean improvement of the best value by a proposal (most bring none)."""
    sampler_gain: float | None = None
    """The same of a sampler's trial in the same rounds."""
    intervals: int = 0
    """Complete proposals for which an interval was stated; it should hold 4 times of 5."""
    coverage: float | None = None
    predictions: int = 0
    error: float | None = None
    """The mean distance from the expected value, in units of `error_unit`."""
    error_unit: str = ""
    """`noise` (the SD over seeds), or `spread` (the SD of all values) while the noise was not measured."""
    merit: float = 1.0
    """What they earned against the sampler's trials, 1 when alike, shrunk towards 1 while there are few."""
    account: float = 0.0
    """How many more proposals may be tried before others have to pay for them."""


@dataclass(frozen=True, slots=True)
class _Measured:
    trial: Trial
    expected: Expected | None
    percentile: float
    won: bool


def model_share(situation: Situation) -> float:
    """Give the share of a round's trials, at most a half, that the model's proposals may have now.

    It decays from round to round, comes back to a half of its start when the model is asked on a trigger, follows
    what the proposals earned, and ends where the account does. Any share above 0 is worth one trial or more.
    """
    from agentic_hpt.coordinator.schedule import why_ask  # it asks the guards, which ask for this share

    score = model_score(situation)
    share = _MOST * _DECAY ** max(0, situation.round - 1)
    reason = why_ask(situation).reason
    triggered = any(part.split(":", 1)[0] in _TRIGGERS for part in reason.split("; "))
    if triggered:
        share = max(share, _MOST / 2)
    share *= score.merit
    least = max(_FLOOR, 1 / situation.round_trials)
    if share < least:
        share = least if triggered or score.merit >= 0.5 else 0.0
    room = math.floor(score.account + 1e-9)
    return min(_MOST, share, room / situation.round_trials) if room > 0 else 0.0


def distrust(situation: Situation) -> str:
    """Say why a model's word on the search (limits, workers) does not count; empty while it does.

    A model whose proposals stand far below the sampler's trials knows no better where to search than what to try.
    """
    score = model_score(situation)
    if score.percentile is None or score.proposals < _LEAST_TO_JUDGE:
        return ""
    rank = (score.percentile * score.proposals + _PRIOR / 4) / (score.proposals + _PRIOR / 2)
    if rank >= _POOR:
        return ""
    return f"its {score.proposals} proposals so far beat {score.percentile:.0%} of the sampler's trials"


def model_score(situation: Situation) -> ModelScore:
    """Measure the model's proposals so far against the sampler's trials of the same rounds."""
    goal = situation.goal
    proposed = _proposed(situation)
    noise = situation.past.noise() if proposed else None
    sd = noise.sd if noise is not None else None
    measured = _measured(situation, proposed, sd) if proposed else []
    complete = [m for m in measured if goal.value(m.trial) is not None]
    running = len(proposed) - len(measured)
    account = _account(situation, measured) - running
    if not measured:
        return ModelScore(running=running, account=max(0.0, account))
    rounds = {m.trial.round for m in measured}
    gains = situation.past.improvements()
    sampled = [t for t in situation.trials if t.round in rounds and t.finished and t.kind in _SAMPLED]
    held = [
        low <= cast(float, goal.value(m.trial)) <= high
        for m in complete
        if m.expected is not None and (low := m.expected[1]) is not None and (high := m.expected[2]) is not None
    ]
    missed = [abs(cast(float, goal.value(m.trial)) - m.expected[0]) for m in complete if m.expected is not None]
    unit, name = (sd, "noise") if sd else (_spread(goal, situation.trials), "spread")
    earned = sum(_WIN if m.won else m.percentile for m in measured)
    return ModelScore(
        proposals=len(measured),
        complete=len(complete),
        running=running,
        wins=sum(m.won for m in measured),
        percentile=sum(m.percentile for m in measured) / len(measured),
        gain=sum(gains.get(m.trial.id, 0.0) for m in measured) / len(measured),
        sampler_gain=sum(gains.get(t.id, 0.0) for t in sampled) / len(sampled) if sampled else None,
        intervals=len(held),
        coverage=sum(held) / len(held) if held else None,
        predictions=len(missed),
        error=sum(missed) / len(missed) / unit if missed and unit else None,
        error_unit=name if missed and unit else "",
        merit=min(_MOST_MERIT, (earned + _PRIOR / 2) / ((len(measured) + _PRIOR) / 2)),
        account=max(0.0, account),
    )


def _proposed(situation: Situation) -> list[tuple[Trial, Expected | None]]:
    """Give the trials that the model proposed, with what it expected of them, in order."""
    expected: dict[int, dict[ConfigurationKey, Expected | None]] = {}
    for decision in situation.decisions:
        if decision.kind == "llm":
            known = expected.setdefault(decision.round + 1, {})
            for action in decision.actions:
                if action.type == "propose" and action.verdict != "refused" and not action.by:
                    known.update(_expectations(action))
    found = {t.id: t for t in (*situation.running, *situation.trials) if t.kind == "proposals"}
    entries = []
    for _, trial in sorted(found.items()):
        known = expected.get(trial.round, {})
        key = configuration_key(trial.params)
        if key in known:
            entries.append((trial, known[key]))
    return entries


def _expectations(action: ActionRecord) -> Iterator[tuple[ConfigurationKey, Expected | None]]:
    configurations = cast(Sequence[Params], action.detail["configurations"])
    expected = cast(Sequence[Sequence[float | None] | None], action.detail.get("expected", ()))
    for params, stated in zip_longest(configurations, expected):
        value = stated[0] if stated is not None else None
        if stated is None or value is None:
            yield configuration_key(params), None
        else:
            yield configuration_key(params), (value, stated[1], stated[2])


def _measured(
    situation: Situation, proposed: Sequence[tuple[Trial, Expected | None]], sd: float | None
) -> list[_Measured]:
    """Set each finished proposal against others: the sampler's of its round for the rank, all until then for a win."""
    goal, own, spawned = situation.goal, {trial.id for trial, _ in proposed}, _spawned(situation)
    ranks: dict[int, list[float]] = defaultdict(list)
    others: dict[int, list[float]] = defaultdict(
        list
    )  # of the workers that the model spawned, where there are none else
    best: dict[int, float] = {}
    for trial in situation.trials:
        if trial.finished and trial.id not in own:
            worth = worth_of(goal, trial)
            best[trial.round] = max(best.get(trial.round, -math.inf), worth)
            if trial.kind in _SAMPLED:
                mine = bool(spawned) and (trial.round, trial.kind, frozenset(trial.tuned)) in spawned
                (others if mine else ranks)[trial.round].append(worth)
    highest = list(accumulate((best[number] for number in sorted(best)), max))
    rounds = sorted(best)
    for values in (*ranks.values(), *others.values()):
        values.sort()
    found = []
    own_best = -math.inf
    for trial, expected in proposed:
        if not trial.finished:
            continue
        worth, values = worth_of(goal, trial), ranks.get(trial.round) or others.get(trial.round, [])
        percentile = share_beaten(worth, values)
        until = bisect_right(rounds, trial.round)
        beaten = max(own_best, highest[until - 1] if until else -math.inf)
        won = worth > beaten and beyond_noise(worth - beaten, sd)
        own_best = max(own_best, worth)
        found.append(_Measured(trial, expected, percentile, won))
    return found


def _spawned(situation: Situation) -> set[tuple[int, str, frozenset[str]]]:
    """Give round, kind and parameters of the workers that the model asked for: beside poor ones anything looks good.

    A joint worker's trials can't be told from the strategy's own.
    """
    return {
        (decision.round + 1, str(action.detail["worker"]), frozenset(cast(Sequence[str], action.detail["parameters"])))
        for decision in situation.decisions
        if decision.kind == "llm"
        for action in decision.actions
        if action.type == "spawn"
        and action.verdict != "refused"
        and not action.by
        and action.detail["worker"] != "joint"
    }


def _account(situation: Situation, measured: Sequence[_Measured]) -> float:
    """Follow the account: a winner pays one proposal back, one above the middle costs half, one far below it two."""
    budget = situation.budget.trials or max(_UNKNOWN_BUDGET, len(situation.trials))
    size = max(_LEAST_ACCOUNT, _ACCOUNT_SHARE * budget)
    account = size
    for entry in measured:
        cost = -1.0 if entry.won else 0.5 if entry.percentile >= 0.5 else 1.0 if entry.percentile >= _POOR else 2.0
        account = min(size, account - cost)
    return account


def _spread(goal: Goal, trials: Sequence[Trial]) -> float:
    values = [value for t in trials if (value := goal.value(t)) is not None]
    return statistics.pstdev(values) if values else 0.0
