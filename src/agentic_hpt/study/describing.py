"""Describing a study anew while it lives: what may change of it and what may not, and what its budget then is."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError
from agentic_hpt.fronts import meeting
from agentic_hpt.ledger import StudyLedger
from agentic_hpt.records import Change, Goal, JsonObject, Trial, Usage
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

_KEPT = {
    "metric": "the trials so far were judged by it",
    "direction": "the trials so far were judged by it",
    "reference": "the trials so far were judged by it",
    "seed": "the trials' own seeds come from it",
    "transfer": "it is read once, when a study is made",
    "import_optuna": "it is read once, when a study is made",
}
_KEPT_MLFLOW = ("tracking_uri", "experiment", "children")
_LONGEST = 60


def checked(before: StudyConfig, after: StudyConfig) -> list[str]:
    """Say what was changed, a phrase a key; of the space only that it was.

    Raises `ConfigError` that names all that can't change, and why.
    """
    problems = [f"{key}: {why}" for key, why in _KEPT.items() if getattr(before, key) != getattr(after, key)]
    was, now = _objective(before), _objective(after)
    if was != now:
        problems.append(f"objective: it is {was}, and can't become {now}")
    for key in _KEPT_MLFLOW:
        if getattr(before.mlflow, key) != getattr(after.mlflow, key):
            problems.append(f"mlflow.{key}: the study's runs are there")
    problems += narrowed(before.space, after.space, before.study)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(
            f"study {before.study!r} can't go on as it is described now:\n{listed}",
            f"mend the description, or give it another name: `hpt run FILE --study NAME --from {before.study}` starts "
            "with what this one knows",
        )
    told = _differences(_seen(before), _seen(after))
    return told or (["a value that is not shown was changed"] if _secret(before) != _secret(after) else [])


def settled(before: StudyConfig, after: StudyConfig) -> StudyConfig:
    """Give a description whose trials run, with `executor: auto`, where the study's have run so far, if they can."""
    if after.executor != "auto":
        return after
    where = {"executor": before.executor, "parallel": after.parallel or before.parallel}
    try:
        return StudyConfig.from_mapping({**after.to_json(), "space": after.space, **where})
    except ConfigError:  # what it looks at now is measured of processes only, say
        return after


def narrowed(before: SearchSpace, after: SearchSpace, study: str) -> list[str]:
    """Say where a space holds less than another; what it has in addition is no problem, if its default is declared."""
    told = f"`hpt resume {study} --space FILE` takes that over, and says what becomes of the trials"
    found = []
    for name in before:
        why = "it was removed" if name not in after else _lost(before[name], after[name])
        if why:
            found.append(f"space.{name}: {why}; {told}")
    for name in after:
        if name not in before and after[name].default is None:
            found.append(f"space.{name}: it was added without a default, which the trials so far are taken to have had")
    texts = [condition.text for condition in before.constraints]
    for condition in after.constraints:
        if condition.text not in texts:
            found.append(f"constraints: {condition.text!r} was added, and trials so far may break it; {told}")
    return found


def budgeted(
    config: StudyConfig,
    usage: Usage,
    *,
    ended: bool,
    trials: int | str | None = None,
    minutes: float | str | None = None,
    target: float | None = None,
) -> StudyConfig:
    """Give a study's description with another budget: a number is the new total, text like `+50` says how many more.

    More are more than planned; of a study that has `ended`, more than it used. Raises `ConfigError`.
    """
    planned = config.budget
    budget: dict[str, object] = dict(planned.model_dump())
    if trials is not None:
        base = usage.trials if ended or planned.trials is None else planned.trials
        budget["trials"] = int(_total(trials, base, "trials", whole=True))
    if minutes is not None:
        spent = usage.seconds / 60
        base_minutes = spent if ended or planned.minutes is None else max(planned.minutes, spent)
        budget["minutes"] = _total(minutes, base_minutes, "minutes")
    data = {**config.to_json(), "space": config.space, "budget": budget}
    return StudyConfig.from_mapping({**data, **({} if target is None else {"target": target})}, where="resume")


def check_budget(config: StudyConfig, usage: Usage) -> None:
    """See that a budget is not below what was used of it. Raises `ConfigError`."""
    budget = config.budget
    used: list[tuple[str, float | None, float, str]] = [
        ("trials", budget.trials, usage.trials, f"{usage.trials} trials"),
        ("minutes", budget.minutes, usage.seconds / 60, f"{usage.seconds / 60:.3g} minutes"),
    ]
    for name, limit, spent, told in used:
        if limit is not None and limit < spent:
            raise ConfigError(
                f"budget.{name}: {limit:g} is less than what study {config.study!r} has used up: {told}",
                f"give more, or as many more as you want: `hpt resume {config.study} --{name} +N`",
            )


def ended_by(ledger: StudyLedger) -> str | None:
    """Say what ended the search, also where its end was cut off before the figures; `None` while it goes on."""
    decisions = ledger.decisions()
    went_on = max((change.round for change in ledger.changes() if change.reopens), default=-1)
    if not decisions or decisions[-1].round < max(ledger.begins, went_on + 1):
        return None
    end = decisions[-1].accepted("finalize")
    return None if end is None else str(end.detail.get("stopped_by", "coordinator"))


