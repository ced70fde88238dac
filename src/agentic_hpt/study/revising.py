"""Changing the search space of a study that is under way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentic_hpt.config import StudyConfig
from agentic_hpt.constraints import Condition
from agentic_hpt.errors import ConfigError, SpaceError
from agentic_hpt.ledger import StudyLedger
from agentic_hpt.ledger.revising import as_now
from agentic_hpt.records import Params
from agentic_hpt.refitting import Revision, changes, check_revision, refit
from agentic_hpt.space import SearchSpace
from agentic_hpt.study.describing import who


def revised(
    config: StudyConfig, space: SearchSpace | Mapping[str, object], constraints: Sequence[str] | None
) -> StudyConfig:
    """Give a study's description with another space; of `initial` without what that can't hold.

    `space` is one, or what a study file says of one; without `constraints` the study's stay. Raises `ConfigError`.
    """
    if not isinstance(space, SearchSpace):
        space = SearchSpace.from_json(space)
    constraints = config.constraints if constraints is None else constraints
    texts = [constraints] if isinstance(constraints, str) else list(constraints)
    gone = [name for name in config.space if name not in space]
    for text in texts:
        lost = next((name for name in Condition.of(text).names if name in gone), None)
        if lost is not None:
            raise SpaceError(
                f"the constraint {text!r} names {lost!r}, which the new space does not have", "leave it out as well"
            )
    data = {**config.to_json(), "space": space, "constraints": texts, "initial": []}
    changed = StudyConfig.from_mapping(data, where="the new space")
    if config.space != changed.space or set(config.constraints) == set(changed.constraints):
        check_revision(config.space, changed.space)  # else it is what is asked of outcomes that was changed
    kept = [dict(entry) for entry in config.initial if _fits(changed.space, entry)]
    return StudyConfig.from_mapping({**changed.to_json(), "initial": kept}) if kept else changed


def revision_of(before: StudyConfig, after: StudyConfig, ledger: StudyLedger) -> Revision:
    """Put a revision together: what was changed, and what becomes of the study's trials."""
    ended = [trial for trial in ledger.trials() if trial.finished]
    last = max((trial.round for trial in ledger.trials()), default=0)
    decided = max((decision.round for decision in ledger.decisions()), default=-1)
    made = Revision(
        before=before.space,
        after=after.space,
        round=max(last, decided + 1, ledger.begins),
        trials=ledger.count,
        by=who(),
        created=time.time(),
        told="",
    )
    kept = [trial for trial in ended if refit(trial.params, before.space, after.space) is not None]
    back = sum(as_now(trial, [*ledger.revisions, made]) is not None for trial in ledger.outside())
    told = "; ".join(
        [*(changes(before.space, after.space) if before.space != after.space else []), *_asked(before, after)]
    )
    told += f". {len(kept) + back} of {len(ended) + len(ledger.outside())} trials are of use"
    best = before.goal.best(ended)
    if best is not None and best not in kept:
        told += f"; the best one so far, {best.id}, is not"
    elif best is not None and best not in after.goal.satisfying(kept):
        told += f"; the best one so far, {best.id}, breaks what is asked of it now"
    dropped = len(before.initial) - len(after.initial)
    return replace(made, told=f"{told}; of initial, {dropped} were left out" if dropped else told)


def _asked(before: StudyConfig, after: StudyConfig) -> list[str]:
    """Say which conditions on outcomes were added or taken away; those over parameters are the space's."""
    was, now = ([c.text for c in config.goal.constraints] for config in (before, after))
    added = [f"constraint {text!r} added" for text in now if text not in was]
    return [*added, *(f"constraint {text!r} removed" for text in was if text not in now)]


def space_in(data: Mapping[str, object]) -> tuple[Mapping[str, object], list[str] | None]:
    """Give the space and the constraints of a file that holds a study, or nothing but the space."""
    space = data.get("space")
    if not isinstance(space, Mapping) or {"float", "int", "choice"} & space.keys():  # a parameter named space
        return data, None
    texts = data.get("constraints")
    texts = [texts] if isinstance(texts, str) else texts
    if texts is None or (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        return space, texts
    raise ConfigError(f"constraints: {texts!r} is no list of conditions", "write constraints: ['a < b']")


def _fits(space: SearchSpace, entry: Params) -> bool:
    return all(name in space for name in entry) and space.contains({**space.complete(entry), **entry})
