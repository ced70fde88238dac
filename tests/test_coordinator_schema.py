from __future__ import annotations

import json
from typing import get_args

import jsonschema_rs
import pytest

from agentic_hpt.coordinator.decisions import ActionType, answer_schema, parse_decision
from agentic_hpt.coordinator.prompts import coordinator_prompt
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.testing import decide
from situations import NEW, PLATEAU, SPACE, flat, situation


def accepts(schema: dict[str, object], answer: object) -> bool:
    return jsonschema_rs.validator_for(schema).is_valid(answer)


def types_of(schema: dict[str, object]) -> list[str]:
    branches = schema["properties"]["actions"]["items"]["anyOf"]  # type: ignore[index]
    return [t for branch in branches for t in branch["properties"]["type"]["enum"]]


def test_the_schema_holds_only_the_actions_that_could_be_accepted() -> None:
    early, late = coordinator_prompt(situation())[1], coordinator_prompt(situation(flat(PLATEAU)))[1]
    assert types_of(early) == ["continue", "propose"]
    assert types_of(late) == ["continue", "propose", "finalize"]
    assert not accepts(early, decide("finalize"))
    assert accepts(late, decide("finalize"))


@pytest.mark.parametrize("type_", get_args(ActionType))
def test_an_answer_that_fits_the_schema_can_be_read(type_: ActionType) -> None:
    fields = {"configurations": [NEW, {**NEW, "optimizer": "sgd", "momentum": 0.3}]} if type_ == "propose" else {}
    answer = decide(type_, "a reason", **fields)
    assert accepts(answer_schema(SPACE, (type_,)), answer)
    assert not accepts(answer_schema(SPACE, tuple(t for t in get_args(ActionType) if t != type_)), answer)
    decision = parse_decision(json.dumps(answer))
    assert decision.model_dump(mode="json", exclude_unset=True) == answer
    assert parse_decision(answer) == decision


WRONG: dict[str, object] = {
    "unknown type": decide("narrow"),
    "unknown field": decide("continue", why="because"),
    "unknown field beside the actions": {**decide("continue"), "mood": "good"},
    "no reason": {"actions": [{"type": "continue", "evidence": []}]},
    "no type": {"actions": [{"reason": "because", "evidence": []}]},
    "no actions": {"actions": []},
    "too many actions": {"actions": decide("continue")["actions"] * 5},  # type: ignore[operator]
    "no configurations": decide("propose"),
    "empty configurations": decide("propose", configurations=[]),
    "too many configurations": decide("propose", configurations=[NEW] * 9),
    "a list as a value": decide("propose", configurations=[{**NEW, "rate": [0.1]}]),
    "evidence that is text": {"actions": [{"type": "continue", "reason": "r", "evidence": ["trial 3"]}]},
    "negative evidence": {"actions": [{"type": "continue", "reason": "r", "evidence": [-1]}]},
    "null": None,
    "a number": 7,
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_schema_and_reader_alike(case: str) -> None:
    schema = answer_schema(SPACE, get_args(ActionType))
    assert not accepts(schema, WRONG[case])
    for answer in (WRONG[case], json.dumps(WRONG[case])):
        with pytest.raises(CoordinatorError):
            parse_decision(answer)


@pytest.mark.parametrize(
    "wrong",
    [{**NEW, "rate": 0.2}, {**NEW, "layers": 0}, {**NEW, "layers": 2.5}, {**NEW, "optimizer": "x"}, {"layers": 3}],
)
def test_the_schema_knows_the_space(wrong: dict[str, object]) -> None:
    schema = answer_schema(SPACE, ("propose",))
    assert accepts(schema, decide("propose", configurations=[NEW]))
    assert not accepts(schema, decide("propose", configurations=[wrong]))


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
        "",
        "I would go on.",
        '{"actions": [',
        '{"actions": [{"type": "continue", "reason": NaN, "evidence": []}]}',
        '{"actions": [{"type": "propose", "reason": "r", "evidence": [], "configurations": [{"rate": Infinity}]}]}',
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
            parse_decision(decide("propose", configurations=[{**NEW, "rate": huge}]))
    with pytest.raises(CoordinatorError):
        parse_decision({"actions": [{"type": "continue", "reason": "r", "evidence": [2**40]}]})


def test_the_error_says_where_the_answer_is_wrong_and_can_be_sent() -> None:
    with pytest.raises(CoordinatorError, match=r"actions\.0\.continue\.reason"):
        parse_decision({"actions": [{"type": "continue"}]})
    with pytest.raises(CoordinatorError) as caught:
        parse_decision({"actions": [{"type": "continue", "reason": "r", "\ud800": 1}]})
    caught.value.message.encode()
