"""Figures as PNG files, drawn by matplotlib without a display."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from agentic_hpt.fronts import front_of
from agentic_hpt.records import HYPERVOLUME, Goal, Trial, TrialState
from agentic_hpt.report.plain import number, visible
from agentic_hpt.report.summary import steps

__all__ = ["confusion_figure", "front_figure", "history_figure"]

_COLORS = {
    "default": "#444444",
    "initial": "#444444",
    "per_parameter": "#3b75af",
    "joint": "#3b75af",
    "combination": "#e08a2b",
    "proposals": "#8a5fb0",
    "ask": "#8a5fb0",
    "imported": "#9aa5b1",
}
_UNFINISHED = {TrialState.PRUNED: ("|", "#9aa5b1"), TrialState.FAILED: ("x", "#c0392b")}
_OF_FRONT = "#2e8b57"
_SPAN = 1000.0
"""Positive values that span more than this are drawn on a log scale, else one outlier flattens all others."""


def history_figure(goal: Goal, trials: Sequence[Trial], path: Path) -> Path:
    """Draw each trial's value by worker kind, the incumbent as a line, and the target.

    With several objectives a trial's value is the volume that it covers alone, and the line is the hypervolume.

    Trials that break a constraint are hollow. Pruned and failed trials have no value: they are marks on the lower edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    goal, trials = goal.merged(trials)
    figure = Figure(figsize=(8, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    valued = [(t, value) for t in trials if (value := goal.value(t)) is not None]
    for kind in dict.fromkeys(t.kind for t, _ in valued):
        ids = [t.id for t, _ in valued if t.kind == kind]
        heights = [value for t, value in valued if t.kind == kind]
        axes.scatter(ids, heights, s=18, color=_COLORS.get(kind, "#444444"), label=kind, zorder=3)
    broken = [(t.id, value) for t, value in valued if not goal.feasible(t)]
    if broken:
        ids, heights = [trial for trial, _ in broken], [value for _, value in broken]
        axes.scatter(ids, heights, s=8, color="#ffffff", zorder=4, label="breaks a constraint", edgecolor="#b3261e")
    for state, (marker, color) in _UNFINISHED.items():
        hit = [t.id for t in trials if t.state is state]
        if hit:
            axes.scatter(
                hit,
                [0.02] * len(hit),
                s=22,
                marker=marker,
                color=color,
                label=state.value,
                transform=axes.get_xaxis_transform(),
                zorder=3,
            )
    path_of_best = steps(goal, trials)
    if path_of_best:
        last = max(t.id for t in trials)
        axes.step(
            [*(s.trial for s in path_of_best), last],
            [*(s.value for s in path_of_best), path_of_best[-1].value],
            where="post",
            color="#2e8b57",
            linewidth=1.6,
            label="best so far" if goal.merges is None else HYPERVOLUME,
        )
    if goal.target is not None:
        axes.axhline(goal.target, color="#444444", linestyle="--", linewidth=1, label=f"target {number(goal.target)}")
    values = [value for _, value in valued]
    if values and min(values) > 0 and max(values) / min(values) > _SPAN:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(goal.metric))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=7, fontsize=8, frameon=False, columnspacing=1.2)
    figure.savefig(path, format="png")
    return path


def front_figure(goal: Goal, trials: Sequence[Trial], path: Path) -> Path:
    """Draw each pair of objectives: all complete trials, the front by its means, the knee as a star.

    A member that only noise keeps on the front is drawn hollow.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = front_of(goal, trials)
    done = [t.values for t in trials if goal.losses(t) is not None]
    pairs = list(combinations((o.metric for o in goal.objectives), 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(6 if columns == 1 else 3.6 * columns, 3.8 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (across, up) in enumerate(pairs, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for among, shown, face, size, marker in (
            ("trials", done, "#9aa5b1", 12, "o"),
            ("within noise", [p.values for p in points if p.within_noise], "none", 26, "o"),
            ("front", [p.values for p in points if not p.within_noise], _OF_FRONT, 26, "o"),
            ("knee", [p.values for p in points if p.knee], "#c0392b", 150, "*"),
        ):
            if shown:
                edge = _OF_FRONT if face == "none" else face
                xs, ys = [v[across] for v in shown], [v[up] for v in shown]
                axes.scatter(xs, ys, s=size, marker=marker, facecolors=face, edgecolors=edge, label=among)
        for metric, scale in ((across, axes.set_xscale), (up, axes.set_yscale)):
            values = [v[metric] for v in done]
            if values and min(values) > 0 and max(values) / min(values) > _SPAN:
                scale("log")
        axes.set_xlabel(_label(across))
        axes.set_ylabel(_label(up))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1 and done:
            figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, format="png")
    return path


def confusion_figure(holdout_json: Path, path: Path) -> Path:
    """Draw the confusion matrix of the holdout from a file `{"labels": [...], "true": [...], "predicted": [...]}`.

    `true` and `predicted` are positions in `labels`. Raises `OSError`, `ValueError` or `KeyError` for another content.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = json.loads(holdout_json.read_text(encoding="utf-8"))
    labels = [_label(str(label)) for label in data["labels"]]
    count = np.zeros((len(labels), len(labels)), dtype=int)
    for true, predicted in zip(data["true"], data["predicted"], strict=True):
        count[true, predicted] += 1
    side = 2.2 + 0.42 * len(labels)
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(count, cmap="Blues")
    for row, column in np.ndindex(count.shape):
        if count[row, column]:
            dark = count[row, column] > count.max() / 2
            axes.text(
                column,
                row,
                str(count[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    upright = all(len(label) <= 3 for label in labels)
    axes.set_xticks(range(len(labels)), labels, rotation=0 if upright else 45, ha="center" if upright else "right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"holdout: {int(np.trace(count))} of {int(count.sum())} right", fontsize=10)
    figure.savefig(path, format="png")
    return path


def _label(text: str) -> str:
    """Keep matplotlib from reading `$` as the start of a formula."""
    return visible(text).replace("$", r"\$")
