"""The actions a coordinator can ask for, typed; and the JSON schema of an answer, narrowed to what is allowed now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentic_hpt.coordinator.json_in_text import first_object
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.records import JsonObject
from agentic_hpt.space import Choice, Int, Parameter, SearchSpace

ActionType = Literal[
    "continue",
    "freeze",
    "unfreeze",
    "prioritise",
    "narrow",
    "widen",
    "spawn",
    "propose",
    "repeat",
    "stop_trial",
    "finalize",
]
MAX_PROPOSALS = 8
MAX_ACTIONS = 8
MAX_SPAWNS = 8
MAX_SEEDS = 3
MAX_WINDOW = 500
MAX_VALUES = 1000
MAX_RANGES = 6
"""For how many parameters at most a range can be asked for: each makes the schema longer."""
_REASON = 500
_SCHEMA_REASON = 300
_SCHEMA_EVIDENCE = 8
_SCHEMA_VALUES = 40
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
# Whole numbers without a bound can't be made floats or kept in a database.
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_TrialId = Annotated[int, Field(ge=0, lt=2**31)]
_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Value = bool | _Whole | float | str | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Expectation(_Strict):
    """What an action is to bring: the best value better by `gain` within so many further trials."""

    gain: float = Field(ge=0)
    trials: int = Field(ge=1, le=MAX_WINDOW)


class _Action(_Strict):
    reason: str = Field(min_length=1, max_length=4 * _REASON)
    evidence: tuple[_TrialId, ...] = Field((), max_length=20)
    """Ids of the trials that the action rests on."""
    expects: Expectation | None = None
    """The stated effect. One that does not come in its window is marked, and the action is reversed."""


class _Ranged(_Strict):
    """A range: `low` and `high` for a number, `values` for a choice."""

    low: float | None = None
    high: float | None = None
    values: tuple[_Value, ...] | None = Field(None, min_length=1, max_length=MAX_VALUES)


class RegionPart(_Ranged):
    """The range of one parameter of a region."""

    parameter: _Name


class Continue(_Action):
    """Go round again."""

    type: Literal["continue"] = "continue"


class Freeze(_Action):
    """Hold a parameter at the incumbent's value."""

    type: Literal["freeze"] = "freeze"
    parameter: _Name


class Unfreeze(_Action):
    """Tune a frozen parameter again."""

    type: Literal["unfreeze"] = "unfreeze"
    parameter: _Name


class Prioritise(_Action):
    """Give these parameters more than their share of trials, in place of those prioritised before."""

    type: Literal["prioritise"] = "prioritise"
    parameters: tuple[_Name, ...] = Field(min_length=1, max_length=100)


class Narrow(_Action, _Ranged):
    """Keep to a part of a parameter's values."""

    type: Literal["narrow"] = "narrow"
    parameter: _Name


class Widen(_Action, _Ranged):
    """Give a narrowed parameter more values again; all that were declared when no range is given."""

    type: Literal["widen"] = "widen"
    parameter: _Name


class Spawn(_Action):
    """Have a worker tune these parameters in the next round, the others held at the incumbent."""

    type: Literal["spawn"] = "spawn"
    worker: Literal["per_parameter", "group", "joint"]
    parameters: tuple[_Name, ...] = Field((), max_length=100)
    """One for `per_parameter`, two or more for `group`; `joint` tunes all."""
    trials: int = Field(ge=1, le=10_000)
    region: tuple[RegionPart, ...] = Field((), max_length=100)


class Candidate(_Strict):
    """A configuration to try, why, and what it is expected to reach, with the interval that holds it 4 times of 5."""

    params: dict[str, _Value]
    hypothesis: str = Field("", max_length=4 * _REASON)
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class Propose(_Action):
    """Try these configurations in the next round, beside the workers."""

    type: Literal["propose"] = "propose"
    configurations: tuple[Candidate, ...] = Field(min_length=1, max_length=MAX_PROPOSALS)


class Repeat(_Action):
    """Run a complete trial's configuration again on fresh seeds, to tell luck from merit."""

    type: Literal["repeat"] = "repeat"
    trial: _TrialId
    seeds: int = Field(ge=1, le=MAX_SEEDS)


