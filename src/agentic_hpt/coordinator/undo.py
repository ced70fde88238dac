"""What earlier actions were to bring, what they brought, and which of them the policy takes back.

A limit (a frozen or narrowed parameter) is taken back when the best trial lies outside it, when its effect did not come
in its window, when no gain came for a window since, or when a frozen parameter turns out to matter. All of it follows
from the trials and the decisions, so
that nothing has to be stored and a replay takes back the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from agentic_hpt.coordinator.statistics import beyond_noise
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, Goal, Trial
from agentic_hpt.steering import Limit

_LEAST_WINDOW = 20
_ROUNDS_IN_A_WINDOW = 3
_THAW_SHARES = 1.5
_PATIENCE = 2
"""After so many windows without an effect it helps no more that a limit was set anew meanwhile."""
_PRIORITIES = ""
"""Stands for the priorities among names: no parameter has this one."""
_LIMITING = ("freeze", "narrow", "widen", "unfreeze")
_WITH_EFFECT = (*_LIMITING, "prioritise", "spawn", "propose")


@dataclass(frozen=True, slots=True)
class Effect:
    """What an accepted action of an earlier decision was to bring, and what it has brought."""

    round: int
    """The round after which it was decided, and its place in that decision."""
    position: int
    type: str
    parameter: str
    """The parameter it is about, or several, separated by commas; empty for proposals."""
    stated: float
    """By how much the best value was to become better; 0 where nothing was stated: any gain beyond noise will do."""
    window: int
    """Within how many trials."""
    gain: float | None
    """By how much the best value of the window is better than the best before (below 0: worse); `None` without one."""
    trials: int
    """How many trials of the window have ended."""
    status: Literal["open", "came", "missing", "reversed"]


class _History:
    """The search's finished trials in order, with the best value before each: so that an effect costs its window."""

    def __init__(self, situation: Situation) -> None:
        self.goal = situation.goal
        self._estimates = situation.goal.estimates(situation.trials)
        self.trials = sorted((t for t in situation.trials if t.finished and t.counted), key=lambda t: (t.round, t.id))
        self._rounds = [t.round for t in self.trials]
        best = self._best([t for t in situation.trials if not t.counted])
        self._before = [best]
        for trial in self.trials:
            best = _better_of(self.goal, best, self._value(trial))
            self._before.append(best)

    def since(self, decision: DecisionRecord) -> int:
        """Give the place of the first trial that ran under a decision; those that bridged its making did not."""
        start = bisect_right(self._rounds, decision.round)
        return start + min(decision.bridged, bisect_right(self._rounds, decision.round + 1) - start)

    def after_round(self, round_: int) -> list[Trial]:
        """Give the trials of the round after `round_`."""
        return self.trials[bisect_right(self._rounds, round_) : bisect_right(self._rounds, round_ + 1)]

    def gain(self, start: int, trials: Sequence[Trial]) -> float | None:
        """Say how much better the best of `trials` is than the best before `start`."""
        before = self._before[start] if self._before[start] is not None else self._begun(trials)
        best = self._best(trials)
        if before is None or best is None:
            return None
        return best - before if self.goal.direction == "maximize" else before - best

    def _begun(self, trials: Sequence[Trial]) -> float | None:
        """Give the value that stands for the best before anything was complete: the default's, else the first one."""
        ids = {t.id for t in trials}
        order = sorted(self.trials, key=lambda t: (t.kind != "default", t.id in ids))
        return next((value for t in order if (value := self._value(t)) is not None), None)

    def _best(self, trials: Sequence[Trial]) -> float | None:
        best: float | None = None
        for trial in trials:
            best = _better_of(self.goal, best, self._value(trial))
        return best

    def _value(self, trial: Trial) -> float | None:
        """Give a trial's value, or its configuration's mean. Luck on another seed is no gain: a repeat has no value.

        Nor has what breaks a constraint.
        """
        if self.goal.merges is not None:
            return self.goal.figure(trial)
        if trial.kind == "repeat" or not self.goal.feasible(trial):
            return None
        return self._estimates.get(trial.id, self.goal.value(trial))


