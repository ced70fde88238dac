"""One call for a machine with a GPU: whether batched trials are the same experiments there, and the tables.

    python -m bench.gpu [--epochs 20] [--json FILE] [--quick]

Checks, each with what it found: the optimizers' kernel against plain operations; a step recorded as a CUDA graph
against the same step taken as it is; means of final accuracies, batched on the GPU against plain PyTorch on the CPU, by
two one-sided tests. Then `bench/batched.py` for all sets, and `bench/batched_modules.py`. Exits with 1 where a check
fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from bench import batched
from bench.equivalence import compare

from agentic_hpt.objectives.mlp import Hyperparameters
from agentic_hpt.objectives.torch_descent import fused
from agentic_hpt.objectives.torch_stack import Stack

MARGIN = 0.01
"""Of mean accuracies."""
KINDS = (
    Hyperparameters(learning_rate=1e-2, epochs=10, dropout=0.5),
    Hyperparameters(learning_rate=5e-3, epochs=10, optimizer="adamw", weight_decay=0.01, activation="gelu"),
    Hyperparameters(learning_rate=5e-2, epochs=10, optimizer="sgd", hidden_dim=128, schedule="linear", num_layers=3),
    Hyperparameters(learning_rate=1e-2, epochs=10, hidden_dim=24, batch_size=24, dropout=0.2, activation="tanh"),
)


def kernel() -> tuple[bool, str]:
    """Say whether the optimizers' step is one kernel here: it is used where it gives what plain operations give."""
    if fused() is not None:
        return True, "one kernel"
    return False, "plain operations: the kernel can't be compiled, or differs"


def replays() -> tuple[bool, str]:
    """Train without dropout by replays and by steps as they are: order apart, all else must agree."""
    data = batched.data_of("digits", "cuda")
    of = [(replace(hp, dropout=0.0, activation="relu", num_layers=2), k) for k, hp in enumerate(KINDS * 8)]
    found = []
    for recorded in (True, False):
        stack = Stack(of, data, as_alone=False, replayed=recorded)
        for _ in range(6):
            figures = stack.epoch()
        found.append([entry["loss"] for entry in figures])
    apart = max(abs(a - b) for a, b in zip(*found, strict=True))
    return apart < 2e-3, f"losses after 6 epochs are at most {apart:.1e} apart"


def equivalent(name: str, seeds: int) -> tuple[bool, str]:
    """Compare the mean accuracies of configurations over seeds, on the GPU together and on the CPU alone."""
    gpu, cpu = batched.data_of(name, "cuda"), batched.data_of(name, "cpu")
    of = [hp for hp in KINDS for _ in range(seeds)]
    single = [batched.plain(hp, 10_000 + k, cpu) for k, hp in enumerate(of)]
    found = compare(batched.batched(of, gpu), single, MARGIN)
    return found.holds, str(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, smaller batches, no large set")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use is here; on a CPU: python -m bench.batched")
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}\n")
    seeds = 4 if args.quick else 12
    checks: dict[str, Callable[[], tuple[bool, str]]] = {
        "optimizers": kernel,
        "replay": replays,
        "digits": lambda: equivalent("digits", seeds),
        "breast_cancer": lambda: equivalent("breast_cancer", seeds),
    }
    failed = []
    for name, check in checks.items():
        holds, words = check()
        failed += [] if holds else [name]
        print(f"{'ok' if holds else 'FAILED':<8}{name:<15}{words}", flush=True)
    print()
    counts = (1, 64, 256) if args.quick else (1, 16, 64, 256, 1024, 2048)
    sets = ("wine", "digits") if args.quick else ("wine", "digits", "wide")
    lines = batched.table("cuda", sets, counts, 16, args.epochs)
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1) + "\n")
    modules = [sys.executable, "-m", "bench.batched_modules", "--device", "cuda", "--same"]
    code = subprocess.run(modules, check=False).returncode
    if failed or code:
        sys.exit(f"failed: {', '.join([*failed, *(['modules'] if code else [])])}")


if __name__ == "__main__":
    main()
