"""The built-in job one trial at a time, in processes, and many at once: trials per second, and how far from the floor.

    python -m bench.batched [--device cpu|cuda] [--sets wine,digits,wide] [--counts 1,4,16,64,256] [--processes 2]
                            [--epochs 10] [--json FILE]

The configurations, 32, are drawn from the built-in job's space; more trials are these with other seeds. `wide` are
60,000 random rows of 784 columns, 8 configurations. `sequential` is plain PyTorch on the same device, `P processes`
that in as many processes that share the device, and `batched` the networks stacked. Start-up is left out. On a CPU what
counts is the time of the cores, divided by their number: that of idle ones, whatever else the machine does. Padded: the
share of all multiplications spent on padding. The floor is what the useful multiplications take at the rate of a
large matrix product, or the bytes of weights and moments at the rate of a copy, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from bench.called import Handle

from agentic_hpt.objectives.buckets import buckets, padded_share, work
from agentic_hpt.objectives.datasets import Sizes, load
from agentic_hpt.objectives.mlp import SMOOTHING, Hyperparameters, build, make_optimizer, make_schedule
from agentic_hpt.objectives.mlp_batch import train_together
from agentic_hpt.objectives.torch_stack import Data
from agentic_hpt.objectives.torch_trainer import LAUNCH, MOST

WIDE = (60_000, 10_000, 784, 10)
SEED = 7
DISTINCT, DISTINCT_WIDE = 32, 8
"""So many configurations, which come again with other seeds: what is measured of them alone holds for all."""
WIDE_MOST = 256
"""Trials at once of the large set."""


@dataclass
class Kept:
    """A batch that keeps the answers."""

    trials: Sequence[Handle]
    answers: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def report(self, metrics: Mapping[int, Mapping[str, float]], step: int) -> frozenset[int]:
        return frozenset()

    def complete(self, trial: int, answer: object) -> None:
        self.answers[trial] = answer  # type: ignore[assignment]

    def fail(self, trial: int, kind: object, message: str) -> None:
        self.answers[trial] = {"accuracy": float("nan")}


def data_of(name: str, device: str) -> Data:
    if name == "wide":
        rows, judged, features, classes = WIDE
        draw = torch.Generator().manual_seed(SEED)
        centres = torch.randn(classes, features, generator=draw)
        y = torch.randint(classes, (rows + judged,), generator=draw)
        x = 0.3 * centres[y] + torch.randn(rows + judged, features, generator=draw)
        parts = x[:rows], y[:rows], x[rows:], y[rows:]
    else:
        split, classes = load(name), len(load(name).labels)
        x, x_val = (torch.from_numpy(split.standardised(part)) for part in ("train", "validation"))
        parts = x, torch.from_numpy(split.train.labels), x_val, torch.from_numpy(split.validation.labels)
    return Data(*(part.to(device) for part in parts), classes)


def sizes_of(data: Data) -> Sizes:
    return Sizes(len(data.x), len(data.x_val), 0, data.x.shape[1], data.classes)


def drawn(count: int, epochs: int, distinct: int) -> list[Hyperparameters]:
    """Draw from the space of the built-in job, log-uniformly where it says so; after `distinct` they come again."""
    draw = random.Random(SEED)
    found = [
        Hyperparameters(
            num_layers=draw.randint(1, 5),
            learning_rate=10 ** draw.uniform(-4, -1),
            hidden_dim=draw.choice([16, 32, 64, 128, 192, 256]),
            dropout=draw.uniform(0, 0.6),
            epochs=epochs,
        )
        for _ in range(distinct)
    ]
    return [found[k % distinct] for k in range(count)]


def plain(hp: Hyperparameters, seed: int, data: Data) -> float:
    """Train one network in plain PyTorch, as the trainer does; give its validation accuracy."""
    torch.manual_seed(seed)
    model = build(hp, data.x.shape[1], data.classes)[1:].to(data.x.device)
    optimizer = make_optimizer(hp, model)
    schedule = make_schedule(hp, optimizer, -(-len(data.x) // hp.batch_size))
    right = torch.zeros(())
    for _ in range(hp.epochs):
        model.train()
        for rows in torch.randperm(len(data.x), device=data.x.device).split(hp.batch_size):
            loss = torch.nn.functional.cross_entropy(model(data.x[rows]), data.y[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            logits = model(data.x_val)
            torch.nn.functional.cross_entropy(logits, data.y_val).item()
            right = (logits.argmax(1) == data.y_val).float().mean()
    return right.item()


def batched(of: Sequence[Hyperparameters], data: Data, seed: int = SEED) -> list[float]:
    """Train networks together; give their validation accuracies."""
    device = data.x.device.type
    workers = os.cpu_count() or 1 if device == "cpu" else 1
    most = max(1, min(MOST[device], -(-len(of) // workers)))
    made = buckets(of, sizes_of(data), launch=LAUNCH[device], room=room(data.x.device), most=most)
    with tempfile.TemporaryDirectory() as folder:
        trials = [Handle(k, seed + k, Path(folder)) for k in range(len(of))]
        batch = Kept(trials)
        stacks = [[(trials[k], of[k]) for k in bucket.members] for bucket in made]
        train_together(batch, stacks, data, workers)  # type: ignore[arg-type]
    return [batch.answers[k]["accuracy"] for k in range(len(of))]


def room(device: torch.device) -> float:
    if device.type == "cuda":
        return 0.8 * torch.cuda.mem_get_info(device)[0]
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def timed(call: Callable[[], object], device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        call()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _process(name: str, device: str, of: Sequence[Hyperparameters], go: Barrier, taken: SimpleQueue[float]) -> None:
    torch.set_num_threads(1)
    data = data_of(name, device)
    plain(of[0], SEED, data)
    go.wait()
    taken.put(timed(lambda: [plain(hp, SEED + k, data) for k, hp in enumerate(of)], device))


def in_processes(name: str, device: str, of: Sequence[Hyperparameters], count: int) -> float:
    """Give the seconds that processes take which share the device, each with its part of the trials."""
    context = multiprocessing.get_context("spawn")
    parts = [list(of[k::count]) for k in range(min(count, len(of)))]
    go, taken = context.Barrier(len(parts)), context.SimpleQueue()
    running = [context.Process(target=_process, args=(name, device, part, go, taken)) for part in parts]
    for process in running:
        process.start()
    seconds = [taken.get() for _ in running]
    for process in running:
        process.join()
    return sum(seconds) / len(parts) if device == "cpu" else max(seconds)


def rates(device: str) -> tuple[float, float]:
    """Give the multiplications and the bytes a second of the device: a large matrix product, a large copy."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    long = torch.rand(2**28 if device == "cuda" else 2**25, device=device)
    into = torch.empty_like(long)
    torch.mm(a, b), into.copy_(long)
    product = min(timed(lambda: torch.mm(a, b), device) for _ in range(5))
    copy = min(timed(lambda: into.copy_(long), device) for _ in range(5))
    return size**3 / product, 2 * long.numel() * 4 / copy


