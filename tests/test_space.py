"""Search spaces: what is refused and how it is said, defaults, conditions, and the way to plain data and back."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_hpt.errors import ConfigError, SpaceError
from agentic_hpt.space import Choice, Float, Int, SearchSpace

NAMES = ("a", "b", "c", "d", "e")
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9, allow_nan=False), st.text(max_size=4))


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1e3) if log else st.floats(-1e3, 1e3))
    high = low + draw(st.floats(1e-6, 1e3))
    step = None if log else draw(st.none() | st.floats(1e-3, 1.0).map(lambda share: share * (high - low)))
    default = draw(st.none() | st.floats(0, 1).map(lambda share: min(high, low + share * (high - low))))
    return Float(low, high, log=log, step=step, default=default if step is None else None)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1, 50) if log else st.integers(-50, 50))
    high = low + draw(st.integers(0, 60))
    step = 1 if log else draw(st.integers(1, max(1, high - low)))
    default = draw(st.none() | st.integers(0, (high - low) // step).map(lambda i: low + i * step))
    return Int(low, high, log=log, step=step, default=default)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    values = draw(st.lists(PLAIN, min_size=1, max_size=5, unique_by=lambda v: (isinstance(v, bool), v)))
    return Choice(values, ordered=draw(st.booleans()), default=draw(st.none() | st.sampled_from(values)))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any space of up to five parameters, conditions (on earlier ones) among them."""
    found: dict[str, Float | Int | Choice] = {}
    for name in NAMES[: draw(st.integers(1, 5))]:
        parameter = draw(st.one_of(floats(), ints(), choices()))
        parents = [n for n, p in found.items() if p.grid()]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            grid = found[parent].grid() or []
            wanted = draw(st.lists(st.sampled_from(grid), min_size=1, max_size=3))
            parameter = replace(parameter, when={parent: wanted if draw(st.booleans()) else wanted[0]})
        found[name] = parameter
    order = draw(st.permutations(list(found)))
    return SearchSpace({name: found[name] for name in order})


@st.composite
def configurations(draw: st.DrawFn) -> tuple[SearchSpace, dict[str, object]]:
    """A space and a configuration inside it, off the grid of its steps."""
    space = draw(spaces())
    params: dict[str, object] = {}
    snapped: dict[str, object] = {}
    for name in space.order:
        p = space[name]
        if not space.is_active(name, snapped):
            continue
        if isinstance(p, Choice):
            params[name] = draw(st.sampled_from(list(p.values)))
        elif isinstance(p, Int):
            params[name] = draw(st.integers(p.low, p.high))
        else:
            params[name] = draw(st.floats(p.low, p.high))
        snapped[name] = p.snap(params[name])
    return space, params


# -- to plain data and back ---------------------------------------------------------------------------------------


@given(spaces())
def test_a_space_survives_json(space: SearchSpace) -> None:
    back = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert back == space
    assert hash(back) == hash(space)
    assert back.names == space.names
    assert back.default() == space.default()
    assert [type(v) for v in back.default().values()] == [type(v) for v in space.default().values()]


def test_json_leaves_out_what_is_not_set() -> None:
    space = SearchSpace(
        lr=Float(1e-4, 0.1, log=True, default=0.001),
        n=Int(1, 9, step=2),
        opt=Choice(("adam", "sgd"), default="sgd"),
        m=Float(0, 0.9, when={"opt": ("sgd",)}),
    )
    assert space.to_json() == {
        "lr": {"float": [1e-4, 0.1], "log": True, "default": 0.001},
        "n": {"int": [1, 9], "step": 2},
        "opt": {"choice": ["adam", "sgd"], "default": "sgd"},
        "m": {"float": [0, 0.9], "when": {"opt": ["sgd"]}},
    }


def test_a_false_or_zero_default_is_kept() -> None:
    space = SearchSpace(flag=Choice([True, False], default=False), n=Int(-5, 5, default=0), x=Float(-1, 3, default=0.0))
    assert SearchSpace.from_json(space.to_json()).default() == {"flag": False, "n": 0, "x": 0.0}


