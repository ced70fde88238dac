"""What a person is told before they approve a decision."""

from __future__ import annotations

import json

from agentic_hpt.coordinator.review import review_request
from agentic_hpt.records import ActionRecord, DecisionRecord
from agentic_hpt.report.asking import decision_lines, evidence_lines
from situations import NEW, situation

ON = ActionRecord("continue", "go on", (), "accepted", "budget is left")


def test_the_evidence_is_told_by_its_conclusions_its_trend_and_what_matters() -> None:
    request = review_request(DecisionRecord(1, "rules", (ON,)), situation())
    said = evidence_lines(str(request["evidence"]))
    assert said[0].startswith("Trial 1 is the best so far: accuracy 0.6")
    assert said[-2] == "best after each round: 1: 0.6"
    assert said[-1] == "importance: not worked out: too few trials, or nobody looks at them"
    weights = {f"p{n}": 0.5 / (n + 1) for n in range(10)}
    assert evidence_lines(json.dumps({"insights": {"importance": weights}})) == [
        "importance: p0 0.5, p1 0.25, p2 0.16667, p3 0.125, p4 0.1, p5 0.083333, p6 0.071429, p7 0.0625 and 2 more"
    ]


def test_what_is_too_long_is_cut_and_it_is_said_how_much() -> None:
    said = evidence_lines(json.dumps({"conclusions": [f"conclusion {n}" for n in range(20)]}))
    assert said[15:] == ["conclusion 15", "... 4 more lines"]
    assert evidence_lines("\n".join("abc\x1b" for _ in range(17)))[-2:] == ["abc\\x1b", "... 1 more line"]
    (long,) = evidence_lines("x" * 900)
    assert long == "x" * 300 + " ..."


def test_a_decision_is_told_in_words() -> None:
    proposed = ActionRecord(
        "propose",
        "try",
        (),
        "accepted",
        "",
        {"configurations": [NEW] * 7, "hypotheses": ["bold"] + [""] * 6, "expected": [None] * 7},
    )
    refused = ActionRecord(
        "propose", "no", (), "refused", "tried", asked={"configurations": [{"params": NEW, "hypothesis": "mine"}]}
    )
    region = {"rate": {"low": 0.01, "high": 0.1}}
    spawned = ActionRecord(
        "spawn",
        "here",
        (),
        "repaired",
        "less",
        {"worker": "joint", "parameters": ["rate"], "trials": 3, "region": region},
    )
    undone = ActionRecord("unfreeze", "back", (), "accepted", "", {"parameter": "rate"}, by="policy")
    decision = DecisionRecord(0, "rules", (undone, proposed, refused, spawned), fallback="timeout")
    assert decision_lines(decision) == [
        "before round 1 the decision of the rules, in place of the model (timeout) is:",
        "  unfreeze rate by the policy [accepted]: back",
        "  propose 7 configurations [accepted]: try",
        "    layers=5 rate=0.05 optimizer=adam (bold)",
        *["    layers=5 rate=0.05 optimizer=adam"] * 4,
        "    ... 2 more",
        "  propose 1 configuration [refused]: no",
        "    guard: tried",
        "    layers=5 rate=0.05 optimizer=adam (mine)",
        "  spawn a joint worker for rate: 3 trials [repaired]: here",
        "    guard: less",
        "    within rate 0.01 to 0.1",
    ]
    assert decision_lines(DecisionRecord(3, "llm", ()))[0] == "after round 3 the decision of the model is:"
