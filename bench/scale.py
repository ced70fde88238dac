"""What a trial costs the loop as a study grows, and how busy the loop keeps a large cluster.

    python bench/scale.py [--trials 64] [--histories 100,1000,10000] [--strategies joint,auto]
                          [--slots 2000] [--cluster-trials 8000]

First: a history (complete trials, a decision a round) is written to the ledger beforehand, and the loop goes on behind
it, inline, without MLflow. Counted is the driver's CPU time from the first decision there to the last one, each in a
process of its own. The first decision is left out: it takes the whole history in, once after a start.

Then: a study on a cluster whose workers and clock are simulated (`simulated.py`), while ledger, graph and strategy are
the real ones and take the time they take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from sqlalchemy import Connection, insert

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.feasible import random_configuration
from agentic_hpt.graph.context import StudyParts
from agentic_hpt.graph.slots import Slots
from agentic_hpt.ledger.schema import decisions, trials
from agentic_hpt.ledger.study_ledger import StudyLedger
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject
from agentic_hpt.study import Study
from simulated import Cluster, SimulatedExecutor, SimulatedLoop

SPACE = hpt.SearchSpace(
    num_layers=hpt.Int(1, 8),
    learning_rate=hpt.Float(1e-5, 1e-1, log=True),
    hidden_dim=hpt.Int(16, 512),
    dropout=hpt.Float(0.0, 0.6),
)
ROUND = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a trial took behind a history, in seconds of CPU, and what the process holds, in bytes."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Simulated:
    """How busy a cluster was until the last trial was started, and until it ended; and what a trial took the driver."""

    busy: float
    drained: float
    seconds: float
    hours: float
    decisions: int


def no_op(params: dict[str, float]) -> dict[str, float]:
    return {"accuracy": 1.0 - params["dropout"] * (1.0 + params["num_layers"] / 8)}


def config_of(strategy: str, trials: int, **more: object) -> StudyConfig:
    """Describe a study of no-op trials."""
    told: JsonObject = {
        "study": "large",
        "metric": "accuracy",
        "space": SPACE,
        "budget": hpt.Budget(trials=trials),
        "strategy": strategy,
        "executor": "inline",
        "trials_per_round": ROUND,
        "fresh_seeds": 0,
        "pruner": "none",
        "mlflow": {"enabled": False},
    }
    return StudyConfig.from_mapping({**told, **more}, where="bench/scale.py")


def write_history(ledger: StudyLedger, config: StudyConfig, count: int) -> int:
    """Write `count` complete trials, eight a round, with the rules' decisions; gives the last round.

    Straight into the tables: through the ledger's own steps it would take as long as running them.
    """
    dice, rows, first = random.Random(0), list[dict[str, object]](), ""
    for number in range(count):
        params = json.dumps(random_configuration(config.space, dice))
        first = first or params
        again = number in (ROUND, ROUND + 1)  # without noise the rules ask for two repeats of the best, and no more
        arm = "joint" if config.strategy == "joint" else dice.choices(("gp", "local", "tpe"), (6, 3, 1))[0]
        rows.append(
            {
                "study": ledger._study,
                "number": number,
                "state": "complete",
                "params": first if again else params,
                "tuned": json.dumps(list(config.space)),
                "worker": arm,
                "kind": "repeat" if again else "joint",
                "round": 1 + number // ROUND,
                "revision": 0,
                "seed": number,
                "attempt": 1,
                "metrics": json.dumps(no_op(json.loads(first if again else params))),
                "message": "",
                "seconds": 0.001,
                "reserved": 0.0,
                "ended": 0.0,
            }
        )
    last = -(-count // ROUND)
    going = ActionRecord("continue", "the best value rose in the last round", (0,), "accepted", "always possible")
    bodies = [DecisionRecord(r, "rules", (going,), "ledger").to_json() for r in range(1, last)]
    told = [{"study": ledger._study, "round": b["round"], "body": json.dumps(b), "created": 0.0} for b in bodies]

    def write(connection: Connection) -> None:
        connection.execute(insert(trials), rows)
        connection.execute(insert(decisions), told)

    ledger._database.write(write)
    return last


def measure(strategy: str, history: int, count: int) -> Cost:
    """Run `count` trials behind a history."""
    import cmaes  # noqa: F401  what an arm imports when its turn comes

    marks: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        config = config_of(strategy, history + count)
        study = Study.create(config, home=home)
        begins = write_history(study._ledger(), config, history)

        async def run() -> None:
            parts = study.open_parts(study.record_end, objective=FunctionObjective(no_op))
            parts.begins = begins  # the graph's own state is that of a new study

            def listener(event: JsonObject) -> None:
                if event["type"] == "decision":
                    parts.begins = 0
                    marks.append(time.process_time())

            try:
                await study._loop(parts, listener, None)
            finally:
                await parts.close()

        asyncio.run(run())
        study.close()
    return Cost((marks[-1] - marks[0]) / (count - ROUND), resident())


def resident() -> int:
    """Give what the process holds in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def simulate(strategy: str, cluster: Cluster, count: int, round_trials: int | None = None) -> Simulated:
    """Run a study of `count` trials on a simulated cluster."""
    from langgraph.checkpoint.memory import InMemorySaver

    from agentic_hpt.graph import build_graph, recursion_limit

    executor = SimulatedExecutor(cluster, lambda job: no_op(dict(job.params))["accuracy"])  # type: ignore[arg-type]
    loop, ends = SimulatedLoop(), list[float]()
    with tempfile.TemporaryDirectory() as home:
        config = config_of(strategy, count, executor="processes", parallel=cluster.slots, trials_per_round=round_trials)
        study = Study.create(config, home=home)

        async def run() -> None:
            parts = study.open_parts(study.record_end, objective=FunctionObjective(no_op))
            parts.executor, parts.slots = executor, Slots(cluster.slots)

            async def parts_of(state: object) -> StudyParts:
                return parts

            def listener(event: JsonObject) -> None:
                if event["type"] == "trial_started":
                    ends.append(loop.time())

            parts.listener = parts.emit = listener
            graph = build_graph(parts_of, InMemorySaver())
            settings = {
                "configurable": {"thread_id": parts.thread},
                "recursion_limit": recursion_limit(config.limits_of_study),
            }
            await parts.start()
            try:
                async for event in graph.astream({"study": parts.name}, settings, stream_mode="custom"):  # type: ignore[call-overload]
                    listener(event)
            finally:
                await parts.close()

        began = time.process_time()
        try:
            loop.run_until_complete(run())
        finally:
            loop.close()
        spent = time.process_time() - began
        decided = len(study._ledger().decisions())
        study.close()
    drained = max(ended for _, ended in executor.busy)
    return Simulated(
        executor.share(ends[-1]), executor.share(drained), spent / count, (ends[-1] - ends[0]) / 3600, decided
    )


