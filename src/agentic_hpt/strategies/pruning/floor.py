"""The minimums of early stopping, which hold whoever wants a trial stopped: a rule, a curve's outlook, a model."""

from __future__ import annotations

from heapq import nsmallest

from agentic_hpt.fidelity import MEASURING_TRIALS, Halving, rung_steps
from agentic_hpt.protocols import Pruner
from agentic_hpt.records import Report, Trial, TrialState

_FIRST = 4
_LEAST_COMPLETE = 3
_COMPLETE_SHARE = 10
_WHOLE: frozenset[str] = frozenset({"default", "fresh_seed", "holdout"})
"""Kinds that are never stopped, beside repeats, which are not looked at at all: they are to tell luck from merit."""


class FloorRule:
    """Let a rule, or whoever asks, stop a trial only where enough others run to their ends.

    Never stopped are the default, repeats and final trials, the first four trials, a trial before its first rung, and
    one of ten trials (three at least), so that there is always something whole to compare. A trial that was spared
    for that runs to its end. A trial that goes on from a stopped one goes on with that one's curve.
    """

    def __init__(self, rule: Pruner, halving: Halving) -> None:
        self._rule = rule
        self._halving = halving
        self._roots: dict[int, int] = {}
        """For a trial that goes on from another, the first of all: under its number the rule sees one curve."""
        self._first: set[int] = set()
        self._under_way: set[int] = set()
        self._whole: set[int] = set()
        """Those under way that are never stopped."""
        self._spans: dict[int, tuple[int, int]] = {}
        """The first and the last step that a trial reported."""
        self._lengths: dict[int, int] = {}
        """Of the complete trials, in steps."""
        self._stopped: set[int] = set()
        self._repeats: set[int] = set()
        """They are no measure either: a configuration that ran five times would take five places at a rung."""

    def remember(self, trial: Trial, allowed: bool = True) -> None:
        """Take in a trial of an earlier run of the study; to be told of all, in order of their numbers."""
        if trial.kind == "imported":  # of a study that need not be like this one
            return
        self.began(trial)
        if not trial.finished:
            return
        for report in trial.reports:
            self.should_stop(trial.id, report)
        self._stopped.discard(self._root(trial.id))
        if trial.state is TrialState.PRUNED:
            self._stopped.add(self._root(trial.id))
        self.ended(trial.id, trial.state is TrialState.COMPLETE, allowed)

    def began(self, trial: Trial) -> None:
        """Learn that a trial begins."""
        self._under_way.add(trial.id)
        if trial.kind == "repeat":
            self._repeats.add(trial.id)
        if trial.continues is not None:
            self._roots[trial.id] = self._root(trial.continues)
            self._stopped.discard(self._root(trial.id))
        if len(self._first) < _FIRST and trial.counted:
            self._first.add(trial.id)
        if trial.kind in _WHOLE or trial.id in self._first:
            self._whole.add(trial.id)

    def hear(self, trial: int, report: Report) -> None:
        """Take in a report of a trial of the search that `should_stop` is asked about later; of others, nothing."""
        if trial in self._under_way and trial not in self._repeats:
            self._rule.hear(self._root(trial), report)

    def should_stop(self, trial: int, report: Report, asked: bool = False) -> bool:
        """Take a report in, and say whether the trial stops: because the rule says so, or somebody `asked` for it."""
        if trial in self._repeats:
            return False
        root = self._root(trial)
        first, last = self._spans.get(root, (report.step, report.step))
        self._spans[root] = min(first, report.step), max(last, report.step)
        wanted = self._rule.should_stop(root, report) or asked
        if not wanted or trial in self._whole or not self._past_first_rung(root):
            return False
        whole = len(self._lengths) + len(self._whole)
        ended = whole + len(self._stopped) + 1
        if whole < max(_LEAST_COMPLETE, -(-ended // _COMPLETE_SHARE)):
            self._whole.add(trial)
            return False
        self._stopped.add(root)
        return True

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended; one that breaks an outcome constraint, and so is not `allowed`, stops no other."""
        self._under_way.discard(trial)
        if trial in self._repeats:
            return
        root = self._root(trial)
        self._whole.discard(trial)
        if complete:
            self._lengths[root] = self._done(root)
        self._rule.ended(root, complete, allowed)

    def _root(self, trial: int) -> int:
        return self._roots.get(trial, trial)

    def _done(self, root: int) -> int:
        first, last = self._spans.get(root, (1, 0))
        return last + (first == 0)

    def _past_first_rung(self, root: int) -> bool:
        lengths = [length for _, length in nsmallest(MEASURING_TRIALS, ((t, n) for t, n in self._lengths.items() if n))]
        if len(lengths) < MEASURING_TRIALS:
            return False
        rungs = rung_steps(lengths, self._halving)  # none where trials are short
        return self._done(root) >= (rungs[0] if rungs else self._halving.min_steps or 1)
