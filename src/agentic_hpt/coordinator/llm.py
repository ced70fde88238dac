"""A chat model as coordinator: it advises, the guards decide, and the rules stand in when it fails.

The policy is asked first, so that no call is made where there is nothing to decide. Then: one call, one repair round
that carries the error, then the rules, with the reason kept and shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from agentic_hpt.config import CoordinatorConfig, mask_secrets
from agentic_hpt.coordinator.decisions import Decision, parse_decision
from agentic_hpt.coordinator.guards import judge
from agentic_hpt.coordinator.prompts import VERSION, coordinator_prompt, repair_prompt
from agentic_hpt.coordinator.rules import decide_by_policy, decide_by_rules
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject, ModelCall

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import Runnable

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one call brought: the answer (a mapping, or text), and what it cost."""

    answer: object
    text: str
    input_tokens: int
    output_tokens: int


class LlmCoordinator:
    """Asks a LangChain chat model for decisions; see `protocols.Coordinator`.

    `make_model` is called at the first decision, in a thread, since importing a provider takes seconds. `record` keeps
    every call. Limits of tokens and dollars end the use of the model, not the study.
    """

    kind: Literal["rules", "llm"] = "llm"

    def __init__(
        self,
        name: str,
        make_model: Callable[[], BaseChatModel],
        config: CoordinatorConfig,
        record: Callable[[ModelCall], Awaitable[None]],
    ) -> None:
        self.model: str | None = name
        self._make_model = make_model
        self._config = config
        self._record = record
        self._chat: BaseChatModel | None = None
        self._native_schema = True

    async def decide(self, situation: Situation) -> DecisionRecord:
        """Give the next decision. Never raises for what the model does."""
        forced = decide_by_policy(situation)
        if forced is not None:
            return forced
        calls: list[ModelCall] = []
        started = time.monotonic()
        try:
            decision = await self._ask(situation, calls)
            record = DecisionRecord(situation.round, "llm", _judged(decision, situation), situation.source)
        except CoordinatorError as error:
            record = decide_by_rules(situation, mask_secrets(error.message)[:500])
        return replace(
            record,
            tokens=sum(c.input_tokens + c.output_tokens for c in calls),
            dollars=sum(c.dollars for c in calls),
            seconds=time.monotonic() - started,
        )

    def _afford(self, situation: Situation, asked: int, calls: list[ModelCall]) -> None:
        """See that the budget bears a call with `asked` tokens and the longest answer. Raises `CoordinatorError`."""
        budget, usage, price = situation.budget, situation.usage, self._config.price
        tokens = usage.tokens + sum(c.input_tokens + c.output_tokens for c in calls)
        if budget.tokens is not None and tokens + asked + self._config.max_tokens > budget.tokens:
            raise CoordinatorError(
                f"{max(0, budget.tokens - tokens)} tokens are left of {budget.tokens}, too few for a call"
            )
        dollars = usage.dollars + sum(c.dollars for c in calls)
        cost = (asked * price.input + self._config.max_tokens * price.output) / 1e6 if price else 0.0
        if budget.dollars is not None and dollars + cost > budget.dollars:
            left = max(0.0, budget.dollars - dollars)
            raise CoordinatorError(f"{left:.4g} dollars are left of {budget.dollars:g}, too few for a call")

    async def _ask(self, situation: Situation, calls: list[ModelCall]) -> Decision:
        from langchain_core.messages import AIMessage, HumanMessage

        prompt, schema = coordinator_prompt(situation)
        messages: list[BaseMessage] = [HumanMessage(prompt)]
        reply = await self._call(situation, messages, schema, calls)
        try:
            return parse_decision(reply.answer)
        except CoordinatorError as error:
            messages += [AIMessage(reply.text or "(empty)"), HumanMessage(repair_prompt(error.message))]
        reply = await self._call(situation, messages, schema, calls)
        return parse_decision(reply.answer)

    async def _call(
        self, situation: Situation, messages: list[BaseMessage], schema: JsonObject, calls: list[ModelCall]
    ) -> _Reply:
        prompt = "\n\n".join(str(m.content) for m in messages)
        asked = len(prompt) // _CHARACTERS_PER_TOKEN
        self._afford(situation, asked, calls)
        patience = self._config.timeout_seconds
        if situation.budget.minutes is not None:
            left = situation.budget.minutes * 60 - situation.usage.seconds - sum(c.seconds for c in calls)
            patience = max(0.1, min(patience, left))
        started = time.monotonic()
        reply, problem = _Reply(None, "", asked, 0), ""
        try:
            reply = await asyncio.wait_for(self._invoke(messages, schema), patience)
        except TimeoutError:
            problem = f"the model did not answer within {patience:g} s"
        except Exception as error:  # a provider may raise anything: all of it means that there is no answer
            problem = _encodable(f"the model failed: {type(error).__name__}: {error}")
            reply = _Reply(None, "", 0, 0)
        price = self._config.price
        dollars = (reply.input_tokens * price.input + reply.output_tokens * price.output) / 1e6 if price else 0.0
        call = ModelCall(
            round=situation.round,
            model=self.model or "",
            prompt_version=VERSION,
            input_hash=hashlib.sha256(prompt.encode()).hexdigest(),
            prompt=mask_secrets(prompt),
            answer=mask_secrets(reply.text),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            dollars=dollars,
            seconds=time.monotonic() - started,
            error=mask_secrets(problem)[:500],
        )
        calls.append(call)
        await self._record(call)
        if problem:
            raise CoordinatorError(problem)
        return reply

    async def _invoke(self, messages: list[BaseMessage], schema: JsonObject) -> _Reply:
        if self._chat is None:
            self._chat = await asyncio.to_thread(self._make_model)
        if self._native_schema:
            try:
                structured: Runnable[list[BaseMessage], object] = self._chat.with_structured_output(
                    schema, method="json_schema", include_raw=True
                )
                found = await structured.ainvoke(messages)
            except Exception as error:
                if not _no_schema_mode(error):
                    raise
                self._native_schema = False
            else:
                return _reply(found["raw"], found["parsed"], messages)  # type: ignore[index]
        message = await self._chat.ainvoke(messages)
        return _reply(message, None, messages)