def effects(situation: Situation, noise: float | None = None) -> tuple[Effect, ...]:
    """Give the effects of all accepted actions that could have one, in order; the policy's own are not among them.

    An effect came when the gain is as large as stated and beyond noise: `noise` is its SD, by default the one that the
    search's own repeats have shown by now, if any has. A limit and a priority last, so their windows count all trials
    after them; a spawned worker's and the proposals' effect is that of their own trials in the next round.
    """
    acted = [
        (decision, position)
        for decision in situation.decisions
        for position, action in enumerate(decision.actions)
        if action.verdict != "refused" and action.type in _WITH_EFFECT and action.by != "policy"
    ]
    if not acted:
        return ()
    history = _History(situation)
    sd = noise if noise is not None else _sd(situation)
    lifted = _lifted(situation.decisions)
    return tuple(_effect(situation, history, sd, d, place, (d.round, place) in lifted) for d, place in acted)


def reversals(situation: Situation) -> tuple[ActionRecord, ...]:
    """Give what the policy takes back now, whoever decides: at most one record a parameter, and one for priorities."""
    steering = situation.steering
    if not steering.limits and not steering.priorities:
        return ()
    best = incumbent(situation)
    known = {(effect.round, effect.position): effect for effect in effects(situation)}
    series = _series(situation.decisions)
    found: list[ActionRecord] = []
    for name in sorted(steering.limits):
        limit = steering.limits[name]
        why = _why_lift(situation, limit, best, known.get((limit.round, limit.action)))
        why = why or _never_came(situation, [known[at] for at in series.get(name, ()) if at in known])
        if why:
            type_ = "unfreeze" if limit.kind == "frozen" else "widen"
            found.append(_undo(type_, f"{_what(limit)} {why}", best, {"parameter": name}))
    if steering.priorities:
        last = [effect for effect in known.values() if effect.type == "prioritise"][-1:]
        if last and last[0].status == "missing":
            why = f"the priorities of round {last[0].round} {_unkept(situation, last[0])}"
            found.append(_undo("prioritise", why, best, {"parameters": []}))
        elif why := _never_came(situation, [known[at] for at in series.get(_PRIORITIES, ()) if at in known]):
            found.append(_undo("prioritise", f"setting priorities again and again {why}", best, {"parameters": []}))
    return tuple(found)


def incumbent(situation: Situation) -> Trial | None:
    """Give the best complete trial whose configuration lies in the declared space."""
    best = situation.past.best()
    if best is None or situation.space.contains(best.params):
        return best
    return situation.goal.best(t for t in situation.trials if situation.space.contains(t.params))


def asked_for(trial: Trial, action: ActionRecord) -> bool:
    """Say whether a trial of the next round is one that the action asked for.

    A joint worker's can't be told from the strategy's own: all of the round's are taken for it.
    """
    if action.type == "propose":
        return trial.kind == "proposals"
    if trial.kind != action.detail["worker"]:
        return False
    return trial.kind == "joint" or set(trial.tuned) == set(cast(Sequence[str], action.detail["parameters"]))


def _effect(
    situation: Situation, history: _History, sd: float | None, decision: DecisionRecord, position: int, lifted: bool
) -> Effect:
    action = decision.actions[position]
    expects = action.asked.get("expects")
    stated = float(cast(float, expects["gain"])) if isinstance(expects, Mapping) else 0.0
    window = _window(situation)
    if isinstance(expects, Mapping):
        window = min(window, int(cast(int, expects["trials"])))  # no action is kept for longer by a promise
    start = history.since(decision)
    if action.type in ("spawn", "propose"):
        seen = [t for t in history.after_round(decision.round) if asked_for(t, action)]
        window = _size(action)
        closed = situation.round > decision.round
    else:
        seen = history.trials[start : start + window]
        closed = len(seen) >= window
    gain = history.gain(start, seen)
    came = gain is not None and gain >= stated and beyond_noise(gain, sd)
    status: Literal["open", "came", "missing", "reversed"] = "came" if came else "missing" if closed else "open"
    return Effect(
        round=decision.round,
        position=position,
        type=action.type,
        parameter=_named(action),
        stated=stated,
        window=window,
        gain=gain,
        trials=len(seen),
        status="reversed" if lifted else status,
    )


def _window(situation: Situation) -> int:
    return max(_LEAST_WINDOW, _ROUNDS_IN_A_WINDOW * situation.round_trials)


def _lifted(decisions: Sequence[DecisionRecord]) -> set[tuple[int, int]]:
    """Find the actions that were in force when somebody took them back."""
    return _followed(decisions)[0]


def _series(decisions: Sequence[DecisionRecord]) -> dict[str, list[tuple[int, int]]]:
    """Find for each limited parameter what limited it without a break; under an empty name, what set priorities."""
    return _followed(decisions)[1]


