from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.records import (
    ActionRecord,
    DecisionRecord,
    FinalReport,
    Goal,
    ParamValue,
    Trial,
    TrialState,
    Usage,
    Verdict,
)
from agentic_hpt.report import Findings, summarize, write_report
from agentic_hpt.report.figures import confusion_figure, history_figure
from agentic_hpt.report.plain import duration, number, parameters, visible
from agentic_hpt.report.steered import Steered, on_edge, steered
from agentic_hpt.report.summary import final_sentences, steps, target_sentence
from agentic_hpt.space import Choice, Float, Int, SearchSpace

EVIL = "<script>alert(1)</script>"


def config(**changes: object) -> StudyConfig:
    base: dict[str, object] = {
        "study": "demo",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"float": [0.0, 1.0]}, "layers": {"int": [1, 3]}},
        "budget": {"trials": 10},
    }
    return StudyConfig.from_mapping({**base, **changes})


def trial(number: int, value: float | None = None, **changes: object) -> Trial:
    state = TrialState.FAILED if "failure" in changes else TrialState.COMPLETE if value is not None else None
    fields: dict[str, object] = {
        "id": number,
        "params": {"x": 0.5, "layers": 2},
        "state": state or TrialState.PRUNED,
        "seed": number,
        "worker": "x",
        "kind": "per_parameter",
        "round": 1,
        "values": {} if value is None else {"loss": value},
        "seconds": 2.0,
        **changes,
    }
    return Trial(**fields)  # type: ignore[arg-type]


HISTORY = [
    trial(0, 0.9, kind="default", worker="default", round=0),
    trial(1, 0.7),
    trial(2, 0.8, worker="layers"),
    trial(3),
    trial(4, failure=FailureKind.CRASH, message="first"),
    trial(5, failure=FailureKind.CRASH, message="second", worker="layers", round=2),
    trial(6, failure=FailureKind.NAN, message="nan", round=2),
    trial(7, 0.5, worker="layers", round=2),
    trial(8, 0.1, kind="fresh_seed", worker="final", round=3),
]
FINAL = FinalReport(7, 0.5, 3, 0.52, 0.005, 0.53, 0.02)


def found(status: str = "finalized", final: FinalReport | None = FINAL, trials: list[Trial] | None = None) -> Findings:
    return summarize(config(target=0.51), status, HISTORY if trials is None else trials, [], final, Usage(8, 61.0))


def test_counts_leave_final_trials_out_and_keep_failures_apart() -> None:
    findings = found()
    assert findings.counts == {"running": 0, "complete": 4, "pruned": 1, "failed": 3}
    assert [(f.kind, f.trials, f.message) for f in findings.failures] == [
        (FailureKind.CRASH, (4, 5), "second"),
        (FailureKind.NAN, (6,), "nan"),
    ]
    assert findings.best is not None
    assert findings.best.id == 7, "a fresh-seed trial is no candidate"


def test_trend_and_yields_follow_the_direction() -> None:
    findings = found()
    assert [(s.trial, s.value) for s in findings.trend] == [(0, 0.9), (1, 0.7), (7, 0.5)]
    assert [(w.name, w.trials, w.failed, w.best, w.steps) for w in findings.workers] == [
        ("default", 1, 0, 0.9, 1),
        ("x", 4, 2, 0.7, 1),
        ("layers", 3, 1, 0.5, 1),
    ]
    assert [(r.name, r.trials, r.steps, r.seconds) for r in findings.rounds] == [
        ("round 0", 1, 1, 2.0),
        ("round 1", 4, 1, 8.0),
        ("round 2", 3, 1, 6.0),
    ]
    assert [t.id for t in findings.top] == [7, 1, 2, 0]
    rising = Goal("loss", "maximize")
    assert [s.trial for s in steps(rising, HISTORY)] == [0]


def test_a_lucky_repeat_is_no_improvement_and_the_best_is_told_by_its_mean() -> None:
    small = {"x": 0.1, "layers": 1}
    ran = [trial(1, 0.4, params=small), *(trial(i, v, params=small, kind="repeat") for i, v in ((2, 0.3), (3, 0.56)))]
    findings = found(trials=[trial(0, 0.9), *ran], final=None)
    assert [step.trial for step in findings.trend] == [0, 1]
    assert "Trial 1 was judged by the mean of its 3 runs on other seeds, loss 0.42." in findings.sentences
    once = " ".join(found(trials=[trial(0, 0.9), ran[0]], final=None).sentences)
    assert "judged" not in once


