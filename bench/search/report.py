"""What the comparison says, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import numpy as np
from bench.search.peers import PEERS
from bench.search.scoring import (
    AT,
    Compared,
    Runs,
    Table,
    compared,
    curve,
    geometric,
    means,
    plain,
    ranks,
    reached,
    table,
)
from bench.search.suite import CHOSEN_ON, CONFIRMED_ON
from bench.search.trials import Setting

_ENOUGH = 0.5
"""Of the runs of the one with the most, to be ranked with the others."""
_FEW = 3
"""So many seeds on each task has the peer whose final regret is to be reached."""


@dataclass(frozen=True)
class Shown:
    """What is compared: runs by name, ours named; `random`, which must be among them, is the measure."""

    runs: Mapping[str, Runs]
    tasks: Sequence[str]
    seeds: Sequence[int]
    ours: Sequence[str]
    against: str | None = None
    sequential: Mapping[str, Runs] = field(default_factory=dict)
    """The runs with one trial at a time, where `runs` had several under way."""

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The runs beside random search's."""
        return self._beside(self.runs)

    @cached_property
    def one_by_one(self) -> dict[str, Table]:
        """The runs with one trial at a time, beside the same measure."""
        return self._beside(self.sequential)

    def best_peer(self, end: int) -> str | None:
        """The peer with the lowest geometric mean in the end, or the one named; one with few runs is not looked at."""
        tables = {name: one for name, one in self.tables.items() if name in PEERS and name != "random"}
        enough = [n for n, one in tables.items() if len(one.seeds) == self.most and self._fewest(one) >= _FEW]
        return self.against or min(enough, key=lambda name: curve(tables[name])[0][end - 1], default=None)

    def _fewest(self, one: Table) -> int:
        return min(len(seeds) for seeds in one.seeds.values())

    @property
    def most(self) -> int:
        """The number of tasks of the one that ran on the most."""
        return max(len(one.seeds) for one in self.tables.values())

    def _beside(self, runs: Mapping[str, Runs]) -> dict[str, Table]:
        found = {name: table(some, self.runs["random"], self.tasks, self.seeds) for name, some in runs.items()}
        return {name: one for name, one in found.items() if one.pairs}


def told(shown: Shown, setting: Setting, detail: bool) -> str:
    """Give the whole comparison."""
    at = [trial for trial in AT if trial <= setting.trials]
    parts = [_head(shown, setting), _scores(shown, at), _pairs(shown, at), _soon(shown, setting.trials)]
    parts += [_noise(shown, at), _halves(shown, at), _several(shown, setting, at)]
    if detail:
        parts.append(_tasks(shown, at[1:]))
    return "\n\n".join(part for part in parts if part)


def _head(shown: Shown, setting: Setting) -> str:
    begin = f"the first {setting.first} the same for all" if setting.first else "everybody begins as they like"
    by = {name: sorted({run.by for run in shown.runs[name].values()}) for name in shown.tables}
    lines = [f"{len(shown.tasks)} tasks, {setting.trials} trials, {begin}, {setting.pending} under way at once"]
    for name, found in shown.tables.items():
        counts = [len(seeds) for seeds in found.seeds.values()]
        few = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"
        lines.append(f"  {name}: {few} seeds on {len(counts)} tasks; {', '.join(by[name])}")
    return "\n".join(lines)


def _scores(shown: Shown, at: Sequence[int]) -> str:
    most = max(len(one.pairs) for one in shown.tables.values())
    ranked = [name for name, one in shown.tables.items() if len(one.pairs) >= _ENOUGH * most]
    ends = at[-2:]
    found = {trial: dict(zip(ranked, ranks([shown.tables[n] for n in ranked], trial), strict=True)) for trial in ends}
    numbers = "".join(f"{t:8}" for t in at)
    titles = (
        f"{'geometric mean at':^{8 * len(at)}}{f'at {at[-1]}':^15}{'plain mean at':^{8 * len(at)}}{f'at {at[-1]}':^15}"
    )
    lines = [
        "regret as a share of random search's; 90 % intervals",
        f"{'':26}{titles}{'rank at':^{8 * len(ends)}} s/trial",
        f"{'':26}{numbers}{'':15}{numbers}{'':15}{''.join(f'{t:8}' for t in ends)}",
    ]
    for name, one in shown.tables.items():
        middle, low, high = curve(one)
        line = f"{name:26}" + "".join(f"{middle[t - 1]:8.3f}" for t in at)
        line += f"  {low[at[-1] - 1]:.2f} to {high[at[-1] - 1]:.2f} "
        plains = [plain(one, t) for t in at]
        line += "".join(f"{p[0]:8.3f}" for p in plains) + f"  {plains[-1][1]:.2f} to {plains[-1][2]:.2f} "
        line += "".join(f"{found[t][name]:8.2f}" if name in found[t] else f"{'-':>8}" for t in ends)
        fewer = f"  on {len(one.seeds)} of {shown.most} tasks" if len(one.seeds) < shown.most else ""
        lines.append(line + f"{_seconds(shown, name):8.3f}{fewer}")
    return "\n".join(lines)


def _seconds(shown: Shown, name: str) -> float:
    """Give the CPU seconds that the optimizer took for a trial, those that it was given left out."""
    taken = [s for run in shown.runs[name].values() for s in run.seconds[10:]]
    return float(np.mean(taken)) if taken else float("nan")


