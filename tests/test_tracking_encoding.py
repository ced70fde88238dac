from __future__ import annotations

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Report, Trial, TrialState
from agentic_hpt.tracking.encoding import (
    flat,
    legal_key,
    newest_attempts,
    param_text,
    param_value,
    trial_from_json,
    trial_points,
    trial_to_json,
)

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())


def trial(number: int = 1, **rest: object) -> Trial:
    known: dict[str, object] = {"params": {}, "state": TrialState.COMPLETE, "seed": 0, "worker": "w", "kind": "joint"}
    return Trial(**{"id": number, "round": 1, **known, **rest})  # type: ignore[arg-type]


@given(VALUES)
@example("3")
@example("true")
@example("")
@example('"quoted"')
@example("NaN")
@example("null")
@example(3.0)
@example("line\nbreak")
@example("[1, 2]")
def test_a_parameter_reads_back_with_value_and_type(value: object) -> None:
    back = param_value(param_text(value))  # type: ignore[arg-type]
    assert back == value
    assert type(back) is type(value)


def test_common_parameters_look_natural() -> None:
    assert [param_text(v) for v in ("adam", 0.001, 3, True, None)] == ["adam", "0.001", "3", "true", "null"]


def test_a_keys_latest_value_is_the_final_one() -> None:
    reports = (Report(0, {"accuracy": 0.9}), Report(1, {"accuracy": 0.99, "loss": 0.2}))
    points = trial_points(trial(values={"accuracy": 0.8, "size": 5}, reports=reports), 1000, 2000)
    latest = {key: max((p.step, p.value) for p in points if p.key == key) for key in ("accuracy", "loss", "size")}
    assert latest == {"accuracy": (2, 0.8), "loss": (1, 0.2), "size": (0, 5.0)}
    assert [p.time for p in points if p.key == "accuracy"] == [1333, 1666, 2000]


def test_a_final_value_that_was_the_last_report_is_not_logged_twice() -> None:
    points = trial_points(trial(values={"accuracy": 0.9}, reports=(Report(4, {"accuracy": 0.9}),)), 0, 1)
    assert [(p.step, p.value) for p in points] == [(4, 0.9)]


def test_of_two_reports_at_one_step_the_last_counts() -> None:
    reports = (Report(1, {"a": 0.9}), Report(1, {"a": 0.2}))
    assert [(p.step, p.value) for p in trial_points(trial(reports=reports), 0, 1)] == [(1, 0.2)]


def test_a_nan_report_before_a_final_value() -> None:
    points = trial_points(trial(values={"a": 1.0}, reports=(Report(0, {"a": math.nan}),)), 0, 1)
    assert [p.step for p in points] == [0, 1]


def test_names_that_mlflow_refuses_get_another_form_each() -> None:
    odd = ["acc@5", "acc#5", "a//b", "/a", "..", "", "a" * 300]
    assert len({legal_key(name) for name in odd}) == len(odd)
    assert [legal_key(name) for name in ("val/acc", "top-1 x", "a.b_c")] == ["val/acc", "top-1 x", "a.b_c"]


def test_a_study_description_is_flattened() -> None:
    config = {"seed": 1, "budget": {"trials": 9, "minutes": None}, "space": {"x": {"float": [0.0, 1.0]}}, "empty": {}}
    assert flat(config) == {
        "seed": "1",
        "budget.trials": "9",
        "budget.minutes": "null",
        "space.x.float": "[0.0, 1.0]",
        "empty": "{}",
    }


def test_a_trial_survives_json() -> None:
    whole = trial(
        params={"a": 1, "b": 1.0, "c": True, "d": "x", "e": None},
        tuned=("a", "b"),
        values={"accuracy": 0.1 + 0.2},
        failure=FailureKind.NAN,
        seconds=0.5,
        reports=(Report(0, {"loss": 1.5}),),
    )
    back = trial_from_json(json.loads(json.dumps(trial_to_json(whole))))
    assert back == whole
    assert [type(v) for v in back.params.values()] == [type(v) for v in whole.params.values()]


def test_the_newest_attempt_of_a_trial_counts() -> None:
    kept = newest_attempts([trial(2), trial(1, attempt=2, seed=7), trial(1, attempt=1)])
    assert [(t.id, t.attempt) for t in kept] == [(1, 2), (2, 1)]
