from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jsonschema_rs
import pytest

from agentic_hpt.coordinator.decisions import ActionType, Options, answer_schema, full_schema, parse_decision
from agentic_hpt.coordinator.guards import options
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.space import Choice, SearchSpace
from agentic_hpt.testing import decide
from situations import NEW, PLATEAU, SPACE, flat, situation

CANDIDATE = {
    "params": {**NEW, "momentum": None},
    "hypothesis": "deeper nets need a larger rate",
    "expected": 0.8,
    "low": 0.7,
    "high": 0.9,
}
FITTING: dict[str, dict[str, object]] = {
    "continue": {},
    "freeze": {"parameter": "layers", "expects": None},
    "unfreeze": {"parameter": "momentum"},
    "prioritise": {"parameters": ["rate"], "expects": {"gain": 0.01, "trials": 20}},
    "narrow": {"parameter": "rate", "low": 0.001, "high": 0.05, "expects": {"gain": 0.01, "trials": 20}},
    "widen": {"parameter": "optimizer", "values": ["adam", "sgd"], "expects": None},
    "spawn": {
        "worker": "group",
        "parameters": ["rate", "optimizer"],
        "trials": 4,
        "region": [{"parameter": "rate", "low": 0.001, "high": 0.01}],
    },
    "propose": {"configurations": [CANDIDATE]},
    "repeat": {"trial": 7, "seeds": 2},
    "stop_trial": {"trial": 9},
    "finalize": {},
}
EVERYTHING = Options(
    actions=get_args(ActionType),
    freezable=("layers",),
    frozen=("momentum",),
    narrowable=("rate",),
    narrowed=("optimizer",),
    free=("rate", "optimizer"),
    proposals=8,
    spawn_trials=7,
    repeatable=(3, 7),
    stoppable=(9,),
)


def accepts(schema: dict[str, object], answer: object) -> bool:
    return jsonschema_rs.validator_for(schema).is_valid(answer)


def types_of(schema: dict[str, object]) -> list[str]:
    branches = schema["properties"]["actions"]["items"]["anyOf"]  # type: ignore[index]
    return [t for branch in branches for t in branch["properties"]["type"]["enum"]]


def test_the_schema_holds_only_the_actions_that_could_be_accepted() -> None:
    early, late = (answer_schema(SPACE, options(now)) for now in (situation(), situation(flat(PLATEAU))))
    assert types_of(early) == ["continue", "prioritise", "spawn", "propose", "repeat"]
    assert types_of(late)[-1] == "finalize"
    assert not accepts(early, decide("finalize"))
    assert accepts(late, decide("finalize"))


def test_an_answer_that_fits_the_schema_can_be_read() -> None:
    schema = answer_schema(SPACE, EVERYTHING)
    assert sorted(types_of(schema)) == sorted(FITTING)
    assert set(FITTING) == set(get_args(ActionType))
    for type_, fields in FITTING.items():
        answer = decide(type_, "a reason", **fields)
        assert accepts(schema, answer), answer
        (action,) = parse_decision(json.dumps(answer)).actions
        assert action.type == type_
        assert parse_decision(answer) == parse_decision(json.dumps(answer))


@pytest.mark.parametrize("type_", get_args(ActionType))
def test_an_action_that_is_not_offered_can_not_be_written(type_: ActionType) -> None:
    others = replace(EVERYTHING, actions=tuple(t for t in EVERYTHING.actions if t != type_))
    if type_ in ("narrow", "widen"):
        others = replace(others, **{"narrowable" if type_ == "narrow" else "narrowed": ()})
    assert not accepts(answer_schema(SPACE, others), decide(type_, **FITTING[type_]))


@pytest.mark.parametrize(
    ("type_", "changed"),
    [
        ("freeze", {"parameter": "rate"}),
        ("unfreeze", {"parameter": "layers"}),
        ("narrow", {"parameter": "momentum"}),
        ("narrow", {"low": 0.2}),
        ("narrow", {"values": [0.01]}),
        ("narrow", {"expects": {"gain": -1, "trials": 5}}),
        ("widen", {"values": ["lbfgs"]}),
        ("widen", {"values": []}),
        ("prioritise", {"parameters": ["layers"]}),
        ("spawn", {"trials": 8}),
        ("spawn", {"parameters": ["layers"]}),
        ("spawn", {"region": [{"parameter": "rate", "values": [0.01]}]}),
        ("propose", {"configurations": []}),
        ("repeat", {"trial": 8}),
        ("repeat", {"seeds": 4}),
        ("stop_trial", {"trial": 7}),
    ],
)
def test_enums_and_bounds_hold_what_is_allowed_now(type_: str, changed: dict[str, object]) -> None:
    schema = answer_schema(SPACE, EVERYTHING)
    assert accepts(schema, decide(type_, **FITTING[type_]))
    assert not accepts(schema, decide(type_, **{**FITTING[type_], **changed}))