def check_worth_it(before: StudyConfig, after: StudyConfig, ledger: StudyLedger, stopped_by: str | None) -> None:
    """See that a study that has ended has something to go on for. Raises `ConfigError`."""
    usage = ledger.usage()
    if stopped_by == "exhausted" and after.space == before.space:
        raise ConfigError(
            f"study {before.study!r} ended when its space held nothing new: with the same one it would end again",
            "widen the space in the study file, then `hpt resume FILE.yaml`",
        )
    other_rule = stopped_by == "no_gain" and after.stop != before.stop
    same = after.budget == before.budget and after.target == before.target and not other_rule
    if same and stopped_by != "exhausted":
        raise ConfigError(
            f"study {before.study!r} has ended: only more budget, or another target, lets it go on",
            f"`hpt resume {before.study} --trials +N`",
        )
    if (spent := usage.spent(after.limits_of_study)) is not None:
        raise ConfigError(f"study {before.study!r} has ended, and {spent} leaves nothing to run", "raise it")
    if stopped_by == "target" and after.target == before.target:
        raise ConfigError(
            f"study {before.study!r} ended when it reached its target, {before.target}: it would end again at once",
            "give others in the study file, then `hpt resume FILE.yaml --trials +N`"
            if before.goal.several
            else f"give another: `hpt resume {before.study} --target X --trials +N`",
        )
    if after.target is not None and (reached := _reaching(after.goal, ledger.trials())) is not None:
        raise ConfigError(
            f"study {before.study!r} has ended, and its trial {reached.id} reaches the target, {after.target}, already",
            "give one that lies further",
        )


def change_of(
    ledger: StudyLedger,
    told: str,
    *,
    kind: Literal["described", "code"] = "described",
    reopens: bool = False,
    code: str = "",
) -> Change:
    """Put a change together: who made it, when, and where the study stood."""
    final = ledger.final() if reopens else None
    return Change(
        kind=kind,
        told=mask_secrets(told),
        by=who(),
        created=time.time(),
        round=max((decision.round for decision in ledger.decisions()), default=0),
        trials=ledger.count,
        reopens=reopens,
        final=final.to_json() if final is not None else None,
        code=code,
    )


def who() -> str:
    """Name the person at work, as the machine does."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have a number only
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _reaching(goal: Goal, trials: Sequence[Trial]) -> Trial | None:
    """Give the trial that reaches the targets, by the mean of its runs; `None` while none does."""
    if goal.several:
        met = meeting(goal, trials)
        return None if met is None else met.trial
    best = goal.best(trials)
    value = None if best is None else goal.estimates(trials).get(best.id, goal.value(best))
    return best if goal.reached(value) else None


def _objective(config: StudyConfig) -> str:
    described = config.objective
    if described is None:
        return "a function handed over in code"
    if described.task is not None:
        return f"the built-in task {described.task}"
    return "a Python function" if described.python is not None else "a command"


def _lost(old: Parameter, new: Parameter) -> str:
    """Say what a declaration of a parameter lost against the one before; empty where nothing."""
    if old.kind != new.kind:
        return f"it became a {new.kind} and was a {old.kind}"
    if old.when != new.when:
        return "it has another condition"
    if isinstance(old, Choice) and isinstance(new, Choice):
        gone = [value for value in old.values if new.accepts(value) is not None]
        return f"it lost {', '.join(map(repr, gone))}" if gone else ""
    if isinstance(old, Float | Int) and isinstance(new, Float | Int):
        if new.low > old.low or new.high < old.high:
            return f"it was narrowed, from {old.low:g} to {old.high:g} to {new.low:g} to {new.high:g}"
        if new.step not in (None, old.step) or (new.step and (old.low - new.low) % new.step):
            return "it has another grid"
    return ""


def _total(given: float | str, base: float, name: str, whole: bool = False) -> float:
    text = str(given).strip()
    try:
        number = float(int(text) if whole else float(text))
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        kind = "whole number" if whole else "number"
        raise ConfigError(f"{name}: {given!r} is no {kind} above 0", "give the new total, or +N for N more")
    return base + number if text.startswith("+") else number


def _seen(config: StudyConfig) -> JsonObject:
    """Give a description as it may be shown, without its space, which is told of otherwise."""
    return {key: value for key, value in config.told().items() if key not in ("space", "study")}


def _secret(config: StudyConfig) -> JsonObject:
    """Give a description with what may not be shown of it."""
    return {key: value for key, value in config.to_json().items() if key not in ("space", "study")}


def _differences(before: Mapping[str, object], after: Mapping[str, object], prefix: str = "") -> list[str]:
    found = []
    for key in after:
        was, now = before.get(key), after[key]
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(cast(JsonObject, was), cast(JsonObject, now), f"{prefix}{key}.")
        elif was != now:
            found.append(f"{prefix}{key} {_short(was)} -> {_short(now)}")
    return found


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