def _followed(
    decisions: Sequence[DecisionRecord],
) -> tuple[set[tuple[int, int]], dict[str, list[tuple[int, int]]]]:
    found: set[tuple[int, int]] = set()
    in_force: dict[str, list[tuple[int, int]]] = {}
    for decision in decisions:
        for position, action in enumerate(decision.actions):
            if action.verdict == "refused":
                continue
            here = (decision.round, position)
            name = str(action.detail.get("parameter", ""))
            if action.type in ("unfreeze", "widen") and action.detail.get("range") is None:
                found.update(in_force.pop(name, [])[-1:])
            elif action.type in ("freeze", "narrow", "widen"):
                in_force.setdefault(name, []).append(here)
            elif action.type == "prioritise":
                if not action.detail["parameters"]:
                    found.update(in_force.pop(_PRIORITIES, [])[-1:])
                else:
                    in_force.setdefault(_PRIORITIES, []).append(here)
    return found, in_force


def _why_lift(situation: Situation, limit: Limit, best: Trial | None, effect: Effect | None) -> str:
    """Say why a limit can't stand, to follow on its name; empty when it can."""
    if best is not None and not limit.holds(best.params):
        goal, estimates = situation.goal, situation.goal.expected(situation.trials)  # as the best one is found
        inside: float | None = None
        for trial in situation.trials:
            if limit.holds(trial.params) and goal.feasible(trial):
                inside = _better_of(goal, inside, estimates.get(trial.id, goal.value(trial)))
        value = estimates.get(best.id, goal.value(best))
        if inside is None or value is None:
            return f"does not hold trial {best.id}, the best"
        how = "beyond the noise" if beyond_noise(abs(value - inside), _sd(situation)) else "though within the noise"
        return f"does not hold trial {best.id}, which beats the best inside by {abs(value - inside):.4g}, {how}"
    if effect is not None and effect.status == "missing":
        return _unkept(situation, effect)
    share = situation.insights.importance.get(limit.parameter, 0.0)
    if limit.kind == "frozen" and share >= _THAW_SHARES / len(situation.space):
        return f"holds a parameter that matters: its importance is {share:.0%}"
    furthest = best if situation.goal.merges is None else situation.goal.furthest(situation.trials)
    last = furthest.id if furthest is not None else -1
    since = sum(t.finished and t.counted and t.round > limit.round and t.id > last for t in situation.trials)
    if since >= _window(situation):
        return f"has stood for {since} trials that brought nothing better: what it keeps out may hold more"
    return ""


def _never_came(situation: Situation, series: Sequence[Effect]) -> str:
    """Say why what was set anew, with a window anew, can't stand either; empty when it can."""
    if len(series) < 2 or any(effect.status == "came" for effect in series):
        return ""
    ran = sum(t.finished and t.counted and t.round > series[0].round for t in situation.trials)
    if ran < _PATIENCE * _window(situation):
        return ""
    return f"did not bring a gain beyond noise in {ran} trials, though it was changed {len(series) - 1} times"


def _unkept(situation: Situation, effect: Effect) -> str:
    wanted = f"a gain of {effect.stated:g}" if effect.stated else "a gain beyond noise"
    got = "no value" if effect.gain is None else f"{effect.gain:+.4g}"
    return f"did not bring {wanted} in {effect.window} trials (it brought {got})"


def _what(limit: Limit) -> str:
    verb = "the freezing" if limit.kind == "frozen" else "the narrowing"
    return f"{verb} of {limit.parameter!r} after round {limit.round}"


def _undo(type_: str, reason: str, best: Trial | None, detail: dict[str, object]) -> ActionRecord:
    evidence = (best.id,) if best is not None else ()
    return ActionRecord(type_, reason, evidence, "accepted", "the policy", detail, by="policy")


def _size(action: ActionRecord) -> int:
    if action.type == "propose":
        return len(cast(Sequence[object], action.detail["configurations"]))
    return cast(int, action.detail["trials"])


def _named(action: ActionRecord) -> str:
    if "parameter" in action.detail:
        return str(action.detail["parameter"])
    return ", ".join(cast(Sequence[str], action.detail.get("parameters", ())))


def _sd(situation: Situation) -> float | None:
    noise = situation.past.noise()
    return noise.sd if noise is not None else None


def _better_of(goal: Goal, a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return b if goal.better(b, a) else a
