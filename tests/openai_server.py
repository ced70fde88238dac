"""A local server that speaks the part of OpenAI's protocol that a chat model needs, and misbehaves on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One answer of the server; without a status it never comes."""

    status: int | None
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[[Json], Reply]
"""Gives the answer to a request's body."""


def says(content: str | Json) -> Behaviour:
    """Answer with a message: text as it is, an object as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda request: _completion({"role": "assistant", "content": text})


def calls_tool(arguments: Json) -> Behaviour:
    """Answer as models do that call a tool instead of talking."""
    call = {"id": "call_1", "type": "function", "function": {"name": "Decision", "arguments": json.dumps(arguments)}}
    return lambda request: _completion({"role": "assistant", "content": None, "tool_calls": [call]})


def without_schema_mode(otherwise: Behaviour) -> Behaviour:
    """Refuse a request for structured output, as older servers do."""

    def answer(request: Json) -> Reply:
        if "response_format" in request:
            return fails(400, "response_format is not supported")(request)
        return otherwise(request)

    return answer


def fails(status: int, message: str = "it went wrong") -> Behaviour:
    """Answer with an error; one that may be retried asks for that at once."""
    return lambda request: Reply(status, {"error": {"message": message}}, {"retry-after-ms": "1"})


def hangs(request: Json) -> Reply:
    """Never answer."""
    return Reply(None, {})


def _completion(message: Json) -> Reply:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "test-model"}
    return Reply(200, {**head, "choices": [choice], "usage": usage})


class OpenAIServer:
    """Serves a script of behaviours on 127.0.0.1; the last one stays. `requests` keeps the bodies, `keys` the keys."""

    def __init__(self, *script: Behaviour) -> None:
        self.requests: list[Json] = []
        self.keys: list[str | None] = []
        self._script: Sequence[Behaviour] = script
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The base URL that a client is given."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                known = self.path == "/v1/chat/completions"
                number = len(server.requests)
                server.requests.append(body)
                server.keys.append(self.headers["authorization"])
                behaviour = server._script[min(number, len(server._script) - 1)]
                reply = behaviour(body) if known else fails(404, self.path)(body)
                if reply.status is None:
                    server._closing.wait()
                    return
                data = json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {**reply.headers, "content-type": "application/json"}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
