"""Modules of one's own trained together, against the same trials one after another and in processes, on one device.

python -m bench.batched_modules [--device cpu|cuda] [--most 64] [--processes 2] [--epochs 5] [--same]

On a CPU trials per second are the cores divided by a trial's processor time, since other things may run beside it.
`--same` trains 32 trials of each module alone and together as well: on a GPU their random numbers differ, but their
mean accuracies must not by more than MARGIN. It exits with 1 where they do.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from bench.called import Handle
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import agentic_hpt as hpt
from agentic_hpt.objectives.datasets import load
from agentic_hpt.objectives.torch_batch import ModuleObjective

ROWS = 64
ALIKE = 32
MARGIN = 0.01


def digits() -> tuple[tuple[object, object], tuple[object, object]]:
    split = load("digits")
    return (
        (split.standardised("train"), split.train.labels),
        (split.standardised("validation"), split.validation.labels),
    )


def cnn(params: Mapping[str, float]) -> nn.Module:
    """Two convolutions on pictures of 8 x 8: 18,000 weights."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(params["dropout"]),
        nn.Linear(128, 96),
        nn.ReLU(),
        nn.Linear(96, 10),
    )


class Block(nn.Module):
    """A transformer's block over the eight rows of a picture: 14,000 weights."""

    def __init__(self, dropout: float, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.zeros(8, width))
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.middle = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.view(-1, 8, 8)) + self.place
        seen = self.before(x)
        x = x + self.drop(self.attention(seen, seen, seen, need_weights=False)[0])
        x = x + self.drop(self.feed(self.middle(x)))
        return self.out(x.mean(1))


def block(params: Mapping[str, float]) -> nn.Module:
    return Block(params["dropout"])


MODULES: Mapping[str, Callable[[Mapping[str, float]], nn.Module]] = {"cnn": cnn, "transformer": block}


@dataclass
class Together:
    trials: Sequence[Handle]
    answers: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def report(self, metrics: Mapping[int, Mapping[str, float]], step: int) -> frozenset[int]:
        return frozenset(k for k, own in metrics.items() if not all(map(math.isfinite, own.values())))

    def complete(self, trial: int, answer: Mapping[str, float]) -> None:
        self.answers[trial] = answer

    def fail(self, trial: int, kind: str, message: str) -> None:
        raise RuntimeError(message)

    def remark(self, text: str) -> None:
        raise RuntimeError(text)


def trials(count: int) -> list[Handle]:
    """Draw configurations that train well."""
    draw = random.Random(0)
    folder = Path(tempfile.mkdtemp())
    return [
        Handle(
            k,
            k,
            folder,
            {
                "learning_rate": 10 ** draw.uniform(-3.0, -2.0),
                "dropout": draw.uniform(0.0, 0.3),
                "weight_decay": 10 ** draw.uniform(-6, -3),
            },
        )
        for k in range(count)
    ]


def objective(name: str, device: str, epochs: int) -> ModuleObjective:
    return hpt.torch_batch(MODULES[name], digits, epochs=epochs, batch_size=ROWS, schedule="cosine", device=device)


@dataclass(frozen=True)
class Pace:
    """How fast trials were."""

    rate: float
    """Trials per second."""
    cpu: float
    """Seconds of processor time a trial: they hold on a busy machine too."""
    accuracies: dict[int, float] = field(default_factory=dict)
    """By trial."""


def one_by_one(of: ModuleObjective, count: int) -> Pace:
    """A first one is not counted."""
    of.run(trials(1)[0].params, trials(1)[0])
    began, used = time.perf_counter(), time.process_time()
    found = {trial.id: of.run(trial.params, trial)["accuracy"] for trial in trials(count)}
    return Pace(count / (time.perf_counter() - began), (time.process_time() - used) / count, found)


def together(of: ModuleObjective, count: int) -> Pace:
    """As `groups` divides them; the better of two times, in the first of which a GPU gets ready."""
    given, paces = trials(count), []
    for _ in range(2):
        batches = [Together([given[k] for k in group]) for group in of.groups([trial.params for trial in given])]
        began, used = time.perf_counter(), time.process_time()
        for batch in batches:
            of.run_batch(batch)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        found = {trial: answer["accuracy"] for batch in batches for trial, answer in batch.answers.items()}
        paces.append(Pace(count / seconds, cpu / count, found))
    return max(paces, key=lambda pace: pace.rate)


