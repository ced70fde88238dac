"""Reading the trials of earlier studies: from a ledger, an Optuna storage or a table in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.earlier import plain
from agentic_hpt.errors import ConfigError
from agentic_hpt.ledger.store import LedgerStore
from agentic_hpt.records import Budget, Direction, EarlierStudy, OutcomeConstraint, Params, Trial, TrialState, is_figure

_PARAMS = "params."


def from_ledger(
    url: str, name: str, metric: str, direction: Direction, constraints: Sequence[OutcomeConstraint] = ()
) -> EarlierStudy:
    """Read a study of ours; `metric` in the direction that it has there, if it is an objective of that study.

    Trials that break that study's outcome constraints, or these, are not to begin with.

    Raises `StudyNotFound`, `LedgerError`, and `ConfigError` when no trial has the metric.
    """
    store = LedgerStore(url, create=False)
    try:
        row = store.find(name)
        trials = store.open_study(row, budget=Budget(), seed=0).trials()
    finally:
        store.close()
    goal = StudyConfig.from_mapping(row.config).goal
    own = goal.objectives
    direction = next((o.direction for o in own if o.metric == metric), direction)
    ended = [t for t in trials if t.finished]
    told = [t for t in ended if t.state is TrialState.COMPLETE and is_figure(t.values.get(metric))]
    found = [(t.params, t.values[metric]) for t in told]
    if ended and not found:
        raise ConfigError(
            f"no trial of the study {name!r} has the metric {metric!r}",
            f"it has {' and '.join(repr(o.metric) for o in own)}",
        )
    barred = [place for place, t in enumerate(told) if not goal.feasible(t) or any(_breaks(t, c) for c in constraints)]
    return replace(earlier_study(f"study {name!r}", found, direction, len(ended) - len(found)), barred=tuple(barred))


def from_optuna(storage: str, name: str, metric: str, direction: Direction) -> EarlierStudy:
    """Read a study with one objective from an Optuna storage, in its own direction. Raises `ConfigError`."""
    from agentic_hpt.ledger.optuna_mirror import complete_trials

    found, own, without = complete_trials(storage, name, metric)
    return earlier_study(f"Optuna study {name!r}", found, own or direction, without)


def from_csv(path: Path, metric: str, direction: Direction) -> EarlierStudy:
    """Read a table with a column for each parameter and one for the metric; a line without a metric has no value.

    It may be a table of trials as we write it (`trials.csv`), or of runs as MLflow does.

    Raises `ConfigError` for a file that can't be read, a missing column, or a metric that is no number, by its line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            table.fieldnames = _named([name.strip() for name in table.fieldnames or ()], metric)
            columns = [name for name in table.fieldnames if name]
            if metric not in columns:
                raise ConfigError(
                    f"{path.name} has no column {metric!r}",
                    f"it has {', '.join(columns) or 'no columns'}; name the metric's by `metric: COLUMN`",
                )
            if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
                raise ConfigError(f"{path.name} has two columns {twice[0]!r}", "name each column once")
            found: list[tuple[Params, float]] = []
            without = 0
            for row in table:
                value = _figure(row[metric], path.name, table.line_num, metric)
                if value is None:
                    without += 1
                    continue
                cells = {name: (row[name] or "").strip() for name in columns if name != metric}
                found.append(({name: plain(cell) for name, cell in cells.items() if cell}, value))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"can't read {path}: {error}", "give a CSV file with a line of column names") from None
    return earlier_study(path.name, found, direction, without)


def _named(columns: list[str], metric: str) -> list[str]:
    """Give columns their plain names; where parameters are `params.NAME` what else is told of a trial is dropped."""
    if not any(name.startswith(_PARAMS) for name in columns):
        return columns
    told = {metric, *(f"{prefix}{metric}" for prefix in ("values.", "metrics."))}
    return [
        name.removeprefix(_PARAMS) if name.startswith(_PARAMS) else metric if name in told else "" for name in columns
    ]


def earlier_study(
    source: str, found: list[tuple[Params, float]], direction: Direction, without: int = 0
) -> EarlierStudy:
    """Put an earlier study together; trials whose value is not finite, or too large, have none."""
    sign = -1.0 if direction == "maximize" else 1.0
    sound = [(dict(params), sign * value) for params, value in found if is_figure(value)]
    return EarlierStudy(
        mask_secrets(source),
        tuple(params for params, _ in sound),
        tuple(loss for _, loss in sound),
        without + len(found) - len(sound),
    )


def _breaks(trial: Trial, constraint: OutcomeConstraint) -> bool:
    """Say whether a trial breaks a constraint of another study, as far as it has measured what that asks of."""
    margin = constraint.margin(trial)
    return margin is not None and margin > 0


def _figure(text: str | None, file: str, line: int, metric: str) -> float | None:
    """Give the metric of a line; `None` when it is empty, NaN, infinite or too large: then the trial has no value."""
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(
            f"{file}, line {line}: {metric} is {text.strip()[:60]!r}, not a number", "mend or empty this cell"
        ) from None
    return value if is_figure(value) else None
