"""How studies, trials, decisions and results look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from agentic_hpt.records import DecisionRecord, Goal, JsonObject, Params, Trial, is_number
from agentic_hpt.report.plain import counted, duration, number, parameters, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["params_of", "show_decisions", "show_params", "show_result", "show_trials", "table"]


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Make an empty table without lines; the columns named in `right` hold figures."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(visible(column), justify="right" if column in right else "left", overflow="fold")
    return made


def params_of(value: object) -> Params:
    """Give the `params` of a document as parameters; none for anything else."""
    return cast(Params, value) if isinstance(value, Mapping) else {}


def show_params(console: Console, params: Params) -> None:
    """Print a configuration, one parameter a line."""
    width = max((len(visible(name)) for name in params), default=0)
    for name, value in params.items():
        console.print(f"  {visible(name):<{width}}  {number(value)}")


def show_trials(console: Console, goal: Goal, trials: Sequence[Trial]) -> None:
    """Print trials as a table; a failed one with its kind and message instead of a value."""
    shown = table(
        "trial", "state", goal.metric, "worker", "round", "time", "parameters", right=("trial", goal.metric, "round")
    )
    for trial in trials:
        value = goal.value(trial)
        failure = f": {trial.failure.value}" if trial.failure else ""
        params = parameters(trial.params)
        shown.add_row(
            str(trial.id),
            f"{trial.state.value}{failure}",
            "" if value is None else number(value),
            visible(trial.worker),
            str(trial.round),
            duration(trial.seconds),
            f"{params}  ({visible(trial.message[:200])})" if trial.message else params,
        )
    console.print(shown)


def show_decisions(console: Console, decisions: Sequence[DecisionRecord]) -> None:
    """Print decisions: who decided, each action with the guard's verdict, and the reasons."""
    for decision in decisions:
        cost = f", {decision.tokens} tokens" if decision.tokens else ""
        console.print(f"after round {decision.round}: {decision.kind}{cost}", style="bold")
        if decision.fallback:
            console.print(f"  the rules decided instead of the model: {visible(decision.fallback)}")
        for action in decision.actions:
            console.print(f"  {visible(action.type)} [{action.verdict}]: {visible(action.reason)}")
            if action.verdict_reason:
                console.print(f"    guard: {visible(action.verdict_reason)}")
            if action.evidence:
                console.print(f"    evidence: trials {', '.join(str(i) for i in action.evidence)}")


def show_result(console: Console, goal: Goal, document: JsonObject) -> None:
    """Print how a study ended, from the document of `hpt run --json`: figures, parameters, and where to look next."""
    from agentic_hpt.report.summary import final_sentences, target_sentence

    name = visible(document["study"])
    trials, best, final = (_part(document, key) for key in ("trials", "best", "final"))
    stopped = document.get("stopped_by")
    console.print(f"study {name}: {visible(document['status'])}{f', ended by {visible(stopped)}' if stopped else ''}")
    if document.get("error"):
        console.print(f"  {visible(document['error'])}")
    states = ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials.get(state))
    total = trials.get("total")
    ran = counted(total, "trial") if isinstance(total, int) else "no trials"
    console.print(
        f"  {ran}{f' ({states})' if states else ''} in {counted(_whole(document['rounds']), 'round')}, "
        f"{duration(_number(document.get('seconds')))}"
    )
    value = _number(_part(best, "values").get(goal.metric))
    if value is not None:
        console.print(
            f"  best {visible(goal.metric)} {number(value)} in trial {best['trial']}, on the validation data:"
        )
        show_params(console, {f"  {key}": entry for key, entry in params_of(best.get("params")).items()})
    else:
        console.print("  no trial is complete yet")
    sentences = final_sentences(goal.metric, final) if final else []
    target = target_sentence(goal, value, _number(final.get("mean")))
    for sentence in [*sentences, *([target] if target else [])]:
        console.print(f"  {visible(sentence)}")
    for key, path in _part(document, "paths").items():
        if path:
            console.print(f"  {visible(key)}: {visible(path)}", soft_wrap=True)
    if document["status"] == "stopped":
        console.print(f"there is work left: hpt resume {_quoted(name)}")
    console.print(f"next: hpt report {_quoted(name)} | hpt trials {_quoted(name)} | hpt ui {_quoted(name)}")


def _part(document: JsonObject, key: str) -> JsonObject:
    part = document.get(key)
    return part if isinstance(part, dict) else {}


def _number(value: object) -> float | None:
    return float(cast(float, value)) if is_number(value) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
