"""The graph's nodes. They await and never compute: training is the executor's, thinking the brain thread's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from langgraph.config import get_stream_writer
from langgraph.types import Send, interrupt

from agentic_hpt.config import mask_secrets
from agentic_hpt.coordinator.evidence import build_evidence, evidence_id, kept
from agentic_hpt.coordinator.review import apply_review, review_request
from agentic_hpt.errors import ConfigError, LedgerError, TrackerAway
from agentic_hpt.graph import bridging
from agentic_hpt.graph.context import Emit, PartsOf, StudyParts, stopped_trials
from agentic_hpt.graph.failing import idle_round
from agentic_hpt.graph.finalizing import finalize_study
from agentic_hpt.graph.running import fatal_error, run_assignment
from agentic_hpt.graph.state import StudyInput, StudyState, TuneInput
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, ConfigurationKey, DecisionRecord, Trial, configuration_key


class Nodes:
    """The nodes and routes of one graph; `parts_of` gives the live parts for a node's input."""

    def __init__(self, parts_of: PartsOf) -> None:
        self._parts_of = parts_of

    async def define_parameters(self, state: StudyInput) -> StudyState:
        """Begin: the description is validated, the ledger open; MLflow is told with the first trial that ends.

        Sees the input only: on a server's thread the state may still hold the study of an earlier run.
        """
        parts = await self._parts_of(state)
        uid, round_ = parts.ledger.uid, max(parts.begins, parts.goes_on)
        opening = parts.asks and await parts.think(parts.ledger.decision, round_) is None
        begun: StudyState = {"uid": uid, "round": round_, "assignments": [], "finalize": False, "proposed": {}}
        return {**begun, "opening": opening, "status": "running"}

    def begin(self, state: StudyState) -> Literal["coordinator", "start_workers"]:
        """Have a model or a person say first what to try first; the rules need no look at a study without trials."""
        return "coordinator" if state["opening"] else "start_workers"

    async def start_workers(self, state: StudyState) -> StudyState:
        """Turn the last decision into the next round's assignments."""
        parts = await self._parts_of(state)
        emit = _emitter(parts)
        assignments = await parts.think(_plan, parts, state["round"])
        round_ = state["round"] + 1
        workers = [
            {"worker": a.worker, "kind": a.kind, "tuned": list(a.tuned), "trials": a.trials, "reason": a.reason}
            for a in assignments
        ]
        emit({"type": "round", "round": round_, "workers": workers})
        return {"round": round_, "assignments": [a.to_json() for a in assignments]}

    def dispatch(self, state: StudyState) -> list[Send] | Literal["coordinator"]:
        """Send each assignment to a worker of its own."""
        sends = [Send("tune", TuneInput(uid=state["uid"], assignment=a)) for a in state["assignments"]]
        return sends or "coordinator"

    async def tune(self, state: TuneInput) -> StudyState:
        """Be one worker. A worker that fails says so and ends neither round nor study; the ledger's errors do."""
        parts = await self._parts_of(state)
        assignment = Assignment.from_json(state["assignment"])
        bridging.worker_begins(parts, assignment)
        emit = _emitter(parts)
        error, ended = "", 0
        await bridging.turn(parts, assignment)
        try:
            ended = await run_assignment(
                parts, assignment, emit, launched=lambda: bridging.worker_launched(parts, assignment)
            )
        except BaseExceptionGroup as group:
            fatal = fatal_error(group)
            if fatal is not None:
                raise fatal from group
            error = _describe(group.exceptions[0])
        except LedgerError:
            raise
        except Exception as problem:
            error = _describe(problem)
        bridging.worker_launched(parts, assignment)  # one that failed starts nothing more either
        if error:
            emit({"type": "notice", "text": f"worker {assignment.worker} failed in round {assignment.round}: {error}"})
            told = await parts.think(parts.ledger.of_assignment, assignment.round, assignment.kind, assignment.worker)
            ended = sum(trial.finished for trial in told)
        report = {"round": assignment.round, "worker": assignment.worker, "trials": ended, "error": error}
        return {"reports": [report]}  # type: ignore[list-item]

    async def coordinator(self, state: StudyState) -> StudyState:
        """Read the runs back, decide, keep the decision. One that is in the ledger already is not taken again."""
        parts = await self._parts_of(state)
        emit = _emitter(parts)
        round_ = state["round"]
        decision = await parts.think(parts.ledger.decision, round_)
        if decision is None:
            situation = await _situation(parts, round_, emit)
            nothing_new = not await parts.think(parts.strategy.plan, situation, None)
            opening = round_ == max(parts.begins, parts.goes_on)  # no round ran in this thread that could be idle
            exhausted = nothing_new or (not opening and idle_round(parts, state))
            decision = await bridging.decide(parts, replace(situation, exhausted=exhausted))
            if round_ == 0 and decision.finalizes:
                # Trials of another study can't end this one: it has none of its own yet.
                return {"finalize": False}
            decision = await parts.think(_keep_evidence, parts, situation, decision)
            if parts.config.coordinator.approve and not parts.replaying and decision.kind != "policy":
                return {"finalize": False, "proposed": decision.to_json()}
            decision = await bridging.keep(parts, decision)
        return await _in_force(parts, decision, emit)

    async def review(self, state: StudyState) -> StudyState:
        """Have a person approve, edit or refuse the decision; trials go on meanwhile, and the model is not asked again.

        LangGraph runs the node from its top for each answer.
        """
        parts = await self._parts_of(state)
        emit = _emitter(parts)
        round_ = state["round"]
        decision = await parts.think(parts.ledger.decision, round_)
        if decision is None:
            proposed = DecisionRecord.from_json(state["proposed"])
            if not parts.config.coordinator.approve:  # the study was described anew since: nobody is asked any more
                return await _in_force(parts, await bridging.keep(parts, proposed), emit)
            situation = await _situation(parts, round_, emit)
            if round_ not in parts.shown:  # for an answer it is what it was when the question was put
                parts.shown = {round_: await parts.think(build_evidence, situation)}
            request = review_request(proposed, situation, parts.shown[round_])
            approved = replace(situation, decisions=(*situation.decisions, proposed))
            # Half a round is there for the person's own actions, whatever the bridge takes.
            held = max(bridging.places(approved, proposed), -(-situation.round_trials // 2))
            problems = parts.turned_down.setdefault(round_, [])
            answers = 0
            while decision is None:
                bridging.begin_thinking(parts, round_, held)
                answer = interrupt(request)
                answers += 1
                if answers <= len(problems):
                    request = {**request, "problem": problems[answers - 1]}
                    continue
                await bridging.pause(parts)  # what is left of the budget now is there for the person's own actions
                situation = replace(situation, usage=await parts.think(parts.ledger.usage))
                try:
                    decision = apply_review(proposed, answer, situation)
                except ConfigError as error:
                    problems.append(str(error))
                    request = {**request, "problem": problems[-1]}
            if decision.kind != "llm":  # a model's own stands on what the model saw
                decision = replace(decision, shown=parts.shown[round_])
                decision = await parts.think(_keep_evidence, parts, situation, decision)
            decision = await bridging.keep(parts, decision)
        return await _in_force(parts, decision, emit)

    def route(self, state: StudyState) -> Literal["review", "start_workers", "finalize"]:
        """Let a person see the decision, go round again, or end."""
        if state["proposed"]:
            return "review"
        return "finalize" if state["finalize"] else "start_workers"

    def route_reviewed(self, state: StudyState) -> Literal["start_workers", "finalize"]:
        """Go round again, or end."""
        return "finalize" if state["finalize"] else "start_workers"

    async def finalize(self, state: StudyState) -> StudyState:
        """Retrain the winner on fresh seeds, score the holdout once, log and register the model, write the report."""
        parts = await self._parts_of(state)
        emit = _emitter(parts)
        await bridging.finish(parts, state["round"])
        final = await finalize_study(parts, state["round"], emit)
        await parts.think(parts.finished, final)
        return {"status": "finalized" if final else "failed", "result": final.to_json() if final else {}}


def _plan(parts: StudyParts, round_: int) -> list[Assignment]:
    """Give the next round's assignments, first the one that takes over what was started while slots were free.

    The plan must not depend on what else was reserved for the round, by a killed run say: same decisions and same
    trials up to this round, same assignments. Beside the bridge there is what is left of the round, half of it at
    least, and all that the guards let through.
    """
    trials = parts.ledger.trials()
    before = [t for t in trials if t.round <= round_ and t.finished]
    situation = parts.situation(round_, before)
    decision = parts.ledger.decision(round_)
    bridge = bridging.rest(parts, round_)
    bridged, whole = bridge.trials if bridge is not None else 0, situation.round_trials
    situation = replace(
        situation,
        usage=replace(situation.usage, trials=sum(t.counted and t.round <= round_ for t in trials) + bridged),
        round_trials=max(whole - bridged, -(-whole // 2), bridging.places(situation, decision)),
    )
    revision = situation.steering.revision
    planned = parts.strategy.plan(situation, decision)
    started = {configuration_key(t.params) for t in trials if t.round > round_ and t.kind == "bridge"}
    return [
        *([bridge] if bridge else []),
        *(w for a in planned for w in _without(replace(a, revision=revision), started)),
    ]


def _without(assignment: Assignment, started: set[ConfigurationKey]) -> list[Assignment]:
    """Give the assignment without the configurations that the bridge has tried; none when that leaves nothing."""
    if not assignment.queue or assignment.kind in ("repeat", "promotion"):
        return [assignment]
    queue = tuple(params for params in assignment.queue if configuration_key(params) not in started)
    return [replace(assignment, queue=queue, trials=len(queue))] if queue else []


async def _situation(parts: StudyParts, round_: int, emit: Emit) -> Situation:
    """Give what may be known for the decision after a round, its runs read back."""
    await parts.think(parts.tick)
    trials, source = await _read_back(parts, round_, emit)
    running = parts.under_way()
    situation = await parts.think(parts.situation, round_, trials, deciding=True, running=running)
    return replace(situation, source=source)


def _keep_evidence(parts: StudyParts, situation: Situation, decision: DecisionRecord) -> DecisionRecord:
    """Keep the evidence of a decision: what a model was shown, else what anybody would be. In the brain thread."""
    shown = decision.shown or build_evidence(situation)
    parts.ledger.record_evidence(decision.round, kept(shown))
    return replace(decision, evidence_id=evidence_id(shown), shown={})


async def _in_force(parts: StudyParts, decision: DecisionRecord, emit: Emit) -> StudyState:
    """Tell of a decision that is kept, and do what has not to wait for the next round's plan."""
    emit({"type": "decision", **decision.to_json()})
    if decision.fallback:
        emit({"type": "notice", "text": f"the rules decided instead of the model: {decision.fallback}"})
    parts.stopping |= stopped_trials([decision])
    await _copy_to_mirror(parts, emit)
    return {"finalize": decision.finalizes, "proposed": {}}


async def _read_back(parts: StudyParts, round_: int, emit: Emit) -> tuple[Sequence[Trial], Literal["mlflow", "ledger"]]:
    """Read the rounds not read yet from the tracker; when it is away, take the ledger's own records, and say so."""
    told = await parts.think(parts.ledger.trials)
    known = {trial.id: trial for trial in told}
    if parts.config.mlflow.enabled and parts.config.mlflow.top is not None:
        return [t for t in told if t.finished and t.round <= round_], "ledger"  # MLflow gets the best at the end
    try:
        ended = Counter(t.round for t in told if t.finished)
        for number in sorted(ended):
            expected = ended[number]
            if number in parts.rounds_read or number > round_:
                continue
            found = await parts.tracker.read_round(number, expected, parts.config.mlflow.wait_seconds)
            runs = {t.id: t for t in found if t.id in known}
            if len(runs) < expected:
                raise TrackerAway(f"MLflow has {len(runs)} of the {expected} runs of round {number}")
            # Values, states and params are MLflow's. Curves are the ledger's: a metric's history is a request a trial.
            # So are the params of trials before a revision of the space: in terms of the new one.
            parts.runs.update({i: replace(t, reports=known[i].reports) for i, t in runs.items()})
            parts.runs.update({i: replace(known[i], values=t.values) for i, t in runs.items() if i < parts.refitted})
            parts.rounds_read.add(number)
    except TrackerAway as away:
        if parts.config.mlflow.enabled:
            text = f"round {round_} was decided on the ledger's own records: {mask_secrets(away.message)}"
            emit({"type": "notice", "text": text})
        return [t for t in told if t.finished and t.round <= round_], "ledger"
    return [parts.runs[i] for i in sorted(parts.runs)], "mlflow"


async def _copy_to_mirror(parts: StudyParts, emit: Emit) -> None:
    """Copy finished trials to the Optuna storage. It is a copy: when it fails, that is said, and tried again later."""
    mirror = parts.mirror
    if mirror is None:
        return
    try:
        await parts.think(lambda: mirror(parts.ledger.trials()))
    except Exception as error:
        emit({"type": "notice", "text": f"the Optuna storage could not be written: {_describe(error)}"})


def _emitter(parts: StudyParts) -> Emit:
    """Give what tells of the node's doings; what happens outside of nodes goes to the listener, if there is one."""
    writer: Emit = get_stream_writer()
    parts.emit = parts.listener or writer
    return writer


def _describe(error: BaseException) -> str:
    return mask_secrets(f"{type(error).__name__}: {error}")[:500]
