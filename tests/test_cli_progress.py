from __future__ import annotations

import io

from rich.console import Console

from agentic_hpt.cli.live import progress_shown, view
from agentic_hpt.cli.progress import Progress
from agentic_hpt.records import JsonObject

BEST: JsonObject = {"trial": 1, "value": 0.25, "params": {"x": 0.1}}
ACTION: JsonObject = {
    "type": "continue",
    "verdict": "repaired",
    "reason": "[red]no\x1b[2J plateau",
    "verdict_reason": "k",
}


def ended(trial: int, state: str = "complete", **changes: object) -> JsonObject:
    return {
        "type": "trial",
        "trial": trial,
        "worker": "[b]x",
        "round": 1,
        "state": state,
        "value": 0.25 if state == "complete" else None,
        "failure": None,
        "message": "",
        "seconds": 1.5,
        "params": {"x": 0.1},
        "best": BEST,
        "trials_used": trial + 1,
        "seconds_used": 70.0,
        **changes,
    }


STUDY: JsonObject = {
    "type": "study",
    "study": "demo",
    "home": "/h",
    "trials_budget": 10,
    "minutes_budget": 2.0,
    "tracking_uri": None,
    "slots": 2,
    "resumed": True,
}
ROUND: JsonObject = {
    "type": "round",
    "round": 1,
    "workers": [{"worker": "[b]x", "kind": "per_parameter", "tuned": ["x"], "trials": 3, "reason": "[i]why\x07"}],
}
EVENTS: list[JsonObject] = [
    STUDY,
    ROUND,
    {"type": "trial_started", "trial": 1, "worker": "[b]x", "round": 1, "params": {}},
    {"type": "trial_started", "trial": 2, "worker": "[b]x", "round": 1, "params": {}},
    ended(1),
    ended(3, "failed", failure="crash", message="boom\x1b[31m\n  File x\n    ^^^^", best=BEST),
    ended(4, "pruned", best=None, worker="unknown"),
    {"type": "decision", "round": 1, "kind": "rules", "fallback": "timeout", "actions": [ACTION]},
]
LAST: list[JsonObject] = [
    {"type": "final_started", "trial": 1, "seeds": 3},
    {"type": "final_started", "trial": 1, "seeds": 3, "finalists": [1, 4]},
    {"type": "final_started", "trial": 1, "seeds": 0, "finalists": [1]},
    {"type": "final", "mean": 0.2, "sd": 0.01, "holdout": 0.3},
    {"type": "notice", "text": "MLflow is\naway"},
    {"type": "invented later"},
]


def test_every_event_but_a_start_gives_one_harmless_line() -> None:
    progress = Progress()
    lines = [progress.apply(event) for event in EVENTS + LAST]
    assert lines == [
        "study demo: resumed, at most 10 trials and 2 min 00 s, 2 at a time; home /h; MLflow off",
        "round 1: 1 worker: [b]x (3)",
        None,
        None,
        "[2/10] trial 1 [b]x: 0.25; x=0.1; 1.5 s; best 0.25 (trial 1)",
        "[4/10] trial 3 [b]x: failed, crash: boom\\x1b[31m / File x; x=0.1; 1.5 s; best 0.25 (trial 1)",
        "[5/10] trial 4 unknown: pruned; x=0.1; 1.5 s",
        "decision after round 1, rules (instead of the model: timeout): "
        "continue [repaired]: [red]no\\x1b[2J plateau (guard: k)",
        "final: retraining trial 1 with 3 fresh seeds",
        "final: trials 1, 4 on new seeds, then the winner with 3 fresh seeds",
        "final: trial 1",
        "final: fresh seeds 0.2 ± 0.01, holdout 0.3",
        "note: MLflow is\\naway",
        None,
    ]


def test_a_long_decision_is_one_short_line() -> None:
    progress = Progress()
    actions = [{**ACTION, "reason": "because " * 60}, ACTION]
    event: JsonObject = {"type": "decision", "round": 1, "kind": "rules", "fallback": "no " * 90, "actions": actions}
    line = str(progress.apply(event))
    assert len(line) < 180
    assert line.endswith("…")
    assert "(instead of the model: no no" in line
    assert "continue [repaired]: because" in line, "what stood in for the model leaves room for what was decided"
    assert line == f"decision {progress.decision}"


