"""The surrogate: encoding, Gaussian process, scales, acquisition, and what it proposes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.errors import FailureKind
from agentic_hpt.feasible import random_configuration
from agentic_hpt.records import (
    Arm,
    Assignment,
    Goal,
    ObjectiveSpec,
    OutcomeConstraint,
    Params,
    Trial,
    TrialState,
    configuration_key,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import space_within
from agentic_hpt.strategies.acquisition import log_expected_improvement, log_volume_gain, quasi_random
from agentic_hpt.strategies.arms import Arms, width_of_box
from agentic_hpt.strategies.belief import Belief
from agentic_hpt.strategies.encoding import Encoding
from agentic_hpt.strategies.evolution import evolved
from agentic_hpt.strategies.gaussian import GaussianProcess, _distances, _loss
from agentic_hpt.strategies.observed import MOST, Observed, observed
from agentic_hpt.strategies.proposing import Proposer
from agentic_hpt.strategies.scales import Scale, _likeliest

SPACE = SearchSpace(
    rate=Float(1e-5, 1e-1, log=True),
    drop=Float(0.0, 0.5),
    step=Float(0.1, 1.0, step=0.3),
    layers=Int(1, 9, step=2),
    width=Int(8, 1024, log=True),
    batch=Choice([16, 32, 64, 128], ordered=True),
    optimizer=Choice(["adam", "sgd", "lion"]),
    momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
)
PLANE = SearchSpace(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
GOAL = Goal("loss", "minimize")
WHOLE = Assignment("gp", "joint", 1, 100, ("x", "y"))


def trial(number: int, params: Params, value: float | None, **changes: object) -> Trial:
    state = TrialState.RUNNING if value is None else TrialState.COMPLETE
    made = Trial(number, params, state, 0, "gp", "joint", 1, values={} if value is None else {"loss": value})
    return replace(made, **changes)  # type: ignore[arg-type]


def bowl(params: Params) -> float:
    return (float(params["x"]) - 1.3) ** 2 + 3 * (float(params["y"]) + 2.1) ** 2  # type: ignore[arg-type]


def started(count: int, f: Callable[[Params], float] = bowl, space: SearchSpace = PLANE) -> list[Trial]:
    dice = random.Random(5)
    drawn = [random_configuration(space, dice) for _ in range(count)]
    return [trial(i, params, f(params)) for i, params in enumerate(drawn)]


def searched(
    trials: Sequence[Trial],
    budget: int,
    f: Callable[[Params], float] = bowl,
    arm: Arm = "gp",
    space: SearchSpace = PLANE,
) -> list[Trial]:
    """Go on from trials with one arm, told after each."""
    proposer, done = Proposer(space, GOAL), list(trials)
    job = replace(WHOLE, tuned=space.names, arm=arm)
    while len(done) < budget:
        proposal = proposer.propose(job, done, len(done))
        assert proposal is not None
        done.append(trial(len(done), proposal.params, f(proposal.params), worker=arm))
    return done


class TestEncoding:
    @given(st.integers(0, 2**32))
    @settings(max_examples=100, deadline=None)
    def test_a_configuration_comes_back_from_its_row(self, seed: int) -> None:
        encoding, params = Encoding(SPACE), random_configuration(SPACE, random.Random(seed))
        back = encoding.params(encoding.snapped(encoding.rows([params]))[0])
        assert set(back) == set(params)
        for name, value in params.items():
            assert back[name] == (pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value)

    def test_drawn_rows_are_configurations(self) -> None:
        encoding = Encoding(SPACE)
        for row in encoding.snapped(encoding.uniform(300, np.random.default_rng(0))):
            params = encoding.params(row)
            assert SPACE.contains(params)
            assert np.allclose(encoding.rows([params])[0], row, atol=1e-9, equal_nan=True)

    def test_scales_run_evenly_from_0_to_1(self) -> None:
        rows = Encoding(SPACE).rows(
            [{"rate": 1e-5, "batch": 16}, {"rate": 1e-3, "batch": 32}, {"rate": 1e-1, "batch": 128}]
        )
        assert rows[:, 0] == pytest.approx([0.0, 0.5, 1.0])
        assert rows[:, 5] == pytest.approx([0.0, 1 / 3, 1.0])

    def test_held_values_stand_in_every_row_to_the_last_digit(self) -> None:
        held = {"rate": 0.00123, "optimizer": "adam"}
        encoding = Encoding(SPACE, held)
        for row in encoding.snapped(encoding.uniform(50, np.random.default_rng(0))):
            params = encoding.params(row)
            assert (params["rate"], params["optimizer"]) == (0.00123, "adam")
            assert "momentum" not in params

    def test_rows_of_a_part_are_told_in_terms_of_the_whole(self) -> None:
        part = SearchSpace(
            {**{n: SPACE[n] for n in SPACE}, "rate": Float(1e-3, 1e-2, log=True), "optimizer": Choice(["lion", "sgd"])}
        )
        small, whole = Encoding(part), Encoding(SPACE)
        rows = small.snapped(small.uniform(50, np.random.default_rng(1)))
        told = whole.rows([small.params(row) for row in rows])
        assert np.allclose(small.moved_to(whole, rows), told, atol=1e-9, equal_nan=True)

    def test_what_a_part_leaves_out_is_not_active_and_one_value_stays_one(self) -> None:
        part = space_within(SPACE, {"optimizer": {"values": ["adam", "lion"]}, "batch": {"values": [64]}})
        small, whole = Encoding(part), Encoding(SPACE)
        for rows in (
            small.snapped(small.uniform(20, np.random.default_rng(1))),
            small.snapped(whole.moved_to(small, whole.uniform(20, np.random.default_rng(1)))),
        ):
            told = [small.params(row) for row in rows]
            assert all(part.contains(params) for params in told)
            assert np.allclose(small.moved_to(whole, rows), whole.rows(told), atol=1e-9, equal_nan=True)

    def test_quasi_random_points_leave_no_large_hole(self) -> None:
        points = quasi_random(Encoding(PLANE), 0, 64, seed=3)
        cells = {(int(8 * x), int(8 * y)) for x, y in points}
        drawn = np.random.default_rng(3).random((64, 2))
        assert len(cells) > len({(int(8 * x), int(8 * y)) for x, y in drawn})
        assert np.array_equal(quasi_random(Encoding(PLANE), 10, 5, 3), points[10:15])


class TestGaussianProcess:
    def test_the_gradient_is_that_of_the_loss(self) -> None:
        encoding, dice = Encoding(SPACE), np.random.default_rng(2)
        rows = encoding.snapped(encoding.uniform(25, dice))
        apart, outcomes = _distances(rows, rows, encoding.categorical), dice.standard_normal(25)
        theta, extra = 0.3 * dice.standard_normal(len(encoding.names) + 2), np.full(25, 0.01)
        gradient = _loss(theta, apart, outcomes, extra, 0.1)[1]
        for place in range(len(theta)):
            step = np.zeros_like(theta)
            step[place] = 1e-6
            rise = (
                _loss(theta + step, apart, outcomes, extra, 0.1)[0]
                - _loss(theta - step, apart, outcomes, extra, 0.1)[0]
            ) / 2e-6
            assert gradient[place] == pytest.approx(rise, rel=1e-4, abs=1e-5)

    def test_it_goes_through_exact_outcomes_and_is_unsure_elsewhere(self) -> None:
        rows = np.linspace(0, 0.6, 7)[:, None]
        outcomes = np.sin(8 * rows[:, 0])
        process = GaussianProcess.fit(rows, outcomes, np.array([False]))
        mean, sd = process.predict(np.array([[0.25], [1.0]]))
        assert process.predict(rows)[0] == pytest.approx(outcomes, abs=0.02)
        assert mean[0] == pytest.approx(math.sin(2.0), abs=0.1)
        assert sd[1] > 5 * sd[0]

    def test_noise_is_found(self) -> None:
        dice = np.random.default_rng(0)
        rows = np.repeat(np.linspace(0, 1, 12), 5)[:, None]
        truth = np.sin(3 * rows[:, 0])
        process = GaussianProcess.fit(rows, truth + 0.5 * dice.standard_normal(60), np.array([False]))
        assert 0.12 < process.noise < 0.5
        assert process.predict(rows)[0] == pytest.approx(truth, abs=0.35)

    def test_what_is_known_to_be_unsure_counts_less(self) -> None:
        rows, outcomes = np.array([[0.0], [0.5], [0.5], [1.0]]), np.array([0.0, 1.0, -1.0, 0.0])
        process = GaussianProcess.fit(rows, outcomes, np.array([False]), np.array([0.0, 0.0, 25.0, 0.0]))
        assert process.predict(np.array([[0.5]]))[0][0] > 0.3

    @pytest.mark.parametrize("seed", range(4))
    def test_many_rows_that_have_a_parameter_or_not_are_believed_and_move_no_expectation(self, seed: int) -> None:
        dice = np.random.default_rng(seed)
        rows, running, others = dice.random((40, 3)), dice.random((60, 3)), dice.random((50, 3))
        rows[dice.random(40) < 0.4, 2] = running[::2, 2] = np.nan  # the covariance of such rows once was none
        outcomes = (rows[:, 0] - rows[:, 0].mean()) / rows[:, 0].std()
        process = GaussianProcess.fit(rows, outcomes, np.array([False] * 3))

        believing = process.believing(running)

        assert np.allclose(believing.predict(others)[0], process.predict(others)[0], atol=1e-3)
        assert believing.predict(running)[1].mean() < process.predict(running)[1].mean()

    def test_rows_with_inactive_parameters_have_a_covariance(self) -> None:
        values = (*np.linspace(0.0, 1.0, 11), np.nan)
        rows = np.array([[x, choice] for x in values for choice in (0.0, 1.0, np.nan)])
        process = GaussianProcess.fit(rows[:30], rows[:30, 0] - 0.5, np.array([False, True]))

        found = process.covariance(rows, rows)

        assert np.linalg.eigvalsh(found)[0] > -1e-9 * found.max()

    def test_a_believed_row_is_no_longer_unsure(self) -> None:
        process = GaussianProcess.fit(np.array([[0.0], [0.2]]), np.array([0.0, 1.0]), np.array([False]))
        there = np.array([[0.9]])
        believed = process.believing(there)
        assert believed.predict(there)[1][0] < 0.3 * process.predict(there)[1][0]
        assert believed.predict(there)[0][0] == pytest.approx(process.predict(there)[0][0], abs=0.05)


class TestBelief:
    @pytest.mark.parametrize("several", [False, True])
    def test_a_running_trial_may_be_the_best_unless_it_more_likely_breaks_a_constraint(self, several: bool) -> None:
        rows = np.linspace(0.0, 1.0, 9)[[0, 1, 2, 3, 5, 6, 7, 8]][:, None]
        losses = np.concatenate([(rows - 0.5) ** 2] * (1 + several), axis=1)
        there = np.array([[0.5]])
        for violations, counts in ((0.4 - rows, True), (rows - 0.3, False)):
            nothing = np.zeros((0, 1))
            seen = Observed(rows, losses, np.zeros(8), violations, nothing, nothing)
            before = Belief.of(seen, np.array([False]))
            expected = np.array([process.predict(there)[0][0] for process in before.objectives])

            after = Belief.of(replace(seen, running=there), np.array([False]))

            assert before.best is not None
            assert after.best is not None
            assert expected[0] < before.best - 0.1
            assert after.best == pytest.approx(expected[0] if counts else before.best)
            assert len(after.front) - len(before.front) == counts


class TestScales:
    def test_the_power_is_the_likeliest(self) -> None:
        from scipy.stats import yeojohnson_normmax

        for seed in range(5):
            values = np.random.default_rng(seed).lognormal(size=60)
            values = (values - values.mean()) / values.std()
            assert _likeliest(values) == pytest.approx(yeojohnson_normmax(values), abs=0.01)

    @given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=40), st.sampled_from(["power", "log"]))
    @settings(max_examples=200, deadline=None)
    def test_order_stays_and_nothing_is_infinite(self, values: list[float], how: str) -> None:
        losses = np.sort(np.array(values))
        told = Scale.of(losses, how).told(losses)  # type: ignore[arg-type]
        assert np.isfinite(told).all()
        assert (np.diff(told) >= -1e-9).all()

    def test_a_diverged_training_does_not_flatten_the_rest(self) -> None:
        losses = np.array([0.1, 0.2, 0.3, 0.4, 1e9])
        told = Scale.of(losses).told(losses)
        assert told[3] - told[0] > 0.05


class TestAcquisition:
    def test_expected_improvement_is_the_integral(self) -> None:
        draws = np.random.default_rng(0).standard_normal(2_000_000)
        for mean, sd in ((0.0, 1.0), (1.0, 0.5), (-2.0, 0.3)):
            wanted = np.maximum(0.2 - (mean + sd * draws), 0).mean()
            found = log_expected_improvement(np.array([mean]), np.array([sd]), 0.2)[0]
            assert math.exp(found) == pytest.approx(wanted, rel=0.02)

    def test_far_from_the_incumbent_it_still_says_which_is_nearer(self) -> None:
        found = log_expected_improvement(np.array([50.0, 60.0, 4.99, 5.01]), np.full(4, 1.0), 0.0)
        assert np.isfinite(found).all()
        assert found[0] > found[1]
        assert found[2] == pytest.approx(found[3], abs=0.2)  # where the two formulas meet

    def test_volume_gain_prefers_what_widens_the_front(self) -> None:
        front, reference = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([2.0, 2.0])
        means = np.array([[0.5, 0.5], [1.5, 1.5], [0.0, 0.9], [-0.5, -0.5]])
        gain = log_volume_gain(means, np.full((4, 2), 0.01), front, reference)
        assert list(np.argsort(-gain)) == [3, 0, 2, 1]


class TestProposals:
    def test_a_bowl_is_searched_better_than_by_tpe(self) -> None:
        first = started(8)
        best = {arm: min(t.values["loss"] for t in searched(first, 30, arm=arm)) for arm in ("gp", "local", "tpe")}
        assert best["gp"] < 0.01
        assert best["local"] < 0.01
        assert best["tpe"] > 0.01

    def test_same_trials_and_seed_same_proposal(self) -> None:
        done = started(12)
        for arm in ("gp", "local", "cmaes", "quasi"):
            job = replace(WHOLE, arm=arm)  # type: ignore[arg-type]
            found = [Proposer(PLANE, GOAL).propose(job, done, 7) for _ in range(2)]
            assert found[0] == found[1]

    def test_running_trials_are_kept_away_from(self) -> None:
        done, proposer = started(12), Proposer(PLANE, GOAL)
        spread = []
        for _ in range(8):
            proposal = proposer.propose(WHOLE, done, 1)  # the same seed: only what runs tells the proposals apart
            assert proposal is not None
            spread.append(proposal.params)
            done.append(trial(len(done), proposal.params, None))
        rows = Encoding(PLANE).rows(spread)
        apart = np.abs(rows[:, None] - rows[None]).sum(axis=2)[np.triu_indices(8, 1)]
        assert apart.min() > 1e-3

    @pytest.mark.parametrize("arm", ["gp", "niche"])
    def test_what_running_trials_are_expected_to_gain_is_not_sought_beside_them(self, arm: Arm) -> None:
        beside = 0
        for seed in range(4):
            dice = random.Random(seed)
            known = [random_configuration(PLANE, dice) for _ in range(9)]
            done = [trial(number, params, bowl(params)) for number, params in enumerate(known)]
            rows = np.zeros((0, 2))
            for number in range(5):
                params = next(Arms(PLANE, GOAL).candidates(arm, WHOLE, PLANE, done, number))
                done.append(trial(len(done), params, None))
                row = Encoding(PLANE).rows([params])
                beside += bool((np.linalg.norm(rows - row, axis=1) < 0.01).any())
                rows = np.concatenate([rows, row])
        assert beside <= 3  # of 16

    def test_nothing_is_proposed_that_nearly_runs_already(self) -> None:
        done, job = started(12), replace(WHOLE, arm="gp")
        wanted = Proposer(PLANE, GOAL).propose(job, done, 3)
        assert wanted is not None
        beside = {**wanted.params, "x": float(wanted.params["x"]) + 1e-4}  # type: ignore[arg-type]
        for arm in ("gp", "tpe"):
            proposal = Proposer(PLANE, GOAL).propose(replace(job, arm=arm), [*done, trial(12, beside, None)], 3)  # type: ignore[arg-type]
            assert proposal is not None
            rows = Encoding(PLANE).rows([proposal.params, beside])
            assert np.abs(rows[0] - rows[1]).max() > 1e-3

    def test_a_grid_is_used_up_without_a_repeat(self) -> None:
        grid = SearchSpace(a=Int(1, 5), b=Choice(["u", "v", "w"]), c=Choice([1, 2], when={"b": "w"}))
        proposer, done = Proposer(grid, GOAL, "gp"), list[Trial]()
        job = Assignment("gp", "joint", 1, 100, grid.names)
        while (proposal := proposer.propose(job, done, len(done))) is not None:
            done.append(trial(len(done), proposal.params, float(len(done) % 7)))
        assert len({configuration_key(t.params) for t in done}) == len(done) == 5 * (2 + 2)

    def test_a_region_holds_and_trials_outside_it_still_teach(self) -> None:
        job = replace(WHOLE, region={"x": {"low": 0.0, "high": 2.0}})
        proposer, done = Proposer(PLANE, GOAL, "gp"), started(15)
        assert any(not 0 <= float(t.params["x"]) <= 2 for t in done)  # type: ignore[arg-type]
        for _ in range(6):
            proposal = proposer.propose(job, done, len(done))
            assert proposal is not None
            assert 0.0 <= float(proposal.params["x"]) <= 2.0  # type: ignore[arg-type]
            done.append(trial(len(done), proposal.params, bowl(proposal.params)))
        assert min(t.values["loss"] for t in done) < 0.05

    def test_conditional_parameters_are_searched_where_they_play_a_part(self) -> None:
        def f(params: Params) -> float:
            if params["optimizer"] != "sgd":
                return 1.0 + abs(math.log10(float(params["rate"])) + 3)  # type: ignore[arg-type]
            return abs(float(params["momentum"]) - 0.8) + abs(math.log10(float(params["rate"])) + 2)  # type: ignore[arg-type]

        space = SearchSpace({n: SPACE[n] for n in ("rate", "optimizer", "momentum")})
        done = searched(started(8, f, space), 40, f, space=space)
        assert all(space.contains(t.params) for t in done)
        assert min(t.values["loss"] for t in done) < 0.1

    def test_a_region_that_fails_is_left(self) -> None:
        """89 of 100 trials are wasted where failures are left out, as Optuna's samplers do."""
        proposer, done = Proposer(PLANE, GOAL, "gp"), list[Trial]()
        for number in range(50):
            proposal = proposer.propose(WHOLE, done, number)
            assert proposal is not None
            fails = float(proposal.params["x"]) > 0  # type: ignore[arg-type]
            ended = trial(number, proposal.params, bowl(proposal.params))
            crash = replace(ended, state=TrialState.FAILED, values={}, failure=FailureKind.OUT_OF_MEMORY)
            done.append(crash if fails else ended)
        late = done[20:]
        assert sum(t.state is TrialState.FAILED for t in late) < len(late) / 2
        assert max(float(t.params["x"]) for t in late if t.values) > -0.5  # type: ignore[arg-type]

    def test_a_lost_worker_says_nothing_of_the_region(self) -> None:
        done = started(10)
        lost = trial(10, {"x": 1.0, "y": -2.0}, None, state=TrialState.FAILED, failure=FailureKind.LOST_WORKER)
        assert len(observed(Encoding(PLANE), GOAL, [*done, lost], {}).failed) == 0

    def test_outcome_constraints_are_learned(self) -> None:
        goal = Goal("loss", "minimize", constraints=(OutcomeConstraint("cost <= 0", ("cost",)),))
        proposer, done = Proposer(PLANE, goal, "gp"), list[Trial]()
        for number in range(35):
            proposal = proposer.propose(WHOLE, done, number)
            assert proposal is not None
            values = {"loss": bowl(proposal.params), "cost": float(proposal.params["x"])}  # type: ignore[arg-type]
            done.append(trial(number, proposal.params, 0.0, values=values))
        best = goal.best(done)
        assert best is not None
        assert best.values["loss"] < 1.3**2 + 0.3  # the best with x <= 0
        assert sum(not goal.feasible(t) for t in done[15:]) < 10

    def test_two_objectives_spread_along_the_front(self) -> None:
        goal = Goal("a", "minimize", others=(ObjectiveSpec("b", "minimize"),))
        line = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
        proposer, done = Proposer(line, goal, "gp"), list[Trial]()
        job = Assignment("gp", "joint", 1, 100, line.names)
        for number in range(30):
            proposal = proposer.propose(job, done, number)
            assert proposal is not None
            x, y = (float(proposal.params[n]) for n in ("x", "y"))  # type: ignore[arg-type]
            done.append(trial(number, proposal.params, 0.0, values={"a": x + y, "b": 1 - x + y}))
        late = [t.params for t in done[10:]]
        assert np.median([float(p["y"]) for p in late]) < 0.05  # type: ignore[arg-type]
        assert {int(4 * min(0.99, float(p["x"]))) for p in late} == {0, 1, 2, 3}  # type: ignore[arg-type]


