"""How a study stands after a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import FailureKind
from agentic_hpt.fronts import FrontPoint, front_of
from agentic_hpt.outcomes import constrained
from agentic_hpt.records import DecisionRecord, FinalReport, JsonObject, Trial, TrialState, Usage

Status = Literal["running", "stopped", "finalized", "failed"]
_EXIT_CODES = {"finalized": 0, "failed": 1, "stopped": 3, "running": 3}
_OBJECTIVES_FAULT = {FailureKind.NAN, FailureKind.INVALID_OUTPUT}
_CTRL_C = 130


@dataclass(frozen=True)
class Result:
    """How a study stands after a run: what was found, and what it cost."""

    study: str
    status: Status
    stopped_by: str | None
    error: str | None
    config: StudyConfig
    trials: tuple[Trial, ...]
    decisions: tuple[DecisionRecord, ...]
    best: Trial | None
    final: FinalReport | None
    usage: Usage
    home: Path
    artifacts: Path
    tracking: JsonObject
    begins: int = 0
    """The round behind which the search goes on in its space as it was last revised; 0 when it never was."""
    interrupted: bool = False
    """Whether Ctrl-C stopped this run."""

    @property
    def pareto(self) -> tuple[FrontPoint, ...]:
        """The Pareto front by estimated means, the knee marked; empty with one objective."""
        return front_of(self.config.goal, (t for t in self.trials if t.counted or t.kind == "imported"))

    def constraints(self) -> JsonObject:
        """Give how the best trial stands to each outcome constraint; where none satisfies all, the nearest one."""
        return constrained(self.config.goal, self.trials, self.best)

    @property
    def exit_code(self) -> int:
        """0 finished, 1 failed, 2 failed for an objective without a usable answer, 3 stopped, 130 Ctrl-C."""
        if self.interrupted:
            return _CTRL_C
        if self.status == "stopped" and self.stopped_by == "failures":
            return 1
        failures = {t.failure for t in self.trials if t.counted}
        if self.status == "failed" and failures and failures <= _OBJECTIVES_FAULT:
            return 2
        return _EXIT_CODES[self.status]

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML page and give its path."""
        from agentic_hpt.coordinator.effects import stated_effects
        from agentic_hpt.report.html import write_report

        return write_report(
            Path(path),
            config=self.config,
            status=self.status,
            trials=self.trials,
            decisions=self.decisions,
            final=self.final,
            artifacts=self.artifacts,
            usage=self.usage,
            effects=stated_effects(self.config, self.usage, self.trials, self.decisions, since=self.begins),
            since=self.begins,
        )

    def to_json(self) -> JsonObject:
        """Give the document that `hpt run --json` prints."""
        searched = [t for t in self.trials if t.counted]
        count = {s: sum(t.state is s for t in searched) for s in TrialState}
        outside = self.usage.trials - len(searched)
        # A decision that opens a revised space comes behind no round of its own.
        void = self.begins if all(t.round != self.begins for t in searched) else 0
        report = self.artifacts / "report.html"
        coordinator = self.config.coordinator.model
        final = self.final
        document: JsonObject = {
            "study": self.study,
            "status": self.status,
            "stopped_by": self.stopped_by,
            "metric": [o.metric for o in self.config.goal.objectives],
            "direction": [o.direction for o in self.config.goal.objectives],
            "rounds": sum(decision.round not in (0, void) for decision in self.decisions),
            "trials": {
                "complete": count[TrialState.COMPLETE],
                "pruned": count[TrialState.PRUNED],
                "failed": count[TrialState.FAILED],
                **({"outside": outside} if outside else {}),
                "total": self.usage.trials,
            },
            "best": None
            if self.best is None
            else {"trial": self.best.id, "params": dict(self.best.params), "values": dict(self.best.values)},
            "final": None
            if final is None
            else {
                "fresh_seeds": final.fresh_seeds,
                "failed_seeds": final.failed_seeds,
                "mean": final.mean,
                "sd": final.sd,
                "holdout": final.holdout,
                **({"looks": final.looks} if final.looks > 1 else {}),
                "selection_gap": final.selection_gap,
                "finalists": list(final.finalists),
                "default_mean": final.default_mean,
                "gain": final.gain,
                "gain_low": final.gain_low,
                "gain_high": final.gain_high,
                **({"constraints": list(final.constraints)} if final.constraints else {}),
                **({"means": dict(final.means)} if final.means else {}),
            },
            "coordinator": {
                "kind": "llm" if coordinator or self.usage.calls else "rules",
                "model": coordinator,
                "calls": self.usage.calls,
                "tokens": self.usage.tokens,
                "dollars": self.usage.dollars,
                "fallbacks": sum(d.fallback is not None for d in self.decisions),
            },
            "mlflow": self.tracking,
            "paths": {
                "model": final.model_dir if final is not None else None,
                "report": str(report) if report.is_file() else None,
                "home": str(self.home),
            },
            "seconds": round(self.usage.seconds, 2),
        }
        if self.config.goal.constraints:
            document.update(self.constraints())
        if self.config.goal.several:
            document["pareto"] = [point.to_json() for point in self.pareto]
        if self.error:
            document["error"] = self.error
        return document