class StopTrial(_Action):
    """End a running trial that looks poor."""

    type: Literal["stop_trial"] = "stop_trial"
    trial: _TrialId


class Finalize(_Action):
    """End the search: retrain the winner and score it."""

    type: Literal["finalize"] = "finalize"


AnyAction = Continue | Freeze | Unfreeze | Prioritise | Narrow | Widen | Spawn | Propose | Repeat | StopTrial | Finalize
Action = Annotated[AnyAction, Field(discriminator="type")]


class Decision(_Strict):
    """What a coordinator answers: one or more actions."""

    actions: tuple[Action, ...] = Field(min_length=1, max_length=MAX_ACTIONS)


@dataclass(frozen=True, slots=True)
class Options:
    """What could be accepted at one moment; the schema of the model's answer holds nothing else."""

    actions: tuple[ActionType, ...]
    freezable: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    narrowable: tuple[str, ...] = ()
    narrowed: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    """Parameters that a worker may tune."""
    proposals: int = 0
    """How many configurations may be proposed."""
    spawn_trials: int = 0
    """How many trials the spawned workers may have together."""
    repeatable: tuple[int, ...] = ()
    stoppable: tuple[int, ...] = ()


def parse_decision(answer: object) -> Decision:
    """Read a model's answer, a mapping or text that holds one JSON object. Raises `CoordinatorError` if it can't."""
    if isinstance(answer, str):
        answer = first_object(answer)
    try:
        return Decision.model_validate(answer)
    except ValidationError as error:
        lines = []
        for entry in error.errors()[:5]:
            where = ".".join(str(part) for part in entry["loc"]) or "answer"
            lines.append(f"{where}: {entry['msg']}"[:300])
        raise CoordinatorError("the answer does not fit the schema: " + "; ".join(lines)) from None


def answer_schema(
    space: SearchSpace, options: Options, brief: bool = False, max_actions: int = MAX_ACTIONS
) -> JsonObject:
    """Give the JSON schema of an answer in which only what is in `options` can be written.

    Every property is required and no object has others, as OpenAI's strict mode wants it: what may be left out is
    null instead. Parts that come up often stand in `$defs`, so that a prompt which repeats the schema stays short.
    A `brief` one, for models with a small context, has no ranges: no `narrow`, no regions, `widen` to all values.
    """
    values = {name: f"v{i}" for i, name in enumerate(space)}  # a parameter's name may not be one of a grammar's rules
    branches = [
        _branch(("continue",)),
        *_limiting(space, options, values, brief),
        *_working(space, options, values, brief),
        _branch(("repeat",), trial=_integers(options.repeatable), seeds=_whole(1, MAX_SEEDS)),
        _branch(("stop_trial",), trial=_integers(options.stoppable)),
        _branch(("finalize",)),
    ]
    branches = [branch for branch in branches if _types(branch) <= set(options.actions)]
    schema: JsonObject = {
        "title": "Decision",
        "description": "What happens next in the study.",
        "type": "object",
        "properties": {
            "actions": {"type": "array", "minItems": 1, "maxItems": max_actions, "items": {"anyOf": branches}}
        },
        "required": ["actions"],
        "additionalProperties": False,
    }
    text = json.dumps(schema)
    common: JsonObject = {
        "reason": {"type": "string", "maxLength": _SCHEMA_REASON},
        "trials": {"type": "array", "items": _whole(0), "maxItems": _SCHEMA_EVIDENCE},
        "effect": {
            "anyOf": [
                _object(gain={"type": "number", "minimum": 0}, trials=_whole(1, MAX_WINDOW)),
                {"type": "null"},
            ],
        },
        **{key: _value_schema(space[name]) for name, key in values.items()},
    }
    used = {key: part for key, part in common.items() if f'"#/$defs/{key}"' in text}
    return {**schema, "$defs": used}