def floor(of: Sequence[Hyperparameters], data: Data, speed: tuple[float, float], one_by_one: bool) -> float:
    """Give the seconds that cannot be gone below: useful multiplications, or the traffic of weights and moments."""
    sizes = sizes_of(data)
    multiplications = traffic = 0.0
    for hp in of:
        own = work(sizes, hp.num_layers, hp.hidden_dim)
        multiplications += hp.epochs * own * (3 * sizes.train + sizes.validation)
        widths = (sizes.features, *[hp.hidden_dim] * hp.num_layers, sizes.classes)
        steps = hp.epochs * -(-sizes.train // hp.batch_size)
        # Read for sums and slopes, gradient written; then all four read and three written. A core's cache holds them.
        traffic += 0 if one_by_one else steps * 4 * 10 * sum((a + 1) * b for a, b in pairwise(widths))
    return max(multiplications / speed[0], traffic / speed[1])


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """Sample the GPU's utilisation, in per cent, while the block runs."""
    found: list[float] = []
    done = threading.Event()

    def sample() -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.2):
            told = subprocess.run(query, capture_output=True, text=True, check=False)
            if told.returncode == 0:
                found.append(float(told.stdout.split()[0]))

    thread = threading.Thread(target=sample)
    if device == "cuda":
        thread.start()
    yield found
    done.set()
    if device == "cuda":
        thread.join()


