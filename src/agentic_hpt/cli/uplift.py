"""`hpt uplift`: whether a model was worth it, measured against the rules and against shuffled outcomes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import table
from agentic_hpt.config import StudyConfig
from agentic_hpt.records import JsonObject, is_number
from agentic_hpt.report.plain import counted, duration, number, visible

if TYPE_CHECKING:
    from rich.console import Console

    from agentic_hpt.study.uplift import Uplift
    from agentic_hpt.study.uplift_statistics import Interval


_POINTS = {"anytime": "over the budget", "fresh seeds": "on fresh seeds"}


@click.command("uplift")
@click.argument("file", metavar="STUDY.yaml", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="The chat model to judge, as provider:model. [the study file's]")
@click.option("--base-url", metavar="URL", help="Where the chat model answers.")
@click.option("--seeds", type=int, default=5, show_default=True, metavar="K", help="Seeds for each arm.")
@click.option("--trials", type=int, metavar="N", help="Budget of each study: N trials.")
@click.option("--fresh", is_flag=True, help="Archive an earlier uplift of the study and start anew.")
@verb
def command(
    file: Path,
    model: str | None,
    base_url: str | None,
    seeds: int,
    trials: int | None,
    fresh: bool,
    home: str | None,
) -> Answer:
    """Run the study of STUDY.yaml with the model, with the rules, and with the model fed shuffled outcomes.

    All arms start from the same default with the same seeds 0 to K - 1, without the target and the holdout: 4 K
    studies, kept under uplift-NAME in the home. An uplift that was stopped goes on when the
    same command is given again.
    """
    overrides: dict[str, object] = {}
    if trials is not None:
        overrides["budget"] = {"trials": trials}
    chosen = {key: value for key, value in {"model": model, "base_url": base_url}.items() if value is not None}
    if chosen:
        overrides["coordinator"] = chosen
    config = StudyConfig.from_file(file, overrides)

    from agentic_hpt.study.uplift import run_uplift

    with _progress() as listener:
        uplift = run_uplift(config, seeds=seeds, home=home, fresh=fresh, listener=listener)
    return Answer(uplift.to_json(), lambda console: show_uplift(console, uplift), uplift.exit_code)


def show_uplift(console: Console, uplift: Uplift) -> None:
    """Print an uplift: regret and differences by budget, wins and costs by arm, and the plain sentence."""
    from agentic_hpt.study.uplift_statistics import ARMS, RULE

    found = uplift.comparison
    console.print(
        f"uplift of {visible(uplift.model)} on {visible(uplift.study)}: {counted(found.seeds, 'seed')}, "
        f"{counted(found.budget, 'trial')} each"
    )
    if uplift.finished < uplift.planned:
        console.print(f"only {uplift.finished} of {uplift.planned} studies are finished; the same command goes on")
    if found.best_known is not None:
        console.print(
            f"regret: how much worse than the best known {visible(found.goal.metric)}, {number(found.best_known)}; "
            "differences with 95 % intervals over seeds, below 0 the model is better"
        )
    shown = table("regret", *ARMS, "model - rules", "model - shuffled", right=ARMS)
    for name, regret in found.regret.items():
        label = _POINTS.get(name) or f"after {counted(int(name), 'trial')}"
        means = [number(regret[arm].mean, 3) if arm in regret else "–" for arm in ARMS]
        shown.add_row(label, *means, *(_difference(found.against[name].get(arm)) for arm in ARMS[1:]))
    console.print(shown)
    console.print()
    costs = table("arm", "wins declared", "of them false", "calls", "tokens", "dollars", "fallbacks", "time")
    for arm in ARMS:
        wins, cost = found.wins[arm], found.costs[arm]
        false = f"{wins.false} of {wins.tested} tested" if wins.tested else "not tested"
        amounts = [number(cost[key]) for key in ("calls", "tokens", "dollars")]
        fallbacks = f"{number(cost['fallbacks'])} of {number(cost['asked'])}" if cost["asked"] else "0"
        costs.add_row(arm, str(wins.declared), false, *amounts, fallbacks, duration(cost["seconds"]))
    console.print(costs)
    console.print()
    console.print(visible(found.sentence), style="bold")
    console.print(RULE)
    console.print(f"the studies: hpt status --home {visible(uplift.home)}", soft_wrap=True)


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return _signed(interval.mean)
    return f"{_signed(interval.mean)} [{_signed(interval.low)}, {_signed(interval.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[JsonObject], None]]:
    """Give a listener that writes a line for each study to stderr, and in a terminal how far the present one is."""
    from rich.console import Console

    console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        yield lambda event: _say(_line(event))
        return
    head = ""
    with console.status("") as status:

        def listen(event: JsonObject) -> None:
            nonlocal head
            line = _line(event)
            if line is not None:
                console.print(line, soft_wrap=True)
            if event.get("type") == "uplift":
                head = _head(event)
                status.update(head)
            elif event.get("type") == "trial":
                best = event.get("best")
                value = f", best {number(best['value'])}" if isinstance(best, dict) else ""
                status.update(f"{head}: {event.get('trials_used')} trials{value}")

        yield listen


def _say(line: str | None) -> None:
    if line is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _head(event: JsonObject) -> str:
    return f"[{event['number']}/{event['of']}] seed {event['seed']}, {event['arm']}"


def _line(event: JsonObject) -> str | None:
    """Write the line of a study that has ended; `None` for every other event."""
    if event.get("type") != "uplift" or event.get("state") == "begins":
        return None
    best = event.get("best")
    found = f"best {number(best)}" if is_number(best) else "nothing found"
    parts = [found, counted(cast(int, event["trials"]), "trial")]
    if event.get("fallbacks"):
        parts.append(counted(cast(int, event["fallbacks"]), "fallback"))
    parts.append("finished before" if event["state"] == "kept" else duration(cast(float, event["seconds"])))
    return f"{_head(event)}: {', '.join(parts)}"