def test_a_default_that_breaks_a_constraint_is_not_told_as_the_better_choice() -> None:
    large = trial(0, 0.1, kind="default", values={"loss": 0.1, "memory": 9.0})
    small = trial(1, 0.5, params={"x": 0.1, "layers": 1}, values={"loss": 0.5, "memory": 1.0})
    said = summarize(config(constraints=["memory <= 4"]), "finalized", [large, small], [], None, Usage()).sentences
    told = "of trial 1; the default configuration had 0.1, but breaks a constraint."
    assert any(sentence.endswith(told) for sentence in said)


def test_an_equal_value_is_no_improvement() -> None:
    assert [s.trial for s in steps(Goal("loss", "minimize"), [trial(0, 0.5), trial(1, 0.5)])] == [0]


def test_imported_trials_lead_but_are_not_counted() -> None:
    findings = found(trials=[trial(0, 0.2, kind="imported", round=0), trial(1, 0.7)])
    assert findings.imported == 1
    assert sum(findings.counts.values()) == 1
    assert findings.best is not None
    assert findings.best.id == 0
    assert [s.trial for s in findings.trend] == [0]
    assert [r.name for r in findings.rounds] == ["round 1"]


def test_sentences_say_the_figures_and_what_is_not_known() -> None:
    said = " ".join(found().sentences)
    for part in ("minimize loss", "0.5, of trial 7", "default configuration had 0.9", "0.52 ± 0.005", "0.53", "1 min"):
        assert part in said
    assert "reached by the best trial, but not by the mean" in said
    running = " ".join(found(status="stopped", final=None).sentences)
    assert "preliminary" in running
    assert "fresh seed" not in running.split("target")[0]
    assert "no best configuration" in " ".join(found(trials=[], final=None).sentences)
    before = [
        trial(0, 0.9, kind="default", params={"x": 0.1, "layers": 2}),
        trial(7, 0.5, params={"x": 0.2, "layers": 2}),
    ]
    assert "default" not in " ".join(found(trials=before, final=None).sentences), "it was another one then"
    assert "failed before its end" in " ".join(found(status="failed").sentences)


@pytest.mark.parametrize(
    ("gap", "sd", "meaning"),
    [
        (-0.01, 0.002, "did not flatter"),
        (0.003, 0.002, "within two SD"),
        (0.02, 0.002, "luck of the draw"),
        (0.02, None, "is not known"),
    ],
)
def test_the_gap_is_judged_against_the_spread_of_seeds(gap: float, sd: float | None, meaning: str) -> None:
    final = FinalReport(1, 0.9, 3, 0.88, sd, None, gap)
    said = final_sentences("accuracy", final.to_json())
    assert meaning in said[-1]
    assert any("no holdout score" in sentence for sentence in said)


def test_missing_fresh_seeds_are_said() -> None:
    said = final_sentences("loss", FinalReport(1, 0.9, 0, None, None, 0.4, None).to_json())
    assert "how much of its figure is luck is not known" in said[0]
    failed = final_sentences("loss", FinalReport(1, 0.9, 1, 0.9, None, None, None, failed_seeds=2).to_json())
    assert "1 fresh seed," in failed[0]
    assert failed[1].startswith("2 trainings")


def test_target_sentence() -> None:
    goal = Goal("acc", "maximize", 0.9)
    assert target_sentence(Goal("acc"), 1.0, 1.0) is None
    assert "was not reached" in str(target_sentence(goal, 0.8, None))
    assert "did not test it" in str(target_sentence(goal, 0.95, None))
    assert "holds on fresh seeds" in str(target_sentence(goal, 0.95, 0.91))


def test_a_target_that_ended_the_search_is_not_said_to_be_missed() -> None:
    """It is reached by the mean of repeats, or by another one than the finalist that wins."""
    goal = Goal("acc", "maximize", 0.9)
    assert "by the mean of its runs; fresh seeds did not test it" in str(target_sentence(goal, 0.88, None, ended=True))
    assert "in the search, but not by the mean over fresh seeds" in str(target_sentence(goal, 0.88, 0.87, ended=True))
    end = ActionRecord("finalize", "reached", (), "accepted", "", {"stopped_by": "target"})
    told = summarize(config(target=0.4), "finalized", HISTORY, [DecisionRecord(2, "policy", (end,))], FINAL, Usage())
    assert not any("not reached" in sentence for sentence in told.sentences)


