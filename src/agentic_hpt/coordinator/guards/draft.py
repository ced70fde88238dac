"""A decision in the making: what its actions so far have made of the search, and what they leave for the next ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

from agentic_hpt.coordinator.credit import distrust
from agentic_hpt.coordinator.decisions import AnyAction
from agentic_hpt.coordinator.guards.ranges import on_grid
from agentic_hpt.coordinator.guards.subspace import Tried, single
from agentic_hpt.coordinator.undo import incumbent
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, ParamValue, Range, Trial, Verdict
from agentic_hpt.space import SearchSpace
from agentic_hpt.steering import Steering, full_range, space_within

_OUTSIDE_SHARE = 0.1
_REST_ROUNDS = 3
_UNDOES = {"freeze": "unfreeze", "narrow": "widen", "prioritise": "prioritise"}


@dataclass(frozen=True, slots=True)
class Draft:
    """The situation, and the standing of the search once the actions let through so far are in force."""

    situation: Situation
    steering: Steering
    best: Trial | None
    """The incumbent."""
    complete: tuple[Trial, ...]
    tried: Tried
    by: str = ""
    rules: bool = False
    """Whether the action under judgement is the rules' own."""
    top: tuple[Trial, ...] = ()
    """The best fifth of the complete trials, with several objectives the whole front."""
    distrust: str = ""
    """Why a model's word on the search does not count; empty while it does."""
    records: tuple[ActionRecord, ...] = ()
    """What was let through, in the order in which it was judged."""

    @classmethod
    def of(cls, situation: Situation, by: str = "") -> Draft:
        """Give the draft in which nothing was judged yet."""
        complete = tuple(situation.past.complete)
        tried = Tried((*situation.trials, *situation.running))
        steering, best = replace(situation.steering, spawns=()), incumbent(situation)
        top = tuple(situation.past.leading())
        return cls(situation, steering, best, complete, tried, by, top=top, distrust=distrust(situation))

    def after(self, record: ActionRecord, position: int) -> Draft:
        """Give the draft once an action is judged; a refused one changes nothing."""
        if record.verdict == "refused":
            return self
        steering = self.steering.after(record, self.situation.round, position)
        return replace(self, steering=steering, records=(*self.records, record))

    @property
    def space(self) -> SearchSpace:
        """The declared space."""
        return self.situation.space

    def range(self, name: str) -> Range:
        """Give the range to which the search keeps in one parameter, its bounds on the grid."""
        limit = self.steering.limits.get(name)
        return on_grid(self.space, name, limit.range if limit is not None else full_range(self.space, name))

    def within(self, changed: dict[str, Range] | None = None) -> SearchSpace:
        """Give the space inside all limits, with some of them changed."""
        ranges = {name: limit.range for name, limit in self.steering.limits.items()}
        return space_within(self.space, {**ranges, **(changed or {})})

    def tunable(self) -> tuple[str, ...]:
        """Name the parameters that a worker may tune: not frozen, and with more than one value inside the limits."""
        return tunable(self.within(), self.steering)

    def room(self) -> int:
        """Give how many trials of the next round the actions so far have left.

        The default configuration has its place in round 1, configurations given to run first have theirs, and where
        there are limits a share stays outside them.
        """
        now = self.situation
        whole = min(now.round_trials, now.usage.trials_left(now.budget))
        outside = max(1, math.ceil(_OUTSIDE_SHARE * whole)) if self.steering.limits and whole > 1 else 0
        taken = sum(trials_of(record) for record in self.records) + len(now.waiting)
        return max(0, whole - (self.first is not None) - outside - taken)

    @property
    def first(self) -> dict[str, ParamValue] | None:
        """The default configuration where round 1 begins with it; `None` later, or when it was imported."""
        default = self.space.default()
        if self.situation.round > 0 or any(dict(t.params) == default for t in self.situation.trials):
            return None
        return default

    def taken(self, type_: str) -> list[ActionRecord]:
        """Give what was let through of one type; the policy's own is not counted."""
        return [r for r in self.records if r.type == type_ and r.by != "policy"]

    def touched(self, name: str) -> bool:
        """Say whether an action of this decision has changed a parameter's limit already."""
        return any(r.detail.get("parameter") == name and r.by != "policy" for r in self.records)

    def lifted(self, name: str) -> bool:
        """Say whether a limit of the parameter was lifted in the last rounds, by whomever: it would begin anew."""
        first = self.situation.round - _REST_ROUNDS
        past = [a for d in self.situation.decisions if d.round >= first for a in d.actions]
        return self.by != "person" and any(
            a.verdict != "refused" and _lifts(a) and a.detail.get("parameter") == name and a.detail.get("range") is None
            for a in (*past, *self.records)
        )

    def undone(self, type_: str, name: str = "") -> bool:
        """Say whether the policy took the like back in the last rounds, or does so now."""
        first = self.situation.round - _REST_ROUNDS
        past = [a for d in self.situation.decisions if d.round >= first for a in d.actions]
        return any(
            a.by == "policy" and a.type == _UNDOES[type_] and a.detail.get("parameter", "") == name
            for a in (*past, *self.records)
        )


