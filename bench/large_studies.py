"""What a trial costs the loop once a study is large: no-op trials behind a history of 100, 1,000 and 10,000.

    python bench/large_studies.py [--trials 40] [--histories 100,1000,10000] [--strategies joint,auto]

The history (complete trials and a decision a round) is written to the ledger at once; then the loop goes on behind it,
inline, without MLflow. Counted is CPU time from the end of the first trial to the last decision.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import tempfile
import time
from importlib.metadata import version

from sqlalchemy import insert

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.feasible import random_configuration
from agentic_hpt.ledger.schema import decisions, transaction, trials
from agentic_hpt.ledger.study_ledger import StudyLedger, trial_seed
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject
from agentic_hpt.study import Study

SPACE = hpt.SearchSpace(
    num_layers=hpt.Int(1, 8),
    learning_rate=hpt.Float(1e-5, 1e-1, log=True),
    hidden_dim=hpt.Int(16, 512),
    dropout=hpt.Float(0.0, 0.6),
)
ROUND = 8


def no_op(params: dict[str, float]) -> dict[str, float]:
    return {"accuracy": 1.0 - params["dropout"] * (1.0 + params["num_layers"] / 8)}


def write_history(ledger: StudyLedger, config: StudyConfig, count: int) -> int:
    """Write `count` complete trials, eight a round, with the rules' decisions; gives the last round."""
    dice, rows = random.Random(0), list[dict[str, object]]()
    for number in range(count):
        params = random_configuration(config.space, dice)
        again = number in (ROUND, ROUND + 1)  # without noise the rules ask for two repeats of the best, and no more
        params = json.loads(str(rows[1]["params"])) if again else params
        arm = "joint" if config.strategy == "joint" else dice.choices(("gp", "local", "tpe"), (6, 3, 1))[0]
        rows.append(
            {
                "study": ledger._study,
                "number": number,
                "state": "complete",
                "params": json.dumps(params),
                "tuned": json.dumps(list(params)),
                "worker": arm,
                "kind": "repeat" if again else "joint",
                "round": 1 + number // ROUND,
                "revision": 0,
                "seed": trial_seed(config.seed, number),
                "attempt": 1,
                "metrics": json.dumps(no_op(params)),
                "message": "",
                "seconds": 0.001,
                "reserved": 0.0,
                "ended": 0.0,
            }
        )
    last = -(-count // ROUND)
    going = ActionRecord("continue", "the best value rose in the last round", (0,), "accepted", "always possible")
    bodies = [DecisionRecord(r, "rules", (going,), "ledger").to_json() for r in range(1, last)]
    with transaction(ledger._engine) as connection:
        connection.execute(insert(trials), rows)
        told = [{"study": ledger._study, "round": b["round"], "body": json.dumps(b), "created": 0.0} for b in bodies]
        connection.execute(insert(decisions), told)
    return last


def measure(strategy: str, history: int, count: int) -> float:
    """Give the CPU seconds that a trial took the loop behind a history."""
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        config = StudyConfig.from_mapping(
            {
                "study": "large",
                "metric": "accuracy",
                "space": SPACE,
                "budget": hpt.Budget(trials=history + count),
                "strategy": strategy,
                "executor": "inline",
                "trials_per_round": ROUND,
                "fresh_seeds": 0,
                "pruner": "none",
                "mlflow": {"enabled": False},
            },
            where="large_studies",
        )
        study = Study.create(config, home=home)
        begins = write_history(study._ledger(), config, history)

        async def run() -> None:
            parts = study.open_parts(study.record_end, objective=FunctionObjective(no_op))
            parts.begins = begins  # the graph's own state is that of a new study

            def listener(event: JsonObject) -> None:
                if event["type"] in ("trial", "final_started"):
                    parts.begins = 0
                    marks.append(time.process_time())

            try:
                await study._loop(parts, listener, None)
            finally:
                await parts.close()

        asyncio.run(run())
        study.close()
    return (marks[-1] - marks[0]) / (count - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--histories", default="100,1000,10000")
    parser.add_argument("--strategies", default="joint,auto")
    asked = parser.parse_args()
    histories = [int(h) for h in asked.histories.split(",")]
    print(f"{asked.trials} no-op trials behind a history; Python {platform.python_version()}, ", end="")
    print(f"optuna {version('optuna')}, agentic-hpt {version('agentic-hpt')}\n")
    print("CPU ms a trial   " + "".join(f"{h:>10,}" for h in histories) + "   last to first")
    for strategy in asked.strategies.split(","):
        found = [measure(strategy, history, asked.trials) for history in histories]
        print(
            f"{strategy:17}" + "".join(f"{1000 * f:10.1f}" for f in found) + f"{found[-1] / found[0]:16.2f}", flush=True
        )


if __name__ == "__main__":
    main()