class TestHistory:
    def test_a_long_history_is_bounded_and_keeps_the_best_and_the_newest(self) -> None:
        done = started(5000)
        seen = observed(Encoding(PLANE), GOAL, done, {})
        assert len(seen.rows) <= MOST
        kept = {tuple(row) for row in seen.rows}
        rows = Encoding(PLANE).rows([t.params for t in done])
        order = sorted(done, key=lambda t: t.values["loss"])
        assert all(tuple(rows[t.id]) in kept for t in [*order[:40], *done[-40:]])

    def test_stopped_trials_count_as_what_they_would_have_come_to(self) -> None:
        stopped = trial(3, {"x": 0.0, "y": 0.0}, None, state=TrialState.PRUNED)
        seen = observed(Encoding(PLANE), GOAL, [*started(3), stopped], {3: (4.0, 0.5)})
        assert seen.losses[3, 0] == 4.0
        assert seen.sds.tolist() == [0, 0, 0, 0.5]
        assert not seen.feasible[3]

    def test_the_box_widens_with_gains_and_shrinks_without(self) -> None:
        def local(losses: Sequence[float]) -> float:
            trials = [trial(i, {"x": 0.0, "y": 0.0}, loss, worker="local") for i, loss in enumerate(losses)]
            return width_of_box(GOAL, trials, 2)

        assert local([5, 4]) > local([5]) > local([5, 6, 6, 6])
        assert local([5, *[6.0] * 100]) > 2**-8

    def test_cma_es_goes_on_where_its_trials_led(self) -> None:
        done = searched(started(5), 65, arm="cmaes")
        assert min(t.values["loss"] for t in done) < 0.2
        rows = evolved(Encoding(PLANE), GOAL, done, 1)
        assert rows is not None
        here = Encoding(PLANE).rows([{"x": 1.3, "y": -2.1}])[0]
        assert np.abs(rows - here).mean() < 0.1

    def test_cma_es_searches_limits_that_its_own_trials_and_the_best_lie_outside_of(self) -> None:
        space = SearchSpace(x=Float(-5.0, 5.0), size=Choice([1, 2, 4, 8, 16], ordered=True))
        done = searched(started(5, lambda p: -float(p["size"]), space), 40, lambda p: -float(p["size"]), "cmaes", space)  # type: ignore[arg-type]
        region = {"size": {"values": [1, 2]}}
        job = replace(WHOLE, tuned=space.names, arm="cmaes", region=region)
        proposal = Proposer(space, GOAL).propose(job, done, 3)
        assert proposal is not None
        assert proposal.params["size"] in (1, 2)

    @pytest.mark.parametrize("arm", ["gp", "local", "niche"])
    def test_limits_may_leave_a_parameter_no_place(self, arm: Arm) -> None:
        done = started(30, lambda p: float(p["drop"]), SPACE)  # type: ignore[arg-type]
        region = {"optimizer": {"values": ["adam", "lion"]}, "batch": {"values": [64]}}
        job = replace(WHOLE, tuned=SPACE.names, arm=arm, region=region)
        proposal = Proposer(SPACE, GOAL).propose(job, done, 3)
        assert proposal is not None
        assert space_within(SPACE, region).contains(proposal.params)

    def test_what_was_asked_before_is_no_matter(self) -> None:
        job, other = Assignment("gp", "joint", 1, 1, PLANE.names), started(8, lambda p: -bowl(p))
        asked, fresh = Arms(PLANE, GOAL), Arms(PLANE, GOAL)
        next(asked.candidates("gp", job, PLANE, other, 3))
        found = [next(arms.candidates("gp", job, PLANE, started(8), 3)) for arms in (asked, fresh)]
        assert found[0] == found[1]

    def test_before_anything_has_a_value_draws_cover_the_space(self) -> None:
        job = Assignment("gp", "joint", 1, 1, PLANE.names)
        found = [next(Arms(PLANE, GOAL, seed).candidates("gp", job, PLANE, [], 0)) for seed in (0, 1)]
        assert found[0] != found[1]


