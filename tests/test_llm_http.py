"""The whole way to a model and back: the real client of langchain-openai against a local server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import langchain.chat_models  # noqa: F401  (imported here, so that no test's time limit pays for it)
import langchain_openai  # noqa: F401
import pytest
from langchain_core.language_models import BaseChatModel

from agentic_hpt.config import CoordinatorConfig, Settings, StudyConfig
from agentic_hpt.coordinator import LlmCoordinator
from agentic_hpt.coordinator.guards import options
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Budget, DecisionRecord, ModelCall, Usage
from agentic_hpt.study import run_study
from agentic_hpt.testing import decide
from agentic_hpt.wiring import make_chat_model
from openai_server import (
    Behaviour,
    OpenAIServer,
    Reply,
    breaks_off,
    calls_tool,
    cuts_off,
    fails,
    hangs,
    refuses,
    says,
    without_schema_mode,
)
from situations import NEW, PLATEAU, flat, situation

CONTINUE = decide("continue", "a good reason")


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORG_ID", "OPENAI_PROXY", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Client:
    """A coordinator whose model is behind the server. No pause is made between tries unless `pause` says so."""

    def __init__(
        self, server: OpenAIServer, home: Path, *, streaming: bool = False, pause: float = 0.0, **config: object
    ) -> None:
        self.calls: list[ModelCall] = []
        described = CoordinatorConfig(model="openai:test-model", base_url=server.url, **config)  # type: ignore[arg-type]

        def make() -> BaseChatModel:
            model = make_chat_model(described, Settings.load(home))
            return model.model_copy(update={"streaming": True, "stream_usage": True}) if streaming else model

        self._coordinator = LlmCoordinator("openai:test-model", make, described, self._keep, backoff_seconds=pause)

    async def _keep(self, call: ModelCall) -> None:
        self.calls.append(call)

    def decide(self, *situations: Situation) -> DecisionRecord:
        """Give the last of the decisions for these situations, taken in one event loop."""

        async def main() -> DecisionRecord:
            decisions = [await self._coordinator.decide(now) for now in situations or (situation(),)]
            return decisions[-1]

        return asyncio.run(main())


def allowed_in(request: dict[str, object]) -> list[str]:
    schema = request["response_format"]["json_schema"]["schema"]  # type: ignore[index]
    branches = schema["properties"]["actions"]["items"]["anyOf"]
    return list(dict.fromkeys(t for branch in branches for t in branch["properties"]["type"]["enum"]))


def test_a_decision_comes_over_the_wire_and_only_a_placeholder_goes_out_as_key(home: Path) -> None:
    with OpenAIServer(says(decide("propose", "try this", configurations=[{"params": NEW}]))) as server:
        client = Client(server, home, max_tokens=123, temperature=0.5, price={"input": 1.0, "output": 2.0})
        decision = client.decide()
    assert (decision.kind, decision.fallback) == ("llm", None)
    assert decision.actions[0].detail["configurations"] == [NEW]
    assert server.keys == ["Bearer unused"]
    (request,) = server.requests
    assert request["model"] == "test-model"
    assert request["temperature"] == 0.5
    assert 123 in (request.get("max_tokens"), request.get("max_completion_tokens"))
    assert allowed_in(request) == list(options(situation()).actions)
    assert "finalize" not in allowed_in(request)
    assert request["messages"][0]["content"] == client.calls[0].prompt
    assert (client.calls[0].input_tokens, client.calls[0].output_tokens) == (700, 30)
    assert decision.tokens == 730
    assert decision.dollars == pytest.approx(760e-6)


def test_the_schema_grows_with_what_is_allowed(home: Path) -> None:
    with OpenAIServer(says(decide("finalize"))) as server:
        decision = Client(server, home).decide(situation(flat(PLATEAU)))
    assert "finalize" in allowed_in(server.requests[0])
    assert decision.finalizes


USABLE: dict[str, tuple[int, tuple[Behaviour, ...]]] = {
    "an object": (1, (says(CONTINUE),)),
    "truncated, then whole": (2, (says(json.dumps(CONTINUE)[:-5]), says(CONTINUE))),
    "wrong schema, then right": (2, (says({"decision": "continue"}), says(CONTINUE))),
    "in a fence although a schema was asked for": (1, (says(f"```json\n{json.dumps(CONTINUE)}\n```"),)),
    "no schema mode": (2, (without_schema_mode(says(f"Well:\n```json\n{json.dumps(CONTINUE)}\n```\nDone.")),)),
    "no schema mode, and a repair": (
        3,
        (
            without_schema_mode(says("unreachable")),
            says("I think we should go on."),
            without_schema_mode(says(CONTINUE)),
        ),
    ),
    "too many requests, then an answer": (2, (fails(429), says(CONTINUE))),
    "a bad gateway, then an answer": (3, (fails(502), fails(502), says(CONTINUE))),
    "408 and 409, then an answer": (3, (fails(408), fails(409), says(CONTINUE))),
    "a connection that breaks off, then an answer": (2, (breaks_off(CONTINUE), says(CONTINUE))),
    "a tool call": (1, (calls_tool(CONTINUE),)),
    "cut off at the limit, then whole": (2, (cuts_off(CONTINUE), says(CONTINUE))),
    "a refusal, then an answer": (2, (refuses("I'd rather not."), says(CONTINUE))),
}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", USABLE)
def test_the_decision_is_had_all_the_same(home: Path, case: str, streaming: bool) -> None:
    requests, script = USABLE[case]
    with OpenAIServer(*script) as server:
        client = Client(server, home, streaming=streaming)
        decision = client.decide()
    assert (decision.kind, decision.fallback) == ("llm", None)
    assert decision.actions[0].reason == "a good reason"
    assert server.keys == ["Bearer unused"] * requests
    assert len(client.calls) == requests, "every request is kept as a call"
    assert {bool(r.get("stream")) for r in server.requests} == {streaming}
    assert client.calls[-1].output_tokens == 30


BROKEN: dict[str, tuple[Behaviour, str, int]] = {
    "truncated": (says(json.dumps(CONTINUE)[:-5]), "the answer", 2),
    "cut off at the limit": (cuts_off(CONTINUE), "the answer was cut off after 30 tokens: give fewer", 2),
    "wrong schema": (says({"decision": "continue"}), "the answer does not fit the schema", 2),
    "empty": (says(""), "the answer holds no JSON object", 2),
    "a wrong tool call": (calls_tool({"actions": []}), "the answer does not fit the schema", 2),
    "a refusal": (refuses("I'd rather not."), "the answer is a refusal: I'd rather not.", 2),
    "always 500": (fails(500), "Error code: 500", 3),
    "always 429": (fails(429), "Error code: 429", 3),
    "400": (fails(400, "no"), "Error code: 400", 1),
    "401": (fails(401, "no such key"), "no such key", 1),
    "404": (fails(404, "no such model"), "no such model", 1),
    "422": (fails(422, "no"), "Error code: 422", 1),
    "not the protocol": (lambda request: Reply(200, {"hello": "world"}), "the model failed", 1),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_rules_decide_when_there_is_no_way_to_an_answer(home: Path, case: str) -> None:
    """Retries are counted at the server: the client must not make its own behind the coordinator's back."""
    behaviour, words, requests = BROKEN[case]
    with OpenAIServer(behaviour) as server:
        client = Client(server, home, retries=2)
        decision = client.decide()
    assert decision.kind == "rules"
    assert words in str(decision.fallback)
    assert "continue" in [a.type for a in decision.actions]
    assert len(server.requests) == len(client.calls) == requests