def test_text_from_outside_is_made_harmless() -> None:
    assert visible("a\x1b[31m\nb\u202e\ud800") == "a\\x1b[31m\\nb\\u202e\\ud800"
    assert visible("größe 日本") == "größe 日本"
    assert parameters({"a\nb": "x\x07", "lr": 0.000123456, "flag": True, "none": None}) == (
        "a\\nb=x\\x07 lr=0.00012346 flag=true none=null"
    )
    assert [number(v) for v in (3, 0.1 + 0.2, 12345.6, -0.0)] == ["3", "0.3", "12346", "0"]
    assert [duration(s) for s in (None, 0.42, 41.2, 725, 11220)] == ["–", "0.42 s", "41 s", "12 min 05 s", "3 h 07 min"]


def page(path: Path, **changes: object) -> str:
    options: dict[str, object] = {
        "config": config(description=EVIL),
        "status": "finalized",
        "trials": HISTORY,
        "decisions": [],
        "final": FINAL,
        "artifacts": None,
        "usage": Usage(8, 61.0),
        **changes,
    }
    return write_report(path / "deep" / "report.html", **options).read_text(encoding="utf-8")  # type: ignore[arg-type]


def test_page_escapes_whatever_comes_from_outside(tmp_path: Path) -> None:
    action = ActionRecord("continue", EVIL, (1, 2), "refused", EVIL)
    text = page(
        tmp_path,
        trials=[
            trial(0, 0.5, worker=EVIL, params={"x": EVIL}),
            trial(1, failure=FailureKind.CRASH, message=EVIL + "\x1b[2J"),
        ],
        decisions=[DecisionRecord(1, "llm", (action,), fallback=EVIL)],
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "\x1b" not in text


def test_page_needs_nothing_from_outside_and_shows_the_findings(tmp_path: Path) -> None:
    action = ActionRecord("finalize", "the target holds", (7,), "repaired", "one trial more")
    text = page(tmp_path, decisions=[DecisionRecord(2, "policy", (action,))])
    assert not re.search(r"https?:|src=\"(?!data:)|href=|@import|url\(", text)
    assert text.count("data:image/png;base64,") == 1
    for part in (
        "0.52 ± 0.005",
        "the target holds",
        'class="repaired"',
        "Guard: one trial more",
        "1 min 01 s",
        "crash",
    ):
        assert part in text
    assert "confusion matrix" not in text
    assert "prefers-color-scheme: dark" in text


def test_page_of_a_study_without_trials(tmp_path: Path) -> None:
    text = page(tmp_path, trials=[], final=None, status="running", usage=Usage())
    assert "no best configuration" in text
    assert "data:image" not in text


def test_page_shows_the_holdout_only_when_it_can_be_read(tmp_path: Path) -> None:
    holdout = tmp_path / "holdout.json"
    final = FinalReport(7, 0.5, 3, 0.52, 0.005, 0.53, 0.02, model_dir=str(tmp_path / "model"))
    holdout.write_text(json.dumps({"labels": ["cat", "dog"], "true": [0, 1, 1], "predicted": [0, 1, 0]}))
    assert "confusion matrix" in page(tmp_path, final=final)
    assert "confusion matrix" in page(tmp_path, artifacts=tmp_path)
    holdout.write_text('{"labels": ["cat"], "true": [5], "predicted": [5]}')
    assert "confusion matrix" not in page(tmp_path, final=final)


def test_the_page_says_how_often_the_holdout_was_scored(tmp_path: Path) -> None:
    for looks, said in ((1, "scored once"), (2, "scored 2 times")):
        assert f"holdout, {said}<" in page(tmp_path / "report.html", final=replace(FINAL, looks=looks))


def test_a_place_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=re.escape("report.html can't be written")):
        page(tmp_path / "file")


def test_history_figure_is_a_png_for_any_history(tmp_path: Path) -> None:
    histories: list[list[Trial]] = [HISTORY, [], [trial(0)], [trial(0, 1e-6), trial(1, 1e6), trial(2, 5.0)]]
    for index, history in enumerate(histories):
        figure = history_figure(Goal("loss $x_1$ %", "minimize", 0.1), history, tmp_path / f"{index}.png")
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_confusion_figure_refuses_another_content(tmp_path: Path) -> None:
    file = tmp_path / "holdout.json"
    file.write_text('{"labels": ["a", "b"], "true": [0], "predicted": [0, 1]}')
    with pytest.raises(ValueError, match="longer"):
        confusion_figure(file, tmp_path / "c.png")


