"""A person's word on a decision before it is in force: approve, edit or refuse. The guards hold for persons too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentic_hpt.config import mask_secrets
from agentic_hpt.coordinator.decisions import parse_decision
from agentic_hpt.coordinator.evidence import build_evidence, render
from agentic_hpt.coordinator.guards import judge, options
from agentic_hpt.coordinator.schedule import unseen_notes
from agentic_hpt.errors import ConfigError, CoordinatorError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject

_HINT = 'answer {"answer": "approve"}, {"answer": "edit", "actions": [...]} or {"answer": "refuse", "comment": "why"}'


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: Literal["approve", "edit", "refuse"]
    actions: tuple[dict[str, object], ...] = Field((), max_length=100)
    comment: str = Field("", max_length=2000)


def review_request(decision: DecisionRecord, situation: Situation, shown: JsonObject | None = None) -> JsonObject:
    """Give what a person is shown: the decision, the evidence as text, and the actions that could be accepted now.

    The evidence is `shown`, or is built.
    """
    return {
        "round": decision.round,
        "decision": decision.to_json(),
        "evidence": mask_secrets(render(shown or build_evidence(situation))),
        "may": list(options(situation, by="person").actions),
        "problem": "",
    }


def apply_review(decision: DecisionRecord, answer: object, situation: Situation) -> DecisionRecord:
    """Give the decision as the person wants it.

    Raises `ConfigError` for an answer that can't be understood, and for an edit that the guards refuse as a whole.
    `answer` is the word alone, or a mapping with `answer`, `comment` and, for an edit, `actions` in place of those
    proposed. What the policy has undone is no matter of opinion: it stays.
    """
    given = _read(answer)
    comment = mask_secrets(given.comment.strip())
    said = f"{given.answer}: {comment}" if comment else given.answer
    if decision.kind == "rules":  # a model lists the notes itself that it has seen
        decision = replace(decision, notes=unseen_notes(situation))
    if given.answer == "approve":
        return replace(decision, review=said)
    if given.answer == "refuse":
        return replace(
            decision, actions=refused(decision.actions, f"by a person: {comment or 'no reason given'}"), review=said
        )
    if not given.actions:
        raise ConfigError("the edit has no actions", _HINT)
    try:
        wanted = parse_decision({"actions": list(given.actions)})
    except CoordinatorError as error:
        raise ConfigError(error.message, _HINT) from None
    actions = judge(wanted, situation, by="person")
    own = [a for a in actions if a.by == "person"]
    if all(a.verdict == "refused" for a in own):
        verdicts = [f"{a.type}: {a.verdict_reason}" for a in own]
        raise ConfigError("\n".join(["the guards refuse all of the edit:", *verdicts, "approve, edit anew or refuse"]))
    return replace(decision, kind="person", actions=actions, review=said)


def refused(actions: tuple[ActionRecord, ...], why: str) -> tuple[ActionRecord, ...]:
    """Give the actions refused, those of the policy aside, with one that goes on."""
    kept = tuple(
        a if a.by == "policy" else replace(a, verdict="refused", verdict_reason=why, detail={}) for a in actions
    )
    if any(a.type == "continue" and a.verdict == "accepted" for a in kept):
        return kept
    on = ActionRecord("continue", "what was proposed is refused", (), "accepted", "the study goes on", by="person")
    return (*kept, on)


def _read(answer: object) -> _Answer:
    if isinstance(answer, str):
        answer = {"answer": answer.strip().lower()}
    if not isinstance(answer, Mapping):
        raise ConfigError(f"{str(answer)[:100]!r} is no answer", _HINT)
    try:
        return _Answer.model_validate(dict(answer))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"the answer can't be understood: {where}: {first['msg']}"[:300], _HINT) from None
