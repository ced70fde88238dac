"""Constraints: the language, what may be tried, what the best trial must satisfy, and that no proposal breaks one."""

from __future__ import annotations

import json
import math
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentic_hpt.config import StudyConfig
from agentic_hpt.constraints import Condition
from agentic_hpt.coordinator.decisions import Decision
from agentic_hpt.coordinator.evidence import build_evidence
from agentic_hpt.coordinator.guards import judge, must_finalize, plateau
from agentic_hpt.coordinator.guards.subspace import Tried, count_new
from agentic_hpt.errors import ConfigError, SpaceError
from agentic_hpt.feasible import feasible_draw, mended, random_configuration
from agentic_hpt.outcomes import breaks, nearest, standings
from agentic_hpt.records import (
    ActionRecord,
    Assignment,
    Budget,
    DecisionRecord,
    Goal,
    OutcomeConstraint,
    Trial,
    TrialState,
    Usage,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import space_within
from agentic_hpt.study import Study
from situations import SPACE, situation, trial

VALUES = {"a": 2, "b": 3.0, "opt": "adam", "use": False, "x-y": 1, "m.lr": 0.1}


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "margin"),
        [
            ("a * b <= 10", -4.0),
            ("a * b <= 5", 1.0),
            ("1 < a < 3", -1.0),
            ("a >= 3", 1.0),
            ("a + b >= 7 and a <= 1", 3.0),
            ("a + b >= 7 or a <= 1", 1.0),
            ("not (a > 1 or b > 1)", 3.0),
            ("not a < b < 9", 1.0),
            ("a in [1, 5]", 1.0),
            ("a not in (1, 5)", -1.0),
            ("opt in ['adam', 'sgd']", 0.0),
            ("opt != 'adam'", 1.0),
            ("use == false", 0.0),
            ("a == true", 1.0),
            ("2 * a ** 2 // 3 - 5 % 3 <= 0", 0.0),
            ("max(a, b, 1) - min(a, b) + abs(-a) + sqrt(4) <= 0", 5.0),
            ("log(exp(b)) + log(8, 2) <= 6", 0.0),
            ("`x-y` + m.lr <= 1", 0.1),
            ("0.1 + 0.2 <= 0.3", 0.0),
        ],
    )
    def test_a_margin_is_what_a_condition_is_broken_by(self, text: str, margin: float) -> None:
        # A constant alone is no constraint, so that one stands beside a name.
        condition = Condition.of(
            text if any(n in text for n in ("a", "b", "opt", "use", "x-y")) else f"{text} and a > 0"
        )
        assert condition.margin(VALUES) == pytest.approx(margin, abs=1e-12)
        assert condition.holds(VALUES) is (margin <= 1e-12)
        assert condition.violation(VALUES) == pytest.approx(max(0.0, margin), abs=1e-12)

    def test_what_is_strictly_less_is_not_equal(self) -> None:
        assert Condition.of("a <= 2").holds(VALUES)
        assert not Condition.of("a < 2").holds(VALUES)
        assert Condition.of("not a < 2").holds(VALUES)

    @pytest.mark.parametrize(
        "text", ["1 / (a - 2) <= 5", "log(a - 3) <= 5", "b ** 1e5 <= 1", "(a - 3) ** 0.5 <= 9", "opt < 3"]
    )
    def test_what_can_not_be_worked_out_is_broken(self, text: str) -> None:
        assert Condition.of(text).margin(VALUES) == math.inf

    def test_nan_is_broken(self) -> None:
        assert Condition.of("a <= 5").margin({"a": math.nan}) == math.inf
        assert Condition.of("not a > 5").margin({"a": math.nan}) == math.inf

    @pytest.mark.parametrize("text", ["z <= 1", "not z > 1", "z > 5 and a == 2", "not (z > 5 and a == 3)", "z in [1]"])
    def test_a_comparison_with_what_plays_no_part_holds(self, text: str) -> None:
        assert Condition.of(text).holds(VALUES)

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("a +", "character 4"),
            ("a", "'a' is no comparison"),
            ("a and b", "is no comparison"),
            ("a < 'x'", "character 5: \"'x'\" is no number"),
            ("a.__class__ == 1", "is no name"),
            ("().x == 1", "is no name"),
            ("a[0] < 1", "'a[0]' can't stand"),
            ("open('f') < a", "character 1: \"open('f')\" is no call of abs, min"),
            ("a < max(1, *b)", "can't stand"),
            ("a < max(1, key=b)", "is no call"),
            ("(lambda: a) < 1", "can't stand"),
            ("[a for a in b] == 1", "can't stand"),
            ("a is b", "use =="),
            ("a in b", "is no list of values"),
            ("a in []", "is no list of values"),
            ("1 <= 2", "names no parameter"),
            ("a <= 1e999", "too large"),
            ("a <= " + "9" * 400, "too large"),
            ("a == b''", "is no number, text"),
            ("-" * 200 + "a <= 1", "nested too deeply"),
            ("(" * 240 + "a" + ")" * 240 + "<= 1", "can't be read"),
            ("a <= 1" + " and a <= 1" * 60, "at most 500"),
            ("a <= \x00", "can't be read"),
            (3, "is no text"),
        ],
    )
    def test_anything_else_is_refused_with_its_place(self, text: object, place: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Condition.of(text)
        assert place in str(caught.value)

    @given(st.text(alphabet="ab<=>+-*/%().,'`[]andornti_0159 ", max_size=60))
    @settings(max_examples=300, deadline=None)
    def test_no_text_does_anything_but_be_read_or_refused(self, text: str) -> None:
        try:
            condition = Condition.of(text)
        except ConfigError:
            return
        assert not math.isnan(condition.margin({"a": 1, "b": "x"}))

    def test_a_condition_is_its_text(self) -> None:
        condition = Condition.of(" a <=\n 3 ")
        assert condition == Condition.of("a <=  3")
        assert pickle.loads(pickle.dumps(condition)).holds({"a": 3})


class TestSpace:
    space = SearchSpace(a=Int(1, 9), b=Float(0.0, 1.0), opt=Choice(["adam", "sgd"])).constrained(["a * b <= 3"])

    def test_a_configuration_that_breaks_a_constraint_is_not_of_the_space(self) -> None:
        with pytest.raises(SpaceError, match=r"'a \* b <= 3' does not hold for a=8, b=0.9"):
            self.space.validated({"a": 8, "b": 0.9, "opt": "sgd"})
        assert self.space.contains({"a": 8, "b": 0.1, "opt": "sgd"})
        assert self.space.violation({"a": 8, "b": 0.5}) == 1.0
        assert self.space.violation({"a": 8, "b": 0.1}) == 0.0

    def test_a_limited_space_keeps_its_constraints(self) -> None:
        limited = space_within(self.space, {"opt": {"values": ["sgd"]}, "a": {"low": 7, "high": 9}})
        assert not limited.contains({"a": 8, "b": 0.9, "opt": "sgd"})
        assert limited.contains({"a": 8, "b": 0.1, "opt": "sgd"})

    def test_a_constraint_on_a_parameter_that_a_limit_leaves_out_holds(self) -> None:
        space = SPACE.constrained(["momentum <= 0.5 or layers <= 3"])
        limited = space_within(space, {"optimizer": {"values": ["adam"]}})
        assert limited.contains({"layers": 9, "rate": 0.01, "optimizer": "adam"})
        assert not space.contains({"layers": 9, "rate": 0.01, "optimizer": "sgd", "momentum": 0.9})

    def test_spaces_are_equal_when_their_constraints_are(self) -> None:
        plain = SearchSpace(a=Int(1, 9))
        assert plain != plain.constrained(["a <= 5"])
        assert plain.constrained(["a <= 5"]) == plain.constrained(["a <= 5"]).constrained(
            ["a  <= 5".replace("  ", " ")]
        )

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a * c <= 3", "unknown parameter 'c'"),
            ("opt < 3", "reckons with 'opt', which may be 'adam'"),
            ("opt == 'adamm'", "'adamm' is not one of"),
            ("a == 'x'", "'x' is not a whole number"),
        ],
    )
    def test_a_constraint_must_fit_the_parameters(self, text: str, why: str) -> None:
        with pytest.raises(SpaceError, match=why):
            self.space.constrained([text])


