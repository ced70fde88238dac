"""A study told in plain words: what was decided, by whom, on what evidence, what ran then, and what it brought. Pure.

A chapter is a decision and the round that ran under it; the first may have no decision. `report.telling` writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from agentic_hpt.config import StudyConfig
from agentic_hpt.pareto import FIRST_TRIALS
from agentic_hpt.records import (
    HYPERVOLUME,
    ActionRecord,
    DecisionRecord,
    FinalReport,
    Goal,
    JsonObject,
    Note,
    ParamValue,
    Trial,
    TrialState,
    Usage,
    Verdict,
    best_of,
    configuration_key,
)
from agentic_hpt.report.actions import Effect, action_words, decider_words, effect_words
from agentic_hpt.report.constrained import asked_sentences, constraint_sentences
from agentic_hpt.report.plain import counted, duration, number
from agentic_hpt.report.several import front_sentences, wanted
from agentic_hpt.report.stopping import stopping_sentences
from agentic_hpt.report.summary import final_sentences, target_sentence

__all__ = ["ROUTINE", "Act", "Chapter", "Cited", "Explanation", "Work", "explain"]

ROUTINE = ("continue", "spawn", "repeat")
"""Actions of which a study has many: alone they make no round eventful."""


@dataclass(frozen=True, slots=True)
class Cited:
    """A trial that an action rests on, and where it differs from the best trial at that time."""

    trial: int
    value: float | None
    state: str
    best: bool
    """Whether it was the best trial at that time itself."""
    differs: tuple[tuple[str, ParamValue, ParamValue], ...] = ()
    """Parameter, its value, and the best trial's; `None` where it plays no part."""


