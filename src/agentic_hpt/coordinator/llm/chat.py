"""The door to LangChain: one chat model is asked for an answer that fits a schema, and what it says is read."""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, TypeVar

from agentic_hpt.records import JsonObject

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

T = TypeVar("T")
Message = tuple[Literal["human", "ai"], str]

CHARACTERS_PER_TOKEN = 3
"""A low count, so that an estimate of tokens is a high one: text full of numbers has few characters a token."""
_TRANSIENT_NAMES = {"APIConnectionError", "APITimeoutError", "TransportError", "TimeoutException"}
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|schema|structured|grammar", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call brought, and what it cost."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    refused: bool = False
    """Whether the model said that it would not answer; `text` then says why."""
    cut_off: bool = False
    """Whether the answer ended at the limit of its length."""


class NoSchemaMode(Exception):
    """The model, or its server, takes no schema: it must be asked in plain text."""

    def __init__(self, problem: str, sent: bool) -> None:
        super().__init__(problem)
        self.sent = sent
        """Whether a request went out, which counts as a call."""


class Chat:
    """One chat model. `make_model` is called at the first question: importing a provider takes seconds.

    The model is called in its blocking way, in a thread. The connections of an asynchronous client would be bound to
    one study's event loop, while providers share their clients among all the studies of a process.
    """

    def __init__(self, make_model: Callable[[], BaseChatModel]) -> None:
        self._make_model = make_model
        self._model: BaseChatModel | None = None
        self.schema_mode = True
        """Whether the provider's own schema mode is used. Off once the model has shown that it has none."""

    async def ask(self, messages: Sequence[Message], schema: JsonObject) -> Reply:
        """Make one call. Raises `NoSchemaMode`, or whatever the provider raises."""
        from langchain_core.messages import AIMessage, HumanMessage

        if self._model is None:
            self._model = await in_daemon_thread(self._make_model)
        said: list[BaseMessage] = [HumanMessage(text) if who == "human" else AIMessage(text) for who, text in messages]
        model = self._model
        if not self.schema_mode:
            return _reply(await in_daemon_thread(lambda: model.invoke(said)), None, said)
        try:
            runnable = model.with_structured_output(schema, method="json_schema", include_raw=True)
        except (NotImplementedError, ValueError, TypeError, AttributeError) as error:
            raise NoSchemaMode(str(error), sent=False) from error
        try:
            found = await in_daemon_thread(lambda: runnable.invoke(said))
        except Exception as error:
            cut = _cut_off(error)
            if cut is not None:
                return cut
            if isinstance(error, NotImplementedError) or (
                status_of(error) in (400, 422, 501) and _SCHEMA_WORDS.search(str(error))
            ):
                raise NoSchemaMode(str(error), sent=True) from error
            raise
        return _reply(found["raw"], found["parsed"], said)  # type: ignore[index]


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Run blocking work in a thread that, should it hang, holds up neither the event loop's end nor the process's."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # given up meanwhile
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def work() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = context.run(call)
        except BaseException as error:
            # A future can't hold a StopIteration, and what ends a thread must not end the process.
            plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
            problem = error if plain else RuntimeError(repr(error))
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=work, name="hpt-model", daemon=True).start()
    return await future


def is_transient(error: BaseException) -> bool:
    """Say whether the same call may succeed a moment later: no connection, no answer, 408, 409, 429 or 5xx."""
    status = status_of(error)
    if status is not None:
        return status in (408, 409, 429) or status >= 500
    if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "is_retryable", False) is True:
        return True
    return bool(_TRANSIENT_NAMES & {kind.__name__ for kind in type(error).__mro__})


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that an error carries, if it carries one."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def retry_after(error: BaseException) -> float | None:
    """Give the seconds that the server asks to wait before the next try, if it does."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        told = str(headers.get(name) or "")
        with suppress(ValueError):
            return max(0.0, float(told) * scale)
        with suppress(ValueError, TypeError):
            return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    return None


def encodable(text: str) -> str:
    """Give `text` with lone halves of surrogate pairs spelled out: they can be neither sent nor stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut_off(error: Exception) -> Reply | None:
    """Give the answer that an error holds because it was cut off at the length limit: an answer to be repaired."""
    completion = getattr(error, "completion", None)
    try:
        text = encodable(completion.choices[0].message.content or "")  # type: ignore[union-attr]
    except (AttributeError, IndexError, TypeError):
        return None
    usage = getattr(completion, "usage", None)
    return Reply(text, getattr(usage, "prompt_tokens", 0), getattr(usage, "completion_tokens", 0), cut_off=True)


def _reply(message: AIMessage, parsed: object, prompt: list[BaseMessage]) -> Reply:
    """Read a message: its text, else the arguments of its tool call, else what a parser made of it.

    The text comes first: LangChain's parser completes JSON that was cut off, and its numbers.
    """
    text = _THOUGHT.sub("", message.text)
    if not text.strip() and message.tool_calls:
        text = json.dumps(message.tool_calls[0]["args"])
    elif not text.strip() and message.invalid_tool_calls:
        text = message.invalid_tool_calls[0]["args"] or ""
    elif not text.strip() and parsed:
        text = json.dumps(parsed, default=str)
    refusal = message.additional_kwargs.get("refusal")
    if refusal and not text.strip():
        text = str(refusal)
    text = encodable(text)
    usage = message.usage_metadata
    if usage is not None:
        asked, answered = usage["input_tokens"], usage["output_tokens"]
    else:
        asked = sum(len(str(m.content)) for m in prompt) // CHARACTERS_PER_TOKEN
        answered = max(len(message.text), len(text)) // CHARACTERS_PER_TOKEN  # thoughts are paid for as well
    ended = {message.response_metadata.get(key) for key in ("finish_reason", "stop_reason", "done_reason")}
    return Reply(text, asked, answered, refused=bool(refusal), cut_off=bool(ended & {"length", "max_tokens"}))
