"""The actions a coordinator can ask for, typed; and the JSON schema of an answer, narrowed to what is allowed now."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentic_hpt.errors import CoordinatorError
from agentic_hpt.records import JsonObject
from agentic_hpt.space import Choice, Parameter, SearchSpace

ActionType = Literal["continue", "finalize", "propose"]
MAX_PROPOSALS = 8
MAX_ACTIONS = 4
_REASON = 500
_MAX_BRACES = 100
# Whole numbers without a bound can't be made floats or kept in a database.
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_TrialId = Annotated[int, Field(ge=0, lt=2**31)]


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    reason: str = Field(min_length=1, max_length=4 * _REASON)
    evidence: tuple[_TrialId, ...] = Field((), max_length=20)
    """Ids of the trials that the action rests on."""


class Continue(_Action):
    """Go round again."""

    type: Literal["continue"] = "continue"


class Propose(_Action):
    """Try these configurations in the next round, beside the workers."""

    type: Literal["propose"] = "propose"
    configurations: tuple[dict[str, bool | _Whole | float | str | None], ...] = Field(
        min_length=1, max_length=MAX_PROPOSALS
    )


class Finalize(_Action):
    """End the search: retrain the winner and score it."""

    type: Literal["finalize"] = "finalize"


Action = Annotated[Continue | Propose | Finalize, Field(discriminator="type")]


class Decision(BaseModel):
    """What a coordinator answers: one or more actions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actions: tuple[Action, ...] = Field(min_length=1, max_length=MAX_ACTIONS)


def parse_decision(answer: object) -> Decision:
    """Read a model's answer, a mapping or text that holds one JSON object. Raises `CoordinatorError` if it can't."""
    if isinstance(answer, str):
        answer = _first_object(answer)
    try:
        return Decision.model_validate(answer)
    except ValidationError as error:
        lines = []
        for entry in error.errors()[:5]:
            where = ".".join(str(part) for part in entry["loc"]) or "answer"
            lines.append(f"{where}: {entry['msg']}"[:300])
        raise CoordinatorError("the answer does not fit the schema: " + "; ".join(lines)) from None


def answer_schema(space: SearchSpace, allowed: tuple[ActionType, ...]) -> JsonObject:
    """Give the JSON schema of an answer in which only the `allowed` actions and the space's values can be written."""
    common: JsonObject = {
        "reason": {"type": "string", "maxLength": _REASON},
        "evidence": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 20},
    }
    branches: list[JsonObject] = []
    for type_ in allowed:
        properties: JsonObject = {"type": {"type": "string", "enum": [type_]}, **common}
        if type_ == "propose":
            properties["configurations"] = {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_PROPOSALS,
                "items": {
                    "type": "object",
                    "properties": {name: _value_schema(space[name]) for name in space},
                    "required": [name for name in space if not space[name].when],
                    "additionalProperties": False,
                },
            }
        branches.append(
            {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        )
    return {
        "title": "Decision",
        "description": "What happens next in the study.",
        "type": "object",
        "properties": {
            "actions": {"type": "array", "minItems": 1, "maxItems": MAX_ACTIONS, "items": {"anyOf": branches}}
        },
        "required": ["actions"],
        "additionalProperties": False,
    }


def _value_schema(parameter: Parameter) -> JsonObject:
    if isinstance(parameter, Choice):
        return {"enum": list(parameter.values)}
    kind = "integer" if parameter.kind == "int" else "number"
    return {"type": kind, "minimum": parameter.low, "maximum": parameter.high}


def _first_object(text: str) -> object:
    """Find the first JSON object in text (models wrap it in words or code fences)."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    start = -1
    for _ in range(_MAX_BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            found, _end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return found
    raise CoordinatorError("the answer holds no JSON object")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