class TestOutlook:
    def test_what_is_left_to_gain_shrinks_as_the_optimum_is_found(self) -> None:
        first = started(10)
        arms = Arms(PLANE, GOAL)
        early, late = arms.outlook(first, 8), arms.outlook(searched(first, 40), 8)
        assert early is not None
        assert late is not None
        assert early.gain > 100 * late.gain
        assert late.gain < 0.01
        assert late.trials == 40

    def test_noise_is_told_in_the_metrics_unit(self) -> None:
        dice = np.random.default_rng(0)
        noisy = [
            trial(t.id, t.params, t.values["loss"] / 10 + 0.5 * float(dice.standard_normal())) for t in started(60)
        ]
        found = Arms(PLANE, GOAL).outlook(noisy, 8)
        assert found is not None
        assert found.noise is not None
        assert 0.2 < found.noise < 1.2

    def test_there_is_none_for_few_trials_or_several_objectives(self) -> None:
        several = Goal("loss", "minimize", others=(ObjectiveSpec("b", "minimize"),))
        assert Arms(PLANE, GOAL).outlook(started(5), 8) is None
        assert Arms(PLANE, several).outlook(started(30), 8) is None

    def test_losses_come_back_from_the_scale(self) -> None:
        losses = np.random.default_rng(1).lognormal(size=40)
        for how in ("power", "log"):
            scale = Scale.of(losses, how)  # type: ignore[arg-type]
            assert scale.untold(scale.told(losses)) == pytest.approx(losses, rel=1e-6)
        assert np.isfinite(Scale.of(losses).untold(np.array([-1e6, 1e6]))).all()
