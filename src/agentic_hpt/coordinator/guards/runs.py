"""Guards of the actions that ask for trials: workers, proposals, repeats."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.coordinator.credit import model_share
from agentic_hpt.coordinator.decisions import MAX_SEEDS, MAX_SPAWNS, Candidate, Propose, Repeat, Spawn
from agentic_hpt.coordinator.guards.draft import Draft, accepted, refused, shown, trials_of, tunable
from agentic_hpt.coordinator.guards.ranges import Unusable, asked_range, on_grid, one_value, overlap
from agentic_hpt.coordinator.guards.subspace import count_new, in_any, nearness
from agentic_hpt.coordinator.repeating import LATE_SHARE, MAX_RUNS, SHARE
from agentic_hpt.coordinator.spawn_credit import spawn_room
from agentic_hpt.errors import SpaceError
from agentic_hpt.records import ActionRecord, ParamValue, Range, configuration_key
from agentic_hpt.space import SearchSpace
from agentic_hpt.steering import space_within

_REPEAT_SHARE = 0.1
_MODELS_REPEAT_SHARE = 0.05
_LEAST_REPEATS = 3
_REPEATS_PER_ROUND = 4
_FULL = "the trials of the next round are given out"

Expected = list[float | None]


def spawn(action: Spawn, draft: Draft) -> ActionRecord:
    """Have a worker in the next round, with as many trials as are left of it and as its subspace has new."""
    room, notes = spawnable(draft), list[str]()
    if len(draft.taken("spawn")) >= MAX_SPAWNS:
        return refused(action, draft, f"{MAX_SPAWNS} workers are spawned already")
    if room < 1:
        return refused(action, draft, _FULL if draft.room() < 1 else "spawned workers have not earned more trials")
    names = _spawned(action, draft, notes)
    region = _region(action, draft, names, notes)
    within = _beside(draft, names, region)
    active = [name for name in names if name in tunable(within, draft.steering)]
    if len(active) < len(names):
        notes.append(f"{', '.join(n for n in names if n not in active)} has one value beside the best trial")
    if len(active) < (2 if action.worker == "group" else 1):
        return refused(action, draft, "; ".join([*notes, f"a {action.worker} worker has too few parameters to tune"]))
    if any(r.detail["worker"] == action.worker and r.detail["parameters"] == active for r in draft.taken("spawn")):
        return refused(action, draft, "such a worker is spawned already")
    trials = count_new(within, draft.tried, min(action.trials, room))
    if not trials:
        return refused(action, draft, "it would find nothing that was not tried")
    if trials < action.trials:
        notes.append(f"it was cut to {trials} trials")
    region = {name: range_ for name, range_ in region.items() if name in active}
    why = "tuned parameters, and trials are left"
    return accepted(action, draft, why, notes, worker=action.worker, parameters=active, trials=trials, region=region)


def spawnable(draft: Draft) -> int:
    """Give how many trials spawned workers may have now; a model's have an account, a person's and the rules' none."""
    if draft.by == "person" or draft.rules:
        return draft.room()
    if draft.distrust:
        return 0
    taken = sum(trials_of(record) for record in draft.taken("spawn"))
    return min(draft.room(), spawn_room(draft.situation) - taken)


def propose(action: Propose, draft: Draft) -> ActionRecord:
    """Keep the configurations that lie in the space and are new, as many as the model's share of a round lets."""
    if draft.taken("propose"):
        return refused(action, draft, "one propose is taken; put all configurations into it")
    room = proposals(draft)
    if room < 1:
        return refused(action, draft, _FULL if draft.room() < 1 else "proposals have not earned a share of the round")
    tried = [t.params for t in (*draft.situation.trials, *draft.situation.running)]
    tried += [] if draft.first is None else [draft.first]
    within = nearness(len(tried))
    kept: list[dict[str, ParamValue]] = []
    hypotheses: list[str] = []
    expected: list[Expected | None] = []
    notes: list[str] = []
    for candidate in action.configurations:
        try:
            params = _settled(draft.space, candidate)
        except SpaceError as error:
            notes.append(error.message)
            continue
        if in_any(draft.space, params, tried, within) or in_any(draft.space, params, kept, within):
            notes.append("a configuration, or one all but the same, was tried already")
        elif len(kept) >= room:
            notes.append(f"only {room} proposals fit into a round")
        else:
            kept.append(params)
            hypotheses.append(candidate.hypothesis[:500])
            expected.append(_expected(candidate, notes))
            if params != {n: v for n, v in candidate.params.items() if v is not None or n in params}:
                notes.append("a configuration was snapped to the space")
    if not kept:
        return refused(action, draft, "; ".join(dict.fromkeys(notes)))
    detail: dict[str, object] = {"configurations": kept, "hypotheses": hypotheses, "expected": expected}
    return accepted(action, draft, "new, and inside the space", notes, **detail)


def proposals(draft: Draft) -> int:
    """Give how many configurations may be proposed now; a person may fill a round, a model has a share of it."""
    if draft.by == "person":
        return draft.room()
    share = model_share(draft.situation)
    return min(draft.room(), max(1, round(share * draft.situation.round_trials))) if share > 0 else 0