def test_equality_follows_declarations_and_their_order() -> None:
    a, b = Float(0, 1), Int(0, 1)
    assert SearchSpace(a=a, b=b) == SearchSpace(a=Float(0, 1), b=Int(0, 1))
    assert SearchSpace(a=a, b=b) != SearchSpace(b=b, a=a)
    assert SearchSpace(a=a) != SearchSpace(a=Float(0, 1, log=False, step=0.5))
    assert SearchSpace(a=a) != {"a": a}


# -- defaults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Float(0, 1), 0.5),
        (Float(1e-4, 1e-2, log=True), 1e-3),
        (Float(0, 1, step=0.4), 0.4),
        (Float(0, 1, default=0.25), 0.25),
        (Float(0, 1, step=0.1, default=0.1 * 3), 0.3),
        (Int(1, 9), 5),
        (Int(1, 100, log=True), 10),
        (Int(0, 10, step=4), 4),
        (Int(1, 9, default=9), 9),
        (Choice(["a", "b", "c"]), "a"),
        (Choice([16, 32, 64], ordered=True), 32),
        (Choice([16, 32, 64, 128], ordered=True), 32),
        (Choice(["a", "b"], default="b"), "b"),
        (Choice([None, 0.5]), None),
    ],
)
def test_default(parameter: Float | Int | Choice, expected: object) -> None:
    default = SearchSpace(p=parameter).default()["p"]
    assert default == pytest.approx(expected) if isinstance(expected, float) else default == expected
    assert type(default) is type(expected)


@given(spaces())
def test_the_default_is_a_configuration_on_the_grid(space: SearchSpace) -> None:
    default = space.default()
    assert space.validated(default) == default
    assert list(default) == [name for name in space.names if name in default]


# -- validated, snap, complete ------------------------------------------------------------------------------------


@given(configurations())
def test_validated_snaps_once_and_for_all(found: tuple[SearchSpace, dict[str, object]]) -> None:
    space, params = found
    snapped = space.validated(params)
    assert space.validated(snapped) == snapped
    assert list(snapped) == [n for n in space.names if n in params]
    assert json.loads(json.dumps(snapped)) == snapped
    for name, value in snapped.items():
        assert space[name].accepts(value) is None
        grid = space[name].grid()
        assert grid is None or value in grid


@given(floats().filter(lambda p: p.step is not None))
def test_the_grid_of_a_stepped_float_is_distinct_and_inside(parameter: Float) -> None:
    grid = parameter.grid()
    assert grid is not None
    assert grid[0] == pytest.approx(parameter.low, abs=1e-12)
    assert all(a < b for a, b in itertools.pairwise(grid))
    assert grid[-1] <= parameter.high < parameter.low + (len(grid) + 1e-6) * (parameter.step or 0)
    assert [parameter.snap(v) for v in grid] == grid


def test_a_step_far_below_twelve_digits_keeps_its_grid() -> None:
    assert Float(1e-13, 5e-13, step=1e-13).grid() == [1e-13, 2e-13, 3e-13, 4e-13, 5e-13]


def test_a_bound_with_many_digits_stays_inside_the_range() -> None:
    space = SearchSpace(x=Float(1 / 3, 2, step=0.5))
    assert space.validated({"x": 1 / 3}) == {"x": 1 / 3}


@pytest.mark.parametrize(
    ("parameter", "given_", "expected"),
    [
        (Float(0, 1, step=0.1), 0.27, 0.3),
        (Float(0, 1, step=0.1), 0.30000000000000004, 0.3),
        (Float(0, 1, step=0.3), 1, 0.9),
        (Float(0, 1), 1, 1.0),
        (Int(0, 10, step=3), 10, 9),
        (Int(0, 10, step=3), 4, 3),
        (Int(0, 10), 4.0, 4),
        (Choice([1, 2.5]), 1.0, 1),
    ],
)
def test_snapping(parameter: Float | Int | Choice, given_: float, expected: float) -> None:
    value = SearchSpace(p=parameter).validated({"p": given_})["p"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [
        (Float(0, 1), 1.5, "1.5 is outside [0, 1]"),
        (Float(0, 1), True, "True is not a finite number"),
        (Float(0, 1), math.nan, "nan is not a finite number"),
        (Float(0, 1), math.inf, "inf is not a finite number"),
        (Float(0, 1), "0.5", "'0.5' is not a finite number"),
        (Float(0, 1), None, "None is not a finite number"),
        (Int(0, 9), 2.5, "2.5 is not a whole number"),
        (Int(0, 9), 10, "10 is outside [0, 9]"),
        (Int(0, 9), False, "False is not a whole number"),
        (Int(0, 9), 10**400, "is not a whole number"),
        (Choice([1, 2]), True, "True is not one of [1, 2]"),
        (Choice([True, False]), 1, "1 is not one of [True, False]"),
        (Choice(["1"]), 1, "1 is not one of ['1']"),
        (Choice([1]), [1], "[1] is not one of [1]"),
    ],
)
def test_a_value_outside_is_named(parameter: Float | Int | Choice, value: object, said: str) -> None:
    space = SearchSpace(p=parameter)
    with pytest.raises(SpaceError) as caught:
        space.validated({"p": value})
    assert "'p'" in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint
    assert not space.contains({"p": value})


