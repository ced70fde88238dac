"""How a round's trials are divided among the arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.records import Arm, Goal, ObjectiveSpec, Params, Trial, TrialState
from agentic_hpt.space import Choice, Float, SearchSpace
from agentic_hpt.strategies.portfolio import Credit, arms_for, by_turn, credits, divided, gains, shares, stalled

GOAL = Goal("loss", "minimize")
ARMS: tuple[Arm, ...] = ("gp", "local", "niche", "tpe", "cmaes")
PLANE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))


def trials(course: Sequence[tuple[str, float | None]]) -> list[Trial]:
    """Make trials from each one's arm and loss; without a loss it failed."""
    params: Params = {"x": 0.1, "y": 0.2}
    return [
        Trial(
            number,
            params,
            TrialState.FAILED if loss is None else TrialState.COMPLETE,
            0,
            arm,
            "joint",
            1,
            values={} if loss is None else {"loss": loss},
        )
        for number, (arm, loss) in enumerate(course)
    ]


def credit_of(course: Sequence[Trial]) -> dict[Arm, Credit]:
    return credits(ARMS, course, gains(GOAL, course))


class TestArms:
    def test_cma_es_is_left_out_where_it_knows_nothing_of_the_space(self) -> None:
        assert "cmaes" in arms_for(PLANE, GOAL)
        assert "cmaes" in arms_for(SearchSpace(x=Float(0.0, 1.0), n=Choice([1, 2, 3], ordered=True)), GOAL)
        for other in (
            SearchSpace(x=Float(0.0, 1.0)),
            SearchSpace(x=Float(0.0, 1.0), c=Choice(["a", "b"])),
            SearchSpace(c=Choice([1, 2], ordered=True), x=Float(0.0, 1.0, when={"c": 1})),
        ):
            assert "cmaes" not in arms_for(other, GOAL)
        assert "cmaes" not in arms_for(PLANE, Goal("loss", "minimize", others=(ObjectiveSpec("b"),)))


class TestCredit:
    def test_a_gain_is_what_betters_the_best_beyond_the_noise(self) -> None:
        course = trials([("default", 1.0), ("gp", 0.5), ("gp", 0.7), ("local", 0.45), ("tpe", None), ("local", 0.2)])
        found = {arm: (c.gains, c.trials) for arm, c in credit_of(course).items()}
        assert found == {"gp": (1, 2), "local": (2, 2), "niche": (0, 0), "tpe": (0, 1), "cmaes": (0, 0)}

    def test_repeats_say_what_is_a_gain(self) -> None:
        course = trials([("default", 1.0), ("gp", 0.5), ("local", 0.45), ("repeat-1", 0.7), ("local", 0.2)])
        again = [replace(t, kind="repeat", params=course[1].params) if t.id == 3 else t for t in course]
        apart = [t if t.id in (1, 3) else replace(t, params={"x": t.id / 10, "y": 0.0}) for t in again]
        assert credit_of(apart)["local"].gains == 1  # 0.05 is less than the seeds' SD of 0.14

    def test_the_luck_of_a_repeat_is_no_gain_and_takes_none_away(self) -> None:
        course = trials([("default", 1.0), ("gp", 0.9), ("repeat-1", 0.1), ("local", 0.2)])
        again = [replace(t, kind="repeat") if t.id == 2 else replace(t, params={"x": t.id, "y": 0}) for t in course]
        assert gains(GOAL, again) == {1, 3}

    def test_a_parameter_may_have_an_arms_name(self) -> None:
        course = trials([("default", 1.0), ("local", 0.5), ("local", 0.2)])
        mixed = [replace(t, kind="per_parameter") if t.id == 2 else t for t in course]
        assert credit_of(mixed)["local"].trials == 1

    def test_the_last_digits_of_a_basin_earn_nothing(self) -> None:
        course = trials([*[("gp", 9.0)] * 6, ("gp", 1.0), *(("local", 1 - n / 1e6) for n in range(1, 40))])
        assert credit_of(course)["local"].gains == 0

    def test_where_time_is_short_slow_trials_count_less(self) -> None:
        course = [
            replace(t, seconds=40.0 if t.worker == "gp" else 10.0) for t in trials([("gp", 1.0), ("local", 1.0)] * 10)
        ]
        credit = credit_of(course)
        assert shares(ARMS, credit, by_time=True)["gp"] < shares(ARMS, credit)["gp"]

    def test_an_arm_that_gains_gets_more_and_none_gets_nothing(self) -> None:
        nothing = shares(ARMS, credit_of([]))
        losses = [1.0 / (n + 1) if n % 5 == 0 else 2.0 for n in range(50)]
        course = trials([("default", 9.0), *(("tpe" if n % 5 == 0 else "gp", loss) for n, loss in enumerate(losses))])
        earned = shares(ARMS, credit_of(course))
        assert sum(earned.values()) == 1.0 or abs(sum(earned.values()) - 1) < 1e-9
        assert earned["tpe"] > 2 * nothing["tpe"]
        assert earned["gp"] < nothing["gp"]
        assert min(earned.values()) >= 0.02

    def test_only_the_newest_trials_count(self) -> None:
        early = [("tpe", 100.0 - n) for n in range(40)]
        late = [("gp", 500.0)] * 60
        assert credit_of(trials([*early, *late]))["tpe"].trials == 0


class TestStalling:
    def test_without_a_gain_for_long_the_search_looks_away_from_the_incumbent(self) -> None:
        course = trials([*[("gp", 9.0)] * 6, ("gp", 1.0), *(("local", 1 - n / 1e6) for n in range(1, 30))])
        assert stalled(course, gains(GOAL, course))
        assert not stalled(course[:20], gains(GOAL, course[:20]))
        usual = shares(ARMS, credit_of(course))
        assert shares(ARMS, credit_of(course), stalled=True)["niche"] > 3 * usual["niche"]


class TestDivision:
    def test_over_rounds_each_arm_comes_to_its_share(self) -> None:
        wanted: dict[Arm, float] = {"gp": 0.6, "local": 0.25, "tpe": 0.1, "cmaes": 0.05}
        had: dict[Arm, int] = {}
        for _ in range(20):
            given = divided(5, wanted, had)
            assert sum(given.values()) == 5
            had = {arm: had.get(arm, 0) + given.get(arm, 0) for arm in wanted}
        assert had == {"gp": 60, "local": 25, "tpe": 10, "cmaes": 5}

    def test_without_rounds_the_arms_take_turns(self) -> None:
        turns = [by_turn(ARMS, n) for n in range(1000)]
        assert 450 < turns.count("gp") < 550
        assert turns.count("cmaes") > 30
        assert len(set(turns[:12])) > 1