def apart(call: Callable[..., T], *arguments: object) -> T:
    """Call in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def tell_costs(strategies: Sequence[str], histories: Sequence[int], count: int) -> None:
    """Print what a trial takes behind histories."""
    print(f"{count} no-op trials behind a history\n")
    print("CPU ms a trial   " + "".join(f"{h:>10,}" for h in histories) + "   last to first")
    held: dict[str, list[Cost]] = {}
    for strategy in strategies:
        held[strategy] = found = [apart(measure, strategy, history, count) for history in histories]
        times = "".join(f"{1000 * cost.seconds:10.1f}" for cost in found)
        print(f"{strategy:17}{times}{found[-1].seconds / found[0].seconds:16.2f}", flush=True)
    print("\nMiB held")
    for strategy, found in held.items():
        print(f"{strategy:17}" + "".join(f"{cost.memory / 2**20:10.0f}" for cost in found))


def tell_cluster(strategies: Sequence[str], cluster: Cluster, count: int) -> None:
    """Print how busy a simulated cluster was."""
    print(f"\n{count} trials on {cluster.slots} simulated workers, {cluster.median_minutes:g} minutes each (median)\n")
    print(f"{'':17}{'busy':>8}{'with the end':>14}{'CPU ms a trial':>16}{'hours':>8}{'decisions':>11}")
    for strategy in strategies:
        found = apart(simulate, strategy, cluster, count)
        shares = f"{found.busy:8.1%}{found.drained:14.1%}"
        print(f"{strategy:17}{shares}{1000 * found.seconds:16.1f}{found.hours:8.2f}{found.decisions:11}", flush=True)
    print("\nbusy: from the first start until the last trial was started; with the end: until the last one ended.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--histories", default="100,1000,10000")
    parser.add_argument("--strategies", default="joint,auto")
    parser.add_argument("--slots", type=int, default=2000)
    parser.add_argument("--cluster-trials", type=int, default=8000, help="0 leaves the cluster out")
    asked = parser.parse_args()
    strategies = asked.strategies.split(",")
    print(
        f"Python {platform.python_version()}, optuna {version('optuna')}, agentic-hpt {version('agentic-hpt')}; ",
        end="",
    )
    if asked.histories:
        tell_costs(strategies, [int(h) for h in asked.histories.split(",")], asked.trials)
    if asked.cluster_trials:
        tell_cluster(strategies, Cluster(slots=asked.slots), asked.cluster_trials)


if __name__ == "__main__":
    main()