def test_missing_unknown_and_inactive_parameters_are_refused() -> None:
    space = SearchSpace(opt=Choice(["adam", "sgd"]), momentum=Float(0, 1, when={"opt": "sgd"}))
    with pytest.raises(SpaceError, match="lacks the active parameter 'momentum'"):
        space.validated({"opt": "sgd"})
    with pytest.raises(SpaceError, match=r"unknown parameter 'lr'.*opt, momentum"):
        space.validated({"opt": "adam", "lr": 1})
    with pytest.raises(SpaceError, match=r"'momentum' is given but not active.*'opt': 'sgd'"):
        space.validated({"opt": "adam", "momentum": 0.5})
    assert space.contains({"opt": "adam"})
    assert space.contains({"opt": "sgd", "momentum": 0.5})


def test_complete_fills_in_and_takes_out() -> None:
    space = SearchSpace(momentum=Float(0, 1, when={"opt": "sgd"}), opt=Choice(["adam", "sgd"]), n=Int(1, 3))
    assert space.complete({"momentum": 0.1}) == {"opt": "adam", "n": 2}
    assert space.complete({"momentum": 0.1, "opt": "sgd"}) == {"momentum": 0.1, "opt": "sgd", "n": 2}
    assert list(space.complete({"opt": "sgd", "n": 1})) == ["momentum", "opt", "n"]


# -- conditions ---------------------------------------------------------------------------------------------------


def nested() -> SearchSpace:
    return SearchSpace(
        beta=Float(0, 1, when={"nesterov": True, "depth": [2, 3]}),
        nesterov=Choice([False, True], when={"opt": ["sgd", "rmsprop"]}),
        depth=Int(1, 3),
        opt=Choice(["adam", "sgd", "rmsprop"]),
    )


def test_order_puts_parents_first_and_keeps_declared_names() -> None:
    space = nested()
    assert space.names == ("beta", "nesterov", "depth", "opt")
    order = space.order
    assert sorted(order) == sorted(space.names)
    assert order.index("opt") < order.index("nesterov") < order.index("beta")
    assert order.index("depth") < order.index("beta")


@pytest.mark.parametrize(
    ("params", "active"),
    [
        ({"opt": "sgd", "nesterov": True, "depth": 2}, True),
        ({"opt": "rmsprop", "nesterov": True, "depth": 3}, True),
        ({"opt": "sgd", "nesterov": False, "depth": 2}, False),
        ({"opt": "sgd", "nesterov": True, "depth": 1}, False),
        ({"opt": "sgd", "nesterov": 1, "depth": 2}, False),
        ({"opt": "adam", "nesterov": True, "depth": 2}, False),
        ({"nesterov": True, "depth": 2}, False),
    ],
)
def test_a_nested_condition_needs_active_parents_with_the_values(params: dict[str, object], active: bool) -> None:
    assert nested().is_active("beta", params) is active


def test_a_nested_condition_in_a_default() -> None:
    assert nested().default() == {"depth": 2, "opt": "adam"}
    assert nested().complete({"opt": "sgd", "nesterov": True}) == {
        "beta": 0.5,
        "nesterov": True,
        "depth": 2,
        "opt": "sgd",
    }


def test_a_condition_on_null() -> None:
    space = SearchSpace(reg=Choice([None, "l2"]), w=Float(0, 1, when={"reg": None}))
    assert space.default() == {"reg": None, "w": 0.5}
    assert not space.is_active("w", {"reg": "l2"})


