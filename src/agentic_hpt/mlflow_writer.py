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
from pathlib import Path

from agentic_hpt.ledger import open_outbox
from agentic_hpt.tracking.mlflow import MlflowStore
from agentic_hpt.tracking.service import serve


def main() -> int:
    """Serve until the driver says stop or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the driver
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    requests = io.FileIO(0, closefd=False)  # unbuffered: a thread still reading a buffered stdin breaks the exit
    settings: dict[str, str] = json.loads(requests.readline())
    root, uid = Path(settings["artifact_root"]), settings["uid"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".mlflow-writer-{uid}.lock").open("w") as lock:
        # A killed driver's writer goes on for some seconds; two at once would write the same entries.
        fcntl.flock(lock, fcntl.LOCK_EX)
        outbox = open_outbox(settings["ledger_url"], uid)
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