def _limiting(space: SearchSpace, options: Options, values: Mapping[str, str], brief: bool) -> list[JsonObject]:
    """Give the branches of the actions that limit the search, or lift its limits."""
    effect = _ref("effect")
    found = [
        _branch(("freeze",), parameter=_names(options.freezable), expects=effect),
        _branch(("unfreeze",), parameter=_names(options.frozen)),
        _branch(
            ("prioritise",),
            parameters={"type": "array", "items": _names(options.free), "minItems": 1, "maxItems": len(options.free)},
            expects=effect,
        ),
    ]
    if brief:
        return [*found, _branch(("widen",), parameter=_names(options.narrowed))]
    for name in space:
        types: list[ActionType] = []
        types += ["narrow"] if name in options.narrowable else []
        types += ["widen"] if name in options.narrowed else []
        if types:
            found.append(
                _branch(tuple(types), parameter=_names((name,)), **_range(space[name], values[name]), expects=effect)
            )
    return found


def _working(space: SearchSpace, options: Options, values: Mapping[str, str], brief: bool) -> list[JsonObject]:
    """Give the branches of the actions that ask for trials."""
    parts = [_object(parameter=_names((n,)), **_range(space[n], values[n])) for n in options.free[:MAX_RANGES]]
    params: dict[str, JsonObject] = {}
    for name in space:
        value = _ref(values[name])
        params[name] = {"anyOf": [value, {"type": "null"}]} if space[name].when else value
    number: JsonObject = {"type": "number"}
    candidate = _object(
        params=_object(**params),
        hypothesis={"type": "string", "maxLength": _SCHEMA_REASON},
        expected=number,
        low=number,
        high=number,
    )
    most = min(MAX_PROPOSALS, options.proposals)
    region: JsonObject = {"type": "array", "items": {"anyOf": parts}, "maxItems": len(parts)}
    return [
        _branch(
            ("spawn",),
            worker={"type": "string", "enum": ["per_parameter", "group", "joint"]},
            parameters={"type": "array", "items": _names(options.free), "maxItems": len(options.free)},
            trials=_whole(1, max(1, options.spawn_trials)),
            **({} if brief else {"region": region}),
        ),
        _branch(
            ("propose",),
            configurations={"type": "array", "items": candidate, "minItems": 1, "maxItems": most},
        ),
    ]


def _branch(types: tuple[ActionType, ...], **fields: JsonObject) -> JsonObject:
    kind: JsonObject = {"type": "string", "enum": list(types)}
    return _object(type=kind, reason=_ref("reason"), evidence=_ref("trials"), **fields)


def _types(branch: JsonObject) -> set[str]:
    properties = cast(dict[str, dict[str, list[str]]], branch["properties"])
    return set(properties["type"]["enum"])


def _object(**properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(key: str) -> JsonObject:
    return {"$ref": f"#/$defs/{key}"}


def _names(names: Sequence[str]) -> JsonObject:
    return {"type": "string", "enum": list(names)}


def _integers(numbers: Sequence[int]) -> JsonObject:
    return {"type": "integer", "enum": list(numbers)}


def _whole(low: int, high: int | None = None) -> JsonObject:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


def _range(parameter: Parameter, key: str) -> dict[str, JsonObject]:
    if isinstance(parameter, Choice):
        return {"values": {"type": "array", "items": _ref(key), "minItems": 1, "maxItems": len(parameter.values)}}
    return {"low": _ref(key), "high": _ref(key)}


def _value_schema(parameter: Parameter) -> JsonObject:
    if isinstance(parameter, Choice):
        kinds = sorted({_KINDS[type(value)] for value in parameter.values})
        kind: object = kinds[0] if len(kinds) == 1 else kinds
        if len(parameter.values) > _SCHEMA_VALUES:  # the guards know them all
            return {"type": kind}
        return {"type": kind, "enum": list(parameter.values)}
    if isinstance(parameter, Int):
        return _whole(parameter.low, parameter.high)
    return {"type": "number", "minimum": parameter.low, "maximum": parameter.high}


def full_schema() -> str:
    """Give the JSON schema of everything that is ever read as an answer, as text, for `docs/decision.schema.json`."""
    return json.dumps(Decision.model_json_schema(), indent=2) + "\n"
