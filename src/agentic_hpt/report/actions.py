"""Actions, ranges and effects in words, for the explanation, the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

from agentic_hpt.records import ActionRecord, DecisionRecord
from agentic_hpt.report.plain import counted, number, visible

__all__ = ["Effect", "action_words", "decider_words", "effect_words", "listed", "range_words"]

_MANY = 6


class Effect(Protocol):
    """What an accepted action was to bring, and what it has brought: `coordinator.undo` finds it out."""

    @property
    def round(self) -> int:
        """The round after which the action was decided."""

    @property
    def position(self) -> int:
        """Its place in that decision."""

    @property
    def stated(self) -> float:
        """By how much the best value was to become better; 0 where nothing was stated."""

    @property
    def window(self) -> int:
        """Within how many trials."""

    @property
    def gain(self) -> float | None:
        """By how much it became better; `None` without a value."""

    @property
    def trials(self) -> int:
        """How many trials of the window have ended."""

    @property
    def status(self) -> Literal["open", "came", "missing", "reversed"]:
        """What has become of it."""


def action_words(action: ActionRecord) -> str:
    """Say what an action does: what the guard let through, else what was asked for."""
    told = action.detail if action.verdict != "refused" and action.detail else {**action.asked, **action.detail}
    name = visible(told.get("parameter", ""))
    names = ", ".join(visible(n) for n in listed(told.get("parameters")))
    if action.type in ("freeze", "narrow", "widen"):
        given = told.get("range")
        range_ = given if isinstance(given, Mapping) else {k: told[k] for k in ("low", "high", "values") if k in told}
        if action.type == "freeze":
            values = listed(range_.get("values"))
            return f"freeze {name} at {number(values[0])}" if values else f"freeze {name}"
        return f"{action.type} {name} to {range_words(range_) if range_ else 'all its values'}"
    if action.type == "unfreeze":
        return f"unfreeze {name}"
    if action.type == "prioritise":
        return f"prioritise {names}" if names else "prioritise nothing any more"
    if action.type == "spawn":
        trials = told.get("trials")
        size = f": {counted(trials, 'trial')}" if isinstance(trials, int) else ""
        kind = visible(told.get("worker", "")).replace("_", "-")
        return f"spawn a {kind} worker{f' for {names}' if names else ''}{size}"
    if action.type == "propose":
        return f"propose {counted(len(listed(told.get('configurations'))), 'configuration')}"
    if action.type == "repeat" and "trial" in told:
        seeds = told.get("seeds")
        return f"repeat trial {told['trial']}" + (f" on {counted(seeds, 'seed')}" if isinstance(seeds, int) else "")
    if action.type == "stop_trial" and "trial" in told:
        return f"stop trial {told['trial']}"
    return visible(action.type)


def range_words(range_: Mapping[str, object]) -> str:
    """Write a range: `0.1 to 0.5`, or the values."""
    if "values" in range_:
        values = [number(value) for value in listed(range_["values"])]
        return ", ".join(values[:_MANY]) + (f" and {len(values) - _MANY} more" if len(values) > _MANY else "")
    return f"{number(range_.get('low'))} to {number(range_.get('high'))}"


def effect_words(effect: Effect) -> str:
    """Say what an action was to bring, and what it brought."""
    stated = f"stated a gain of {number(effect.stated)}" if effect.stated else "any gain beyond noise would do"
    seen = "no trial of it has ended" if not effect.trials else f"after {counted(effect.trials, 'trial')} "
    if effect.trials:
        seen += "none has a value" if effect.gain is None else f"the best is {_signed(effect.gain)}"
    end = {
        "open": "it is still open",
        "came": "it came",
        "missing": "it did not come",
        "reversed": "the action was taken back",
    }
    return f"{stated} within {counted(effect.window, 'trial')}; {seen}: {end[effect.status]}"


def decider_words(decision: DecisionRecord, model: str | None = None) -> str:
    """Say who decided."""
    name = f"the model {visible(model)}" if model else "the model"
    return {"rules": "the rules", "llm": name, "policy": "the policy", "person": "a person"}[decision.kind]


def _signed(gain: float) -> str:
    if not gain:
        return "no better than before"
    return f"better by {number(gain)}" if gain > 0 else f"worse by {number(-gain)} than before"


def listed(value: object) -> Sequence[object]:
    """Give what is a list as it is, and nothing for what is none."""
    return cast(Sequence[object], value) if isinstance(value, list | tuple) else ()