def peak_mb(device: str) -> float:
    """Give the most memory that was held: a GPU's by this process since the last reset, else the process's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(name: str, device: str, counts: Sequence[int], processes: int, epochs: int) -> list[dict[str, object]]:
    data, speed = data_of(name, device), rates(device)
    distinct = DISTINCT_WIDE if name == "wide" else DISTINCT
    sample = drawn(min(max(counts), distinct), epochs, distinct)
    plain(sample[0], SEED, data)
    batched(sample[:2], data)
    torch.set_num_threads(1)
    alone = [timed(lambda k=k: plain(sample[k], SEED + k, data), device) for k in range(len(sample))]  # type: ignore[misc]
    speed_up = sum(alone) / in_processes(name, device, sample, processes)
    torch.set_num_threads(os.cpu_count() or 1)
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    lines: list[dict[str, object]] = []
    for count in counts:
        of = drawn(count, epochs, distinct)
        sequential = 1 / statistics.mean(alone[:count])
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with utilisation(device) as used:
            seconds = timed(lambda of=of: batched(of, data), device)  # type: ignore[misc]
        most = max(1, min(MOST[device], -(-count // (os.cpu_count() or 1)))) if device == "cpu" else MOST[device]
        made = buckets(of, sizes_of(data), launch=LAUNCH[device], room=room(data.x.device), most=most)
        busy = min(cores, len(made))
        seconds /= busy
        least = floor(of, data, speed, device == "cpu") / busy
        lines.append(
            {
                "set": name,
                "trials": count,
                "sequential": sequential,
                "processes": sequential * speed_up,
                "batched": count / seconds,
                "stacks": len(made),
                "padded": padded_share(of, made, sizes_of(data)),
                "peak_mb": peak_mb(device),
                "utilisation": statistics.mean(used) if used else None,
                "of_floor": seconds / least,
            }
        )
        print(shown(lines[-1]), flush=True)
    return lines


def shown(line: Mapping[str, object]) -> str:
    rate, used = float(line["batched"]), line["utilisation"]  # type: ignore[arg-type]
    sequential, shared = float(line["sequential"]), float(line["processes"])  # type: ignore[arg-type]
    return (
        f"{line['set']:<8}{line['trials']:>7}{sequential:>12.2f}{shared:>11.2f}{rate:>11.2f}{rate / sequential:>9.1f}"
        f"{rate / shared:>9.1f}{line['stacks']:>8}{100 * float(line['padded']):>8.0f}{line['peak_mb']:>9.0f}"  # type: ignore[arg-type]
        f"{'' if used is None else format(used, '.0f'):>7}{line['of_floor']:>9.1f}"
    )


HEADER = (
    f"{'set':<8}{'trials':>7}{'sequential':>12}{'processes':>11}{'batched':>11}{'x seq.':>9}{'x proc.':>9}"
    f"{'stacks':>8}{'padded%':>8}{'peak MB':>9}{'used%':>7}{'x floor':>9}"
)


def table(
    device: str, sets: Sequence[str], counts: Sequence[int], processes: int, epochs: int
) -> list[dict[str, object]]:
    """Measure and print."""
    print(f"{device}, {processes} processes, {epochs} epochs a trial, torch {torch.__version__}; trials per second\n")
    print(HEADER)
    return [
        line
        for name in sets
        for line in measure(name, device, [n for n in counts if name != "wide" or n <= WIDE_MOST], processes, epochs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sets", default="wine,digits")
    parser.add_argument("--counts", default="")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    gpu = args.device == "cuda"
    counts = args.counts or ("1,16,64,256,1024,2048" if gpu else "1,4,16,64,256")
    processes = args.processes or (16 if gpu else 2)
    lines = table(args.device, args.sets.split(","), [int(n) for n in counts.split(",")], processes, args.epochs)
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
