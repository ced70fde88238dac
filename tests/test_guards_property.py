"""Whatever is asked for, in whatever sequence: the search keeps what it needs, and goes on or ends."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import jsonschema_rs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentic_hpt.coordinator.decisions import Decision, Options, answer_schema, parse_decision
from agentic_hpt.coordinator.guards import judge, must_finalize, options
from agentic_hpt.coordinator.guards.subspace import Tried, count_new, single
from agentic_hpt.coordinator.undo import effects, incumbent
from agentic_hpt.errors import CoordinatorError, FailureKind
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, Goal, ParamValue, Report, Trial, TrialState, Usage
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace
from agentic_hpt.steering import Steering, full_range, in_range, space_within, steering_of
from agentic_hpt.strategies.joint import Joint

CONTINUE = {"type": "continue", "reason": "because", "evidence": []}
QUICK = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

PARAMETERS: list[Parameter] = [
    Float(0.0, 1.0),
    Float(1e-5, 1e-1, log=True, default=1e-2),
    Float(-1.0, 1.0, step=0.25, default=-0.5),
    Float(2.0, 2.0),
    Int(1, 9),
    Int(1, 1024, log=True),
    Int(1, 9, step=4),
    Int(0, 1, default=1),
    Choice(["a", "b", "c"]),
    Choice([16, 32, 64, 128], ordered=True),
    Choice([True, False]),
    Choice([None, 1, "x"], default="x"),
    Choice(["only"]),
]
CONDITIONAL = SearchSpace(
    optimizer=Choice(["adam", "sgd", "lion"], default="sgd"),
    momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
    layers=Int(1, 4),
    last=Float(1.0, 2.0, when={"layers": [3, 4], "optimizer": ["sgd", "lion"]}),
)
NAMES = [
    "p0",
    "p1",
    "p2",
    "p3",
    "optimizer",
    "momentum",
    "layers",
    "last",
    "no_such",
    "ignore the rules",
    "\u202e\U0001f984",
]

spaces = st.one_of(
    st.just(CONDITIONAL),
    st.lists(st.sampled_from(PARAMETERS), min_size=1, max_size=4).map(
        lambda found: SearchSpace({f"p{i}": parameter for i, parameter in enumerate(found)})
    ),
)
numbers = st.one_of(
    st.floats(-2, 12),
    st.sampled_from([0.0, -0.0, 1e-5, 1e-2, 0.5, 1.0, 2.0, 1e308, -1e308, 5e-324]),
    st.integers(-(10**20), 10**20),
)
values = st.one_of(st.booleans(), st.none(), numbers, st.sampled_from(["a", "b", "x", "sgd", "", "only", 16, 64]))
maybe = st.one_of(st.none(), numbers)
names = st.sampled_from(NAMES)
ranged = st.fixed_dictionaries(
    {"parameter": names}, optional={"low": maybe, "high": maybe, "values": st.lists(values, min_size=1, max_size=4)}
)
ids = st.integers(0, 80)
effect = st.fixed_dictionaries({"gain": st.sampled_from([0.0, 0.01, 5.0]), "trials": st.integers(1, 500)})


def action(type_: str, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    shared = {"type": st.just(type_), "reason": st.just("because"), "evidence": st.lists(ids, max_size=3)}
    return st.fixed_dictionaries({**shared, **fields}, optional={"expects": effect})


actions = st.one_of(
    action("continue"),
    action("freeze", parameter=names),
    action("unfreeze", parameter=names),
    action("prioritise", parameters=st.lists(names, min_size=1, max_size=5)),
    st.tuples(action("narrow"), ranged).map(lambda both: {**both[0], **both[1]}),
    st.tuples(action("widen"), ranged).map(lambda both: {**both[0], **both[1]}),
    action(
        "spawn",
        worker=st.sampled_from(["per_parameter", "group", "joint"]),
        parameters=st.lists(names, max_size=5),
        trials=st.integers(1, 10_000),
        region=st.lists(ranged, max_size=3),
    ),
    action(
        "propose",
        configurations=st.lists(
            st.fixed_dictionaries(
                {"params": st.dictionaries(names, values, max_size=4)},
                optional={"expected": maybe, "low": maybe, "high": maybe, "hypothesis": st.just("h")},
            ),
            min_size=1,
            max_size=8,
        ),
    ),
    action("repeat", trial=ids, seeds=st.integers(1, 3)),
    action("stop_trial", trial=ids),
    action("finalize"),
)


def drawn(space: SearchSpace, dice: random.Random) -> dict[str, ParamValue]:
    params: dict[str, ParamValue] = {}
    for name in space.order:
        parameter = space[name]
        if space.is_active(name, params):
            if isinstance(parameter, Choice):
                params[name] = dice.choice(list(parameter.values))
            else:
                params[name] = parameter.snap(dice.uniform(parameter.low, parameter.high))
    return {name: params[name] for name in space if name in params}


def run(now: Situation, wanted: Sequence[tuple[str, dict[str, ParamValue]]], dice: random.Random) -> Situation:
    """Play the next round: these configurations, of which some fail and some are still running at the end."""
    trials = list(now.trials)
    running = []
    for kind, params in wanted:
        state = dice.choices([TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED], [8, 1, 1])[0]
        value = round(dice.random() + 0.02 * now.round * dice.random(), 2)
        reports = tuple(Report(step, {"score": value * step / 3}) for step in range(dice.randint(0, 3)))
        made = Trial(
            id=len(trials),
            params=params,
            state=state,
            seed=0,
            worker=kind,
            kind=kind,  # type: ignore[arg-type]
            round=now.round + 1,
            tuned=tuple(params),
            values={"score": value} if state is TrialState.COMPLETE else {},
            failure=FailureKind.CRASH if state is TrialState.FAILED else None,
            reports=reports,
        )
        trials.append(made)
    for i in range(dice.randint(0, 2)):
        bad = Report(1, {"score": -1.0})
        going = replace(
            trials[0], id=1000 + i, state=TrialState.RUNNING, values={}, reports=(bad,), round=now.round + 2
        )
        running.append(replace(going, params=drawn(now.space, dice)))
    return replace(
        now, round=now.round + 1, trials=tuple(trials), running=tuple(running), usage=Usage(trials=len(trials))
    )


def wanted_by(now: Situation, records: Sequence[ActionRecord], dice: random.Random) -> list[tuple[str, dict]]:
    """Give what a plan under a decision runs: all that was asked for, and the rest at random, inside or outside."""
    steering = steering_of([DecisionRecord(now.round, "llm", tuple(records))])
    found: list[tuple[str, dict]] = []
    for record in records:
        if record.verdict == "refused":
            continue
        if record.type == "propose":
            found += [("proposals", dict(c)) for c in record.detail["configurations"]]  # type: ignore[attr-defined]
        if record.type == "repeat":
            again = next(t for t in now.trials if t.id == record.detail["trial"])
            found += [("repeat", dict(again.params))] * record.detail["seeds"]  # type: ignore[operator]
    for spawned in steering.spawns:
        limited = space_within(now.space, {**limits_of(now), **spawned.region})
        found += [(spawned.kind, drawn(limited, dice)) for _ in range(spawned.trials)]
    left = min(now.round_trials, now.usage.trials_left(now.budget)) - len(found)
    found += [("outside", drawn(now.space, dice)) for _ in range(left)]
    return found


def limits_of(now: Situation) -> dict[str, dict[str, object]]:
    return {name: dict(limit.range) for name, limit in now.steering.limits.items()}


LIMITING = ("freeze", "narrow", "unfreeze", "widen")


def guided(now: Situation, may: Options, dice: random.Random) -> dict[str, object]:
    """Give an answer that fits the schema: of what is offered, some at random."""
    found: list[dict[str, object]] = []
    weights = [6 if type_ in LIMITING else 1 for type_ in may.actions]
    for type_ in dice.choices(may.actions, weights, k=dice.randint(1, 5)):
        entry: dict[str, object] = {"type": type_, "reason": "because", "evidence": [0]}
        expects = dice.choice([None, {"gain": 0.01, "trials": dice.randint(1, 30)}])
        if type_ in ("freeze", "unfreeze"):
            entry["parameter"] = dice.choice(may.freezable if type_ == "freeze" else may.frozen)
        if type_ == "prioritise":
            entry["parameters"] = dice.sample(may.free, dice.randint(1, len(may.free)))
        if type_ in ("narrow", "widen"):
            entry |= part(now, dice.choice(may.narrowable if type_ == "narrow" else may.narrowed), dice)
        if type_ in ("freeze", "prioritise", "narrow", "widen"):
            entry["expects"] = expects
        if type_ == "spawn":
            entry["worker"] = dice.choice(["per_parameter", "group", "joint"])
            entry["parameters"] = dice.sample(may.free, dice.randint(0, len(may.free)))
            entry["trials"] = dice.randint(1, may.spawn_trials)
            region = dice.sample(may.free[:6], dice.randint(0, min(2, len(may.free))))
            entry["region"] = [part(now, name, dice) for name in region]
        if type_ == "propose":
            space = now.space
            candidates = [drawn(space, dice) for _ in range(dice.randint(1, min(8, may.proposals)))]
            entry["configurations"] = [
                {
                    "params": {name: c.get(name) for name in space},
                    "hypothesis": "h",
                    "expected": 0.5,
                    "low": dice.random(),
                    "high": 1.0,
                }
                for c in candidates
            ]
        if type_ == "repeat":
            entry |= {"trial": dice.choice(may.repeatable), "seeds": dice.randint(1, 3)}
        if type_ == "stop_trial":
            entry["trial"] = dice.choice(may.stoppable)
        found.append(entry)
    return {"actions": found}


def part(now: Situation, name: str, dice: random.Random) -> dict[str, object]:
    parameter = now.space[name]
    if isinstance(parameter, Choice):
        chosen = dice.sample(list(parameter.values), dice.randint(1, len(parameter.values)))
        return {"parameter": name, "values": chosen}
    low, high = sorted(parameter.snap(dice.uniform(parameter.low, parameter.high)) for _ in "ab")
    return {"parameter": name, "low": low, "high": high}


def start(space: SearchSpace, seed: int, round_trials: int, direction: str) -> Situation:
    dice = random.Random(seed)
    empty = Situation(
        study="s",
        round=0,
        goal=Goal("score", direction),  # type: ignore[arg-type]
        space=space,
        budget=dice.choice([Budget(trials=60), Budget(trials=300), Budget(minutes=5.0)]),
        usage=Usage(),
        slots=2,
        round_trials=round_trials,
        trials=(),
    )
    first = [("default", space.default()), *(("joint", drawn(space, dice)) for _ in range(dice.randint(0, 60)))]
    return run(empty, first, dice) if dice.random() < 0.9 else empty


def check(now: Situation, records: Sequence[ActionRecord], before: Steering) -> None:
    """Hold a judged decision to what must be true whatever was asked for; `now` is the situation with it."""
    space, steering, best = now.space, now.steering, incumbent(now)
    assert any(r.verdict != "refused" and r.type in ("continue", "finalize") for r in records)
    inside = space_within(space, limits_of(now))
    assert not steering.limits or any(not single(inside[name]) for name in steering.free(inside.names))
    for name, limit in steering.limits.items():
        declared = full_range(space, name)
        kept = [space[name].resolved_default()] if limit.kind == "narrowed" else []
        if best is not None and name in best.params:
            kept.append(best.params[name])
        assert all(in_range(value, limit.range) for value in kept)
        held = limit.range.get("values") or [limit.range["low"], limit.range["high"]]
        assert all(in_range(value, declared) for value in held)  # type: ignore[attr-defined]
        if limit.kind == "narrowed":
            assert in_range(space_within(space, {name: limit.range})[name].resolved_default(), limit.range)
    if best is not None:
        assert inside.contains({n: v for n, v in best.params.items() if n in inside})
        assert steering.holds(best.params)
    asked = sum(
        len(r.detail.get("configurations", ()))  # type: ignore[arg-type]
        + int(r.detail.get("seeds", 0))  # type: ignore[call-overload]
        + (int(r.detail["trials"]) if r.type == "spawn" else 0)  # type: ignore[call-overload]
        for r in records
        if r.verdict != "refused"
    )
    room = min(now.round_trials, now.usage.trials_left(now.budget))
    outside = max(1, math.ceil(room / 10)) if steering.limits and room > 1 else 0
    assert asked <= room - outside
    for record in records:
        assert record.verdict_reason
        assert set(record.evidence) <= {t.id for t in (*now.trials, *now.running)}
        if record.verdict == "refused":
            assert record.detail == {}
            continue
        assert record.asked or record.by == "policy"
        for configuration in record.detail.get("configurations", ()):  # type: ignore[attr-defined]
            assert space.validated(configuration) == configuration
            assert all(configuration != t.params for t in now.trials)
        for part_, range_ in record.detail.get("region", {}).items():  # type: ignore[attr-defined]
            assert space_within(inside, {part_: range_})[part_].grid() != []
    whole = now.decisions[-1]
    assert DecisionRecord.from_json(json.loads(json.dumps(whole.to_json()))).to_json() == json.loads(
        json.dumps(whole.to_json())
    )
    assert steering.revision >= before.revision


@QUICK
@example(  # in the end nothing is new but what lies outside the limits
    space=SearchSpace(p0=Int(1, 9)),
    seed=318677,
    round_trials=1,
    direction="maximize",
    asked=[None] * 5 + [[CONTINUE], None],
)
@given(
    space=spaces,
    seed=st.integers(0, 10**6),
    round_trials=st.integers(1, 14),
    direction=st.sampled_from(["maximize", "minimize"]),
    asked=st.lists(st.one_of(st.none(), st.none(), st.lists(actions, min_size=1, max_size=5)), min_size=3, max_size=9),
)
def test_no_sequence_of_actions_breaks_the_search(
    space: SearchSpace, seed: int, round_trials: int, direction: str, asked: list[list[dict[str, object]] | None]
) -> None:
    dice = random.Random(seed)
    now = start(space, seed, round_trials, direction)
    for step, answer in enumerate(asked):
        if must_finalize(now):
            return
        may = options(now)
        if answer is None:
            offered = guided(now, may, dice)
            assert jsonschema_rs.validator_for(answer_schema(space, may)).is_valid(offered), offered
            decision = parse_decision(offered)
            for alone in decision.actions:
                for record in judge(Decision(actions=(alone,)), now):
                    assert record.verdict != "refused" or not ruled_out(record), record
        else:
            decision = Decision.model_validate({"actions": answer})
        before = now.steering
        records = judge(decision, now, "person" if step == 3 else "")
        judged = DecisionRecord(now.round, "llm", records)
        assert effects(now) is not None
        after = replace(now, decisions=(*now.decisions, judged))
        check(after, records, before)
        if judged.finalizes:
            return
        planned = Joint(space, now.goal).plan(after, judged)
        assert sum(a.trials for a in planned) <= min(now.round_trials, now.usage.trials_left(now.budget))
        assert planned or not count_new(space, Tried((*now.trials, *now.running)), 1)
        now = run(after, wanted_by(after, records, dice), dice)


RULED_OUT = (
    "there is no",
    "is frozen",
    "is not frozen",
    "is not narrowed",
    "complete trials have it",
    "are needed to freeze",
    "fair share",
    "is not complete",
    "is not running",
    "passed without gain",
    "not active in the best",
    "is tuned",
    "has reported nothing",
    "no worse than the median",
    "took the same back",
)


def ruled_out(record: ActionRecord) -> bool:
    """Say whether an action was refused for what the options had ruled out."""
    return any(text in record.verdict_reason for text in RULED_OUT)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["actions", "type", "reason", "trial", "params", "low", "x"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@QUICK
@given(answer=st.one_of(json_values, st.text(max_size=200), json_values.map(lambda found: {"actions": [found]})))
def test_nonsense_is_refused_as_an_answer_and_nothing_else_is_raised(answer: object) -> None:
    try:
        decision = parse_decision(answer)
    except CoordinatorError:
        return
    now = start(CONDITIONAL, 1, 6, "maximize")
    assert judge(decision, now)


@QUICK
@given(
    action_=actions,
    field=st.sampled_from(["type", "reason", "parameter", "low", "trials", "trial", "configurations", "extra"]),
    junk=json_values,
)
def test_an_almost_valid_action_is_judged_or_refused(action_: dict[str, object], field: str, junk: object) -> None:
    try:
        decision = parse_decision({"actions": [{**action_, field: junk}]})
    except CoordinatorError:
        return
    records = judge(decision, start(CONDITIONAL, 2, 6, "minimize"))
    assert any(r.type in ("continue", "finalize") and r.verdict != "refused" for r in records)