def config(**changes: object) -> StudyConfig:
    described: dict[str, object] = {
        "study": "s",
        "metric": "acc",
        "space": {"a": {"int": [1, 9], "default": 2}, "b": {"float": [0.0, 1.0]}, "w-z": {"int": [1, 3]}},
        "constraints": ["a * b <= 3", "mem <= 4"],
    }
    return StudyConfig.from_mapping({**described, **changes})


class TestStudy:
    def test_names_that_are_no_parameters_are_metrics(self) -> None:
        made = config(constraints=["a * b <= 3", "mem <= 4", "mem / a <= 2"])
        assert [c.text for c in made.space.constraints] == ["a * b <= 3"]
        assert [(c.text, c.metrics) for c in made.goal.constraints] == [
            ("mem <= 4", ("mem",)),
            ("mem / a <= 2", ("mem",)),
        ]
        assert StudyConfig.from_mapping(made.to_json()) == made

    def test_constraints_of_a_space_that_is_handed_over_are_kept_as_texts(self) -> None:
        made = config(space=SearchSpace(a=Int(1, 9)).constrained(["a <= 5"]), constraints="mem <= 4")
        assert made.constraints == ("mem <= 4", "a <= 5")
        assert StudyConfig.from_mapping(json.loads(json.dumps(made.to_json()))).space == made.space

    @pytest.mark.parametrize(
        ("constraints", "why"),
        [
            (["a * b >= 5"], r"the default configuration breaks 'a \* b >= 5': a=2, b=0.5"),
            (["a + b == 2.5"], "10,000 configurations drawn at random all break one"),
            (["a + b >= 1000"], "10,000 configurations drawn at random all break one"),
            (["w-z <= 2"], r"did you mean `w-z`\?"),
            (["a <"], "character 4"),
            ([3], "constraints.0"),
        ],
    )
    def test_what_leaves_nothing_to_search_is_refused(self, constraints: object, why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            config(constraints=constraints)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("mem <= 4 + opt", "reckons with 'opt', which may be 'adam'"),
            ("mem <= 4 or opt == 'adamm'", "'adamm' is not one of"),
        ],
    )
    def test_parameters_beside_a_metric_are_asked_what_they_can_answer_too(self, text: str, why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            config(space={"opt": {"choice": ["adam", "sgd"]}}, constraints=[text])

    def test_a_misspelt_parameter_is_no_metric(self) -> None:
        space = {"num_layers": {"int": [1, 3]}}
        with pytest.raises(ConfigError, match="did you mean num_layers"):
            config(space=space, constraints=["num_layer <= 2"])
        assert config(space=space, constraints=["`num_layer` <= 2"]).goal.constraints[0].metrics == ("num_layer",)


def _expressions(draw: st.DrawFn, space: SearchSpace) -> list[str]:
    """Give conditions that the default satisfies."""
    default = space.default()
    numbers = [n for n in default if not isinstance(space[n], Choice)]
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        left, right = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        term = draw(st.sampled_from(["{0} + {1}", "{0} * {1}", "{0} - 2 * {1}", "max({0}, {1})", "abs({0}) ** 1.5"]))
        text = term.format(left, right)
        slack = draw(st.sampled_from([0.0, 0.01, 0.3, 2.0]))
        known = Condition.of(f"{text} <= 0").margin(default)
        bound = f"{text} <= {known + slack!r}" if draw(st.booleans()) else f"{text} >= {known - slack!r}"
        texts.append(f"{bound} or kind == 'b'" if draw(st.booleans()) else bound)
    return texts


@st.composite
def constrained_spaces(draw: st.DrawFn) -> SearchSpace:
    """Give spaces with numbers of all kinds, a choice and a conditional, constrained so that the default is allowed."""
    space = SearchSpace(
        n=Int(1, 6, default=draw(st.integers(1, 6))),
        x=Float(0.0, 1.0, default=draw(st.sampled_from([0.0, 0.3, 1.0]))),
        rate=Float(1e-4, 1e-1, log=True),
        step=Float(0.0, 1.0, step=0.25),
        kind=Choice(["a", "b"]),
        extra=Float(-1.0, 1.0, when={"kind": "b"}),
    )
    return space.constrained(_expressions(draw, space))


class TestDraws:
    @given(constrained_spaces(), st.integers(0, 2**20))
    @settings(max_examples=60, deadline=None)
    def test_a_draw_that_is_given_is_allowed(self, space: SearchSpace, seed: int) -> None:
        dice = random.Random(seed)
        drawn = feasible_draw(space, lambda d: random_configuration(space, d), dice, anchors=[space.default()], tries=3)
        assert drawn is None or space.contains(drawn)

    def test_a_draw_is_mended_towards_what_is_allowed(self) -> None:
        space = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0, default=0.1)).constrained(["x + y <= 0.7"])
        found = mended(space, {"x": 0.9, "y": 0.5}, [space.default()], random.Random(0))
        assert found is not None
        assert space.contains(found)
        assert found["x"] + found["y"] == pytest.approx(0.7, abs=1e-3)  # type: ignore[operator]

    def test_mending_goes_on_from_a_border_in_the_other_parameters(self) -> None:
        space = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0)).constrained(["x <= 0.5"])
        found = mended(space, {"x": 0.9, "y": 0.8}, [{"x": 0.5, "y": 0.1}], random.Random(0))
        assert found is not None
        assert found["y"] == 0.8

    def test_what_both_have_in_common_stays_exactly(self) -> None:
        space = SearchSpace(x=Float(1e-5, 1.0, log=True), y=Float(0.0, 1.0)).constrained(["y <= 0.5"])
        found = mended(space, {"x": 0.3, "y": 0.9}, [{"x": 0.3, "y": 0.2}], random.Random(0))
        assert found is not None
        assert found["x"] == 0.3

    def test_nothing_is_mended_without_an_allowed_start(self) -> None:
        space = SearchSpace(x=Float(0.0, 1.0)).constrained(["x <= 0.5"])
        assert mended(space, {"x": 0.9}, [{"x": 0.8}], random.Random(0)) is None


