from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Send

import agentic_hpt as hpt
from agentic_hpt.records import JsonObject
from agentic_hpt.testing import ScriptedChatModel, bowl, decide

SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 10.0, default=5.0), y=hpt.Float(0.0, 10.0, default=5.0))
BEST = {"x": 1.25, "y": 8.5}


def tune(
    home: Path, chat: ScriptedChatModel | str, events: list[JsonObject] | None = None, **options: object
) -> hpt.Result:
    described: dict[str, object] = {
        "study": "bowl",
        "budget": hpt.Budget(trials=30),
        "fresh_seeds": 0,
        "executor": "inline",
        "mlflow": {"enabled": False},
        **options,
    }
    listener = events.append if events is not None else None
    return hpt.tune(bowl(**BEST), SPACE, metric="score", home=home, coordinator=chat, listener=listener, **described)  # type: ignore[arg-type]


def notices(events: list[JsonObject]) -> list[str]:
    return [str(e["text"]) for e in events if e["type"] == "notice"]


def propose(*configurations: dict[str, float]) -> dict[str, object]:
    return decide("propose", configurations=[{"params": params} for params in configurations])


def test_what_the_model_proposes_is_run_in_the_next_round(home: Path) -> None:
    """Before round 1 too, beside the default."""
    first, second = [{"x": 1.0, "y": 8.0}, {"x": 9.0, "y": 9.0}], [{"x": 2.0, "y": 2.0}]
    chat = ScriptedChatModel(answers=[propose(*first), propose(*second), decide("continue")])
    result = tune(home, chat)
    mine = [t for t in result.trials if t.kind == "proposals"]
    assert [(dict(t.params), t.round) for t in mine] == [(first[0], 1), (first[1], 1), (second[0], 2)]
    assert {(t.worker, t.tuned) for t in mine} == {("proposals", ("x", "y"))}
    assert (result.trials[0].kind, result.trials[0].round) == ("default", 1)
    assert [d.round for d in result.decisions] == list(range(len(result.decisions)))
    assert result.stopped_by == "budget.trials"
    assert len(result.trials) == 30
    assert result.decisions[0].kind == "llm"


def test_a_refused_finalize_does_not_end_the_study_and_the_target_does(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("finalize"), propose(BEST)])
    result = tune(home, chat, target=-0.0001)
    assert result.decisions[0].actions[0].verdict == "refused"
    assert (result.status, result.stopped_by) == ("finalized", "target")
    assert result.best is not None
    assert (result.best.kind, dict(result.best.params)) == ("proposals", BEST)
    assert result.decisions[-1].kind == "policy"
    assert len(chat.prompts) == 2
    assert re.search(r'"type":"finalize"[^}]*"verdict":"refused"', chat.prompts[1])


def test_a_model_may_end_a_study_that_brings_no_gain(home: Path) -> None:
    chat = ScriptedChatModel(answers=[propose(BEST), decide("finalize", "no gain")])
    result = tune(home, chat, budget=hpt.Budget(trials=200))
    assert (result.status, result.stopped_by) == ("finalized", "coordinator")
    end = result.decisions[-1].accepted("finalize")
    assert end is not None
    assert end.reason == "no gain"
    assert result.best is not None
    assert max(t.id for t in result.trials) - result.best.id >= 20
    assert len(result.trials) < 200
    assert all(not d.finalizes for d in result.decisions[:-1])


def test_a_model_that_always_fails_costs_nothing_but_its_notices(home: Path, tmp_path: Path) -> None:
    events: list[JsonObject] = []
    chat = ScriptedChatModel(answers=[RuntimeError("boom")])
    result = tune(home, chat, events)
    assert (result.status, result.stopped_by) == ("finalized", "budget.trials")
    without_model = [d for d in result.decisions if d.kind == "policy"]
    assert len(chat.prompts) == len(result.decisions) - len(without_model) > 1
    told = result.to_json()["coordinator"]
    assert isinstance(told, dict)
    assert told["fallbacks"] == told["calls"] == len(chat.prompts)
    assert told["kind"] == "llm"
    said = [n for n in notices(events) if "the rules decided instead of the model" in n]
    assert len(said) == len(chat.prompts)
    assert all("RuntimeError: boom" in n for n in said)
    # The trials are those of a study without a model.
    by_rules = tune(tmp_path / "other", "rules")
    assert [dict(t.params) for t in by_rules.trials] == [dict(t.params) for t in result.trials]


def test_a_spent_token_budget_leaves_the_study_to_the_rules(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("continue")])
    result = tune(home, chat, budget=hpt.Budget(trials=30, tokens=5300))
    assert len(chat.prompts) == 1
    assert result.stopped_by == "budget.trials"
    fallbacks = [str(d.fallback) for d in result.decisions[1:-1] if d.fallback]
    assert fallbacks
    assert all("tokens are left of 5300, too few for a call" in text for text in fallbacks)
    assert 0 < result.usage.tokens == result.decisions[0].tokens <= 5300


@pytest.fixture
def long_run(home: Path) -> hpt.Result:
    chat = ScriptedChatModel(answers=[decide("continue", "on " * 100)])
    return tune(home, chat, trials_per_round=1)


def latest(home: Path) -> list[tuple[int, object]]:
    """Read the checkpoints: their size in bytes and what they hold, oldest first."""
    with sqlite3.connect(home / "checkpoints.db") as store:
        rows = store.execute("SELECT type, checkpoint FROM checkpoints ORDER BY checkpoint_id").fetchall()
    store.close()
    serde = JsonPlusSerializer()
    return [(len(blob), serde.loads_typed((kind, blob))) for kind, blob in rows]


def what_is_sent(value: object) -> object:
    """Open the only objects that may be in the state: LangGraph's own envelopes for workers' inputs."""
    assert isinstance(value, Send)
    return value.arg


def test_thirty_rounds_run_and_the_state_stays_small_and_plain(long_run: hpt.Result, home: Path) -> None:
    assert (long_run.status, long_run.stopped_by) == ("finalized", "budget.trials")
    assert [d.round for d in long_run.decisions] == list(range(31))
    checkpoints = latest(home)
    sizes = [size for size, _ in checkpoints]
    assert len(sizes) > 3 * 30
    assert max(sizes) < 4_000
    middle = len(sizes) // 2
    assert max(sizes[middle:]) <= max(sizes[:middle]) * 1.1
    for _, checkpoint in checkpoints:
        assert isinstance(checkpoint, dict)
        json.dumps(checkpoint["channel_values"], default=what_is_sent)
    last = checkpoints[-1][1]["channel_values"]  # type: ignore[index]
    assert last["round"] == 30
    assert len(last["reports"]) == 1
    assert "trials" not in last
