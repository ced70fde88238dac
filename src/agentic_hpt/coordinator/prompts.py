"""The prompts: versioned files beside this module, filled with evidence and with what code concludes from it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from agentic_hpt.config import CoordinatorConfig
from agentic_hpt.coordinator.decisions import (
    MAX_ACTIONS,
    MAX_PROPOSALS,
    MAX_SEEDS,
    ActionType,
    Options,
    answer_schema,
)
from agentic_hpt.coordinator.evidence import build_evidence, evidence_id, render
from agentic_hpt.coordinator.guards import options, plateau
from agentic_hpt.coordinator.schedule import unseen_notes
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject

DECIDING = "coordinator_v2"
OPENING = "opening_v1"
REPAIR = "repair_v2"

# Characters a token by a small model's tokenizer (others need fewer), and tokens kept free for a repair's error.
_PROSE_PER_TOKEN = 3.5
_DATA_PER_TOKEN = 1.6
_REPAIR_TOKENS = 300
_TOKENS_PER_ACTION = 250
"""What an action, or a proposed configuration, may take of the answer."""
_LEAST_EVIDENCE = 600
_MAX_NAMES = 20
_BEFORE_ANY_TRIAL = ("study", "description", "job", "goal", "space", "budget", "notes")


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked. `prompt` has a place for the schema, which is shown only to a model that gets no other."""

    version: str
    prompt: str
    schema: JsonObject
    evidence: JsonObject
    """All of it: a small context, or a study without trials, is shown a part."""
    compact: bool = False
    """Whether it was cut to a small context: then the schema is not told again in a repair."""

    def text(self, schema_mode: bool) -> str:
        """Give the prompt; without the provider's schema mode it holds the schema."""
        return self.prompt if schema_mode else f"{self.prompt}\n\n{_schema_text(self.schema)}"

    @property
    def evidence_id(self) -> str:
        """The evidence's short hash."""
        return evidence_id(self.evidence)

    @property
    def schema_characters(self) -> int:
        """The length of the schema, which is paid for wherever it is sent."""
        return len(json.dumps(self.schema))


def ask_question(situation: Situation, why: str, config: CoordinatorConfig, schema_mode: bool = True) -> Question:
    """Give the question for a situation; it holds only the actions that could be accepted now.

    `why` says what the model is asked for. For a model with a small context the evidence is cut to what fits beside the
    rest of the question, an answer, and one repair of it.
    """
    may = options(situation)
    most = max(1, min(MAX_ACTIONS, config.max_tokens // _TOKENS_PER_ACTION))
    may = replace(may, proposals=min(may.proposals, most))
    brief = config.context_tokens is not None and not schema_mode
    if brief:
        may = replace(may, actions=tuple(action for action in may.actions if action != "narrow"))
    schema = answer_schema(situation.space, may, brief, max_actions=most)
    evidence = build_evidence(situation)
    shown = evidence
    version = DECIDING
    if situation.round == 0:
        version = OPENING
        if not situation.trials:
            shown = {key: evidence[key] for key in _BEFORE_ANY_TRIAL if key in evidence}
    parts = {"actions": _may(may, brief), "conclusion": _conclusion(situation, may, most, why)}
    room = None
    if config.context_tokens is not None:
        tokens = config.context_tokens - 2 * config.max_tokens - _REPAIR_TOKENS
        tokens -= int(len(_filled(version, parts, "")) / _PROSE_PER_TOKEN)
        if not schema_mode:
            tokens -= int(len(_schema_text(schema)) / _DATA_PER_TOKEN)
        room = max(_LEAST_EVIDENCE, int(tokens * _DATA_PER_TOKEN))
    prompt = _filled(version, parts, render(shown, budget_characters=room))
    return Question(version, prompt, schema, evidence, compact=room is not None)


def repair_prompt(error: str, question: Question) -> str:
    """Give the one message that follows an answer which could not be used."""
    parts = {"error": error[:1000], "schema": "" if question.compact else _schema_text(question.schema)}
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], _read(REPAIR)).strip()