def test_a_brief_schema_has_no_ranges_and_is_much_shorter() -> None:
    whole, brief = answer_schema(SPACE, EVERYTHING), answer_schema(SPACE, EVERYTHING, brief=True)
    assert "narrow" not in types_of(brief)
    assert accepts(brief, decide("widen", parameter="optimizer"))
    assert accepts(brief, decide("spawn", worker="joint", parameters=[], trials=2))
    assert len(json.dumps(whole)) < 7_000
    assert len(json.dumps(brief, separators=(",", ":"))) < 4_500


@pytest.mark.parametrize("brief", [True, False])
def test_the_schema_is_what_strict_modes_take(brief: bool) -> None:
    """Every object names all its properties as required and has no others; every part has a type, or is a reference."""

    def walk(part: object) -> None:
        if isinstance(part, list):
            for entry in part:
                walk(entry)
        if not isinstance(part, dict):
            return
        if part.get("type") == "object":
            assert part["required"] == list(part["properties"])
            assert part["additionalProperties"] is False
            for entry in part["properties"].values():
                assert {"type", "$ref", "anyOf"} & set(entry)
                walk(entry)
        for key in ("items", "anyOf", "$defs"):
            walk(list(part[key].values()) if key == "$defs" and key in part else part.get(key))

    schema = answer_schema(SPACE, EVERYTHING, brief)
    walk(schema)
    referred = set(re.findall(r"#/\$defs/(\w+)", json.dumps(schema)))
    assert referred == set(schema["$defs"])  # type: ignore[call-overload]


def test_long_lists_of_values_do_not_stand_in_the_schema() -> None:
    space = SearchSpace(word=Choice([f"w{i}" for i in range(900)]), mixed=Choice([1, "a", True, None, 0.5]))
    schema = answer_schema(space, Options(("propose",), free=space.names, proposals=2))
    assert len(json.dumps(schema)) < 2_000
    candidate = {"params": {"word": "w899", "mixed": None}, "hypothesis": "", "expected": 0.1, "low": 0.0, "high": 1.0}
    assert accepts(schema, decide("propose", configurations=[candidate]))
    assert not accepts(schema, decide("propose", configurations=[{**candidate, "params": {"word": 3, "mixed": 1}}]))


def test_the_full_schema_is_kept_in_the_docs() -> None:
    kept = Path(__file__).parent.parent / "docs" / "decision.schema.json"
    command = (
        "python -c 'from agentic_hpt.coordinator.decisions import full_schema; print(full_schema(), end=\"\")'"
        " > docs/decision.schema.json"
    )
    assert kept.read_text(encoding="utf-8") == full_schema(), f"it is out of date; run: {command}"
    schema = json.loads(full_schema())
    for type_, fields in FITTING.items():
        assert accepts(schema, decide(type_, **fields))
    assert not accepts(schema, decide("explode"))