def test_a_400_that_is_not_about_the_schema_leaves_the_schema_mode_on(home: Path) -> None:
    with OpenAIServer(fails(400, "no response_format here"), fails(400, "no"), says(CONTINUE)) as server:
        client = Client(server, home)
        assert client.decide(situation(), situation(round=2)).fallback is None
    assert ["response_format" in r for r in server.requests] == [True, False, True]
    assert [c.attempt for c in client.calls] == [1, 2, 1]


def test_how_long_to_wait_is_the_servers_word(home: Path) -> None:
    """With pauses of an hour only a server that says otherwise is asked again; one that says an hour itself is not."""
    with OpenAIServer(fails(429, retry_after="0"), fails(503, retry_after_ms="1"), says(CONTINUE)) as server:
        assert Client(server, home, pause=3600.0).decide().fallback is None
    assert len(server.requests) == 3
    for script in (fails(429), fails(429, retry_after="3600"), fails(503, retry_after="Fri, 01 Jan 2100 00:00:00 GMT")):
        with OpenAIServer(script, says(CONTINUE)) as server:
            pause = 0.0 if "retry-after" in script({}).headers else 3600.0
            assert "Error code" in str(Client(server, home, pause=pause).decide().fallback)
        assert len(server.requests) == 1


def test_a_budget_of_calls_holds_at_the_server(home: Path) -> None:
    with OpenAIServer(fails(500)) as server:
        now = situation(budget=Budget(trials=100, calls=7), usage=Usage(trials=2, calls=5))
        decision = Client(server, home, retries=10).decide(now)
    assert len(server.requests) == 2
    assert decision.fallback == "the model's budget is used up: no call is left of 7"


