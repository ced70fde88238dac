"""`hpt explain`: the story of a study, from made-up histories and from real ones."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.records import ActionRecord, DecisionRecord, FinalReport, Note, Params, Trial, TrialState, Usage
from agentic_hpt.report.actions import action_words, effect_words, range_words
from agentic_hpt.report.explain import Explanation, explain
from agentic_hpt.report.telling import lines
from agentic_hpt.study.telling import explain_study
from agentic_hpt.testing import ScriptedChatModel, bowl, decide


@dataclass(frozen=True)
class Effect:
    round: int = 1
    position: int = 0
    stated: float = 0.1
    window: int = 20
    gain: float | None = 0.2
    trials: int = 20
    status: Literal["open", "came", "missing", "reversed"] = "came"


def config(**changes: object) -> StudyConfig:
    base: dict[str, object] = {
        "study": "demo",
        "metric": "accuracy",
        "space": {"rate": {"float": [0.0, 1.0]}, "layers": {"int": [1, 9]}},
        "budget": {"trials": 100},
    }
    return StudyConfig.from_mapping({**base, **changes})


def trial(number: int, round_: int, value: float | None, params: Params | None = None, **changes: object) -> Trial:
    made = Trial(
        id=number,
        params=params or {"rate": 0.5, "layers": number % 9 + 1},
        state=TrialState.COMPLETE if value is not None else TrialState.FAILED,
        seed=number,
        worker="layers",
        kind="per_parameter",
        round=round_,
        values={} if value is None else {"accuracy": value},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def action(type_: str = "continue", verdict: str = "accepted", **changes: object) -> ActionRecord:
    made = ActionRecord(type_, f"why {type_}", (), verdict, f"guard of {type_}")  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


TRIALS = [
    trial(0, 1, 0.5, {"rate": 0.5, "layers": 2}, worker="default", kind="default"),
    trial(1, 1, 0.7, {"rate": 0.5, "layers": 4}),
    trial(2, 1, None),
    trial(3, 2, 0.6, {"rate": 0.9, "layers": 4}, worker="rate"),
    trial(4, 3, 0.95, {"rate": 0.1, "layers": 4}, worker="proposals", kind="proposals"),
]
FREEZE = action("freeze", evidence=(1, 0), detail={"parameter": "layers", "range": {"values": [4]}})
DECISIONS = [
    DecisionRecord(1, "rules", (FREEZE,), fallback="no answer within 60 s", asked="an early round"),
    DecisionRecord(
        2,
        "llm",
        (
            action("unfreeze", by="policy", detail={"parameter": "layers"}),
            action("propose", "repaired", detail={"configurations": [{}], "hypotheses": [""], "expected": [None]}),
            action("finalize", "refused"),
        ),
        tokens=700,
        notes=(1,),
        review="edit: less",
    ),
    DecisionRecord(3, "policy", (action("finalize", reason="the target 0.9 is reached", evidence=(4,)),)),
]
FINAL = FinalReport(4, 0.95, 3, 0.91, 0.01, None, 0.04)


def story(**changes: object) -> Explanation:
    parts: dict[str, object] = {
        "config": config(target=0.9, coordinator={"model": "openai:m"}),
        "status": "finalized",
        "stopped_by": "target",
        "trials": TRIALS,
        "decisions": DECISIONS,
        "final": FINAL,
        "usage": Usage(5, 12.0, 2, 700),
        "effects": [Effect()],
        "noise_sd": 0.01,
        "notes": [Note(1, "mind the memory", 0.0), Note(2, "not seen yet", 0.0)],
        **changes,
    }
    return explain(**parts)  # type: ignore[arg-type]


def test_each_chapter_has_the_decision_what_ran_and_what_it_brought() -> None:
    first, second, third, end = story().chapters
    assert first.decided is None
    assert [(w.worker, w.trials, w.failed, w.best) for w in first.work] == [
        ("default", 1, 0, 0.5),
        ("layers", 2, 1, 0.7),
    ]
    assert (first.before, first.after, first.best, first.gain) == (None, 0.7, 1, None)
    assert second.decided is not None
    assert (second.round, second.decided.round, second.gain, second.beyond_noise) == (2, 1, 0.0, None)
    assert (third.gain, third.beyond_noise, third.worker) == (pytest.approx(0.25), True, "proposals")
    assert end.work == ()
    assert end.decided is not None
    assert end.decided.by == "the policy"


def test_the_story_reads_in_the_order_in_which_it_happened() -> None:
    told = "\n".join(lines(story()))
    found = [
        told.index(part)
        for part in (
            "demo: 2 parameters were searched to maximize accuracy.",
            "Seeds alone move the figure by 0.01",
            "Round 1, before any decision",
            "Ran: 3 trials: default 1 (best 0.5), layers 2 (best 0.7, 1 failed)",
            "Brought: accuracy 0.7 (trial 1, layers), the first figure",
            "After round 1 the rules decided, in place of the model",
            "The model could not be used: no answer within 60 s",
            "About asking the model: an early round",
            "freeze layers at 4 [accepted]: why freeze",
            "guard: guard of freeze",
            "rests on: trial 1, 0.7, the best then; trial 0, 0.5 (layers 2 instead of 4)",
            "effect: stated a gain of 0.1 within 20 trials; after 20 trials the best is better by 0.2: it came",
            "Round 2 ran: 1 trial: rate 1 (best 0.6)",
            "Brought: nothing better; the best stays accuracy 0.7 (trial 1, layers)",
            "After round 2 the model openai:m decided",
            "A person's note was read: mind the memory",
            "A person reviewed it: edit: less",
            "It cost 700 tokens",
            "unfreeze layers [accepted, by the policy]",
            "propose 1 configuration [repaired]",
            "finalize [refused]",
            "Brought: 0.7 -> accuracy 0.95 (trial 4, proposals), better by 0.25, beyond noise; rate 0.5 -> 0.1",
            "After round 3 the policy decided",
            "The end",
            "ended by target: the target 0.9 is reached",
            "2 calls of the model, 700 tokens",
            "stood in for the model 1 time",
            "0.91 ± 0.01",
            "Selection gap 0.04",
            "was reached, and holds on fresh seeds",
        )
    ]
    assert found == sorted(found)
    assert "not seen yet" not in told


def test_an_opening_decision_stands_before_the_first_round() -> None:
    opening = DecisionRecord(0, "llm", (action("propose", detail={"configurations": [{}, {}]}),))
    told = story(decisions=[opening, *DECISIONS])
    assert told.chapters[0].decided is not None
    assert told.chapters[0].decided.round == 0
    text = lines(told)
    assert "Before the first round the model openai:m decided" in text
    assert "  Round 1 ran: 3 trials: default 1 (best 0.5), layers 2 (best 0.7, 1 failed)" in text


def test_routine_is_told_briefly() -> None:
    spawn = action("spawn", detail={"worker": "joint", "parameters": ["rate"], "trials": 3})

    def told(effect: Effect, verdict: str = "accepted") -> str:
        decisions = [DecisionRecord(1, "rules", (replace(spawn, verdict=verdict),))]  # type: ignore[arg-type]
        return "\n".join(lines(story(decisions=decisions, effects=[effect])))

    nothing = told(Effect(stated=0.0, status="missing"))
    assert "spawn a joint worker for rate: 3 trials [accepted]" in nothing
    assert "guard of spawn" not in nothing
    assert "effect: " not in nothing
    assert "  The spawned worker brought no gain beyond noise" in nothing.splitlines()
    assert "guard of spawn" in told(Effect(), "repaired")
    assert "effect: stated" in told(Effect(stated=0.1, status="missing"))
    assert "  The spawned worker brought a gain beyond noise" in told(Effect(stated=0.0)).splitlines()
    assert "The spawned worker" not in told(Effect(stated=0.0, status="open"))


def test_spawned_workers_that_brought_nothing_are_told_of_too() -> None:
    spawn = action("spawn", detail={"worker": "joint", "parameters": ["rate"], "trials": 3})
    effects = [
        Effect(stated=0.0, status="missing"),
        Effect(position=1, stated=0.0, status="came"),
        Effect(position=2, stated=0.0, status="missing"),
    ]
    told = story(decisions=[DecisionRecord(1, "rules", (spawn, spawn, spawn))], effects=effects)
    assert "  Of 3 spawned workers 1 brought a gain beyond noise" in lines(told)
    assert "  Of 3 spawned workers 1 brought a gain" in lines(replace(told, noise_sd=None))
    decided = told.chapters[1].decided
    assert decided is not None
    assert [act.outcome for act in decided.acts] == ["missing", "came", "missing"]
    assert all("any gain beyond noise would do" in act.effect for act in decided.acts), "the document has each"
    none = story(
        decisions=[DecisionRecord(1, "rules", (spawn, spawn))], effects=[effects[0], replace(effects[2], position=1)]
    )
    assert "  Of 2 spawned workers none brought a gain beyond noise" in lines(none)


def test_spawned_workers_of_rounds_told_together_are_summed() -> None:
    trials, decisions = long_history(30, type_="spawn", detail={"worker": "joint", "trials": 1})
    effects = [Effect(round=n, stated=0.0, status="came" if n == 5 else "missing") for n in range(1, 30)]
    text = lines(story(trials=trials, decisions=decisions, effects=effects))
    place = text.index("Rounds 2 to 15, told together")
    assert "  Of 14 spawned workers 1 brought a gain beyond noise" in text[place : place + 5]


def test_a_running_study_is_told_up_to_now() -> None:
    trials = [*TRIALS[:4], trial(4, 3, None, state=TrialState.RUNNING)]
    told = story(status="running", stopped_by=None, trials=trials, decisions=DECISIONS[:2], final=None)
    text = "\n".join(lines(told))
    assert "has not ended, it is running" in text
    assert "1 running" in text
    assert "Retrained" not in text
    nothing = story(status="running", stopped_by=None, trials=[], decisions=[], final=None, usage=Usage())
    assert nothing.chapters == ()
    assert "0 trials" in lines(nothing)[-2]


def test_it_is_said_when_no_decision_knew_the_noise() -> None:
    assert "measured at the end" in "\n".join(lines(story(noise_afterwards=True)))
    assert "measured at the end" not in "\n".join(lines(story()))


def test_what_is_not_known_of_noise_is_said() -> None:
    told = story(noise_sd=None)
    assert told.chapters[2].beyond_noise is None
    text = "\n".join(lines(told))
    assert "was not measured" in text
    assert "noise" not in text.split("The end")[0].split("better by 0.25")[1].split("\n")[0]
    assert "same figure, so every gain counts" in "\n".join(lines(story(noise_sd=0.0)))
    unsure = story(beyond_noise=lambda gain, sd: gain > 30 * sd)
    assert "better by 0.25, within the noise" in "\n".join(lines(unsure))


def test_a_best_that_other_seeds_do_not_bear_out_is_a_loss() -> None:
    again = trial(4, 2, 0.5, TRIALS[1].params, kind="repeat", worker="repeat")
    told = story(trials=[*TRIALS[:2], again], decisions=DECISIONS[:1], final=None)
    assert (told.chapters[1].after, told.chapters[1].gain) == (0.6, pytest.approx(-0.1))
    assert "down from 0.7: on other seeds the best was not as good" in "\n".join(lines(told))


def long_history(rounds: int, **changes: object) -> tuple[list[Trial], list[DecisionRecord]]:
    trials = [trial(n, n + 1, 0.5 if n < rounds // 2 else 0.8) for n in range(rounds)]
    decisions = [DecisionRecord(n, "rules", (action(**changes),)) for n in range(1, rounds)]  # type: ignore[arg-type]
    end = DecisionRecord(rounds, "policy", (action("finalize"),))
    return trials, [*decisions, end]


def test_uneventful_rounds_are_told_together() -> None:
    trials, decisions = long_history(60)
    decisions[9] = DecisionRecord(10, "rules", (FREEZE,))
    told = story(trials=trials, decisions=decisions)
    assert len(told.chapters) == 61, "the document has all of them"
    text = lines(told)
    assert len(text) < 60
    together = [line for line in text if "told together" in line]
    assert together == [
        "Rounds 2 to 10, told together",
        "Rounds 12 to 30, told together",
        "Rounds 32 to 60, told together",
    ]
    assert "  Decided by the rules 19 times: continue 19" in text
    assert "  Ran: 19 trials" in text
    assert "After round 30 the rules decided" in text, "the round that brought the gain is told at length"
    assert "After round 10 the rules decided" in text


def test_a_study_in_which_every_round_is_eventful_is_cut_too() -> None:
    trials, decisions = long_history(200, detail={"parameter": "layers", "range": {"values": [4]}}, type_="freeze")
    trials[77] = replace(trials[77], values={"accuracy": 0.7})
    text = lines(story(trials=trials, decisions=decisions))
    assert len(text) < 200
    assert sum(line.startswith("After round") for line in text) <= 24
    assert "After round 77 the rules decided" in text, "gains are told before all else"
    assert "After round 100 the rules decided" in text
    assert any("freeze" in line and "Decided by" in line for line in text)


def test_trials_that_were_there_before_are_a_chapter_of_their_own() -> None:
    earlier = trial(0, 0, 0.9, kind="imported", worker="imported")
    told = story(trials=[earlier, trial(1, 1, 0.7)], decisions=[], final=None, status="stopped")
    assert [c.round for c in told.chapters] == [0, 1]
    text = lines(told)
    assert "Before the first round" in text
    assert "  1 trial came from an earlier study." in text


def test_a_round_in_a_revised_space_is_not_said_to_run_before_any_decision() -> None:
    text = lines(story(trials=[trial(0, 1, 0.7), trial(1, 3, 0.8)], decisions=[], final=None, status="failed"))
    assert "Round 1, before any decision" in text
    assert "Round 3, without a decision before it" in text
    assert any(line.strip().startswith("The study failed, ended by") for line in text)


def test_the_document_is_plain_data() -> None:
    document = json.loads(json.dumps(story().to_json()))
    assert set(document) == {
        "study",
        "status",
        "stopped_by",
        "metric",
        "direction",
        "noise_sd",
        "begin",
        "chapters",
        "end",
    }
    act = document["chapters"][1]["decided"]["acts"][0]
    assert act["what"] == "freeze layers at 4"
    assert act["evidence"][1] == {
        "trial": 0,
        "value": 0.5,
        "state": "complete",
        "best": False,
        "differs": [["layers", 2, 4]],
    }


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2Jgone\n"
    decisions = [
        DecisionRecord(1, "llm", (action(reason=evil, verdict_reason=evil, by=evil),), fallback=evil, review=evil)
    ]
    trials = [replace(t, worker=evil) for t in TRIALS[:3]]
    told = lines(story(trials=trials, decisions=decisions, notes=[Note(1, evil, 0.0)]))
    assert all(line.isprintable() for line in told)


@pytest.mark.parametrize(
    ("type_", "verdict", "detail", "asked", "words"),
    [
        (
            "narrow",
            "accepted",
            {"parameter": "rate", "range": {"low": 0.1, "high": 0.5}},
            {},
            "narrow rate to 0.1 to 0.5",
        ),
        ("narrow", "refused", {}, {"parameter": "rate", "low": 0.1, "high": 0.5}, "narrow rate to 0.1 to 0.5"),
        ("widen", "accepted", {"parameter": "rate"}, {}, "widen rate to all its values"),
        ("freeze", "refused", {}, {"parameter": "rate"}, "freeze rate"),
        ("prioritise", "accepted", {"parameters": ["a", "b"]}, {}, "prioritise a, b"),
        ("prioritise", "accepted", {"parameters": []}, {}, "prioritise nothing any more"),
        (
            "spawn",
            "accepted",
            {"worker": "group", "parameters": ["a", "b"], "trials": 8, "region": {}},
            {},
            "spawn a group worker for a, b: 8 trials",
        ),
        ("repeat", "accepted", {"trial": 4, "seeds": 2}, {}, "repeat trial 4 on 2 seeds"),
        ("stop_trial", "refused", {}, {"trial": 4}, "stop trial 4"),
        ("finalize", "accepted", {"stopped_by": "target"}, {}, "finalize"),
    ],
)
def test_actions_in_words(
    type_: str, verdict: str, detail: dict[str, object], asked: dict[str, object], words: str
) -> None:
    assert action_words(action(type_, verdict, detail=detail, asked=asked)) == words


def test_ranges_and_effects_in_words() -> None:
    assert range_words({"values": list(range(9))}) == "0, 1, 2, 3, 4, 5 and 3 more"
    assert "no trial of it has ended: it is still open" in effect_words(Effect(trials=0, gain=None, status="open"))
    assert "none has a value: it did not come" in effect_words(Effect(gain=None, status="missing"))
    assert "worse by 0.3 than before: the action was taken back" in effect_words(Effect(gain=-0.3, status="reversed"))
    assert effect_words(Effect(stated=0.0)).startswith("any gain beyond noise would do within 20 trials")


def tuned(folder: Path, **options: object) -> hpt.Result:
    described: dict[str, object] = {
        "study": "bowl",
        "budget": hpt.Budget(trials=20),
        "fresh_seeds": 2,
        "executor": "inline",
        "mlflow": {"enabled": False},
        **options,
    }
    space = {"x": hpt.Float(0.0, 10.0, default=5.0), "y": hpt.Float(0.0, 10.0, default=5.0)}
    return hpt.tune(bowl(x=1.25, y=8.5), space, metric="score", home=folder, **described)  # type: ignore[arg-type]


def test_the_command_tells_a_real_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tuned(tmp_path)
    assert main(["explain", "bowl", "--home", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("bowl: 2 parameters were searched to maximize score.\n")
    assert result.best is not None
    found = result.best.values["score"]
    assert f"score {found:.5g} (trial {result.best.id}, " in told
    assert "ended by budget.trials: all 20 trials are spent" in told
    assert all(f"Round {d.round + 1} ran: " in told for d in result.decisions[:-1])
    ran = [int(count) for count in re.findall(r"an: (\d+) trials?:", told)]
    assert sum(ran) == 20, "every trial is told once"


def test_the_command_tells_what_a_model_decided_before_the_first_round(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proposal = decide("propose", configurations=[{"params": {"x": 1.25, "y": 8.5}, "hypothesis": "it is there"}])
    result = tuned(tmp_path, coordinator=ScriptedChatModel(answers=[proposal, decide("continue")]))
    assert result.decisions[0].round == 0
    document = explain_study(hpt.Study.open("bowl", tmp_path)).to_json()
    first = cast(list[dict[str, Any]], document["chapters"])[0]
    assert first["decided"]["acts"][0]["what"] == "propose 1 configuration"
    assert first["round"] == 1
    assert {work["kind"] for work in first["work"]} >= {"default", "proposals"}
    assert first["after"] == 0.0
    text = lines(explain_study(hpt.Study.open("bowl", tmp_path)))
    assert "Before the first round the model ScriptedChatModel decided" in text, "it is the one that was asked then"
    assert any(line.strip().startswith("About asking the model: before the first round") for line in text)


def test_what_is_told_of_a_study_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["explain", "nothing", "--home", str(tmp_path)]) == 2
    assert "no study named 'nothing'" in capsys.readouterr().err
