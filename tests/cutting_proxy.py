"""A proxy before a server which loses connections at chosen moments, as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal
from urllib.parse import urlsplit

Moment = Literal["before", "after"]


class CuttingProxy:
    """Hands bytes to and fro, until told to cut a connection, or all of them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (str(parts.hostname), int(parts.port or 0))
        self._what: bytes | None = None
        self._moment: Moment = "before"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._changing = threading.Lock()
        self._answered = threading.Event()
        self.cuts = 0
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self.port}")

    def cut(self, moment: Moment, what: bytes = b"COMMIT") -> None:
        """Cut the next connection that sends `what`: `before` the server gets it, or `after`, when it has answered."""
        self._answered.clear()
        self._moment, self._what = moment, what

    def away(self) -> None:
        """Cut all connections, and take no more."""
        _end(self._listener)
        with self._changing:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(*pair)

    def back(self) -> None:
        """Take connections again."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                with self._changing:
                    self._pairs.append((client, server))
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sent := client.recv(65536):
                if self._what is not None and self._what in sent:
                    self._what = None
                    if self._moment == "after":
                        with self._changing:
                            self._pairs.remove((client, server))  # what is answered from here on goes nowhere
                        server.sendall(sent)
                        assert self._answered.wait(30)
                    self.cuts += 1
                    break
                server.sendall(sent)
        _end(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(65536):
                with self._changing:
                    wanted = (client, server) in self._pairs
                if not wanted:
                    self._answered.set()
                    break
                client.sendall(answer)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


__all__ = ["CuttingProxy"]