def repeat(action: Repeat, draft: Draft) -> ActionRecord:
    """Run a complete trial's configuration again: not too often, and in a small share of round and budget."""
    trial = next((t for t in draft.complete if t.id == action.trial), None)
    if trial is None:
        return refused(action, draft, f"trial {action.trial} is not complete")
    if not draft.space.contains(trial.params):
        return refused(action, draft, f"trial {action.trial} does not lie in the declared space")
    key = configuration_key(trial.params)
    given = {r.detail["trial"]: trials_of(r) for r in draft.taken("repeat")}
    if given and any(t.id in given and configuration_key(t.params) == key for t in draft.complete):
        return refused(action, draft, "this decision repeats the configuration already")
    everything = {t.id: t for t in (*draft.situation.trials, *draft.situation.running)}.values()
    alike = (t for t in everything if t.params == trial.params)  # quick, and true also of 1 and true
    runs = sum(configuration_key(t.params) == key for t in alike)
    before = sum(t.kind == "repeat" for t in everything)
    left = {
        f"one configuration runs at most {MAX_RUNS} times": MAX_RUNS - runs,
        "repeats have their share of the budget": _repeats(draft) - before - sum(given.values()),
        "repeats have their share of a round": _repeats_of_round(draft) - sum(given.values()),
        _FULL: draft.room(),
    }
    why = min(left, key=lambda reason: left[reason])
    seeds = min(action.seeds, MAX_SEEDS, left[why])
    if seeds < 1:
        return refused(action, draft, why)
    notes = [f"{seeds} of {action.seeds} seeds: {why}"] if seeds < action.seeds else []
    return accepted(action, draft, "it is complete", notes, trial=action.trial, seeds=seeds)


def _repeats(draft: Draft) -> int:
    """Give how many trials of a study may be repeats: fewer where a model asks for one more."""
    situation = draft.situation
    whole = situation.budget.trials if situation.budget.trials is not None else situation.usage.trials
    asked = _REPEAT_SHARE if draft.by == "person" else _MODELS_REPEAT_SHARE
    return max(_LEAST_REPEATS, int((SHARE if draft.rules else asked) * whole))


def _repeats_of_round(draft: Draft) -> int:
    """Give how many trials of a round may be repeats; a model leaves half of them to the rules."""
    if draft.rules:
        return max(1, int(LATE_SHARE * draft.situation.round_trials))
    most = max(1, draft.situation.round_trials // _REPEATS_PER_ROUND)
    return most if draft.by == "person" else -(-most // 2)


def _spawned(action: Spawn, draft: Draft, notes: list[str]) -> list[str]:
    """Give the parameters for a worker: known and tuned ones, and as many as its kind has."""
    free = draft.tunable()
    asked = list(dict.fromkeys(action.parameters))
    names = [name for name in asked if name in free]
    if action.worker == "joint":
        if asked and set(asked) != set(free):
            notes.append("a joint worker tunes all parameters that are free")
        return list(free)
    if len(names) < len(asked):
        notes.append(f"not tuned: {', '.join(shown(n) for n in asked if n not in free)[:200]}")
    if action.worker == "per_parameter" and len(names) > 1:
        notes.append("a per_parameter worker tunes one parameter")
        return names[:1]
    return [name for name in free if name in names]


def _region(action: Spawn, draft: Draft, names: Sequence[str], notes: list[str]) -> dict[str, Range]:
    """Give the parts of a worker's region that limit what it tunes, cut to the limits of the search."""
    found: dict[str, Range] = {}
    for part in action.region:
        name = part.parameter
        if name not in names or name in found:
            notes.append(f"the region of {shown(name)} was dropped: the worker does not tune it")
            continue
        present = draft.range(name)
        try:
            range_ = on_grid(
                draft.space, name, overlap(asked_range(part, draft.space[name], present, notes), present, notes)
            )
        except Unusable as unusable:
            notes.append(f"the region of {shown(name)} was dropped: {unusable}")
            continue
        if one_value(range_):
            notes.append(f"the region of {shown(name)} was dropped: it holds one value")
        else:
            found[name] = range_
    return found


def _beside(draft: Draft, names: Sequence[str], region: dict[str, Range]) -> SearchSpace:
    """Give the space in which a worker searches: what it does not tune is held at the incumbent, else the default."""
    base = draft.space.validated(draft.best.params) if draft.best is not None else draft.space.default()
    held: dict[str, Range] = {
        name: {"values": [base.get(name, draft.space[name].resolved_default())]}
        for name in draft.space
        if name not in names and name not in draft.steering.frozen
    }
    ranges = {name: limit.range for name, limit in draft.steering.limits.items()}
    return space_within(draft.space, {**ranges, **held, **region})


def _settled(space: SearchSpace, candidate: Candidate) -> dict[str, ParamValue]:
    """Give a candidate's configuration snapped, without what is not active in it. Raises `SpaceError`."""
    held: dict[str, ParamValue] = {}
    for name in space.order:
        if name in candidate.params and space.is_active(name, held):
            value = candidate.params[name]
            held[name] = space[name].snap(value) if space[name].accepts(value) is None else value  # type: ignore[arg-type]
    unknown = {name: value for name, value in candidate.params.items() if name not in space}
    return space.validated({**held, **unknown})


def _expected(candidate: Candidate, notes: list[str]) -> Expected | None:
    """Give what a candidate is expected to reach, and the interval if it holds that."""
    value, low, high = candidate.expected, candidate.low, candidate.high
    if value is None:
        if low is not None or high is not None:
            notes.append("an interval without an expected value was dropped")
        return None
    if low is None and high is None:
        return [value, None, None]
    if low is None or high is None or not low <= value <= high:
        notes.append("an interval that does not hold the expected value was dropped")
        return [value, None, None]
    return [value, low, high]
