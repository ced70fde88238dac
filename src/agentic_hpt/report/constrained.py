"""The constraints in words: what they ask for, how the best trial stands to them, and what fresh seeds say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agentic_hpt.config import StudyConfig
from agentic_hpt.outcomes import breaks, nearest, standings
from agentic_hpt.records import ParamValue, Trial, is_number
from agentic_hpt.report.plain import counted, number, parameters

__all__ = ["asked_sentences", "constraint_sentences", "fresh_sentences", "standing_sentence"]


def asked_sentences(config: StudyConfig) -> Iterator[str]:
    """Say what the study's constraints ask for; nothing without any."""
    if config.space.constraints:
        yield f"Only configurations with {_listed(c.text for c in config.space.constraints)} were tried."
    if config.goal.constraints:
        yield f"The best trial must satisfy {_listed(c.text for c in config.goal.constraints)}."


def standing_sentence(entry: Mapping[str, object]) -> str:
    """Say how a study stands to an outcome constraint, from `Standing.to_json` or the `constraints` of `hpt best`."""
    text, value, chance, margin = (entry.get(key) for key in ("text", "value", "probability", "margin"))
    measured, satisfied = entry.get("trials_measured"), entry.get("trials_satisfied")
    of = f"{satisfied} of {counted(measured, 'trial')}" if isinstance(measured, int) else ""
    said = f"Constraint {text}: satisfied by {of}"
    if entry.get("satisfied") is None:
        return f"{said}; the best one did not measure it."
    shown = "" if value is None else f" with {number(value)}"
    by = f", broken by {number(margin)}" if entry.get("satisfied") is False else ""
    luck = f"; on another seed it holds with a probability of {number(chance, 2)}" if is_number(chance) else ""
    return f"{said}, the best one {'among them' if not by else 'not among them'}{shown}{by}{luck}."


def constraint_sentences(config: StudyConfig, trials: Sequence[Trial], best: Trial | None) -> list[str]:
    """Say how the best trial stands to the outcome constraints, or without one which trial comes nearest."""
    goal = config.goal
    closest = best if best is not None else nearest(goal, trials)
    if closest is None or not goal.constraints:
        return []
    said = [standing_sentence(s.to_json()) for s in standings(goal, trials, closest.params)] if best is not None else []
    return said or [_nearest(closest.id, breaks(goal, closest), closest.params)]


def _nearest(trial: int, broken: Sequence[str], params: Mapping[str, ParamValue]) -> str:
    return (
        f"No trial satisfies the constraints, so there is no best configuration. Trial {trial} comes nearest "
        f"({'; '.join(broken)}): {parameters(params)}."
    )


def fresh_sentences(entries: Sequence[Mapping[str, object]]) -> list[str]:
    """Say whether the constraints hold on the fresh seeds, from the `constraints` of the final figures."""
    broken = [entry for entry in entries if entry.get("satisfied") is not True]
    if entries and not broken:
        return ["On the fresh seeds all constraints hold, by the means of the runs."]
    return [_broken(entry) for entry in broken]


def _broken(entry: Mapping[str, object]) -> str:
    if entry.get("satisfied") is None:
        return f"The constraint {entry.get('text')} was not measured on fresh seeds."
    value = f" ({number(entry.get('value'))} by the mean)" if is_number(entry.get("value")) else ""
    return (
        f"On the fresh seeds the constraint {entry.get('text')} is broken{value}: what the search saw of it was luck."
    )


def _listed(texts: Iterable[str]) -> str:
    return " and ".join(texts)
