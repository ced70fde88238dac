"""The curves: regret against trials, an optimizer a line, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.search.report import Shown
from bench.search.scoring import Table, curve
from bench.search.suite import CHOSEN_ON, CONFIRMED_ON


def draw(shown: Shown, path: Path) -> None:
    """Draw the geometric mean over all tasks, and over each half of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = {"all tasks": shown.tasks, "chosen on": CHOSEN_ON, "confirmed on": CONFIRMED_ON}
    parts = {label: tasks for label, tasks in parts.items() if set(tasks) & set(shown.tasks)}
    figure, axes = plt.subplots(1, len(parts), figsize=(4.6 * len(parts), 4.2), sharey=True, layout="constrained")
    for ax, (label, tasks) in zip(axes if len(parts) > 1 else [axes], parts.items(), strict=True):
        for name, whole in shown.tables.items():
            found = _part(whole, tasks)
            if name == "random" or len(found.seeds) < len(set(tasks) & set(shown.tasks)):
                continue  # the measure itself; a mean over fewer tasks is another mean
            middle, low, high = curve(found)
            trials = range(1, len(middle) + 1)
            (line,) = ax.plot(trials, middle, label=name, linewidth=2.4 if name in shown.ours else 1.4)
            ax.fill_between(trials, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        ax.axhline(1.0, color="grey", linewidth=1, linestyle=":")
        ax.set(title=label, xlabel="trials", yscale="log", xlim=(1, None))
    first = figure.axes[0]
    first.set_ylabel("regret, share of random search's")
    first.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "search"}):  # the same runs, the same file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _part(found: Table, tasks: Sequence[str]) -> Table:
    return found.only([pair for pair in found.pairs if pair[0] in tasks])
