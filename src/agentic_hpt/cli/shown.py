"""How studies, trials, decisions and results look in a terminal."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from agentic_hpt.records import DecisionRecord, Goal, JsonObject, ModelCall, Note, Params, Trial, is_number
from agentic_hpt.report.actions import action_words, decider_words, effect_words
from agentic_hpt.report.plain import counted, duration, number, on_one_line, parameters, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from agentic_hpt.coordinator.undo import Effect

__all__ = [
    "params_of",
    "show_calls",
    "show_decisions",
    "show_evidence",
    "show_params",
    "show_result",
    "show_trials",
    "table",
]

_HASH = 8


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


def show_trials(
    console: Console, goal: Goal, trials: Sequence[Trial], outside: Container[int], *, running: bool
) -> None:
    """Print trials as a table; a failed one with its kind and message instead of a value.

    A trial that has not ended was cut off, unless its study is `running`. Those `outside` the space are told as such.
    """
    metrics = [objective.metric for objective in goal.objectives]
    shown = table(
        "trial", "state", *metrics, "worker", "round", "time", "parameters", right=("trial", *metrics, "round")
    )
    for trial in trials:
        complete = goal.value(trial) is not None
        state = trial.state.value if trial.finished or running else "cut off"
        failure = f": {trial.failure.value}" if trial.failure else ""
        params = parameters(trial.params)
        shown.add_row(
            str(trial.id),
            f"{state}{failure}{'' if not complete or goal.feasible(trial) else ', infeasible'}"
            f"{', outside the space' if trial.id in outside else ''}"
            f"{f', attempt {trial.attempt}' if trial.attempt > 1 else ''}",
            *(number(trial.values[m]) if complete and m in trial.values else "" for m in metrics),
            visible(trial.worker),
            str(trial.round),
            duration(trial.seconds),
            f"{params}  ({on_one_line(trial.message)[:200]})" if trial.message else params,
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
        console.print(f"{_when(decision.round)}: {', '.join(facts)}", style="bold")
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
                trials = "trial" if len(action.evidence) == 1 else "trials"
                console.print(f"    evidence: {trials} {', '.join(str(i) for i in action.evidence)}")
            effect = brought.get((decision.round, position))
            if effect is not None:
                console.print(f"    effect: {effect_words(effect)}")
    unseen = [n for n in notes if not any(n.id in decision.notes for decision in decisions)]
    for left in unseen:
        console.print(f"note {left.id}, not seen by a decision yet: {visible(left.text)}")


def show_evidence(console: Console, decision: DecisionRecord, evidence: JsonObject | None) -> None:
    """Print what a decision rests on, as it is told to a model."""
    from agentic_hpt.coordinator.evidence import render

    who = decider_words(decision)
    if evidence is None:
        console.print(f"{_when(decision.round)} {who} decided; the evidence was not kept")
        return
    console.print(f"{_when(decision.round)} {who} decided on the evidence {decision.evidence_id}:", style="bold")
    console.print(render(evidence), soft_wrap=True)


def show_calls(console: Console, calls: Sequence[ModelCall]) -> None:
    """Print the calls of the model as a table, without prompts and answers."""
    if not calls:
        console.print("no model was called")
        return
    figures = ("round", "try", "tokens in", "out", "dollars", "time")
    shown = table(
        "round", "for", "try", "model", "prompt", "input", "evidence", *figures[2:], "error", "verdicts", right=figures
    )
    for call in calls:
        shown.add_row(
            str(call.round),
            call.purpose,
            str(call.attempt),
            visible(call.model),
            call.prompt_version,
            call.input_hash[:_HASH],
            call.evidence_id[:_HASH],
            str(call.input_tokens),
            str(call.output_tokens),
            number(call.dollars, 3),
            duration(call.seconds),
            visible(call.error[:200]),
            visible("; ".join(call.verdicts)),
        )
    console.print(shown)


def _when(round_: int) -> str:
    return f"after round {round_}" if round_ else "before round 1"


def show_result(console: Console, goal: Goal, document: JsonObject) -> None:
    """Print how a study ended, from the document of `hpt run --json`: figures, parameters, and where to look next."""
    from agentic_hpt.report.constrained import standing_sentence
    from agentic_hpt.report.summary import final_sentences, target_sentence

    name = visible(document["study"])
    trials, best, final = (_part(document, key) for key in ("trials", "best", "final"))
    stopped = document.get("stopped_by")
    console.print(f"study {name}: {visible(document['status'])}{f', ended by {visible(stopped)}' if stopped else ''}")
    if document.get("error"):
        console.print(f"  {visible(document['error'])}")
    states = ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials.get(state))
    states += f", {trials['outside']} outside the space as revised" if trials.get("outside") else ""
    total = trials.get("total")
    ran = counted(total, "trial") if isinstance(total, int) else "no trials"
    console.print(
        f"  {ran}{f' ({states})' if states else ''} in {counted(_whole(document['rounds']), 'round')}, "
        f"{duration(_number(document.get('seconds')))}"
    )
    values = {o.metric: _number(_part(best, "values").get(o.metric)) for o in goal.objectives}
    value = values[goal.metric]
    if value is not None:
        figures = ", ".join(f"{visible(metric)} {number(figure)}" for metric, figure in values.items())
        console.print(f"  best {figures} in trial {best['trial']}, on the validation data:")
        show_params(console, {f"  {key}": entry for key, entry in params_of(best.get("params")).items()})
    elif not document.get("error"):
        console.print("  no trial is complete yet")
    pareto = document.get("pareto")
    if isinstance(pareto, list) and value is not None:
        console.print(f"  it is the knee of a Pareto front of {len(pareto)}; `hpt report` draws it")
    sentences = final_sentences(goal.metric, final) if final else []
    constraints = document.get("constraints")
    sentences += [standing_sentence(entry) for entry in constraints] if best and isinstance(constraints, list) else []
    target = target_sentence(goal, value, _number(final.get("mean")), stopped == "target")
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