def _complete(number: int, params: dict[str, object], acc: float, **changes: object) -> Trial:
    return trial(number, None, params=params, state=TrialState.COMPLETE, values={"acc": acc}, **changes)


class TestProposals:
    """A proposal never breaks a constraint: whatever the strategy, the limits, and what runs beside."""

    @given(
        constrained_spaces(),
        st.sampled_from(["per_parameter", "joint", "auto"]),
        st.booleans(),
        st.integers(0, 2**20),
    )
    @settings(max_examples=9, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    def test_no_strategy_breaks_a_constraint(self, space: SearchSpace, name: str, narrowed: bool, seed: int) -> None:
        from agentic_hpt.strategies import Auto, Joint, PerParameter

        described = StudyConfig.from_mapping({"study": "s", "metric": "acc", "space": space, "strategy": name})
        assert described.space.constraints == space.constraints
        strategy = {"auto": Auto, "joint": Joint, "per_parameter": PerParameter}[name](described.space, described.goal)
        trials: list[Trial] = []
        decisions: list[DecisionRecord] = []
        for round_ in range(2):
            now = replace(
                situation(()),
                goal=described.goal,
                space=described.space,
                round=round_,
                trials=tuple(trials),
                decisions=tuple(decisions),
                usage=Usage(trials=len(trials)),
                budget=Budget(trials=60),
                round_trials=9,
                strategy=name,
            )
            decision = decisions[-1] if decisions else None
            planned = strategy.plan(now, decision)
            bridge = strategy.bridge(now)
            for assignment in [*planned, *([bridge] if bridge is not None else [])]:
                for position in range(min(3, assignment.trials)):
                    params = _next(strategy, assignment, trials, position, seed + len(trials))
                    if params is None:
                        break
                    assert space.contains(params), (assignment, params)
                    ran = _complete(len(trials), params, -abs(float(params["x"]) - 0.6), round=round_ + 1)
                    running = position % 3 == 2
                    trials.append(replace(ran, state=TrialState.RUNNING, values={}) if running else ran)
                    trials[-1] = replace(trials[-1], kind=assignment.kind, tuned=assignment.tuned)
            trials = [_complete(t.id, dict(t.params), 0.1, round=t.round) if not t.finished else t for t in trials]
            region = {"low": 0.0, "high": max(0.3, float(space.default()["x"]))}  # type: ignore[arg-type]
            limit = ActionRecord("narrow", "", (), "accepted", "", {"parameter": "x", "range": region})
            decisions.append(DecisionRecord(round_ + 1, "rules", (limit,) if narrowed and not round_ else ()))

    def test_a_grid_is_used_up_to_what_is_allowed(self) -> None:
        from agentic_hpt.strategies.proposing import Proposer

        space = SearchSpace(a=Int(1, 4), b=Int(1, 4)).constrained(["a + b <= 4"])
        proposer, trials = Proposer(space, Goal("acc")), []
        assignment = Assignment("joint", "joint", 1, 99, ("a", "b"))
        assert proposer.new_values(assignment, ()) == 6
        while (proposal := proposer.propose(assignment, trials, len(trials))) is not None:
            trials.append(_complete(len(trials), dict(proposal.params), 0.5))
        assert len(trials) == 6
        assert all(space.allows(t.params) for t in trials)

    def test_a_sampler_is_led_to_what_satisfies_an_outcome_constraint(self) -> None:
        from agentic_hpt.strategies.proposing import Proposer

        space = SearchSpace(x=Float(0.0, 1.0))
        shares = {}
        for goal in (Goal("acc"), Goal("acc", constraints=(OutcomeConstraint("mem <= 0.3", ("mem",)),))):
            kept = 0
            for seed in range(3):
                proposer, trials = Proposer(space, goal), []
                assignment = Assignment("joint", "joint", 1, 99, ("x",))
                for number in range(40):
                    proposal = proposer.propose(assignment, trials, seed * 1000 + number)
                    assert proposal is not None
                    x = float(proposal.params["x"])  # type: ignore[arg-type]
                    done = _complete(number, {"x": x}, x)
                    trials.append(replace(done, values={"acc": x, "mem": x}))
                kept += sum(t.values["mem"] <= 0.3 for t in trials[20:])
            shares[bool(goal.constraints)] = kept
        assert shares[True] > 2 * shares[False]


def _next(
    strategy: object, assignment: Assignment, trials: list[Trial], position: int, seed: int
) -> dict[str, object] | None:
    if assignment.queue:
        return dict(assignment.queue[position])
    proposal = strategy.propose(assignment, trials, seed)  # type: ignore[attr-defined]
    return None if proposal is None else dict(proposal.params)


MEM = OutcomeConstraint("mem <= 4", ("mem",))
GOAL = Goal("accuracy", "maximize", 0.9, constraints=(MEM,))


def measured(number: int, accuracy: float, mem: float | None, **changes: object) -> Trial:
    values = {"accuracy": accuracy} if mem is None else {"accuracy": accuracy, "mem": mem}
    return trial(number, accuracy, values=values, **changes)


class TestOutcomes:
    def test_the_best_trial_satisfies_the_constraints(self) -> None:
        trials = [measured(0, 0.5, 3.0), measured(1, 0.8, 5.0), measured(2, 0.6, 4.0), measured(3, 0.9, None)]
        best = GOAL.best(trials)
        assert best is not None
        assert best.id == 2
        assert [t.id for t in GOAL.ranked(trials)] == [2, 0, 1, 3]
        assert [GOAL.feasible(t) for t in trials] == [True, False, True, False]
        assert GOAL.violations(trials[1]) == (1.0,)
        assert GOAL.violations(trials[2]) == (0.0,)
        assert GOAL.violations(trials[3]) is None

    def test_where_none_does_there_is_no_best_one_but_a_nearest(self) -> None:
        trials = [measured(0, 0.5, 9.0), measured(1, 0.8, 5.0), trial(2)]
        assert GOAL.best(trials) is None
        closest = nearest(GOAL, trials)
        assert closest is not None
        assert closest.id == 1
        assert breaks(GOAL, closest) == ["mem <= 4: broken by 1"]

    def test_violations_of_several_constraints_count_by_their_own_size(self) -> None:
        goal = Goal("accuracy", constraints=(MEM, OutcomeConstraint("loss <= 0.1", ("loss",))))
        trials = [
            trial(0, 0.5, values={"accuracy": 0.5, "mem": 4004.0, "loss": 0.1}),
            trial(1, 0.5, values={"accuracy": 0.5, "mem": 5.0, "loss": 0.6}),
            trial(2, 0.5, values={"accuracy": 0.5, "mem": 404.0, "loss": 0.2}),
        ]
        assert [t.id for t in goal.ranked(trials)] == [2, 0, 1]

    def test_a_repeated_configuration_counts_by_the_mean_of_what_it_breaks(self) -> None:
        lucky = measured(0, 0.8, 3.9)
        again = measured(1, 0.8, 4.5, kind="repeat", params=lucky.params)
        other = measured(2, 0.6, 3.0)
        assert GOAL.best([lucky, other]) == lucky
        assert GOAL.best([lucky, again, other]) == other
        unlucky = measured(1, 0.8, 4.05, kind="repeat", params=lucky.params)
        assert GOAL.best([lucky, unlucky, other]) == lucky

    def test_the_target_is_reached_only_by_what_satisfies_the_constraints(self) -> None:
        now = situation(goal=GOAL, trials=(measured(0, 0.95, 5.0), measured(1, 0.5, 1.0)))
        assert must_finalize(now) is None
        now = replace(now, trials=(*now.trials, measured(2, 0.91, 4.0)))
        assert must_finalize(now) == ("target", "trial 2 has accuracy 0.91; the target 0.9 is reached")

    def test_there_is_no_plateau_while_every_trial_breaks_a_constraint(self) -> None:
        broken = tuple(measured(n, 0.5, 5.0) for n in range(60))
        assert plateau(situation(goal=GOAL, trials=broken))[0] == 0
        found = (measured(0, 0.5, 1.0), *broken[1:])
        assert plateau(situation(goal=GOAL, trials=found))[0] == 59

    def test_near_the_border_the_probability_says_how_sure_it_is(self) -> None:
        params = {"layers": 3, "rate": 0.01, "optimizer": "adam"}
        runs = [measured(n, 0.8, mem, params=params, kind="repeat") for n, mem in enumerate([3.0, 5.0])]
        others = [measured(n, 0.5, mem) for n, mem in enumerate([1.0, 9.0, 2.0], start=5)]
        (even,) = standings(GOAL, [*runs, *others], params)
        assert even.probability == pytest.approx(0.5)
        assert (even.measured, even.satisfied, even.runs, even.value, even.holds) == (5, 3, 2, 4.0, True)
        (inside,) = standings(GOAL, [*runs, *others], others[0].params)
        sd = math.sqrt(2.0) * math.sqrt(2)  # of the two runs, for one run more than one run
        assert inside.probability == pytest.approx(0.5 * (1 + math.erf(3.0 / sd / math.sqrt(2))))
        (unknown,) = standings(GOAL, others, others[0].params)
        assert unknown.probability is None

    def test_without_noise_it_is_certain(self) -> None:
        params = {"layers": 3, "rate": 0.01, "optimizer": "adam"}
        runs = [measured(n, 0.8, 4.0, params=params, kind="repeat") for n in range(2)]
        assert standings(GOAL, runs, params)[0].probability == 1.0

    def test_the_evidence_says_what_is_broken_and_where(self) -> None:
        trials = tuple(
            measured(
                n,
                0.5 + n / 100,
                9.0 if n % 2 else 1.0,
                params={"layers": 9 if n % 2 else 1, "rate": 0.01 + n / 1e6, "optimizer": "adam"},
            )
            for n in range(30)
        )
        space = SPACE.constrained(["layers * rate <= 1"])
        evidence = build_evidence(situation(goal=GOAL, space=space, trials=trials))
        told = evidence["constraints"]
        assert isinstance(told, dict)
        assert told["on_parameters"] == ["layers * rate <= 1"]
        (entry,) = told["on_outcomes"]
        assert (entry["text"], entry["trials"], entry["satisfied"]) == ("mem <= 4", 30, 15)
        assert entry["broken_where"][0]["parameter"] == "layers"
        assert evidence["best"]["trial"] == 28  # type: ignore[index, call-overload]
        rows = evidence["trials"]["rows"]  # type: ignore[index, call-overload]
        assert [row[4] for row in rows[:2]] == ["none", "1"]

    def test_the_evidence_names_the_nearest_trial_while_none_is_feasible(self) -> None:
        told = build_evidence(situation(goal=GOAL, trials=(measured(0, 0.5, 9.0), measured(1, 0.8, 5.0))))
        assert "trial 1 comes nearest (mem <= 4: broken by 1)" in str(told["conclusions"])
        assert "constraints" not in build_evidence(situation())


def test_a_proposal_that_breaks_a_constraint_is_refused_with_its_text() -> None:
    now = situation(space=SPACE.constrained(["layers * rate <= 0.2"]), decisions=())
    asked = {
        "type": "propose",
        "reason": "r",
        "configurations": [{"params": {"layers": 9, "rate": 0.05, "optimizer": "adam"}}],
    }
    record = judge(Decision.model_validate({"actions": [asked]}), now)[0]
    assert record.type == "propose"
    assert record.verdict == "refused"
    assert "'layers * rate <= 0.2' does not hold" in record.verdict_reason


def test_a_worker_gets_no_more_trials_than_the_constraints_leave() -> None:
    space = SearchSpace(a=Int(1, 4), b=Int(1, 4)).constrained(["a + b <= 4"])
    assert count_new(space, Tried(()), 99) == 6
    ran = trial(0, 0.5, params={"a": 1, "b": 1})
    assert count_new(space, Tried((ran,)), 99) == 5


def _hpt(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "agentic_hpt.cli", *arguments], capture_output=True, check=True
    ).stdout.decode()