@dataclass(frozen=True)
class Effect:
    round: int
    position: int
    stated: float = 0.1
    window: int = 20
    gain: float | None = 0.2
    trials: int = 20
    status: Literal["open", "came", "missing", "reversed"] = "came"


def acted(type_: str, verdict: Verdict = "accepted", by: str = "", **detail: object) -> ActionRecord:
    return ActionRecord(type_, f"why {type_}", (), verdict, "", detail, by=by)


STEERED = [
    DecisionRecord(1, "llm", (acted("freeze", parameter="layers", range={"values": [2]}),), asked="an early round"),
    DecisionRecord(
        2,
        "rules",
        (
            acted("unfreeze", by="policy", parameter="layers"),
            acted("narrow", parameter="x", range={"low": 0.1, "high": 0.5}),
            acted("narrow", "refused", parameter="layers", range={"low": 1, "high": 2}),
            acted("prioritise", parameters=["x"]),
        ),
        fallback="no answer",
        review="approve",
    ),
    DecisionRecord(3, "rules", (acted("widen", parameter="x", range={"low": 0.0, "high": 0.6}),)),
    DecisionRecord(4, "rules", (acted("prioritise", parameters=[]),)),
]


def test_who_ended_a_limit_is_named_in_plain_words() -> None:
    ended = replace(STEERED[-1], kind="llm")
    assert [entry.until for entry in steered([*STEERED[:-1], ended])][2] == "taken back after round 4 by the model"


def test_what_steered_a_study_is_listed_with_what_ended_it() -> None:
    assert steered(STEERED) == (
        Steered("freeze layers at 2", 1, "llm", "taken back after round 2 by the policy"),
        Steered("narrow x to 0.1 to 0.5", 2, "rules", "changed after round 3 by the rules"),
        Steered("prioritise x", 2, "rules", "taken back after round 4 by the rules"),
        Steered("widen x to 0 to 0.6", 3, "rules", ""),
    )
    assert steered([]) == ()
    said = " ".join(summarize(config(), "finalized", HISTORY, STEERED, FINAL, Usage(8, 61.0)).sentences)
    assert "steered by 4 limits or priorities; at the end widen x to 0 to 0.6." in said
    assert "steered" not in " ".join(found().sentences)


def test_the_page_shows_actions_who_asked_and_effects(tmp_path: Path) -> None:
    text = page(tmp_path, decisions=STEERED, effects=[Effect(1, 0, status="reversed"), Effect(2, 3)])
    for part in (
        "<td>freeze layers at 2</td>",
        "the model",
        "asking: an early round",
        "this one: policy",
        "instead of the model: no answer",
        "a person said: approve",
        "Effect: stated a gain of 0.1 within 20 trials; after 20 trials the best is better by 0.2: the action was",
        "What steered this study",
        "taken back after round 2 by the policy",
    ):
        assert part in text
    assert text.count("Effect: ") == 2
    assert text.index("why prioritise") < text.index("it came"), "an effect stands beside its own action"
    assert "What steered this study" not in page(tmp_path)


@pytest.mark.parametrize(
    ("params", "edges"),
    [
        ({"x": 0.5, "rate": 0.01, "layers": 2, "size": 32, "kind": "a"}, []),
        ({"x": 0.995, "rate": 1.02e-4, "layers": 3, "size": 64, "kind": "a"}, ["x", "rate", "layers", "size"]),
        ({"x": 0.02, "rate": 2e-4, "layers": 1, "size": 16, "kind": "b"}, ["layers", "size"]),
    ],
)
def test_parameters_on_an_edge_of_what_was_declared_are_named(params: dict[str, ParamValue], edges: list[str]) -> None:
    space = SearchSpace(
        x=Float(0.0, 1.0),
        rate=Float(1e-4, 1e-1, log=True),
        layers=Int(1, 3),
        size=Choice([16, 32, 64], ordered=True),
        kind=Choice(["a", "b"]),
    )
    assert [edge.parameter for edge in on_edge(space, params)] == edges


def test_the_best_on_an_edge_is_told_with_the_advice() -> None:
    findings = found(trials=[trial(0, 0.5, params={"x": 0.5, "layers": 3})])
    (said,) = (s for s in findings.sentences if "edge" in s)
    assert "layers (3, the highest)" in said
    assert "declare a wider range" in said
    assert not any("edge" in s for s in found().sentences)
