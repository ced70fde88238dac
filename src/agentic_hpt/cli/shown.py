"""How studies, trials, decisions and results look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from agentic_hpt.records import DecisionRecord, Goal, JsonObject, Note, Params, Trial, is_number
from agentic_hpt.report.actions import action_words
from agentic_hpt.report.plain import counted, duration, number, parameters, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from agentic_hpt.coordinator.undo import Effect

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


def show_decisions(
    console: Console, decisions: Sequence[DecisionRecord], effects: Sequence[Effect], notes: Sequence[Note]
) -> None:
    """Print decisions: who decided and why it was asked, each action with its verdict, and what it has brought."""
    brought = {(effect.round, effect.position): effect for effect in effects}
    written = {note.id: note.text for note in notes}
    for decision in decisions:
        facts: list[str] = [decision.kind]
        facts += [f"{decision.tokens} tokens"] if decision.tokens else []
        facts += [f"meanwhile {counted(decision.bridged, 'trial')} more"] if decision.bridged else []
        when = f"after round {decision.round}" if decision.round else "before round 1"
        console.print(f"{when}: {', '.join(facts)}", style="bold")
        said = {
            "asked": decision.asked,
            "the rules decided instead of the model": decision.fallback,
            "a person said": decision.review,
        }
        for head, text in said.items():
            if text:
                console.print(f"  {head}: {visible(text)}")
        for note in decision.notes:
            console.print(f"  note {note}: {visible(written.get(note, ''))}")
        for position, action in enumerate(decision.actions):
            by = f" by the {action.by}" if action.by else ""
            console.print(f"  {action_words(action)}{by} [{action.verdict}]: {visible(action.reason)}")
            if action.verdict_reason:
                console.print(f"    guard: {visible(action.verdict_reason)}")
            if action.evidence:
                console.print(f"    evidence: trials {', '.join(str(i) for i in action.evidence)}")
            effect = brought.get((decision.round, position))
            if effect is not None:
                console.print(f"    effect: {_effect(effect)}")
    unseen = [n for n in notes if not any(n.id in decision.notes for decision in decisions)]
    for left in unseen:
        console.print(f"note {left.id}, not seen by a decision yet: {visible(left.text)}")


def _effect(effect: Effect) -> str:
    stated = f"{number(effect.stated)} stated" if effect.stated else "any gain beyond noise will do"
    seen = "no value yet" if effect.gain is None else f"{effect.gain:+.3g}"
    return f"{effect.status}; {stated}, {seen} in {effect.trials} of {counted(effect.window, 'trial')}"


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