def _pairs(shown: Shown, at: Sequence[int]) -> str:
    blocks: list[str] = []
    for mine in shown.ours:
        if mine not in shown.tables:
            continue
        lines = [
            f"{mine} against each, on the runs that both have: ratio of geometric means and its 90 % interval;",
            "runs won / tied / lost; tasks won / undecided / lost; p of Wilcoxon's signed-rank test",
            f"{'':26}" + "".join(f"{f'at {t}':^59}" for t in at[1:]),
        ]
        for name, other in shown.tables.items():
            if name == mine or not set(other.pairs) & set(shown.tables[mine].pairs):
                continue
            cells = []
            for trial in at[1:]:
                c = compared(shown.tables[mine], other, trial)
                runs, tasks = ("/".join(f"{n}" for n in counts) for counts in (c.runs, c.tasks))
                cells.append(f"{_ratio(c)}  {runs:>11}  {tasks:>7}  p {c.p:7.1e}")
            lines.append(f"{name:26}" + "".join(f"{cell:^59}" for cell in cells))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _ratio(found: Compared) -> str:
    return f"{found.ratio:5.2f} ({found.interval[0]:.2f} to {found.interval[1]:.2f})"


def _soon(shown: Shown, end: int) -> str:
    target = shown.best_peer(end)
    if target is None or target not in shown.tables:
        return ""
    lines = [
        f"trials until the final regret of {target} is reached: geometric mean over all tasks; median of the tasks"
    ]
    for name, one in shown.tables.items():
        if not set(one.pairs) & set(shown.tables[target].pairs):
            continue
        whole, tasks = reached(one, shown.tables[target], end)
        middle = median(end + 1 if n is None else n for n in tasks.values())
        there = sum(n is not None for n in tasks.values())
        first = f"{whole}" if whole else f">{end}"
        half = f"{middle:.0f}" if middle <= end else f">{end}"
        lines.append(f"{name:26}{first:>6}{half:>6}   reached on {there} of {len(tasks)} tasks")
    return "\n".join(lines)


def _noise(shown: Shown, at: Sequence[int]) -> str:
    """Compare each optimizer with itself: the even seeds' regrets with the odd ones', by the same measure."""
    lines = [
        "noise: each optimizer's even seeds against its odd ones, ratio of geometric means",
        f"{'':26}" + "".join(f"{t:8}" for t in at),
    ]
    for name, one in shown.tables.items():
        halves = []
        for odd in (0, 1):
            places = {task: [i for i, seed in enumerate(seeds) if seed % 2 == odd] for task, seeds in one.seeds.items()}
            halves.append({task: one.shares[task][found].mean(axis=0) for task, found in places.items() if found})
        tasks = sorted(halves[0].keys() & halves[1].keys())
        if tasks:
            a, b = (geometric(np.stack([half[task] for task in tasks], axis=-1)) for half in halves)
            lines.append(f"{name:26}" + "".join(f"{a[t - 1] / b[t - 1]:8.2f}" for t in at))
    return "\n".join(lines)


def _halves(shown: Shown, at: Sequence[int]) -> str:
    halves = [("chosen", CHOSEN_ON), ("confirmed", CONFIRMED_ON)]
    halves = [(label, tasks) for label, tasks in halves if set(tasks) & set(shown.tasks)]
    if len(halves) < 2:
        return ""
    lines = [
        "geometric mean on the tasks that rules were chosen on, and on those that confirmed them",
        f"{'':26}" + "".join(f"{label:^{8 * len(at)}}" for label, _ in halves),
        f"{'':26}" + "".join(f"{t:8}" for t in at) * 2,
    ]
    for name, one in shown.tables.items():
        line = f"{name:26}"
        for _, tasks in halves:
            part = one.only([pair for pair in one.pairs if pair[0] in tasks])
            line += "".join(f"{curve(part)[0][t - 1]:8.3f}" if part.pairs else f"{'-':>8}" for t in at)
        lines.append(line)
    return "\n".join(lines)


def _several(shown: Shown, setting: Setting, at: Sequence[int]) -> str:
    """Say what several trials at once cost: against the same optimizer with one at a time."""
    both = [name for name in shown.tables if name in shown.one_by_one and name != "random"]
    if not both:
        return ""
    lines = [
        f"{setting.pending} under way against one at a time: ratio of geometric means and its 90 % interval; p",
        f"{'':26}" + "".join(f"{f'at {t}':^37}" for t in at[1:]),
    ]
    for name in both:
        found = [compared(shown.tables[name], shown.one_by_one[name], trial) for trial in at[1:]]
        cells = (f"{_ratio(c)}  p {c.p:7.1e}" for c in found)
        lines.append(f"{name:26}" + "".join(f"{cell:^37}" for cell in cells))
    return "\n".join(lines)


def _tasks(shown: Shown, at: Sequence[int]) -> str:
    names = [name for name in shown.tables if name != "random"]
    label = f"share of random's regret by task, at {' / '.join(str(t) for t in at)}"
    lines = [label, f"{'':28}" + "".join(f"{name[:22]:>24}" for name in names)]
    lines += [f"{task:28}" + "".join(_cells(shown, names, task, at)) for task in shown.tasks]
    return "\n".join(lines)


def _cells(shown: Shown, names: Sequence[str], task: str, at: Sequence[int]) -> Iterator[str]:
    for name in names:
        one = shown.tables[name]
        found = one.only([pair for pair in one.pairs if pair[0] == task])
        shares = means(found) if found.pairs else None
        yield ("-" if shares is None else " /".join(f"{shares[t - 1, 0]:6.3f}" for t in at)).rjust(24)
