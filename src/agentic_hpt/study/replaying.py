"""How like a replayed study is to the one whose decisions it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentic_hpt.records import ConfigurationKey, DecisionRecord, JsonObject, Trial, configuration_key

_Assignment = tuple[int, str, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Whether two studies had the same assignments, and tried the same configurations in them."""

    assignments: bool
    """The same workers, kinds, parameters and numbers of trials in each round."""
    configurations: bool
    difference: str = ""
    """The first difference, in words; empty when there is none."""

    def to_json(self) -> JsonObject:
        """Give it as plain data."""
        return {
            "assignments": self.assignments,
            "configurations": self.configurations,
            "difference": self.difference or None,
        }


def compared(first: Sequence[Trial], decisions: Sequence[DecisionRecord], again: Sequence[Trial]) -> Likeness:
    """Compare the trials of a study with those of its replay, as far as the study was decided."""
    rounds = max((decision.round for decision in decisions), default=0)
    before, after = _assignments(first, rounds), _assignments(again, rounds)
    difference = _difference({k: len(v) for k, v in before.items()}, {k: len(v) for k, v in after.items()})
    if difference:
        return Likeness(False, False, difference)
    for key, configurations in before.items():
        for position, configuration in enumerate(configurations):
            if after[key][position] != configuration:
                return Likeness(True, False, f"{_named(key)}: its trial {position + 1} has another configuration")
    return Likeness(True, True)


def _assignments(trials: Sequence[Trial], rounds: int) -> dict[_Assignment, list[ConfigurationKey]]:
    found: dict[_Assignment, list[ConfigurationKey]] = {}
    for trial in trials:
        if trial.counted and trial.round <= rounds:
            key = (trial.round, trial.kind, trial.worker, trial.tuned)
            found.setdefault(key, []).append(configuration_key(trial.params))
    return dict(sorted(found.items()))


def _difference(before: dict[_Assignment, int], after: dict[_Assignment, int]) -> str:
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            return f"{_named(key)}: {before.get(key, 0)} trials, {after.get(key, 0)} when replayed"
    return ""


def _named(key: _Assignment) -> str:
    round_, kind, worker, tuned = key
    name = worker if worker == kind else f"{worker} ({kind})"
    return f"round {round_}, worker {name} of {', '.join(tuned) or 'nothing'}"