def _judged(decision: Decision, situation: Situation) -> tuple[ActionRecord, ...]:
    """Give the guards' verdicts; what the model wrote goes on to reports and to MLflow without secrets."""
    return tuple(
        replace(record, reason=mask_secrets(record.reason), verdict_reason=mask_secrets(record.verdict_reason))
        for record in judge(decision, situation)
    )


def _encodable(text: str) -> str:
    """Give `text` with lone halves of surrogate pairs spelled out: they can be neither sent nor stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def _no_schema_mode(error: Exception) -> bool:
    """Say whether an error means that the model or its server has no schema mode, so that plain text must do."""
    return isinstance(error, NotImplementedError | ValueError | TypeError) or getattr(error, "status_code", None) in (
        400,
        422,
        501,
    )


def _reply(message: AIMessage, parsed: object, prompt: list[BaseMessage]) -> _Reply:
    """Read a message's answer and its tokens; without a count from the provider, four characters are taken for one.

    The text counts, and `parsed` only without one: LangChain's parser completes JSON that was cut off, and its numbers.
    """
    text = _encodable(message.text)
    answer = text if text.strip() else parsed or text
    usage = message.usage_metadata
    if usage is not None:
        return _Reply(answer, text, usage["input_tokens"], usage["output_tokens"])
    asked = sum(len(str(m.content)) for m in prompt)
    counted = asked // _CHARACTERS_PER_TOKEN, len(text) // _CHARACTERS_PER_TOKEN
    return _Reply(answer, text, *counted)
