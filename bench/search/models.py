"""The worst models that a coordinator can have: one that answers at random, one that pulls towards the worst region.

Both go through the real `LlmCoordinator`: schedule, schema, guards, undo and credit are what keeps the study sound.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda

from agentic_hpt.config import CoordinatorConfig
from agentic_hpt.coordinator.llm import LlmCoordinator
from agentic_hpt.protocols import Situation
from agentic_hpt.records import DecisionRecord, ModelCall, Params, ParamValue
from agentic_hpt.space import Choice, Parameter, SearchSpace

Schema = Mapping[str, Any]
_RADIUS = 0.1


class WorstCase:
    """A coordinator with a bad model: `random`, or `worst`, which knows the worst trial and pulls towards it."""

    kind: Literal["rules", "llm"] = "llm"

    def __init__(self, how: Literal["random", "worst"], seed: int) -> None:
        self.model: str | None = how
        self._chat = _BadModel(how=how, seed=seed)
        self._inner = LlmCoordinator(how, lambda: self._chat, CoordinatorConfig(max_tokens=100_000), _forget)

    async def decide(self, situation: Situation) -> DecisionRecord:
        self._chat.situation = situation
        return await self._inner.decide(situation)


async def _forget(call: ModelCall) -> None:
    """Keep no calls."""


class _BadModel(BaseChatModel):
    how: str
    seed: int
    situation: Any = None
    wanted: Any = None

    @property
    def _llm_type(self) -> str:
        return "bad"

    def with_structured_output(  # type: ignore[override]
        self, schema: Schema, *, include_raw: bool = False, **kwargs: object
    ) -> Runnable[LanguageModelInput, object]:
        self.wanted = schema
        return self | RunnableLambda(lambda message: {"raw": message, "parsed": None, "parsing_error": None})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        dice = random.Random(f"{self.seed}/{self.situation.round}")
        answer = drawn(self.wanted, self.wanted, dice)
        if self.how == "worst":
            answer = worst_answer(self.situation, dice) or answer
        return ChatResult(generations=[ChatGeneration(message=AIMessage(json.dumps(answer)))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        return self._generate(messages)


def drawn(schema: Schema, root: Schema, dice: random.Random) -> object:
    """Draw a value that a JSON schema allows, evenly among its branches."""
    if "$ref" in schema:
        return drawn(root["$defs"][str(schema["$ref"]).rsplit("/", 1)[1]], root, dice)
    if "anyOf" in schema:
        return drawn(dice.choice(schema["anyOf"]), root, dice)
    if "enum" in schema:
        return dice.choice(schema["enum"])
    kind = schema.get("type")
    kind = dice.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        return {name: drawn(part, root, dice) for name, part in schema["properties"].items()}
    if kind == "array":
        count = dice.randint(schema.get("minItems", 0), min(8, schema.get("maxItems", 8)))
        return [drawn(schema["items"], root, dice) for _ in range(count)]
    low, high = schema.get("minimum", -1e6), schema.get("maximum", 1e6)
    if kind == "integer":
        return dice.randint(math.ceil(low), math.floor(high))
    if kind == "number":
        return dice.uniform(low, high)
    return dice.random() < 0.5 if kind == "boolean" else None if kind == "null" else "drawn at random"


def worst_answer(situation: Situation, dice: random.Random) -> dict[str, object] | None:
    """Give an answer that pulls the study towards its worst trial with all that it may ask for."""
    ranked = situation.goal.ranked(situation.trials)
    if not ranked:
        return None
    space, worst = situation.space, ranked[-1]
    importance = situation.insights.importance
    names = sorted(worst.params, key=lambda name: -importance.get(name, 0.0))
    said = {"reason": "the worst region is the best", "evidence": [worst.id]}
    actions: list[dict[str, object]] = [
        {"type": "narrow", **said, "parameter": name, **_range_around(space[name], worst.params[name])}
        for name in names[:2]
    ]
    actions += [{"type": "freeze", **said, "parameter": name} for name in names[2:4]]
    region = [{"parameter": n, **_range_around(space[n], worst.params[n])} for n in names]
    spawned = {"worker": "group", "parameters": names, "trials": situation.round_trials, "region": region}
    actions.append({"type": "propose", **said, "configurations": _near(space, worst.params, dice)})
    actions.append({"type": "spawn", **said, **spawned})
    return {"actions": actions}


def _near(space: SearchSpace, params: Params, dice: random.Random) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for _ in range(8):
        moved = {name: _moved(space[name], value, dice) for name, value in params.items()}
        found.append({"params": space.complete(moved), "hypothesis": "bad", "expected": 0.0, "low": -1.0, "high": 1.0})
    return found


def _moved(parameter: Parameter, value: ParamValue, dice: random.Random) -> ParamValue:
    if isinstance(parameter, Choice):
        return dice.choice(list(parameter.values)) if dice.random() < _RADIUS else value
    range_ = _range_around(parameter, value)
    return parameter.snap(dice.uniform(cast(float, range_["low"]), cast(float, range_["high"])))


def _range_around(parameter: Parameter, value: ParamValue) -> dict[str, object]:
    if isinstance(parameter, Choice):
        here = parameter.index(value)
        values: Sequence[ParamValue] = parameter.values
        return {"values": list(values[max(0, here - 1) : here + 2] if parameter.ordered else [value])}
    number, low, high = float(cast(float, value)), parameter.low, parameter.high
    if parameter.log:
        factor = (high / low) ** _RADIUS
        return {"low": max(low, number / factor), "high": min(high, number * factor)}
    reach = _RADIUS * (high - low)
    return {"low": max(low, number - reach), "high": min(high, number + reach)}