# -- declarations that are refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        (Float(1, 0), "[1, 0] is empty; swap the bounds"),
        (Int(5, 1), "[5, 1] is empty; swap the bounds"),
        (Float(0, 1, log=True), "low is 0; raise it or drop log"),
        (Float(-1, 1, log=True), "low is -1"),
        (Int(0, 8, log=True), "low is 0"),
        (Float(0, 1, default=2), "default 2 is outside [0, 1]"),
        (Int(0, 5, default=-1), "default -1 is outside [0, 5]"),
        (Int(0, 5, default=2.5), "default is 2.5, not a whole number"),
        (Int(0, 5, default=True), "default is True, not a whole number"),
        (Float(0, 1, default=math.nan), "default nan is not a finite number"),
        (Float(0, 1, step=0), "step is 0; it must be a number above 0"),
        (Float(0, 1, step=-0.1), "step is -0.1"),
        (Float(0, 1, step=math.nan), "step is nan"),
        (Float(0, 1, step=3), "step 3 is larger than the range [0, 1]"),
        (Int(0, 4, step=5), "step 5 is larger than the range [0, 4]"),
        (Int(0, 4, step=0), "step is 0"),
        (Int(0, 4, step=1.5), "step is 1.5, not a whole number"),
        (Float(0, 1, step=0.25, default=0.3), "default 0.3 is not on the grid of step 0.25"),
        (Int(0, 9, step=3, default=4), "default 4 is not on the grid of step 3"),
        (Float(0.1, 1, step=0.1, log=True), "log and step can't be combined"),
        (Int(1, 9, step=2, log=True), "log and step can't be combined"),
        (Float(math.nan, 1), "low is nan, not a finite number"),
        (Float(0, math.inf), "high is inf, not a finite number"),
        (Float(-math.inf, 0), "low is -inf"),
        (Float("0", 1), "low is '0', not a finite number"),
        (Float(False, True), "low is False"),
        (Int(0.0, 5), "low is 0.0, not a whole number"),
        (Int(0, True), "high is True, not a whole number"),
        (Int(1, 10**400), "a whole number of more than 64 bits"),
        (Int(0, 2**63), "high is 9223372036854775808, a whole number of more than 64 bits"),
        (Float(-1e308, 1e308), "the range [-1e+308, 1e+308] is too wide"),
        (Float(1e-320, 1.0, log=True), "too wide; numbers have sizes from 1e-300 to 1e300"),
        (Choice([]), "the list of values is empty"),
        (Choice("abc"), "the values are 'abc', not a list"),
        (Choice(None), "the values are None, not a list"),
        (Choice([1, 2, 1]), "the value 1 stands twice"),
        (Choice([1, 1.0]), "the value 1.0 stands twice"),
        (Choice(["a", "b", "a"]), "the value 'a' stands twice"),
        (Choice([None, None]), "the value None stands twice"),
        (Choice([1, math.nan]), "nan is not a finite number"),
        (Choice([1, 2**64]), "18446744073709551616 has more than 64 bits; give it as a text"),
        (Choice([1, math.inf]), "inf is not a finite number"),
        (Choice([[1], [2]]), "[1] is not a plain value"),
        (Choice([np.float64(0.1)]), "is not a plain value"),
        (Choice(["a"], default="b"), "default 'b' is not one of ['a']"),
        (Choice([0, 1], default=True), "default True is not one of [0, 1]"),
    ],
)
def test_a_wrong_declaration_names_parameter_value_and_remedy(parameter: Float | Int | Choice, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace(good=Float(0, 1), bad=parameter)
    assert "'bad'" in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, ConfigError)


def test_true_and_one_are_two_choices() -> None:
    space = SearchSpace(p=Choice([True, 1, False, 0]))
    assert [space.validated({"p": v})["p"] for v in (1, True, 0, False)] == [1, True, 0, False]
    assert [type(space.validated({"p": v})["p"]) for v in (1, True)] == [int, bool]


def test_a_single_value_is_a_range() -> None:
    space = SearchSpace(x=Float(0.5, 0.5), n=Int(3, 3), c=Choice(["only"]))
    assert space.default() == {"x": 0.5, "n": 3, "c": "only"}
    assert [space[n].grid() for n in space] == [[0.5], [3], ["only"]]