def test_a_server_that_does_not_answer_is_tried_again_and_given_up(home: Path) -> None:
    with OpenAIServer(says(CONTINUE), hangs) as server:
        client = Client(server, home, timeout_seconds=2.0, retries=1)
        decision = client.decide(situation(), situation(round=2))
    assert decision.kind == "rules"
    assert "did not answer within" in str(decision.fallback) or "timed out" in str(decision.fallback)
    assert len(server.requests) == len(client.calls) == 3


def test_a_server_that_is_not_there_is_a_fallback(home: Path) -> None:
    with OpenAIServer(says(CONTINUE)) as server:
        pass
    client = Client(server, home, retries=1)
    decision = client.decide()
    assert "Connection error" in str(decision.fallback)
    assert [c.attempt for c in client.calls] == [1, 2]


def test_a_server_without_a_schema_mode_is_asked_for_it_once(home: Path) -> None:
    with OpenAIServer(without_schema_mode(says(CONTINUE))) as server:
        Client(server, home).decide(situation(), situation(round=2))
    assert ["response_format" in r for r in server.requests] == [True, False, False]


def test_a_model_serves_several_studies_of_one_process(home: Path) -> None:
    """Each study has an event loop of its own; the client's connections must not outlive theirs."""
    with OpenAIServer(says(CONTINUE)) as server:
        for _ in range(3):
            client = Client(server, home)
            assert client.decide().fallback is None
            assert client.decide().fallback is None
    assert len(server.requests) == 6


def test_a_key_of_the_environment_is_sent_and_kept_nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    with OpenAIServer(fails(401, "Incorrect API key: sk-from-the-environment")) as server:
        client = Client(server, home)
        decision = client.decide()
    assert server.keys == ["Bearer sk-from-the-environment"]
    assert "Incorrect API key: ***" in str(decision.fallback)
    assert "sk-from-the-environment" not in str(client.calls)


def test_a_whole_study_under_a_model_behind_http(home: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "def train(params):\n    return -((params['x'] - 3) ** 2) - (params['y'] - 7) ** 2\n"
    )
    described = {
        "study": "http",
        "objective": {"python": "train.py:train", "folder": str(tmp_path)},
        "metric": "score",
        "target": -1e-6,
        "space": {"x": {"float": [0.0, 10.0]}, "y": {"float": [0.0, 10.0]}},
        "budget": {"trials": 30},
        "strategy": "per_parameter",
        "executor": "inline",
        "mlflow": {"enabled": False},
        "fresh_seeds": 1,
    }
    broken = fails(500, retry_after="0")
    script = (broken, broken, broken, says(decide("finalize")), says("garbage"), says(CONTINUE))
    with OpenAIServer(*script, says(decide("propose", configurations=[{"params": {"x": 3.0, "y": 7.0}}]))) as server:
        coordinator = {"model": "openai:test-model", "base_url": server.url}
        config = StudyConfig.from_mapping({**described, "coordinator": coordinator})
        events: list[dict[str, object]] = []
        result = run_study(config, home=home, listener=events.append)
    assert (result.status, result.stopped_by) == ("finalized", "target")
    assert [d.kind for d in result.decisions] == ["rules", "llm", "llm", "llm", "policy"]
    assert result.decisions[1].actions[0].verdict == "refused"
    assert result.best is not None
    assert dict(result.best.params) == {"x": 3.0, "y": 7.0}
    told = result.to_json()["coordinator"]
    assert told == {
        "kind": "llm",
        "model": "openai:test-model",
        "calls": 7,
        "tokens": 4 * 730,
        "dollars": 0.0,
        "fallbacks": 1,
    }
    assert len(server.requests) == 7
    assert any("the rules decided instead of the model" in str(e.get("text")) for e in events)
