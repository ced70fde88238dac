"""`hpt decisions`: what was decided, and why; on what evidence, and by what calls of a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_calls, show_decisions, show_evidence
from agentic_hpt.errors import ConfigError
from agentic_hpt.records import JsonObject

if TYPE_CHECKING:
    from agentic_hpt.study import Study

_NEWEST = -1


@click.command("decisions")
@click.argument("study")
@click.option(
    "--evidence",
    "evidence_of",
    type=int,
    is_flag=False,
    flag_value=_NEWEST,
    metavar="[ROUND]",
    help="What the decision after ROUND rests on; without a ROUND, the newest.",
)
@click.option("--calls", is_flag=True, help="The calls of the model; with --json their prompts and answers too.")
@verb
def command(study: str, evidence_of: int | None, calls: bool, home: str | None) -> Answer:
    """List what the coordinator of STUDY decided after each round, the reasons, the guards' verdicts, and the effects.

    Round 0 is the decision before the first round; it is taken when a model or a person decides.
    """
    from agentic_hpt.study import open_view

    if calls and evidence_of is not None:
        raise click.UsageError("--evidence and --calls are two answers: ask for one of them.")
    view = open_view(study, home)
    if calls:
        told = view.calls()
        return Answer({"calls": [asdict(call) for call in told]}, lambda console: show_calls(console, told))
    if evidence_of is not None:
        return _evidence(view, evidence_of)
    decisions, effects, notes = view.decisions(), view.effects(), view.notes()
    document: JsonObject = {
        "decisions": [d.to_json() for d in decisions],
        "effects": [asdict(effect) for effect in effects],
        "notes": [asdict(note) for note in notes],
    }
    return Answer(document, lambda console: show_decisions(console, decisions, effects, notes))


def _evidence(view: Study, round_: int) -> Answer:
    decisions = {decision.round: decision for decision in view.decisions()}
    if not decisions:
        raise ConfigError("nothing is decided yet", "the first decision comes after a round, or before the first one")
    decision = decisions.get(max(decisions) if round_ == _NEWEST else round_)
    if decision is None:
        rounds = ", ".join(str(number) for number in [*decisions][-8:])
        raise ConfigError(f"there is no decision after round {round_}", f"the newest ones are after rounds {rounds}")
    evidence = view.evidence(decision.round)
    document: JsonObject = {
        "round": decision.round,
        "by": decision.kind,
        "evidence_id": decision.evidence_id or None,
        "evidence": evidence,
    }
    return Answer(document, lambda console: show_evidence(console, decision, evidence))
