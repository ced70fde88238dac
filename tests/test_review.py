"""A person's word on decisions: approved, edited, refused; asked once for each, also over a kill."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.coordinator.review import apply_review, review_request
from agentic_hpt.errors import ConfigError
from agentic_hpt.records import ActionRecord, DecisionRecord, Job, JsonObject, Outcome, Report
from agentic_hpt.study import Study, resume_study
from agentic_hpt.testing import ScriptedChatModel, bowl, decide
from bridge_studies import Gates, Thinker, of_bridge
from bridge_studies import tune as tune_gates
from situations import NEW, situation
from study_runs import describe, drive

PROPOSED = DecisionRecord(
    1,
    "llm",
    (
        ActionRecord("freeze", "settled", (0,), "accepted", "fine", {"parameter": "layers"}, {"type": "freeze"}),
        ActionRecord("unfreeze", "back", (), "accepted", "the policy", {"parameter": "rate"}, by="policy"),
    ),
    tokens=7,
)
SPACE = hpt.SearchSpace(x=hpt.Float(0.0, 10.0, default=5.0), y=hpt.Float(0.0, 10.0, default=5.0))


def test_approved_is_as_it_was() -> None:
    for answer in ("approve", " Approve\n", {"answer": "approve"}):
        approved = apply_review(PROPOSED, answer, situation())
        assert (approved.actions, approved.kind, approved.review) == (PROPOSED.actions, "llm", "approve")
    assert apply_review(PROPOSED, {"answer": "approve", "comment": "go"}, situation()).review == "approve: go"


def test_refused_goes_on_without_it_but_the_policy_stays() -> None:
    refused = apply_review(PROPOSED, {"answer": "refuse", "comment": "too early"}, situation())
    first, undone, on = refused.actions
    assert (first.verdict, first.verdict_reason, first.detail) == ("refused", "by a person: too early", {})
    assert undone == PROPOSED.actions[1]
    assert (on.type, on.verdict, on.by) == ("continue", "accepted", "person")
    assert (refused.review, refused.tokens) == ("refuse: too early", 7)


def test_an_edit_is_the_persons_and_the_guards_judge_it() -> None:
    actions: list[dict[str, object]] = [
        {"type": "propose", "reason": "try", "configurations": [{"params": NEW}]},
        {"type": "finalize", "reason": "enough"},
    ]
    edited = apply_review(PROPOSED, {"answer": "edit", "actions": actions}, situation())
    verdicts = {a.type: (a.verdict, a.by) for a in edited.actions if a.by != "policy"}
    assert verdicts == {"propose": ("accepted", "person"), "finalize": ("refused", "person")}
    assert (edited.kind, edited.review) == ("person", "edit")
    assert not edited.finalizes


def test_an_edit_that_is_wholly_refused_is_no_answer_and_the_verdicts_say_why() -> None:
    both = [{"type": "finalize", "reason": "enough"}, {"type": "freeze", "reason": "x", "parameter": "nothing"}]
    with pytest.raises(ConfigError) as caught:
        apply_review(PROPOSED, {"answer": "edit", "actions": both}, situation())
    first, *verdicts, last = str(caught.value).splitlines()
    assert first == "the guards refuse all of the edit:"
    assert verdicts[0].startswith("finalize: the target is not reached")
    assert verdicts[1].startswith("freeze: ")
    assert last == "approve, edit anew or refuse"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        "maybe",
        {},
        {"answer": "edit"},
        {"answer": "edit", "actions": [{"type": "explode", "reason": "x"}]},
        {"answer": "edit", "actions": ["continue"]},
        {"answer": "approve", "because": "x"},
        {"answer": "refuse", "comment": "x" * 3000},
    ],
)
def test_what_is_no_answer_is_refused_with_the_remedy(answer: object) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_review(PROPOSED, answer, situation())
    assert '{"answer": "approve"}' in str(caught.value)


def test_a_secret_in_a_comment_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-hunter2")
    refused = apply_review(PROPOSED, {"answer": "refuse", "comment": "it is hunter2-hunter2"}, situation())
    assert "hunter2" not in str(refused.to_json())


def test_a_person_is_shown_the_decision_the_evidence_and_what_is_possible() -> None:
    request = review_request(PROPOSED, situation())
    assert request["decision"] == PROPOSED.to_json()
    assert "accuracy" in str(request["evidence"])
    assert isinstance(request["may"], list)
    assert "continue" in request["may"]
    assert "finalize" not in request["may"]


def tune(
    home: Path,
    chat: ScriptedChatModel | str,
    approver: Callable[[JsonObject], object],
    events: list[JsonObject] | None = None,
    **options: object,
) -> hpt.Result:
    described: dict[str, object] = {
        "study": "bowl",
        "budget": hpt.Budget(trials=18),
        "fresh_seeds": 0,
        "executor": "inline",
        "mlflow": {"enabled": False},
        **options,
    }
    return hpt.tune(
        bowl(x=1.25, y=8.5),
        SPACE,
        metric="score",
        home=home,
        coordinator=chat,
        approver=approver,
        listener=events.append if events is not None else None,
        **described,  # type: ignore[arg-type]
    )


def test_each_decision_waits_for_a_person_and_the_model_is_asked_once_for_it(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("continue", f"answer {n}") for n in range(9)])
    asked: list[JsonObject] = []
    events: list[JsonObject] = []

    def approver(request: JsonObject) -> object:
        asked.append(request)
        return "approve"

    result = tune(home, chat, approver, events)
    reviewed = [d for d in result.decisions if d.kind != "policy"]
    assert [d.review for d in reviewed] == ["approve"] * len(asked)
    assert [request["round"] for request in asked] == [d.round for d in reviewed]
    assert reviewed[0].round == 0
    assert len(chat.prompts) == sum(d.kind == "llm" for d in reviewed)
    assert [e["round"] for e in events if e["type"] == "review"] == [request["round"] for request in asked]
    assert result.decisions[-1].kind == "policy", "what the policy forces is no matter of opinion"
    assert result.decisions[-1].review == ""


def test_a_person_can_put_in_configurations_where_rules_decide(home: Path) -> None:
    best = {"x": 1.25, "y": 8.5}

    def approver(request: JsonObject) -> object:
        if request["round"]:
            return {"answer": "refuse", "comment": "no"}
        action = {"type": "propose", "reason": "I know it", "configurations": [{"params": best}]}
        return {"answer": "edit", "actions": [action]}

    result = tune(home, "rules", approver)
    first = result.decisions[0]
    assert (first.round, first.kind, first.review) == (0, "person", "edit")
    (mine,) = [t for t in result.trials if t.kind == "proposals"]
    assert (dict(mine.params), mine.round) == (best, 1)
    assert result.best is not None
    assert result.best.id == mine.id
    assert {d.review for d in result.decisions[1:-1]} == {"refuse: no"}


def test_a_useless_answer_is_asked_again_with_what_was_wrong(home: Path) -> None:
    problems: list[object] = []

    def approver(request: JsonObject) -> object:
        problems.append(request["problem"])
        return "approve" if len(problems) > 2 else {"answer": "perhaps"}

    result = tune(home, "rules", approver)
    assert result.status == "finalized"
    assert problems[0] == ""
    assert all("answer" in str(problem) for problem in problems[1:3])
    assert problems[3] == "", "the next decision is asked about anew"


def test_after_an_edit_that_is_wholly_refused_the_person_is_asked_again(home: Path) -> None:
    answers: list[object] = [
        "approve",
        {"answer": "edit", "actions": [{"type": "finalize", "reason": "enough"}]},
        {"answer": "refuse", "comment": "then not"},
    ]
    asked: list[tuple[object, str]] = []

    def approver(request: JsonObject) -> object:
        asked.append((request["round"], str(request["problem"])))
        return answers.pop(0) if answers else "approve"

    result = tune(home, "rules", approver)
    assert [round_ for round_, _ in asked][:4] == [0, 1, 1, 2]
    assert "finalize: the target is not reached" in asked[2][1]
    assert asked[3][1] == "", "the next decision is asked about anew"
    assert [d.review for d in result.decisions][:2] == ["approve", "refuse: then not"]


def test_what_was_turned_down_stays_so_when_it_would_be_accepted_by_now(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """LangGraph gives the node all answers again, from the first one on: the last one counts."""
    from agentic_hpt.graph import nodes
    from agentic_hpt.protocols import Situation

    judged: list[object] = []

    def once(decision: DecisionRecord, answer: object, situation: Situation) -> DecisionRecord:
        judged.append(answer)
        if answer == "approve" and judged.count("approve") == 1:
            raise ConfigError("not now")
        return apply_review(decision, answer, situation)

    monkeypatch.setattr(nodes, "apply_review", once)
    answers: list[object] = ["approve"]
    result = tune(home, "rules", lambda request: answers.pop() if answers else "refuse")
    assert result.decisions[0].review == "refuse"
    assert judged.count("approve") == 1


def test_when_nobody_answers_the_study_stops_and_is_resumed_at_the_same_question(home: Path) -> None:
    chat = ScriptedChatModel(answers=[decide("continue", "the first"), decide("continue", "the second")])

    def gone(request: JsonObject) -> object:
        if request["round"] == 1:
            raise EOFError
        return "approve"

    stopped = tune(home, chat, gone)
    assert (stopped.status, stopped.exit_code) == ("stopped", 3)
    assert [d.round for d in stopped.decisions] == [0]
    prompts = len(chat.prompts)
    asked: list[JsonObject] = []

    def back(request: JsonObject) -> object:
        asked.append(request)
        return "approve"

    result = tune(home, chat, back, if_exists="resume")
    assert result.status == "finalized"
    decision = asked[0]["decision"]
    assert isinstance(decision, dict)
    assert (asked[0]["round"], decision["actions"][0]["reason"]) == (1, "the second")
    assert len([p for p in chat.prompts[:prompts] if p]) == prompts == 2, "the question was asked before, not again"


def test_without_anybody_to_ask_nothing_is_made(tmp_path: Path, home: Path) -> None:
    from agentic_hpt.config import StudyConfig
    from agentic_hpt.study import run_study

    with pytest.raises(ConfigError, match="nobody is named who answers"):
        run_study(StudyConfig.from_mapping(describe(tmp_path, coordinator={"approve": True})), home=home)
    assert not home.exists()


def test_trials_go_on_while_the_person_thinks(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The person answers for round 1 when three trials of round 2 have ended."""
    import threading

    three = threading.Event()

    class Counting(Gates):
        async def tell(self) -> None:
            if len(self.ended) >= 9:
                three.set()
            await super().tell()

    def approver(request: JsonObject) -> object:
        if request["round"] == 1:
            assert three.wait(30)
        return "approve"

    events: list[JsonObject] = []
    gates = Counting()
    result = tune_gates(
        monkeypatch, home, gates, lambda g: Thinker(g, lambda round_, gates: True), events, approver=approver
    )
    assert result.status == "finalized"
    assert result.decisions[1].bridged >= 3
    assert {t.round for t in of_bridge(result.trials)} >= {2}
    told = [e["trial"] for e in events if e["type"] == "trial"]
    assert sorted(told, key=str) == sorted((t.id for t in result.trials), key=str), "also what ended meanwhile is told"