def in_processes(name: str, device: str, epochs: int, processes: int, count: int) -> Pace:
    """Several processes that train one after another, beside each other."""
    command = [sys.executable, "-m", "bench.batched_modules", "--device", device, "--epochs", str(epochs)]
    running = [
        subprocess.Popen(
            [*command, "--worker", name, "--most", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for worker in running:
        worker.stdout.readline()  # it is ready
    for worker in running:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [[float(number) for number in worker.communicate()[0].split()] for worker in running]
    return Pace(sum(rate for rate, _ in told), statistics.mean(cpu for _, cpu in told))


def work(name: str, device: str, epochs: int, count: int) -> None:
    """Be one of these processes."""
    of = objective(name, device, epochs)
    one_by_one(of, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    pace = one_by_one(of, count)
    print(pace.rate, pace.cpu)


def operations(name: str, epochs: int) -> float:
    """Give the floating-point operations of a trial: matrix products and convolutions, of training and judging."""
    split = load("digits")
    model = MODULES[name]({"dropout": 0.1})
    x = torch.zeros(ROWS, 64)
    with FlopCounterMode(display=False) as training:
        model(x).sum().backward()
    with FlopCounterMode(display=False) as judging, torch.no_grad():
        model.eval()(x)
    rows = (
        len(split.train.labels) * training.get_total_flops() + len(split.validation.labels) * judging.get_total_flops()
    )
    return epochs * rows / ROWS


def peak_memory(device: str) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MB"
    return f"{psutil.Process().memory_info().rss / 2**20:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most", type=int, help="trials together: 64, or 1,024 on a GPU")
    parser.add_argument("--processes", type=int, help="2, or 16 on a GPU")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a stack on the CPU")
    parser.add_argument("--worker")
    asked = parser.parse_args()
    gpu = asked.device != "cpu"
    most, processes = asked.most or (1024 if gpu else 64), asked.processes or (16 if gpu else 2)
    if not gpu:
        torch.set_num_threads(1 if asked.worker else asked.threads)
    if asked.worker:
        work(asked.worker, asked.device, asked.epochs, most)
        return
    sizes = [4**power for power in range(10) if 4**power <= most]
    print(
        "| module | how | trials/s | x one by one | CPU s a trial | GFLOP/s | memory |\n|---|---|---|---|---|---|---|"
    )
    differ = []
    for name in MODULES:
        of, needed = objective(name, asked.device, asked.epochs), operations(name, asked.epochs) / 1e9
        base = one_by_one(of, 8)
        rows = [("one by one", base, 1, peak_memory(asked.device))]
        beside = in_processes(name, asked.device, asked.epochs, processes, 8)
        rows.append((f"{processes} processes", beside, processes, ""))
        for size in sizes:
            cores = min(size, asked.threads)
            rows.append((f"together, K = {size}", together(of, size), cores, peak_memory(asked.device)))
        for how, pace, cores, memory in rows:
            rate, first = (pace.rate, base.rate) if gpu else (cores / pace.cpu, 1 / base.cpu)
            told = f"{rate:.2f} | {rate / first:.2f} | {pace.cpu:.3f} | {rate * needed:.1f}"
            print(f"| {name} | {how} | {told} | {memory} |", flush=True)
        if asked.same and not same(of):
            differ.append(name)
    if differ:
        sys.exit(f"differ: {', '.join(differ)}")


def same(of: ModuleObjective) -> bool:
    """Train the same trials alone and together, and say whether their mean accuracies are the same."""
    alone, beside = one_by_one(of, ALIKE).accuracies, together(of, ALIKE).accuracies
    apart = [beside[trial] - alone[trial] for trial in alone]
    mean, reach = statistics.mean(apart), 1.7 * statistics.stdev(apart) / math.sqrt(ALIKE)
    holds = abs(mean) + reach < MARGIN
    word = "the same" if holds else "NOT SHOWN to be the same"
    print(f"{of!r}: accuracy together - alone {mean:+.4f} ± {reach:.4f}, margin {MARGIN}: {word}")
    return holds


if __name__ == "__main__":
    main()
