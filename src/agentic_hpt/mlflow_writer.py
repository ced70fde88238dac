"""The process that writes to MLflow: `python -m agentic_hpt.mlflow_writer`, started by `tracking.client`.

The first line of its standard input is its settings, as JSON; requests follow (see `tracking.service`). They don't
come as arguments, because those show in `ps` and addresses may hold passwords. Its standard output carries answers
and nothing else.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from agentic_hpt.config import is_postgres, mask_secrets
from agentic_hpt.errors import TrackerAway
from agentic_hpt.ledger import open_outbox
from agentic_hpt.postgres import ServerLock
from agentic_hpt.protocols import Outbox
from agentic_hpt.records import OutboxEntry
from agentic_hpt.tracking.mlflow import MlflowStore
from agentic_hpt.tracking.service import serve


class _Masked(io.TextIOBase):
    """Standard error with secrets masked: a library's messages and tracebacks may quote the address of a store."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._unfinished = ""

    def write(self, text: str) -> int:
        """Write whole lines on; a secret must not be hidden from the mask by coming in parts."""
        *lines, self._unfinished = f"{self._unfinished}{text}".split("\n")
        if lines:
            self._stream.write(mask_secrets("\n".join(lines)) + "\n")
            self._stream.flush()
        return len(text)

    def fileno(self) -> int:
        """Give the descriptor, for what writes there by itself."""
        return self._stream.fileno()


_FORMER_SECONDS = 30.0


class OneWriter:
    """An outbox for the one process that holds its lock: as long as another does, MLflow is as good as away."""

    def __init__(self, outbox: Outbox, lock: ServerLock) -> None:
        self._outbox = outbox
        self._lock = lock
        self._patience = _FORMER_SECONDS

    def pending(self, limit: int) -> list[OutboxEntry]:
        """Give the oldest entries not sent yet. Raises `TrackerAway` while another process holds the lock."""
        self._see()
        return self._outbox.pending(limit)

    def claim(self, entries: Sequence[OutboxEntry]) -> None:
        """Note that these are about to be sent. Raises `TrackerAway` as `pending` does."""
        self._see()
        self._outbox.claim(entries)

    def sent(self, refs: Mapping[int, str]) -> None:
        """Note that entries were sent."""
        self._outbox.sent(refs)

    def _see(self) -> None:
        patience, self._patience = self._patience, 0.0  # the writer of a killed driver ends within that time
        if not self._lock.wait(patience):
            raise TrackerAway("another process writes this study to MLflow")


def main() -> int:
    """Serve until the driver says stop or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the driver
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    sys.stderr = _Masked(sys.stderr)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    requests = io.FileIO(0, closefd=False)  # unbuffered: a thread still reading a buffered stdin breaks the exit
    settings: dict[str, str] = json.loads(requests.readline())
    root, uid = Path(settings["artifact_root"]), settings["uid"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".mlflow-writer-{uid}.lock").open("w") as lock:
        # A killed driver's writer goes on for some seconds; two at once would write the same entries.
        fcntl.flock(lock, fcntl.LOCK_EX)
        ledger = settings["ledger_url"]
        outbox: Outbox = open_outbox(ledger, uid)
        if is_postgres(ledger):  # and the driver that comes next may be on another host
            outbox = OneWriter(outbox, ServerLock(ledger, f"writer {uid}"))
        serve(
            outbox,
            lambda: MlflowStore(
                tracking_uri=settings["tracking_uri"],
                experiment=settings["experiment"],
                artifact_root=root,
                study=settings["study"],
                uid=uid,
            ),
            requests,
            answers,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