class TestRuns:
    def run(self, home: Path, objective: object, **changes: object) -> object:
        import agentic_hpt as hpt

        options: dict[str, object] = {
            "metric": "acc",
            "budget": hpt.Budget(trials=12),
            "executor": "inline",
            "study": "s",
            "home": home,
            "mlflow": {"enabled": False},
            "fresh_seeds": 2,
            **changes,
        }
        space = {"a": Int(1, 9, default=2), "b": Float(0.0, 1.0, default=0.2)}
        return hpt.tune(objective, space, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("strategy", ["per_parameter", "joint", "auto"])
    def test_a_study_tries_nothing_that_is_not_allowed(self, tmp_path: Path, strategy: str) -> None:
        result = self.run(
            tmp_path,
            lambda p: {"acc": p["a"] * p["b"], "mem": p["a"]},
            constraints=["a * b <= 2", "mem <= 6"],
            strategy=strategy,
        )
        assert result.status == "finalized"  # type: ignore[attr-defined]
        assert all(t.params["a"] * t.params["b"] <= 2 for t in result.trials)  # type: ignore[attr-defined]
        assert result.best.values["mem"] <= 6  # type: ignore[attr-defined]
        document = result.to_json()  # type: ignore[attr-defined]
        assert document["constraints"][0]["satisfied"] is True
        assert document["final"]["constraints"][0]["satisfied"] is True
        assert "all constraints hold" in (result.artifacts / "report.html").read_text()  # type: ignore[attr-defined]

    def test_over_a_default_that_breaks_a_constraint_no_gain_is_told(self, tmp_path: Path) -> None:
        result = self.run(tmp_path, lambda p: {"acc": p["b"], "mem": p["b"]}, constraints=["mem <= 0.19"])
        assert result.best.values["mem"] <= 0.19  # type: ignore[attr-defined]
        assert (result.final.mean, result.final.gain) == (result.best.values["acc"], None)  # type: ignore[attr-defined]

    def test_a_study_without_a_feasible_trial_has_failed_and_names_the_nearest(self, tmp_path: Path) -> None:
        result = self.run(tmp_path, lambda p: {"acc": p["b"], "mem": p["a"]}, constraints=["mem <= 0.5"])
        assert (result.status, result.best, result.exit_code) == ("failed", None, 1)  # type: ignore[attr-defined]
        assert "no trial satisfies the constraints" in result.error  # type: ignore[attr-defined]
        assert result.to_json()["nearest"]["values"]["mem"] == 1  # type: ignore[attr-defined]
        assert "mem <= 0.5: broken by 0.5" in result.error  # type: ignore[attr-defined]
        told = json.loads(_hpt("best", "s", "--home", str(tmp_path), "--json"))
        assert (told["trial"], told["nearest"]["params"]["a"]) == (None, 1)
        assert (told["constraints"][0]["text"], told["constraints"][0]["satisfied"]) == ("mem <= 0.5", False)
        explained = " ".join(_hpt("explain", "s", "--home", str(tmp_path)).split())
        assert "comes nearest" in explained
        assert "Brought: nothing, no trial satisfies the constraints yet" in explained

    def test_an_objective_that_does_not_measure_a_constraint_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="it gave no 'mem', which the constraint 'mem <= 4' needs"):
            self.run(tmp_path, lambda p: p["b"], constraints=["mem <= 4"])

    def test_the_final_report_says_when_fresh_seeds_break_a_constraint(self, tmp_path: Path) -> None:
        seeds = []

        def objective(params: dict[str, float], trial: object) -> dict[str, float]:
            final = trial.worker == "fresh-seed"  # type: ignore[attr-defined]
            seeds.append(final)
            return {"acc": params["b"], "mem": 9.0 if final else 1.0}

        result = self.run(tmp_path, objective, constraints=["mem <= 4"])
        assert any(seeds)
        (told,) = result.final.constraints  # type: ignore[attr-defined]
        assert (told["satisfied"], told["value"]) == (False, 9.0)
        page = (result.artifacts / "report.html").read_text()  # type: ignore[attr-defined]
        assert "On the fresh seeds the constraint mem &lt;= 4 is broken (9 by the mean)" in page


