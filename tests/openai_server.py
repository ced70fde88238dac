"""A local server that speaks the part of OpenAI's protocol that a chat model needs, and misbehaves on request."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    breaks: bool = False
    """Whether the connection ends in the middle of the answer."""


Behaviour = Callable[[Json], Reply]
"""Gives the answer to a request's body."""


def says(content: str | Json) -> Behaviour:
    """Answer with a message: text as it is, an object as JSON."""
    return lambda request: _completion({"role": "assistant", "content": _text(content)})


def cuts_off(content: str | Json, kept: int = 30) -> Behaviour:
    """Answer with the beginning of a message, as a model does that ran into the limit of its answer's length."""
    return lambda request: _completion({"role": "assistant", "content": _text(content)[:kept]}, "length")


def refuses(why: str) -> Behaviour:
    """Answer as a model that will not do what it was asked."""
    return lambda request: _completion({"role": "assistant", "content": None, "refusal": why})


def breaks_off(content: str | Json) -> Behaviour:
    """Close the connection in the middle of the answer."""
    return lambda request: replace(says(content)(request), breaks=True)


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


def fails(status: int, message: str = "it went wrong", **headers: str) -> Behaviour:
    """Answer with an error, and headers such as `retry_after="0"`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: Reply(status, {"error": {"message": message}}, named)


def hangs(request: Json) -> Reply:
    """Never answer."""
    return Reply(None, {})


def _text(content: str | Json) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def _completion(message: Json, reason: str = "stop") -> Reply:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "test-model"}
    return Reply(200, {**head, "choices": [choice], "usage": usage})


def _events(body: Json) -> bytes:
    """Give a completion as the server-sent events of a stream: the message in pieces, how it ended, what it cost."""
    choice = body["choices"][0]
    head = {**body, "object": "chat.completion.chunk", "choices": [], "usage": None}
    text = choice["message"].get("content") or ""
    deltas = [{"role": "assistant", "content": ""}, *({"content": text[i : i + 7]} for i in range(0, len(text), 7))]
    deltas += [{"refusal": choice["message"]["refusal"]}] if choice["message"].get("refusal") else []
    deltas += [{"tool_calls": [{"index": 0, **call}]} for call in choice["message"].get("tool_calls", [])]
    parts = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    parts.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    parts.append({**head, "usage": body["usage"]})
    return b"".join(f"data: {json.dumps(part)}\n\n".encode() for part in parts) + b"data: [DONE]\n\n"


class OpenAIServer:
    """Serves a script of behaviours on 127.0.0.1; the last one stays. `requests` keeps the bodies, `keys` the keys."""

    def __init__(self, *script: Behaviour) -> None:
        self.requests: list[Json] = []
        self.keys: list[str | None] = []
        self._script: Sequence[Behaviour] = script
        self._closing = threading.Event()
        self._connections: list[socket.socket] = []
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
        for connection in self._connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections stay open, as with real servers

            def setup(self) -> None:
                super().setup()
                server._connections.append(self.connection)

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
                streamed = bool(body.get("stream")) and reply.status == 200
                data = _events(reply.body) if streamed else json.dumps(reply.body).encode()
                kind = "text/event-stream" if streamed else "application/json"
                self.send_response(reply.status)
                for name, value in {**reply.headers, "content-type": kind}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if reply.breaks else data)
                self.close_connection = self.close_connection or reply.breaks

            def log_message(self, *args: object) -> None:
                pass

        return Handler