@dataclass(frozen=True, slots=True)
class Act:
    """One action, the verdict on it, and what became of it. `by` is who asked for it if it was not the decider."""

    type: str
    what: str
    reason: str
    verdict: Verdict
    guard: str
    by: str
    evidence: tuple[Cited, ...]
    effect: str
    """What it was to bring and what it brought, in words; empty for an action without an effect."""
    outcome: str
    """What became of the effect: `open`, `came`, `missing` or `reversed`."""
    stated: float
    """The gain that was stated; 0 for any gain beyond noise."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Who decided, why they were asked, and what was decided."""

    round: int
    by: str
    fallback: str | None
    asked: str
    review: str
    notes: tuple[str, ...]
    source: str
    tokens: int
    dollars: float
    acts: tuple[Act, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker did in a round."""

    worker: str
    kind: str
    trials: int
    complete: int
    pruned: int
    failed: int
    running: int
    best: float | None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A decision and the round that ran under it. `gain` is how much better the best became (below 0: worse)."""

    round: int
    """The round that ran; 0 for trials that were there before."""
    decided: Decided | None
    work: tuple[Work, ...]
    before: float | None
    after: float | None
    best: int | None
    """The best trial afterwards, and its worker."""
    worker: str
    changed: tuple[tuple[str, ParamValue, ParamValue], ...]
    """Where a new best trial differs from the one before: parameter, old value, new value (`None`: plays no part)."""
    gain: float | None
    beyond_noise: bool | None
    """Whether the gain is more than noise; `None` where there is none, or the noise was not measured."""

    @property
    def eventful(self) -> bool:
        """Say whether more happened than that the search went on and brought nothing."""
        decided = self.decided
        if self.gain or decided is None or not self.work or decided.notes or decided.review or decided.fallback:
            return True
        return any(act.type not in ROUTINE or act.verdict != "accepted" or act.by for act in decided.acts)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole story of a study."""

    study: str
    status: str
    stopped_by: str | None
    metric: str
    direction: str
    noise_sd: float | None
    """The SD of one configuration's metric over seeds; `None` while it was not measured."""
    begin: tuple[str, ...]
    chapters: tuple[Chapter, ...]
    end: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Give the document that `hpt explain --json` prints: all chapters at length."""
        return asdict(self)


def explain(
    config: StudyConfig,
    status: str,
    stopped_by: str | None,
    trials: Sequence[Trial],
    decisions: Sequence[DecisionRecord],
    final: FinalReport | None,
    usage: Usage,
    *,
    effects: Sequence[Effect] = (),
    noise_sd: float | None = None,
    noise_afterwards: bool = False,
    beyond_noise: Callable[[float, float | None], bool] = lambda gain, sd: gain > 0,
    notes: Sequence[Note] = (),
    incidents: Sequence[str] = (),
    models: Mapping[int, str] | None = None,
) -> Explanation:
    """Tell a study's history; `trials` in order of their ids, final ones left out or not.

    Gains and effects are held against one noise, `noise_sd`. With `noise_afterwards` it comes from the fresh seeds of
    the end, so that no decision knew it. `incidents` are sentences of what befell the study from outside; `models` are
    those that were asked, by round, where it was not the one that the study has now.
    """
    goal, pool = config.goal.merged(t for t in trials if t.counted or t.kind == "imported")
    decided = {decision.round: decision for decision in decisions}
    asked = models or {}
    found: list[Chapter] = []
    rounds = {trial.round for trial in pool} | {number + 1 for number in decided}
    held: Trial | None = None
    for round_ in sorted(rounds):
        before, held = held, goal.furthest(t for t in pool if t.round <= round_)
        decision = decided.get(round_ - 1)
        told = None
        if decision is not None:
            known = [t for t in pool if t.round < round_]
            stated = {e.position: e for e in effects if e.round == decision.round}
            model = asked.get(decision.round, config.coordinator.model)
            told = _decided(decision, model, goal, known, before, stated, notes)
        was, now = _standing(goal, before, pool, round_ - 1), _standing(goal, held, pool, round_)
        gain = None if was is None or now is None else now - was if goal.direction == "maximize" else was - now
        found.append(
            Chapter(
                round=round_,
                decided=told,
                work=_work(goal, [t for t in pool if t.round == round_]),
                before=was,
                after=now,
                best=held.id if held is not None else None,
                worker=held.worker if held is not None else "",
                changed=_differences(held, before),
                gain=gain,
                beyond_noise=beyond_noise(gain, noise_sd) if gain and noise_sd is not None else None,
            )
        )
    best = best_of(config.goal, pool, final)
    end = [*_end(status, stopped_by, decisions, usage), *incidents]
    if final is not None:
        end += final_sentences(config.goal.metric, final.to_json())
    end += constraint_sentences(config, pool, best)
    end += stopping_sentences(config.goal, pool, config.halving)
    value = config.goal.value(best) if best is not None else None
    target = target_sentence(config.goal, value, final.mean if final else None, stopped_by == "target")
    return Explanation(
        study=config.study,
        status=status,
        stopped_by=stopped_by,
        metric=goal.metric if goal.merges is None else HYPERVOLUME,
        direction=goal.direction,
        noise_sd=noise_sd,
        begin=tuple(_begin(config, pool, noise_sd, noise_afterwards)),
        chapters=tuple(found),
        end=(*end, *([target] if target else []), *front_sentences(config.goal, pool)),
    )


def _begin(config: StudyConfig, trials: Sequence[Trial], noise_sd: float | None, afterwards: bool) -> Iterable[str]:
    yield f"{counted(len(config.space), 'parameter was', 'parameters were')} searched to {wanted(config.goal)}."
    if config.goal.several:
        yield (
            "How far the search was is told by the hypervolume of the front; the figure of a single trial is the "
            "volume that it covers alone. Both are shares of the box from the reference point to the best of the first "
            f"{FIRST_TRIALS} trials; what was decided before these were complete tells it in the box of then."
        )
    yield from asked_sentences(config)
    earlier = sum(t.kind == "imported" for t in trials)
    if earlier:
        yield f"{counted(earlier, 'trial')} came from an earlier study."
    if noise_sd is None:
        yield "How far seeds alone move the figure was not measured, so a small gain may be luck."
    else:
        if not noise_sd:
            yield "Where a configuration ran on several seeds it had the same figure, so every gain counts."
            return
        yield f"Seeds alone move the figure by {number(noise_sd, 2)} (SD); what is called a gain beyond noise is more."
    if afterwards:
        yield "That was measured at the end, with the fresh seeds: while the search ran, any gain counted."


def _decided(
    decision: DecisionRecord,
    model: str | None,
    goal: Goal,
    known: Sequence[Trial],
    best: Trial | None,
    effects: dict[int, Effect],
    notes: Sequence[Note],
) -> Decided:
    trials = {trial.id: trial for trial in known}

    def act(position: int, action: ActionRecord) -> Act:
        cited = [_cited(goal, trials[i], best) for i in action.evidence if i in trials]
        effect = effects.get(position)
        return Act(
            type=action.type,
            what=action_words(action),
            reason=action.reason,
            verdict=action.verdict,
            guard=action.verdict_reason,
            by=action.by if action.by != decision.kind else "",
            evidence=tuple(cited),
            effect=effect_words(effect) if effect is not None else "",
            outcome=effect.status if effect is not None else "",
            stated=effect.stated if effect is not None else 0.0,
        )

    return Decided(
        round=decision.round,
        by=decider_words(decision, model),
        fallback=decision.fallback,
        asked=decision.asked,
        review=decision.review,
        notes=tuple(note.text for note in notes if note.id in decision.notes),
        source=decision.source,
        tokens=decision.tokens,
        dollars=decision.dollars,
        acts=tuple(act(position, action) for position, action in enumerate(decision.actions)),
    )


def _cited(goal: Goal, trial: Trial, best: Trial | None) -> Cited:
    state = trial.failure.value if trial.failure else trial.state.value
    differs = tuple((name, own, other) for name, other, own in _differences(trial, best))
    return Cited(trial.id, goal.value(trial), state, best is not None and trial.id == best.id, differs)


def _differences(new: Trial | None, old: Trial | None) -> tuple[tuple[str, ParamValue, ParamValue], ...]:
    """List the parameters in which two trials differ, with the old and the new value."""
    if new is None or old is None or new.id == old.id:
        return ()
    both = ((name, old.params.get(name), new.params.get(name)) for name in {**old.params, **new.params})
    return tuple((name, before, after) for name, before, after in both if before != after)


def _work(goal: Goal, trials: Sequence[Trial]) -> tuple[Work, ...]:
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.worker, trial.kind), []).append(trial)
    found = []
    for (worker, kind), mine in groups.items():
        states = Counter(trial.state for trial in mine)
        best = goal.best(mine)
        found.append(
            Work(
                worker=worker,
                kind=kind,
                trials=len(mine),
                complete=states[TrialState.COMPLETE],
                pruned=states[TrialState.PRUNED],
                failed=states[TrialState.FAILED],
                running=states[TrialState.RUNNING],
                best=goal.value(best) if best is not None else None,
            )
        )
    return tuple(found)


def _standing(goal: Goal, best: Trial | None, trials: Sequence[Trial], round_: int) -> float | None:
    """Give the value that the best trial stands for: the mean of its seeds if it was repeated by then."""
    if best is None:
        return None
    if goal.merges is not None:
        return goal.figure(best)
    means = goal.repeated_means(t for t in trials if t.round <= round_)
    return means.get(configuration_key(best.params), goal.value(best))


def _end(status: str, stopped_by: str | None, decisions: Sequence[DecisionRecord], usage: Usage) -> list[str]:
    spent = f"{counted(usage.trials, 'trial')} in {duration(usage.seconds)}"
    if usage.calls:
        spent += f", {counted(usage.calls, 'call')} of the model, {usage.tokens} tokens"
        spent += f", {number(usage.dollars)} dollars" if usage.dollars else ""
    fallbacks = sum(d.fallback is not None for d in decisions)
    stood_in = [f"The rules stood in for the model {counted(fallbacks, 'time')}."] if fallbacks else []
    if status in ("finalized", "failed"):
        last = decisions[-1].accepted("finalize") if decisions else None
        why = f": {last.reason}" if last is not None else ""
        was = "failed" if status == "failed" else f"was {status}"
        return [f"The study {was}, ended by {stopped_by or 'nothing'}{why}.", f"It took {spent}.", *stood_in]
    return [f"The study has not ended, it is {status}; so far it took {spent}.", *stood_in]