def test_a_first_answer_without_a_constrained_metric_is_refused_when_told_too(home: Path) -> None:
    described = {"study": "s", "metric": "score", "space": {"x": {"float": [0, 1]}}, "constraints": ["memory <= 3"]}
    with Study.create(StudyConfig.from_mapping({**described, "mlflow": {"enabled": False}}), home=home) as study:
        first, second = study.ask(), study.ask()
        with pytest.raises(ConfigError, match="no 'memory', which the constraint 'memory <= 3' needs"):
            study.tell(first, 0.5)
        study.tell(first, {"score": 0.5, "memory": 2})
        study.tell(second, 0.6)
        best = study.best()
        assert best is not None
        assert best.id == first.id, "what was not measured does not satisfy"


def test_what_is_asked_of_outcomes_can_be_revised_and_is_told(home: Path) -> None:
    space = {"x": {"float": [0, 1]}}
    described = {"study": "s", "metric": "score", "space": space, "constraints": ["memory <= 3"]}
    with Study.create(StudyConfig.from_mapping({**described, "mlflow": {"enabled": False}}), home=home) as study:
        for memory in (2, 1):
            study.tell(study.ask(), {"score": memory, "memory": memory})
    study = Study.open("s", home)
    with pytest.raises(SpaceError, match="nothing was changed"):
        study.revise(space, ["memory <= 3"])
    assert study.revise(space, ["memory <= 1"]).told == (
        "constraint 'memory <= 1' added; constraint 'memory <= 3' removed. 2 of 2 trials are of use; "
        "the best one so far, 0, breaks what is asked of it now"
    )
    best = Study.open("s", home).best()
    assert best is not None
    assert best.id == 1
    narrower = study.revise({"x": {"float": [0, 0.9]}}, []).told
    assert narrower.startswith("x from 0 to 1 to 0 to 0.9; constraint 'memory <= 1' removed. ")


def test_a_text_without_its_quotes_is_refused_before_a_trial_is_spent_and_taken_for_no_metric():
    space = {"optimizer": {"choice": ["adam", "sgd"]}, "x": {"float": [0, 1]}}
    described = {"study": "s", "metric": "score", "space": space, "budget": {"trials": 4}}
    with pytest.raises(SpaceError, match="adam is no parameter but a value of 'optimizer'"):
        StudyConfig.from_mapping({**described, "constraints": ["optimizer == adam or x <= 0.5"]})
    named = StudyConfig.from_mapping({**described, "constraints": ["optimizer == 'sgd' or `adam` <= 0.5"]})
    assert [constraint.metrics for constraint in named.goal.constraints] == [("adam",)]