WRONG: dict[str, object] = {
    "unknown type": decide("explode"),
    "unknown field": decide("continue", why="because"),
    "a field of another action": decide("continue", parameter="rate"),
    "unknown field beside the actions": {**decide("continue"), "mood": "good"},
    "no reason": {"actions": [{"type": "continue", "evidence": []}]},
    "no type": {"actions": [{"reason": "because", "evidence": []}]},
    "no actions": {"actions": []},
    "too many actions": {"actions": decide("continue")["actions"] * 9},  # type: ignore[operator]
    "no configurations": decide("propose"),
    "empty configurations": decide("propose", configurations=[]),
    "too many configurations": decide("propose", configurations=[CANDIDATE] * 9),
    "a configuration without a name": decide("propose", configurations=[NEW]),
    "a list as a value": decide("propose", configurations=[{**CANDIDATE, "params": {**NEW, "rate": [0.1]}}]),
    "no parameter": decide("freeze", expects=None),
    "a number as a parameter": decide("freeze", parameter=3, expects=None),
    "text as a bound": decide("narrow", parameter="rate", low="0.01", high="a", expects=None),
    "an unknown worker": decide("spawn", **{**FITTING["spawn"], "worker": "everything"}),
    "no trials": decide("spawn", **{**FITTING["spawn"], "trials": 0}),
    "too many seeds": decide("repeat", trial=7, seeds=50),
    "evidence that is text": {"actions": [{"type": "continue", "reason": "r", "evidence": ["trial 3"]}]},
    "negative evidence": {"actions": [{"type": "continue", "reason": "r", "evidence": [-1]}]},
    "null": None,
    "a number": 7,
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_schema_and_reader_alike(case: str) -> None:
    schema = answer_schema(SPACE, EVERYTHING)
    assert not accepts(schema, WRONG[case])
    for answer in (WRONG[case], json.dumps(WRONG[case])):
        with pytest.raises(CoordinatorError):
            parse_decision(answer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.2},
        {"layers": 0},
        {"layers": 2.5},
        {"optimizer": "x"},
        {"momentum": 1.5},
        {"rate": None},
        {"alien": 1},
    ],
)
def test_the_schema_knows_the_space(wrong: dict[str, object]) -> None:
    schema = answer_schema(SPACE, EVERYTHING)
    changed = {**CANDIDATE, "params": {**CANDIDATE["params"], **wrong}}  # type: ignore[dict-item]
    assert not accepts(schema, decide("propose", configurations=[changed]))
    assert not accepts(schema, decide("propose", configurations=[{**CANDIDATE, "params": {"layers": 3}}]))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "```json\n{}\n```",
        "Let me think about {this} first.\n{}\nThat is all {really}.",
        "\ufeff  {}",
    ],
)
def test_the_answer_is_found_in_the_words_around_it(text: str) -> None:
    wrapped = text.replace("{}", json.dumps(decide("continue")))
    assert parse_decision(wrapped) == parse_decision(decide("continue"))


@pytest.mark.parametrize(
    "text",
    [
        '{"actions": [{"type": "continue", "reason": "ab"}',
        '{"actions": [{"type": "continue", "reason": "ab"}\n```',
        '{"actions": [{"type": "continue", "reason": "a',
        '{"actions": [{"type": "continue", "reason": "ab"}, {"ty',
        'here: {"actions": [{"type": "propose", "reason": "x", "configurations": [{"params": {"a": 1}',
        '{"actions": [{"type": "continue", "reason": "ab", "evidence": [1, -',
        '{"actions": [{"type": "continue", "reason": "ab", "expects": nul',
    ],
)
def test_an_answer_that_was_cut_short_is_not_taken_for_a_part_of_it(text: str) -> None:
    with pytest.raises(CoordinatorError, match="ends before it is complete"):
        parse_decision(text)


def test_words_with_braces_before_an_answer_do_not_hide_it() -> None:
    for words in ("take {x} so ", '{"note": 1} then ', "I use {a: "):
        assert parse_decision(words + json.dumps(decide("continue"))) == parse_decision(decide("continue"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would go on.",
        '{"actions": [',
        '{"actions": [{"type": "continue", "reason": NaN, "evidence": []}]}',
        '{"actions": [{"type": "propose", "reason": "r", "configurations": [{"params": {"rate": Infinity}}]}]}',
        '{"a":' * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "[" * 100_000,
        "{" * 100_000,
        '{"actions": ' + "9" * 5000 + "}",
    ],
)
def test_text_without_a_decision_is_refused(text: str) -> None:
    with pytest.raises(CoordinatorError):
        parse_decision(text)


def test_a_number_that_no_computer_holds_is_refused_and_not_raised_later() -> None:
    for huge in (10**400, float("nan"), float("inf")):
        with pytest.raises(CoordinatorError):
            parse_decision(decide("propose", configurations=[{"params": {**NEW, "rate": huge}}]))
    with pytest.raises(CoordinatorError):
        parse_decision({"actions": [{"type": "continue", "reason": "r", "evidence": [2**40]}]})


def test_the_error_says_where_the_answer_is_wrong_and_can_be_sent() -> None:
    with pytest.raises(CoordinatorError, match=r"actions\.0\.continue\.reason"):
        parse_decision({"actions": [{"type": "continue"}]})
    with pytest.raises(CoordinatorError) as caught:
        parse_decision({"actions": [{"type": "continue", "reason": "r", "\ud800": 1}]})
    caught.value.message.encode()
