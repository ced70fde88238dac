"""Asking: one decision's calls, within the budget and within patience; every one of them is kept."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from agentic_hpt.config import CoordinatorConfig, mask_paths, mask_secrets
from agentic_hpt.coordinator.decisions import Decision, parse_decision
from agentic_hpt.coordinator.llm.chat import (
    CHARACTERS_PER_TOKEN,
    Chat,
    Message,
    NoSchemaMode,
    Reply,
    encodable,
    is_transient,
    retry_after,
)
from agentic_hpt.coordinator.prompts import REPAIR, Question, repair_prompt
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ModelCall

Purpose = Literal["decide", "repair"]

OUT_OF_BUDGET = "the model's budget is used up: "
_MAX_ECHO, _COMPACT_ECHO = 4000, 1200
_LEAST_PATIENCE = 0.1
_FEWEST_PER_TOKEN = 2
"""Characters a token where most are digits and brackets: a limit must hold also then."""


class OutOfBudget(CoordinatorError):
    """The budget of calls, tokens or dollars bears no further call: the model is not used any more."""


class _Failed(Exception):
    """One call that brought no answer."""

    def __init__(self, problem: str, cause: BaseException) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cause = cause


@dataclass
class Asking:
    """What is asked for one decision. `calls` grows with each try."""

    chat: Chat
    name: str
    config: CoordinatorConfig
    situation: Situation
    question: Question
    record: Callable[[ModelCall], Awaitable[None]]
    backoff_seconds: float
    calls: list[ModelCall]

    async def decision(self) -> Decision:
        """Ask, and once more with the error when the answer can't be used. Raises `CoordinatorError`."""
        reply = await self._answer("decide", ())
        try:
            return _read(reply)
        except CoordinatorError as error:
            most = _COMPACT_ECHO if self.question.compact else _MAX_ECHO
            echo = reply.text[:most] if reply.text.strip() else "(empty)"
            repair = repair_prompt(error.message, self.question)
        return _read(await self._answer("repair", (("ai", echo), ("human", repair))))

    async def _answer(self, purpose: Purpose, more: tuple[Message, ...]) -> Reply:
        """Get an answer to one question: transient errors are tried again, with growing pauses, while patience lasts.

        A call that the server refused for its schema is made again in plain text; that is no retry.
        """
        deadline = time.monotonic() + self._patience(self.config.timeout_seconds * (self.config.retries + 1))
        attempt, failures, switched = 0, 0, False
        while True:
            attempt += 1
            try:
                return await self._call(purpose, attempt, more, deadline)
            except NoSchemaMode as missing:
                self.chat.schema_mode, switched = False, True
                attempt -= not missing.sent
                continue
            except _Failed as failed:
                problem, cause = failed.problem, failed.cause
            if switched:  # plain text did no better: the schema was not what was wrong
                self.chat.schema_mode = True
            failures += 1
            pause = retry_after(cause)
            if pause is None:
                pause = self.backoff_seconds * 2 ** (failures - 1) * random.uniform(0.5, 1.5)
            if not is_transient(cause) or failures > self.config.retries or time.monotonic() + pause >= deadline:
                raise CoordinatorError(problem)
            await asyncio.sleep(pause)

    def _patience(self, seconds: float) -> float:
        """Cut a wait to the study's minutes that are left."""
        minutes = self.situation.budget.minutes
        if minutes is None:
            return seconds
        left = minutes * 60 - self.situation.usage.seconds - sum(c.seconds for c in self.calls)
        return max(_LEAST_PATIENCE, min(seconds, left))

    async def _call(self, purpose: Purpose, attempt: int, more: tuple[Message, ...], deadline: float) -> Reply:
        """Make one call and keep it. Raises `OutOfBudget` before, `NoSchemaMode` or `_Failed` after it."""
        asking: list[Message] = [("human", self.question.text(self.chat.schema_mode)), *more]
        messages: list[Message] = [(who, mask_secrets(text)) for who, text in asking]
        prompt = "\n\n".join(text for _, text in messages)
        characters = len(prompt) + self.question.schema_characters * self.chat.schema_mode
        asked = characters // CHARACTERS_PER_TOKEN
        self.afford(characters // _FEWEST_PER_TOKEN)
        patience = min(self.config.timeout_seconds, max(_LEAST_PATIENCE, deadline - time.monotonic()))
        started = time.monotonic()
        reply, problem = Reply(""), ""
        cause: BaseException | None = None
        try:
            reply = await asyncio.wait_for(self.chat.ask(messages, self.question.schema), patience)
        except NoSchemaMode as missing:
            if not missing.sent:
                raise
            problem, cause = "the server takes no schema", missing
        except TimeoutError as error:
            problem, cause = f"the model did not answer within {patience:.3g} s", error
            reply = Reply("", asked)
        except asyncio.CancelledError as stopped:  # it was sent: a study that is stopped and resumed pays for it
            problem, cause, reply = "the study was stopped before the model answered", stopped, Reply("", asked)
        except Exception as error:  # a provider may raise anything: all of it means that there is no answer
            problem, cause = encodable(f"the model failed: {type(error).__name__}: {error}"), error
        price = self.config.price
        call = ModelCall(
            round=self.situation.round,
            model=self.name,
            prompt_version=self.question.version + (f"+{REPAIR}" if purpose == "repair" else ""),
            input_hash=hashlib.sha256(prompt.encode()).hexdigest(),
            prompt=masked(prompt),
            answer=masked(reply.text),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            dollars=(reply.input_tokens * price.input + reply.output_tokens * price.output) / 1e6 if price else 0.0,
            seconds=time.monotonic() - started,
            error=masked(problem)[:500],
            purpose=purpose,
            attempt=attempt,
            evidence_id=self.question.evidence_id,
        )
        self.calls.append(call)
        await self.record(call)
        if isinstance(cause, NoSchemaMode | asyncio.CancelledError):
            raise cause
        if cause is not None:
            raise _Failed(problem, cause)
        return reply

    def afford(self, asked: int) -> None:
        """See that the budget bears one more call, of `asked` tokens and the longest answer. Raises `OutOfBudget`."""
        budget, usage, price = self.situation.budget, self.situation.usage, self.config.price
        if budget.calls is not None and usage.calls + len(self.calls) >= budget.calls:
            raise OutOfBudget(f"{OUT_OF_BUDGET}no call is left of {budget.calls}")
        tokens = usage.tokens + sum(c.input_tokens + c.output_tokens for c in self.calls)
        if budget.tokens is not None and tokens + asked + self.config.max_tokens > budget.tokens:
            left = max(0, budget.tokens - tokens)
            raise OutOfBudget(f"{OUT_OF_BUDGET}{left} tokens are left of {budget.tokens}, too few for a call")
        dollars = usage.dollars + sum(c.dollars for c in self.calls)
        cost = (asked * price.input + self.config.max_tokens * price.output) / 1e6 if price else 0.0
        if budget.dollars is not None and (dollars >= budget.dollars or dollars + cost > budget.dollars):
            left_over = max(0.0, budget.dollars - dollars)
            raise OutOfBudget(
                f"{OUT_OF_BUDGET}{left_over:.4g} dollars are left of {budget.dollars:g}, too few for a call"
            )
        if budget.dollars is not None and price is None:  # a model handed over in code is not checked before
            raise OutOfBudget(f"{OUT_OF_BUDGET}dollars can't be counted without coordinator.price")


def masked(text: str) -> str:
    """Give `text` as it may be kept: without secrets and without a machine's paths."""
    return mask_paths(mask_secrets(text))


def _read(reply: Reply) -> Decision:
    if reply.refused:
        raise CoordinatorError(f"the answer is a refusal: {reply.text[:300]}")
    try:
        return parse_decision(reply.text)
    except CoordinatorError:
        if reply.cut_off:
            raise CoordinatorError(
                f"the answer was cut off after {reply.output_tokens} tokens: give fewer actions and shorter reasons"
            ) from None
        raise