def test_what_ends_the_study_does_not_wait_for_the_person(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The objective's first answer is refused while the person thinks, who would never answer."""
    import threading

    class Useless(Gates):
        async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
            return Outcome.failed(hpt.FailureKind.INVALID_OUTPUT, "it answers nothing")

    over, answered = threading.Event(), list[bool]()

    def approver(request: JsonObject) -> object:
        answered.append(over.wait(30))
        return "approve"

    with pytest.raises(ConfigError, match="first answer can't be used"):
        tune_gates(monkeypatch, home, Useless(), lambda g: Thinker(g, lambda *given: True), approver=approver)
    assert answered == []
    over.set()
    assert hpt.list_studies(home) == [], "the name stays free"


def test_half_a_round_is_left_for_what_a_person_puts_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Of twelve trials six are left: the bridge takes three while the person thinks about three of their own."""
    import threading

    from agentic_hpt.graph import bridging
    from agentic_hpt.graph.context import StudyParts
    from agentic_hpt.records import Trial

    spent = threading.Event()
    sound = bridging._next_trials

    def bridge(parts: StudyParts, round_: int, limit: int | None, count: int) -> list[Trial]:
        found = sound(parts, round_, limit, count) if round_ == 1 else []
        if not found and round_ == 1:
            spent.set()
        return found

    wanted = [{"params": {"x": x, "y": 0.9}} for x in (0.1, 0.2, 0.35)]

    def approver(request: JsonObject) -> object:
        if request["round"] != 1:
            return "approve"
        assert spent.wait(30)
        return {"answer": "edit", "actions": [{"type": "propose", "reason": "I", "configurations": wanted}]}

    monkeypatch.setattr(bridging, "_next_trials", bridge)
    result = tune_gates(monkeypatch, home, Gates(), budget=hpt.Budget(trials=12), approver=approver)
    assert [t.kind for t in result.trials[6:]] == ["bridge"] * 3 + ["proposals"] * 3
    assert [dict(t.params) for t in result.trials[9:]] == [w["params"] for w in wanted]


def test_the_guards_judge_an_edit_by_what_the_bridge_has_left(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The bridge takes one of the last three trials when the answer is there: of three proposals one is cut openly."""
    from agentic_hpt.graph import bridging, nodes
    from agentic_hpt.graph.context import Emit, StudyParts
    from agentic_hpt.protocols import Situation
    from agentic_hpt.records import Trial

    gates = Gates()
    looked: list[int] = []
    next_trials, look = bridging._next_trials, nodes._situation

    def bridge(parts: StudyParts, round_: int, limit: int | None, count: int) -> list[Trial]:
        used = parts.ledger.usage().trials
        return next_trials(parts, round_, limit, count) if used == 6 and looked.count(1) == 3 else []

    async def looking(parts: StudyParts, round_: int, emit: Emit) -> Situation:
        found = await look(parts, round_, emit)
        looked.append(round_)
        if round_ == 1 and looked.count(1) == 3:  # to decide, to ask, and to take the answer
            bridging.begin_thinking(parts, round_, 0)
            await gates.wait(lambda: len(gates.ended) == 7)
        return found

    def approver(request: JsonObject) -> object:
        if request["round"] != 1:
            return "approve"
        wanted = [{"params": {"x": x, "y": 0.9}} for x in (0.1, 0.2, 0.35)]
        return {"answer": "edit", "actions": [{"type": "propose", "reason": "I", "configurations": wanted}]}

    monkeypatch.setattr(bridging, "_next_trials", bridge)
    monkeypatch.setattr(nodes, "_situation", looking)
    result = tune_gates(monkeypatch, home, gates, budget=hpt.Budget(trials=9), approver=approver)
    proposed = result.decisions[1].accepted("propose")
    assert proposed is not None
    assert proposed.verdict == "repaired"
    assert [t.kind for t in result.trials[6:]] == ["bridge", "proposals", "proposals"]
    assert [dict(t.params) for t in result.trials[7:]] == proposed.detail["configurations"]


DRIVER_OPTIONS = {"coordinator": {"approve": True}}


def test_a_killed_study_asks_its_open_question_again(tmp_path: Path, home: Path) -> None:
    """The driver is killed when the second decision waits; nothing that was approved is asked about again."""
    killed = drive(describe(tmp_path, **DRIVER_OPTIONS), home, "review", 2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    study = Study.open("study", home)
    assert [(d.round, d.review) for d in study.decisions()] == [(0, "approve")]
    asked: list[object] = []

    def approver(request: JsonObject) -> object:
        asked.append(request["round"])
        return "approve"

    result = resume_study("study", home=home, approver=approver)
    assert result.status == "finalized"
    assert asked == [d.round for d in result.decisions[1:] if d.kind != "policy"]
    assert len([t for t in result.trials if t.counted]) == 20