def test_workers_are_followed_and_forgotten_with_their_round() -> None:
    progress = Progress()
    for event in EVENTS:
        progress.apply(event)
    worker = progress.workers["[b]x"]
    assert (worker.ended, worker.failed, worker.running) == (2, 1, {2})
    assert progress.best == "0.25 (trial 1: x=0.1)", "an event without a best keeps the last one"
    progress.apply(LAST[0])
    assert progress.workers == {}


def test_a_budget_without_trials_or_minutes_is_said_as_it_is() -> None:
    assert "at most 3 min 00 s," in str(Progress().apply({**STUDY, "trials_budget": None, "minutes_budget": 3}))
    assert "at most 10 trials," in str(Progress().apply({**STUDY, "minutes_budget": None}))
    progress = Progress()
    progress.apply({**STUDY, "trials_budget": None})
    assert str(progress.apply(ended(0))).startswith("[1] trial 0")


def rendered(progress: Progress, since: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=120, markup=False)
    console.print(view(progress, since))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_view_shows_where_the_study_stands() -> None:
    progress = Progress()
    assert "starting" in rendered(progress)
    for event in EVENTS:
        progress.apply(event)
    text = rendered(progress, since=5.0)
    for part in (
        "searching, round 1",
        "5 of 10 done, 5 left",
        "1 min 15 s of 2 min 00 s",
        "0.25 (trial 1: x=0.1)",
        "after round 1, rules (instead of the model: timeout): continue [repaired]: [red]no\\x1b[2J plateau",
        "[b]x",
        "2/3",
        "[i]why\\x07",
    ):
        assert part in text
    assert "\x1b" not in text
    for event in LAST:
        progress.apply(event)
    done = rendered(progress, since=5.0)
    assert "1 min 10 s of" in done, "the clock of the search stands"
    assert "MLflow is\\naway" in done


def test_a_terminal_gets_the_live_view_and_its_cursor_back() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, markup=False, _environ={"TERM": "xterm"})
    with progress_shown(console) as listener:
        for event in EVENTS:
            listener(event)
    text = screen.getvalue()
    assert "5 of 10 done" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "\x1b[2J" not in text


def test_the_bridge_is_shown_before_its_round_and_kept_in_it() -> None:
    progress = Progress()
    for event in EVENTS[:3]:
        progress.apply(event)
    for trial in (5, 6):
        started: JsonObject = {"type": "trial_started", "trial": trial, "worker": "bridge", "round": 2, "params": {}}
        progress.apply(started)
    progress.apply(ended(5, worker="bridge", round=2))
    bridge = progress.workers["bridge"]
    assert (bridge.kind, bridge.trials, bridge.ended, bridge.running) == ("bridge", 2, 1, {6})
    assert "bridge" in _shown(progress)
    workers = [{"worker": "bridge", "kind": "bridge", "trials": 2, "reason": "free slots"}, ROUND["workers"][0]]  # type: ignore[index]
    assert (
        progress.apply({"type": "round", "round": 2, "workers": workers}) == "round 2: 2 workers: bridge (2), [b]x (3)"
    )
    assert (progress.workers["bridge"].ended, progress.workers["bridge"].running) == (1, {6})
    assert progress.workers["[b]x"].running == set(), "another round's worker of the same name begins anew"
    progress.apply(ended(6, worker="bridge", round=2))
    assert (progress.workers["bridge"].ended, progress.workers["bridge"].running) == (2, set())


def _shown(progress: Progress) -> str:
    console = Console(file=io.StringIO(), width=160, markup=False)
    console.print(view(progress, 0.0))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_decision_that_waits_and_one_before_the_first_round_are_told() -> None:
    progress = Progress()
    assert progress.apply({"type": "review", "round": 0}) == "the decision before round 1 waits for a person's word"
    line = progress.apply({"type": "decision", "round": 0, "kind": "person", "fallback": None, "actions": [ACTION]})
    assert str(line).startswith("decision before round 1, person: continue [repaired]")


def test_the_screen_stands_still_while_a_person_is_asked() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress_shown(console) as listener:
        with listener.paused():
            console.print("what do you say?")
        listener(STUDY)
    assert "what do you say?" in console.file.getvalue()  # type: ignore[attr-defined]