def _filled(version: str, parts: dict[str, str], evidence: str) -> str:
    # In one pass: what is put in may hold such a name itself.
    known = {**parts, "evidence": evidence}
    return re.sub(r"\{(\w+)\}", lambda found: known[found[1]], _read(version)).strip()


def _may(may: Options, brief: bool) -> str:
    """Describe the actions that could be accepted now, a line each; a `brief` schema has no ranges."""
    fields: dict[ActionType, str] = {
        "continue": "go round again with the workers as they are.",
        "freeze": f'hold a parameter at the best trial\'s value. "parameter": {_names(may.freezable)}.',
        "unfreeze": f'tune a frozen parameter again. "parameter": {_names(may.frozen)}.',
        "prioritise": f'give some parameters more trials. "parameters": some of {_names(may.free)}.',
        "narrow": f'keep to a part of a parameter\'s values. "parameter": {_names(may.narrowable)}; '
        '"low" and "high", or "values" of a choice.',
        "widen": f'give a narrowed parameter {"all its" if brief else "more"} values again. "parameter": '
        + (_names(may.narrowed) + ("." if brief else '; "low" and "high", or "values".')),
        "spawn": 'have a worker tune some parameters in the next round. "worker": per_parameter (one parameter), group '
        f'(several that interact) or joint (all); "parameters"; "trials": at most {may.spawn_trials} for all workers '
        + ("together." if brief else 'together; "region": ranges to keep to, or [].'),
        "propose": f"try at most {min(MAX_PROPOSALS, may.proposals)} configurations of your own, unlike each other and "
        'unlike what was tried. "configurations": each with all "params", a "hypothesis", the value that you '
        'expect as "expected", and as "low" and "high" the interval that holds it 4 times of 5.',
        "repeat": f'run a trial again on fresh seeds, to tell luck from merit. "trial": {_names(may.repeatable)}; '
        f'"seeds": at most {MAX_SEEDS}.',
        "stop_trial": f'end a running trial that looks poor. "trial": {_names(may.stoppable)}.',
        "finalize": "end the search; the best configuration is retrained and scored.",
    }
    return "\n".join(f"- {action}: {fields[action]}" for action in may.actions)


def _names(names: Sequence[object]) -> str:
    shown = ", ".join(str(name) for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} or one of {len(names) - _MAX_NAMES} more"


def _conclusion(situation: Situation, may: Options, most: int, why: str) -> str:
    """State what follows from the evidence, in code's own words: nothing that a person named stands here."""
    goal = situation.goal
    best = goal.best(situation.trials)
    value = goal.estimates(situation.trials).get(best.id, goal.value(best)) if best is not None else None
    said = [f"You are asked {why}." if situation.round == 0 else f"Round {situation.round} is over ({why})."]
    if best is not None:
        said.append(f"The best value is {value:.5g}, of trial {best.id}; {goal.direction} it.")
    elif goal.constraints and situation.round > 0:
        said.append("No trial satisfies the constraints yet: to find one comes first.")
    if situation.budget.trials is not None:
        said.append(f"{situation.usage.trials_left(situation.budget)} of {situation.budget.trials} trials are left.")
    since, needed = plateau(situation)
    if "finalize" in may.actions:
        said.append(f"{since} trials brought nothing better: finalize, unless something promising was not tried.")
    elif situation.round > 0:
        said.append(f"{since} trials since the best one: a finalize would be refused before {needed}.")
    if unseen_notes(situation):
        said.append('The person who runs the study left notes (under "notes"): weigh what they say of the task.')
    said.append(
        f"Give {'one action' if most == 1 else f'1 to {most} actions'}; possible now: {', '.join(may.actions)}."
    )
    return "\n".join(said)


def _schema_text(schema: JsonObject) -> str:
    """Give the schema, fenced: names and values of choices in it are a person's."""
    text = json.dumps(schema).replace("<", "\\u003c")
    return f"The answer's JSON schema:\n<schema>\n{text}\n</schema>"


def _read(name: str) -> str:
    return (files("agentic_hpt.coordinator") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
