"""When failures end a study: nothing would come of it, and its budget would be burnt. The one owner of that."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import cast

from agentic_hpt.errors import ConfigError, FailureKind, HptError, SameFailure
from agentic_hpt.graph.context import StudyParts
from agentic_hpt.graph.state import StudyState
from agentic_hpt.records import Outcome, Trial, TrialState, configuration_key
from agentic_hpt.space import Choice, SearchSpace

_BROKEN = frozenset({FailureKind.CRASH, FailureKind.INVALID_OUTPUT, FailureKind.LOST_WORKER})
"""Kinds by which an objective that is broken shows; the others are what some configurations come to."""
_LONGER, _ALL_OVER = 3, 2
_SHOWN = 500
_VARIES = re.compile(
    r"""(?:\b[A-Za-z]:)?[\\/][^\s"'`,;:()\[\]]+   # a path
    | \b0x[0-9a-fA-F]+ | \b[0-9a-f]{8,}\b         # an address, an id
    | [-+]?\d[\d._,]*(?:[eE][-+]?\d+)?            # a number
    """,
    re.VERBOSE,
)


def check_first_answer(parts: StudyParts, problem: str) -> None:
    """Refuse an objective whose first answer is not what an objective answers.

    Raises `ConfigError` before anything is told.
    """
    if not any(t.finished and t.counted for t in parts.ledger.trials()):
        raise ConfigError(
            f"the objective's first answer can't be used: {problem}",
            "mend the objective and run again; the study's name stays free",
        )


def invalid(parts: StudyParts, outcome: Outcome) -> str:
    """Say what is wrong with an answer, or which metric of a constraint it did not give; empty when nothing is."""
    if outcome.failure is FailureKind.INVALID_OUTPUT:
        return outcome.message
    lacking = parts.config.goal.unmeasured(outcome.values) if outcome.state is TrialState.COMPLETE else None
    if lacking is None:
        return ""
    metric, constraint = lacking
    return f"it gave no {metric!r}, which the constraint {constraint.text!r} needs"


def failing_alike(parts: StudyParts, told: Trial, later: Collection[int] = ()) -> SameFailure | None:
    """Say that the study stops with the trial just told; `None` while it goes on. For the brain thread.

    Trials that were told `later`, together with it, are not looked at yet.

    Where nothing ever worked, so many failures alike in a row are enough, and again as many after a resume. Where
    something did, a region of the space may be what fails: only one that worked and fails now tells; see `to_prove`.
    Values that are no numbers tell as much as an error once they come from all over the space.
    """
    if told.state is not TrialState.FAILED:
        return None
    same = parts.config.failures.same
    trials = [trial for trial in parts.ledger.trials() if trial.id not in later]
    row = in_a_row(trials)
    if not any(trial.id == told.id for trial in row):
        return None
    if _no_numbers_anywhere(parts, trials, row) and not _no_numbers_anywhere(
        parts, trials, [trial for trial in row if trial.id != told.id]
    ):
        where = "the default and others from all over the space, and none has worked yet"
        return _stopped(parts, row, where, "see whether the data hold nan, or the loss can't be computed")
    enough = same if told.failure in _BROKEN else _LONGER * same
    if len(row) < enough:
        return None
    if any(trial.counted and _works(trial) for trial in trials):
        if told.failure not in _BROKEN or len(row) <= _LONGER * same or not _worked_before(told, trials):
            return None
        why = f"trial {told.id} among them, whose configuration had worked before"
    elif len(row) % enough:
        return None
    else:
        why = "and none has worked yet"
    return _stopped(parts, row, why, "mend the cause")


def to_prove(parts: StudyParts, trials: Sequence[Trial]) -> Trial | None:
    """Give the trial whose configuration is to run again, to tell a broken objective from a failing region.

    That is due when, among trials that worked before, three times `failures.same` in a row have failed alike since it
    was last tried.
    """
    row = in_a_row(trials)
    if len(row) < _LONGER * parts.config.failures.same or row[0].failure not in _BROKEN:
        return None
    best = parts.config.goal.best(trials) or next((t for t in reversed(trials) if t.counted and _works(t)), None)
    if best is None:
        return None
    key, since = configuration_key(best.params), row[-1].id
    again = [t.id for t in trials if t.id > since and configuration_key(t.params) == key]
    newer = sum(t.id > max(again) for t in row) if again else len(row)
    return best if newer >= _LONGER * parts.config.failures.same else None


def in_a_row(trials: Sequence[Trial]) -> list[Trial]:
    """Give the newest trials of the search that failed alike, newest first; what still runs and what the end of the
    time cut short is not among them.
    """
    found: list[Trial] = []
    for trial in reversed(trials):
        if not trial.counted or not trial.finished or trial.failure is FailureKind.CANCELLED:
            continue
        if trial.state is not TrialState.FAILED or (found and _cause(trial) != _cause(found[0])):
            break
        found.append(trial)
    return found


def alike(message: str) -> str:
    """Give what a failure's text has in common with that of the same failure elsewhere.

    That is its first and its last line, without numbers, addresses and paths: the error, and where it came from.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n".join(_VARIES.sub("#", line) for line in dict.fromkeys([*lines[:1], *lines[-1:]]))


def idle_round(parts: StudyParts, state: StudyState) -> bool:
    """Say whether the round ran no trial though no worker failed.

    Raises `HptError` when all workers failed, and had failed in the round before: one such round is borne, so that a
    study which stopped for it can be resumed once the cause is mended.
    """
    reports = [r for r in state.get("reports", []) if r["round"] == state["round"]]
    errors = [r["error"] for r in reports if r["error"]]
    idle = not any(r["trials"] for r in reports)
    if not (idle and errors):
        parts.failed_rounds = 0
        return idle
    parts.failed_rounds += 1
    if parts.failed_rounds > 1:
        raise HptError(f"no worker could run a trial in round {state['round']}: {errors[0]}", "see the notices above")
    return False


def _works(trial: Trial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _cause(trial: Trial) -> tuple[FailureKind | None, str]:
    return trial.failure, alike(trial.message) if trial.failure in _BROKEN else ""


def _stopped(parts: StudyParts, row: Sequence[Trial], why: str, cause: str) -> SameFailure:
    newest = row[0]
    return SameFailure(
        f"{len(row)} trials in a row failed alike ({newest.failure}), {why}: {_in_short(newest.message)}",
        f"{cause}, then `hpt resume {parts.name}` goes on; if only a part of the space fails, "
        f"raise failures.same ({parts.config.failures.same}) in the study file",
    )


def _no_numbers_anywhere(parts: StudyParts, trials: Sequence[Trial], row: Sequence[Trial]) -> bool:
    """Say whether the study's first trials, the default and enough others from all over the space, all came to nan."""
    first = next(trial.id for trial in trials if trial.counted)
    return (
        len(row) >= _ALL_OVER * parts.config.failures.same
        and row[0].failure is FailureKind.NAN
        and row[-1].id == first
        and all(_in_both_halves(parts.space, name, row) for name in parts.space)
    )


def _in_both_halves(space: SearchSpace, name: str, trials: Sequence[Trial]) -> bool:
    """Say whether a parameter was tried in both halves of its range, on its scale; not asked of one with `when`."""
    parameter = space[name]
    values = [trial.params[name] for trial in trials if name in trial.params]
    if parameter.when:
        return True
    if isinstance(parameter, Choice):
        return len(set(values)) > 1 or len(parameter.values) == 1
    low, high = parameter.low, parameter.high
    middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
    numbers = cast(list[float], values)
    return low == high or min(numbers, default=high) < middle < max(numbers, default=low)


def _worked_before(told: Trial, trials: Sequence[Trial]) -> bool:
    key = configuration_key(told.params)
    return any(trial.counted and _works(trial) and configuration_key(trial.params) == key for trial in trials)


def _in_short(message: str) -> str:
    """Give a failure's first line; of a program's, which only has its exit code, the last one too."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = lines[:1] if len(lines) < 2 or not lines[0].endswith(":") else [lines[0], lines[-1]]
    return " ".join(said)[:_SHOWN]
