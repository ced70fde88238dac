"""What is known of a running study, from its events: one state that both the plain lines and the live view show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from agentic_hpt.records import JsonObject, Params, is_number
from agentic_hpt.report.plain import counted, duration, number, on_one_line, parameters, visible

__all__ = ["Progress", "Worker"]

_KEPT_NOTICES = 3
_LONGEST_DECISION = 160
"""What a decision says may run to pages; `hpt decisions` has the whole."""
_LONGEST_FALLBACK = 60


@dataclass
class Worker:
    """A worker of the current round, and how far it is."""

    name: str
    kind: str
    trials: int
    reason: str
    round: int = 0
    ended: int = 0
    failed: int = 0
    running: set[int] = field(default_factory=set)


@dataclass
class Progress:
    """A study's progress. `apply` takes the events in; each gives the line that a log shows of it, if any."""

    study: str = ""
    trials_budget: int | None = None
    seconds_budget: float | None = None
    slots: int = 0
    round: int = 0
    phase: str = "starting"
    workers: dict[str, Worker] = field(default_factory=dict)
    trials_used: int = 0
    seconds_used: float = 0.0
    best: str = ""
    decision: str = ""
    notices: list[str] = field(default_factory=list)
    lost: int = 0
    """Attempts whose workers were lost."""

    def apply(self, event: JsonObject) -> str | None:
        """Take an event in and give its line; `None` for an event of no interest to a log, or an unknown one."""
        handlers: dict[str, Callable[[JsonObject], str | None]] = {
            "study": self._study,
            "round": self._round,
            "trial_started": self._trial_started,
            "trial": self._trial,
            "trial_lost": self._trial_lost,
            "review": self._review,
            "decision": self._decision,
            "final_started": self._final_started,
            "final": self._final,
            "writing": self._writing,
            "notice": self._notice,
        }
        handler = handlers.get(str(event.get("type")))
        return handler(event) if handler else None

    def _study(self, event: JsonObject) -> str:
        self.study = visible(event["study"])
        self.trials_budget = _whole(event.get("trials_budget"))
        minutes = event.get("minutes_budget")
        self.seconds_budget = cast(float, minutes) * 60 if is_number(minutes) else None
        self.slots = _whole(event.get("slots")) or 0
        trials = counted(self.trials_budget, "trial") if self.trials_budget is not None else None
        limits = " and ".join(x for x in (trials, duration(self.seconds_budget) if self.seconds_budget else None) if x)
        again = "resumed, " if event.get("resumed") else ""
        return (
            f"study {self.study}: {again}at most {limits}, {self.slots} at a time; "
            f"home {visible(event.get('home'))}; MLflow {visible(event.get('tracking_uri') or 'off')}"
        )

    def _round(self, event: JsonObject) -> str:
        self.round, self.phase = _whole(event.get("round")) or 0, "searching"
        bridged = {name: worker for name, worker in self.workers.items() if worker.round == self.round}
        self.workers = {}
        for entry in cast(list[JsonObject], event.get("workers") or []):
            name = visible(entry["worker"])
            worker = Worker(
                name,
                visible(entry.get("kind")),
                _whole(entry.get("trials")) or 0,
                visible(entry.get("reason") or ""),
                self.round,
            )
            if name in bridged:
                begun = bridged[name]
                worker.ended, worker.failed, worker.running = begun.ended, begun.failed, begun.running
            self.workers[name] = worker
        each = ", ".join(f"{w.name} ({w.trials})" for w in self.workers.values())
        return f"round {self.round}: {counted(len(self.workers), 'worker')}: {each}"

    def _trial_started(self, event: JsonObject) -> None:
        name, round_ = visible(event.get("worker")), _whole(event.get("round")) or 0
        if round_ > self.round and name not in self.workers:
            # Of the next round: it keeps free slots busy, and is told of before its round is.
            self.workers[name] = Worker(name, "bridge", 0, "free slots go on with the next round", round_)
        worker = self._worker(event)
        if worker is not None:
            worker.trials = max(worker.trials, worker.ended + len(worker.running) + 1)
            worker.running.add(cast(int, event["trial"]))

    def _worker(self, event: JsonObject) -> Worker | None:
        worker = self.workers.get(visible(event.get("worker")))
        return worker if worker is not None and worker.round == (_whole(event.get("round")) or 0) else None

    def _trial(self, event: JsonObject) -> str:
        self.trials_used = _whole(event.get("trials_used")) or self.trials_used
        self._clock(event)
        worker = self._worker(event)
        if worker is not None:
            worker.running.discard(cast(int, event["trial"]))
            worker.ended += 1
            worker.failed += event.get("state") == "failed"
        best = event.get("best")
        if isinstance(best, dict):
            self.best = f"{_figures(best)} (trial {best['trial']}: {_params(best.get('params'))})"
        state = visible(event.get("state"))
        value = event.get("value")
        what = _figures(event) if is_number(value) else state
        if event.get("failure"):
            what = f"failed, {visible(event['failure'])}: {on_one_line(str(event.get('message') or ''))[:200]}"
        budget = f"/{self.trials_budget}" if self.trials_budget is not None else ""
        lead = f"; best {_figures(best)} (trial {best['trial']})" if isinstance(best, dict) else ""
        return (
            f"[{self.trials_used}{budget}] trial {event['trial']} {visible(event.get('worker'))}: {what}; "
            f"{_params(event.get('params'))}; {duration(_number(event.get('seconds')))}{lead}"
        )

    def _trial_lost(self, event: JsonObject) -> str:
        self.lost += 1
        why = _cut(on_one_line(str(event.get("message") or "")), _LONGEST_DECISION)
        then = "it is tried again" if event.get("again") else "that was its last attempt"
        return (
            f"trial {event['trial']} {visible(event.get('worker'))}: attempt {event['attempt']} was lost "
            f"({event['lost']} of {event['most']}), {then}: {why}"
        )

    def _review(self, event: JsonObject) -> str:
        return f"the decision {self._when(event)} waits for a person's word"

    def _when(self, event: JsonObject) -> str:
        return f"after round {event['round']}" if event["round"] else "before round 1"

    def _decision(self, event: JsonObject) -> str:
        actions = cast(list[JsonObject], event.get("actions") or [])
        said = "; ".join(
            f"{visible(a['type'])} [{visible(a['verdict'])}]: {visible(a['reason'])}"
            + (f" (guard: {visible(a['verdict_reason'])})" if a.get("verdict_reason") else "")
            for a in actions
        )
        fallback = event.get("fallback")
        instead = f" (instead of the model: {_cut(visible(fallback), _LONGEST_FALLBACK)})" if fallback else ""
        self.decision = _cut(f"{self._when(event)}, {visible(event.get('kind'))}{instead}: {said}", _LONGEST_DECISION)
        return f"decision {self.decision}"

    def _final_started(self, event: JsonObject) -> str:
        self.phase, self.workers = "finalizing", {}
        count, running = _whole(event.get("seeds")) or 0, cast(list[int], event.get("finalists") or [])
        seeds = counted(count, "fresh seed")
        if len(running) > 1:
            return f"final: trials {', '.join(map(str, running))} on new seeds, then the winner with {seeds}"
        return f"final: retraining trial {event['trial']} with {seeds}" if count else f"final: trial {event['trial']}"

    def _final(self, event: JsonObject) -> str:
        self.phase = "done"
        mean, sd, holdout = (_number(event.get(key)) for key in ("mean", "sd", "holdout"))
        spread = "" if sd is None else f" ± {number(sd, 2)}"
        figures = [] if mean is None else [f"fresh seeds {number(mean)}{spread}"]
        figures += [] if holdout is None else [f"holdout {number(holdout)}"]
        return f"final: {', '.join(figures) or 'no figures'}"

    def _writing(self, event: JsonObject) -> str:
        left, whole = _whole(event.get("left")) or 0, _whole(event.get("of")) or 0
        self.phase = f"MLflow: {left:,} of {whole:,} still to write"
        if left == 1:
            return "MLflow: the last entry is being written; Ctrl-C leaves it to `hpt resume`"
        return f"MLflow: {left:,} of {whole:,} entries still to write; Ctrl-C leaves them to `hpt resume`"

    def _notice(self, event: JsonObject) -> str:
        text = visible(event.get("text"))
        self.notices = [*self.notices, text][-_KEPT_NOTICES:]
        return f"note: {text}"

    def _clock(self, event: JsonObject) -> None:
        seconds = _number(event.get("seconds_used"))
        if seconds is not None:
            self.seconds_used = seconds


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _figures(entry: Mapping[str, object]) -> str:
    """Write a trial's value; of several objectives all, with their names."""
    values = entry.get("values")
    if not isinstance(values, Mapping) or len(values) < 2:
        return number(entry.get("value"))
    return ", ".join(f"{visible(metric)} {number(figure)}" for metric, figure in values.items())


def _params(value: object) -> str:
    return parameters(cast(Params, value)) if isinstance(value, Mapping) else ""


def _number(value: object) -> float | None:
    return float(cast(float, value)) if is_number(value) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