def test_large_integers() -> None:
    space = SearchSpace(n=Int(0, 2**62, default=2**60 + 1), seed=Int(-(2**63), 2**63 - 1))
    assert space.default()["n"] == 2**60 + 1
    assert space["seed"].grid() is None
    assert Int(1, 10_000).grid() == list(range(1, 10_001))
    assert Int(0, 10_000).grid() is None
    assert len(Float(0, 1, step=1e-3).grid() or ()) == 1001
    assert Float(0, 1, step=1e-9).grid() is None, "nobody has room for a billion values"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"nope": 1}, "unknown parameter 'nope'"),
        ({"opt": "rmsprop"}, "condition on 'opt' can never hold: 'rmsprop' is not one of ['adam', 'sgd']"),
        ({"opt": ["adam", "lion"]}, "'lion' is not one of"),
        ({"opt": []}, "can never hold: it lists no value"),
        ({"depth": 9}, "condition on 'depth' can never hold: 9 is outside [0, 8]"),
        ({"depth": 3}, "condition on 'depth' can never hold: 3 is not on the grid"),
        ({"depth": True}, "True is not a whole number"),
        ({"bad": 1}, "the conditions run in a circle: bad -> bad"),
        (["opt"], "when is ['opt']"),
    ],
)
def test_a_wrong_condition_names_parameter_value_and_remedy(when: object, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace(opt=Choice(["adam", "sgd"]), depth=Int(0, 8, step=2), bad=Int(0, 1, when=when))
    assert "bad" in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint


def test_a_long_circle_is_shown() -> None:
    with pytest.raises(SpaceError, match="circle: a -> b -> c -> a"):
        SearchSpace(a=Int(0, 1, when={"b": 1}), b=Int(0, 1, when={"c": 1}), c=Int(0, 1, when={"a": 1}))


@pytest.mark.parametrize("name", ["", " ", "1a", "a b", "a/b", "a\n", "ä", "-a", "x" * 101, 1, None])
def test_a_name_that_can_not_be_one(name: object) -> None:
    with pytest.raises(SpaceError, match="can't be a parameter's name"):
        SearchSpace({name: Float(0, 1)})


@pytest.mark.parametrize("name", ["_", "a.b", "a-b", "A_1", "x" * 100])
def test_a_name_that_can(name: str) -> None:
    assert SearchSpace({name: Float(0, 1)}).names == (name,)


def test_no_parameters_and_no_parameter() -> None:
    with pytest.raises(SpaceError, match="no parameters"):
        SearchSpace()
    with pytest.raises(SpaceError, match=r"'lr' is \(0, 1\).*Float\(low, high\)"):
        SearchSpace(lr=(0, 1))
    with pytest.raises(SpaceError, match=r"the search space is \[\('x', 1\)\], not a mapping"):
        SearchSpace([("x", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "the search space is []"),
        ({}, "no parameters"),
        ({"lr": 0.1}, "parameter 'lr' is 0.1"),
        ({"lr": {}}, "parameter 'lr' declares no kind"),
        ({"lr": {"float": [0, 1], "int": [0, 1]}}, "declares float and int"),
        ({"lr": {"float": [0, 1], "lgo": True}}, "parameter 'lr': unknown key 'lgo'"),
        ({"lr": {"choice": [1], "log": True}}, "unknown key 'log'"),
        ({"lr": {"float": [0, 1], "log": "yes"}}, "log is 'yes'"),
        ({"lr": {"choice": [0, 1], "ordered": 1}}, "ordered is 1"),
        ({"lr": {"float": [0]}}, "the range is [0]"),
        ({"lr": {"float": "01"}}, "the range is '01'"),
        ({"lr": {"float": ["1e-5", 1]}}, "a bound or default is text"),
        ({"lr": {"float": [0, 1], "default": "0.5"}}, "a bound or default is text"),
        ({"lr": {"float": [0, 1], "step": "0.1"}}, "step is '0.1'"),
        ({"lr": {"int": [0, None]}}, "high is None"),
        ({"lr": {"choice": {"a": 1}}}, "not a list"),
    ],
)
def test_plain_data_that_is_no_space(data: object, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_json(data)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_space_is_read_of_what_was_made_in_python_too() -> None:
    made = SearchSpace(x=Float(0.0, 1.0), kind=Choice(["a", "b"]))
    assert SearchSpace.from_json({"x": Float(0.0, 1.0), "kind": {"choice": ["a", "b"]}}) == made