def resting(draft: Draft) -> str:
    """Say why no new limit is let through for now; empty when one is.

    The more limits the policy had to take back, the longer nobody but a person may set another: each one that did not
    pay costs the trials of its window.
    """
    if draft.by == "person":
        return ""
    if draft.distrust and not draft.rules:
        return draft.distrust
    undone = [d.round for d in draft.situation.decisions for a in d.actions if a.by == "policy" and _lifts(a)]
    undone += [draft.situation.round for a in draft.records if a.by == "policy" and _lifts(a)]
    if len(undone) < 2 or draft.situation.round >= undone[-1] + _REST_ROUNDS * len(undone):
        return ""
    return f"the policy took back {len(undone)} limits so far, the last after round {undone[-1]}"


def _lifts(action: ActionRecord) -> bool:
    return action.type in ("unfreeze", "widen")


def tunable(within: SearchSpace, steering: Steering) -> tuple[str, ...]:
    """Name the parameters of a limited space that are not frozen and have more than one value."""
    return tuple(name for name in steering.free(within.names) if not single(within[name]))


def trials_of(record: ActionRecord) -> int:
    """Give how many trials of the next round an accepted action takes."""
    if record.type == "propose":
        return len(cast(list[object], record.detail["configurations"]))
    if record.type == "repeat":
        return cast(int, record.detail["seeds"])
    return cast(int, record.detail["trials"]) if record.type == "spawn" else 0


def accepted(action: AnyAction, draft: Draft, why: str, notes: list[str], **detail: object) -> ActionRecord:
    """Let an action through: repaired when there are `notes` on what was changed, else accepted because of `why`."""
    told = "; ".join(dict.fromkeys(notes))
    return _record(action, draft, "repaired" if told else "accepted", told or why, detail)


def refused(action: AnyAction, draft: Draft, why: str) -> ActionRecord:
    """Refuse an action."""
    return _record(action, draft, "refused", why, {})


def _record(action: AnyAction, draft: Draft, verdict: Verdict, why: str, detail: dict[str, object]) -> ActionRecord:
    now = draft.situation
    running = {t.id for t in now.running}
    evidence = tuple(i for i in action.evidence if i in now.past.known or i in running)
    if action.evidence and not evidence:
        why = f"{why[:400]}; none of the trials given as evidence exists"
    asked = action.model_dump(mode="json", exclude_none=True)
    return ActionRecord(action.type, action.reason[:500], evidence, verdict, why[:500], detail, asked, draft.by)


def shown(name: object) -> str:
    """Give a name or value as it can stand in a reason, whatever a model wrote."""
    return repr(name)[:60]
