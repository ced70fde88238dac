"""The ledger on SQLite and PostgreSQL: budgets, attempts, one transaction an answer, the outbox, other processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentic_hpt.errors import FailureKind, LedgerError, StoreVersionError, StudyExists, StudyNotFound
from agentic_hpt.ledger import LedgerStore, StudyLedger, open_outbox, schema
from agentic_hpt.ledger.study_ledger import trial_seed
from agentic_hpt.records import (
    ActionRecord,
    Budget,
    DecisionRecord,
    FinalReport,
    ModelCall,
    Outcome,
    Report,
    Trial,
    TrialState,
    WorkerKind,
)
from ledger_homes import BUDGET, KINDS, Home, opened

PARAMS = {"lr": 0.1 + 0.2, "n": 3, "opt": "adam", "flag": True, "reg": None}
DONE = Outcome.complete({"accuracy": 1 / 3, "loss": 0.5}, seconds=1.5, reports=(Report(0, {"accuracy": 0.1}),))


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    yield from opened(request, tmp_path)


def reserve(ledger: StudyLedger, kind: WorkerKind = "joint", round_: int = 1, worker: str = "w") -> Trial | None:
    return ledger.reserve(round_=round_, worker=worker, kind=kind, params=PARAMS, tuned=("lr", "n"))


def run(ledger: StudyLedger, outcome: Outcome = DONE, kind: WorkerKind = "joint", round_: int = 1) -> Trial:
    trial = reserve(ledger, kind, round_)
    assert trial is not None
    return ledger.finish(trial.id, ledger.start(trial.id).attempt, outcome)


# -- a trial's way --------------------------------------------------------------------------------------------------


def test_a_trial_is_reserved_started_and_finished(home: Home) -> None:
    ledger = home.open()
    reserved = reserve(ledger)
    assert reserved == Trial(
        0, PARAMS, TrialState.RUNNING, trial_seed(7, 0), "w", "joint", 1, tuned=("lr", "n"), attempt=0
    )
    started = ledger.start(0)
    assert started == replace(reserved, attempt=1)
    finished = ledger.finish(0, 1, DONE)
    assert finished == replace(
        started,
        state=TrialState.COMPLETE,
        values={"accuracy": 1 / 3, "loss": 0.5},
        seconds=1.5,
        reports=(Report(0, {"accuracy": 0.1}),),
    )
    assert list(ledger.trials()) == [finished]
    assert ledger.trial(0) == finished
    assert home.sql("select attempt, state from hpt_attempts") == [(1, "complete")]


@pytest.mark.parametrize(
    "outcome",
    [
        DONE,
        Outcome.pruned(seconds=0.5, reports=(Report(0, {"m": 1.0}), Report(1, {"m": 2.0, "k": -1e-300}))),
        Outcome.failed(FailureKind.OUT_OF_MEMORY, "tried to allocate ✗\n'\";", seconds=0.0),
        Outcome.complete({"accuracy": 1.0}, reports=tuple(Report(step, {"a": step / 7}) for step in (3, 1, 2))),
    ],
)
def test_what_is_read_from_disk_is_what_was_told(home: Home, outcome: Outcome) -> None:
    ledger = home.open()
    finished = run(ledger, outcome)
    reserve(ledger)
    again = home.open()
    assert list(again.trials()) == list(ledger.trials())
    assert again.trial(0) == finished
    assert again.trial(0).reports == outcome.reports
    assert [type(v) for v in again.trial(0).params.values()] == [type(v) for v in PARAMS.values()]
    assert again.usage() == ledger.usage()
    assert again.of_assignment(1, "joint", "w") == ledger.of_assignment(1, "joint", "w") == list(ledger.trials())


def test_values_of_trials_that_are_not_complete_are_dropped(home: Home) -> None:
    ledger = home.open()
    told = run(ledger, Outcome(TrialState.FAILED, {"accuracy": 0.9}, FailureKind.CRASH, "x"))
    assert told.values == {}
    assert home.open().trial(0).values == {}


def test_of_assignment_keeps_rounds_and_workers_apart(home: Home) -> None:
    ledger = home.open(Budget())
    for round_, worker in [(1, "lr"), (1, "n"), (2, "lr"), (1, "lr")]:
        reserve(ledger, round_=round_, worker=worker)
    for found in (ledger, home.open(Budget())):
        assert [t.id for t in found.of_assignment(1, "joint", "lr")] == [0, 3]
        assert [t.id for t in found.of_assignment(1, "joint", "n")] == [1]
        assert found.of_assignment(3, "joint", "lr") == []


def test_an_unknown_trial_is_named(home: Home) -> None:
    ledger = home.open()
    for call in (ledger.trial, ledger.start, lambda n: ledger.finish(n, 1, DONE)):
        with pytest.raises(LedgerError, match="no trial 5"):
            call(5)


def test_seeds_are_stable_and_differ() -> None:
    assert [trial_seed(0, n) for n in range(3)] == [713683445, 1419524863, 1323506485]
    seeds = {trial_seed(s, n) for s in range(20) for n in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**31 for s in seeds)


def test_a_seed_may_be_given(home: Home) -> None:
    ledger = home.open()
    trial = ledger.reserve(round_=1, worker="w", kind="fresh_seed", params=PARAMS, tuned=(), seed=5)
    assert trial is not None
    assert trial.seed == home.open().trial(0).seed == 5


# -- budget ---------------------------------------------------------------------------------------------------------


def test_the_budget_is_exact_whatever_becomes_of_trials(home: Home) -> None:
    ledger = home.open()
    run(ledger, Outcome.failed(FailureKind.CRASH, "x"))
    run(ledger, Outcome.pruned())
    assert reserve(ledger) is not None
    assert reserve(ledger) is None
    assert home.open().usage().trials == ledger.usage().trials == 3
    assert reserve(home.open()) is None
    assert home.sql("select count(*) from hpt_trials") == [(3,)]


def test_final_and_imported_trials_are_not_counted(home: Home) -> None:
    ledger = home.open()
    assert ledger.import_trials([Trial(0, PARAMS, TrialState.COMPLETE, 0, "w", "joint", 4, values={"m": 1.0})] * 4) == 4
    for _ in range(3):
        run(ledger)
    run(ledger, kind="fresh_seed")
    run(ledger, kind="holdout")
    for found in (ledger, home.open()):
        assert reserve(found) is None
        assert found.usage().trials == 3
        assert [t.kind for t in found.trials()] == ["imported"] * 4 + ["joint"] * 3
        assert found.trial(8).kind == "holdout"
        assert [t.id for t in found.trials()] == list(range(7))


def test_without_a_budget_of_trials_there_is_no_limit(home: Home) -> None:
    ledger = home.open(Budget(minutes=1))
    assert all(reserve(ledger) is not None for _ in range(20))


def test_threads_can_not_exceed_the_budget(home: Home) -> None:
    ledger = home.open(Budget(trials=10))
    refused: list[LedgerError] = []

    def take() -> None:
        for _ in range(6):
            try:
                reserve(ledger)
            except LedgerError as error:  # two took the same number: one is refused, and may ask again
                refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while reserve(ledger) is not None:
        pass
    assert home.sql("select count(*), count(distinct number) from hpt_trials") == [(10, 10)]
    assert ledger.usage().trials == 10


def test_a_second_driver_of_the_same_study_is_refused(home: Home) -> None:
    first, second = home.open(), home.open()
    reserve(first)
    with pytest.raises(LedgerError, match="second entry"):
        reserve(second)
    first.start(0)
    assert home.sql("select count(*) from hpt_trials") == [(1,)]


def test_running_time_adds_up(home: Home) -> None:
    ledger = home.open()
    ledger.add_seconds(1.5)
    home.open().add_seconds(2.0)
    assert home.open().usage().seconds == 3.5
    assert home.store().find("digits").seconds == 3.5


# -- attempts -------------------------------------------------------------------------------------------------------


def test_after_a_kill_a_trial_runs_again_as_the_next_attempt(home: Home) -> None:
    killed = home.open()
    reserve(killed)
    killed.start(0)
    ledger = home.open()
    assert ledger.trial(0).state is TrialState.RUNNING
    assert ledger.start(0).attempt == 2
    assert home.sql("select attempt, state, ended is null from hpt_attempts order by attempt") == [
        (1, "lost", 0),
        (2, "running", 1),
    ]
    with pytest.raises(LedgerError, match="attempt 1 of trial 0 is refused: it is at 2"):
        ledger.finish(0, 1, DONE)
    finished = ledger.finish(0, 2, DONE)
    assert finished.attempt == 2
    assert home.open().trial(0) == finished
    assert home.sql("select state from hpt_attempts order by attempt") == [("lost",), ("complete",)]
    assert home.open().usage().trials == 1


def test_the_late_answer_of_a_paused_driver_is_refused(home: Home) -> None:
    paused = home.open()
    reserve(paused)
    paused.start(0)
    ledger = home.open()
    ledger.start(0)
    with pytest.raises(LedgerError, match="changed by another process"):
        paused.finish(0, 1, DONE)
    assert home.sql("select state, attempt, metrics from hpt_trials") == [("running", 2, "{}")]
    assert home.sql("select count(*) from hpt_reports") == [(0,)]
    ledger.finish(0, 2, Outcome.pruned())
    assert home.open().trial(0).state is TrialState.PRUNED


def test_of_two_drivers_answers_for_one_attempt_the_first_stays(home: Home) -> None:
    first = home.open()
    reserve(first)
    first.start(0)
    second = home.open()
    finished = second.finish(0, 1, DONE)
    with pytest.raises(LedgerError, match="changed by another process"):
        first.finish(0, 1, Outcome.failed(FailureKind.CRASH, "late"))
    assert home.open().trial(0) == finished
    assert home.sql("select state from hpt_attempts") == [("complete",)]
    assert first.unsent() == 1


def test_a_second_answer_is_refused(home: Home) -> None:
    ledger = home.open()
    finished = run(ledger)
    with pytest.raises(LedgerError, match="complete already; a second answer is refused"):
        ledger.finish(0, 1, Outcome.pruned())
    with pytest.raises(LedgerError, match="can't be started again"):
        ledger.start(0)
    assert home.open().trial(0) == ledger.trial(0) == finished
    assert ledger.unsent() == 1


def test_a_trial_that_was_not_started_can_not_be_finished(home: Home) -> None:
    ledger = home.open()
    reserve(ledger)
    with pytest.raises(LedgerError, match="attempt 0 of trial 0 is refused"):
        ledger.finish(0, 0, DONE)


def test_reports_of_a_lost_attempt_do_not_mix_with_the_next(home: Home) -> None:
    ledger = home.open()
    reserve(ledger)
    ledger.start(0)
    ledger = home.open()
    ledger.start(0)
    ledger.finish(0, 2, DONE)
    assert home.open().trial(0).reports == DONE.reports


# -- one transaction ------------------------------------------------------------------------------------------------


def test_the_end_of_a_trial_is_stored_whole_or_not_at_all(home: Home) -> None:
    ledger = home.open()
    reserve(ledger)
    started = ledger.start(0)
    home.forbid("insert on hpt_outbox")
    with pytest.raises(LedgerError, match="not today"):
        ledger.finish(0, 1, DONE)
    for found in (ledger, home.open()):
        assert found.trial(0) == started
        assert found.unsent() == 0
    assert home.sql("select count(*) from hpt_reports") == [(0,)]
    assert home.sql("select state, ended from hpt_attempts") == [("running", None)]
    home.allow()
    finished = ledger.finish(0, 1, DONE)
    assert home.open().trial(0) == finished
    assert ledger.unsent() == 1


IMPORTED = Trial(0, PARAMS, TrialState.COMPLETE, 0, "w", "joint", 4, values={"m": 1.0})


@pytest.mark.parametrize(
    ("write", "fails_at"),
    [
        (lambda ledger: reserve(ledger), "insert on hpt_trials"),
        (lambda ledger: ledger.start(0), "update on hpt_trials"),
        (lambda ledger: ledger.import_trials([IMPORTED, IMPORTED]), "insert on hpt_outbox"),
        (lambda ledger: ledger.record_decision(decision(1)), "insert on hpt_outbox"),
        (lambda ledger: ledger.record_call(call(1)), "insert on hpt_model_calls"),
        (lambda ledger: ledger.add_seconds(5.0), "update on hpt_studies"),
        (lambda ledger: ledger.record_final(FINAL, {}), "insert on hpt_outbox"),
    ],
)
def test_a_failed_write_leaves_memory_and_disk_as_they_were(
    home: Home, write: Callable[[StudyLedger], object], fails_at: str
) -> None:
    def state(ledger: StudyLedger) -> tuple[object, ...]:
        return (list(ledger.trials()), ledger.usage(), ledger.decisions(), ledger.final(), ledger.unsent())

    ledger = home.open(Budget())
    reserve(ledger)
    before = state(ledger)
    home.forbid(fails_at)
    with pytest.raises(LedgerError, match="not today"):
        write(ledger)
    assert state(ledger) == state(home.open(Budget())) == before
    home.allow()
    write(ledger)
    assert state(ledger) == state(home.open(Budget())) != before


def test_a_kill_in_the_middle_loses_no_finished_trial(home: Home) -> None:
    """A driver is killed at an unknown moment: each trial is either finished with all that belongs to it, or not."""
    script = f"""
import itertools
from agentic_hpt.ledger import LedgerStore
from agentic_hpt.records import Budget, Outcome, Report
store = LedgerStore({home.url!r})
ledger = store.open_study(store.find("digits"), budget=Budget(), seed=7)
for i in itertools.count():
    trial = ledger.reserve(round_=1, worker="w", kind="joint", params={{"i": i}}, tuned=("i",))
    ledger.start(trial.id)
    ledger.finish(trial.id, 1, Outcome.complete({{"m": i}}, reports=tuple(Report(s, {{"m": s}}) for s in range(5))))
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines() if line]
    process.stdout.close()
    process.wait()
    ledger = home.open(Budget())
    finished = [t for t in ledger.trials() if t.finished]
    assert len(finished) >= len(told)
    assert all(t.values == {"m": t.params["i"]} and len(t.reports) == 5 for t in finished)
    assert ledger.unsent() == len(finished)
    assert len(ledger.trials()) - len(finished) <= 1
    assert reserve(ledger) is not None


# -- decisions, calls, final ----------------------------------------------------------------------------------------


def decision(round_: int) -> DecisionRecord:
    return DecisionRecord(round_, "rules", (ActionRecord("continue", "r", (0, 1), "accepted", "v"),))


def call(round_: int, tokens: int = 10, dollars: float = 0.25) -> ModelCall:
    return ModelCall(round_, "openai:m", "v1", "hash", "prompt", "answer", tokens, 2 * tokens, dollars, 1.0)


def test_a_note_of_another_process_is_seen_at_once(home: Home) -> None:
    driver, other = home.open(), home.open()
    assert driver.notes() == []
    left = other.add_note("mind the learning rate")
    second = other.add_note("and the \u00fc")
    assert driver.notes() == [left, second]
    assert (left.text, second.id > left.id, left.created <= second.created) == ("mind the learning rate", True, True)
    another = home.store().create_study("another", {})
    assert home.store().open_study(another, budget=BUDGET, seed=0).notes() == []


def calls_of(home: Home) -> list[list[str]]:
    return [json.loads(str(row[0]))["verdicts"] for row in home.sql("select body from hpt_model_calls order by id")]


def test_verdicts_are_kept_with_the_call_that_gave_the_answer(home: Home) -> None:
    ledger = home.open()
    ledger.record_call(call(1))
    ledger.record_call(call(2))
    ledger.record_call(call(2))
    asked = (
        ActionRecord("unfreeze", "undo", (), "accepted", "policy", by="policy"),
        ActionRecord("freeze", "r", (), "refused", "not frozen yet", asked={"type": "freeze"}),
        ActionRecord("continue", "r", (), "accepted", "on", asked={"type": "continue"}),
        ActionRecord("continue", "r", (), "accepted", "added by the guards"),
    )
    ledger.record_decision(DecisionRecord(2, "llm", asked))
    assert calls_of(home) == [[], [], ["freeze: refused: not frozen yet", "continue: accepted: on"]]
    (payload,) = [e.payload for e in open_outbox(home.url, home.row.uid).pending(9) if e.kind == "decision"]
    assert isinstance(payload["calls"], list)
    assert [c["verdicts"] for c in payload["calls"]] == [
        [],
        ["freeze: refused: not frozen yet", "continue: accepted: on"],
    ]


def test_calls_are_given_as_they_were_kept(home: Home) -> None:
    ledger = home.open()
    assert ledger.calls() == []
    kept = [call(1), replace(call(2), error="429", attempt=1), replace(call(2), attempt=2, evidence_id="e1")]
    for one in kept:
        ledger.record_call(one)
    action = ActionRecord("continue", "r", (), "accepted", "on", asked={"type": "continue"})
    ledger.record_decision(DecisionRecord(2, "llm", (action,)))
    assert home.open().calls() == [*kept[:2], replace(kept[2], verdicts=("continue: accepted: on",))]


def test_the_evidence_is_kept_beside_the_decision_and_reaches_mlflow_with_it(home: Home) -> None:
    ledger = home.open()
    assert ledger.evidence(1) is None
    ledger.record_evidence(1, {"trials": [1], "of": "an answer that never came"})
    ledger.record_evidence(1, {"trials": [1, 2]})
    ledger.record_evidence(2, {"trials": ["\u00fc"]})
    ledger.record_decision(replace(decision(1), evidence_id="e1", shown={"trials": [1, 2]}))
    assert home.open().evidence(1) == {"trials": [1, 2]}
    assert home.open().evidence(2) == {"trials": ["\u00fc"]}
    assert home.sql("select body from hpt_decisions where body like '%shown%'") == [], "it is kept once"
    ledger.record_decision(decision(3))
    payloads = [e.payload for e in open_outbox(home.url, home.row.uid).pending(9) if e.kind == "decision"]
    assert [payload.get("evidence") for payload in payloads] == [{"trials": [1, 2]}, None]


def test_where_the_rules_stood_in_the_models_call_has_no_verdicts(home: Home) -> None:
    ledger = home.open()
    ledger.record_call(call(1))
    action = ActionRecord("continue", "r", (), "accepted", "on", asked={"type": "continue"})
    ledger.record_decision(DecisionRecord(1, "rules", (action,), fallback="the model failed"))
    assert calls_of(home) == [[]]


def test_mlflow_hears_of_the_opening_decision_after_the_study(home: Home) -> None:
    ledger = home.open()
    ledger.record_decision(decision(0))
    outbox = open_outbox(home.url, home.row.uid)
    assert outbox.pending(9) == []
    ledger.post_study({"study": "digits"})
    ledger.post_study({"study": "digits"})
    ledger.record_decision(decision(1))
    assert [e.key for e in outbox.pending(9)] == ["study", "decision/0", "decision/1"]
    assert home.open().decisions() == [decision(0), decision(1)]


def test_a_study_knows_which_one_it_replays(home: Home) -> None:
    store = home.store()
    home.open().record_decision(decision(1))
    twin = store.create_study("twin", {}, replays=home.row.uid)
    assert (store.replayed_by(twin.uid), store.replayed_by(home.row.uid)) == (home.row.uid, None)
    assert store.decisions_of(home.row.uid) == [decision(1)]
    store.archive("digits")
    assert store.decisions_of(home.row.uid) == [decision(1)]
    store.discard(twin.uid)
    assert home.sql("select count(*) from hpt_meta where key like 'replay/%'") == [(0,)]


def test_a_trial_is_of_the_spaces_revision(home: Home) -> None:
    trial = home.open().reserve(round_=1, worker="w", kind="joint", params=PARAMS, tuned=(), revision=4)
    assert trial is not None
    assert trial.revision == 4
    assert home.open().trial(trial.id).revision == 4


FINAL = FinalReport(0, 0.9, 3, 0.88, 0.01, 0.87, 0.02)


def test_one_decision_a_round(home: Home) -> None:
    ledger = home.open()
    ledger.record_decision(decision(2))
    ledger.record_decision(decision(1))
    other = replace(decision(1), seconds=9.0)
    with pytest.raises(LedgerError, match="second entry"):
        ledger.record_decision(other)
    for found in (ledger, home.open()):
        assert found.decisions() == [decision(1), decision(2)]
        assert found.decision(1) == decision(1)
        assert found.decision(3) is None
    assert ledger.unsent() == 2


def test_usage_of_the_model_adds_up(home: Home) -> None:
    ledger = home.open()
    ledger.record_call(call(1))
    ledger.record_call(call(2, tokens=1, dollars=0.5))
    for found in (ledger, home.open()):
        usage = found.usage()
        assert (usage.calls, usage.tokens, usage.dollars) == (2, 33, 0.75)


def test_a_decision_goes_out_with_the_calls_of_its_round(home: Home) -> None:
    ledger = home.open()
    ledger.record_call(call(1, tokens=5))
    ledger.record_call(call(2))
    ledger.record_decision(decision(1))
    entry = open_outbox(home.url, home.row.uid).pending(1)[0]
    assert entry.payload["decision"] == json.loads(json.dumps(decision(1).to_json()))
    assert [c["input_tokens"] for c in entry.payload["calls"]] == [5]


def test_the_final_report(home: Home) -> None:
    ledger = home.open()
    assert ledger.final() is None
    ledger.record_final(FINAL, {"a": 1})
    ledger.record_final(replace(FINAL, holdout=0.5), {"a": 2})
    assert home.open().final() == replace(FINAL, holdout=0.5)
    assert [e.payload for e in open_outbox(home.url, home.row.uid).pending(9)] == [{"a": 1}]


def test_an_end_without_figures_is_told_once_and_only_where_the_study_was(home: Home) -> None:
    ledger = home.open()
    ledger.record_failure("no trial was completed")
    assert ledger.unsent() == 0
    ledger.post_study({"study": "digits"})
    for _ in range(2):
        ledger.record_failure("no trial was completed")
    entries = open_outbox(home.url, home.row.uid).pending(9)
    assert [(e.key, e.kind) for e in entries] == [("study", "study"), ("failed", "failed")]
    assert entries[1].payload == {"why": "no trial was completed"}


# -- outbox ---------------------------------------------------------------------------------------------------------


def test_the_outbox_keeps_order_and_forgets_what_is_sent(home: Home) -> None:
    ledger = home.open()
    ledger.post_study({"study": "digits"})
    ledger.post_study({"study": "other"})
    run(ledger)
    ledger.record_decision(decision(1))
    run(ledger, round_=2)
    ledger.record_final(FINAL, {})
    outbox = open_outbox(home.url, home.row.uid)
    entries = outbox.pending(10)
    assert [e.key for e in entries] == ["study", "trial/0/1", "decision/1", "trial/1/1", "final"]
    assert [e.kind for e in entries] == ["study", "trial", "decision", "trial", "final"]
    assert entries[0].payload == {"study": "digits"}
    assert [e.key for e in outbox.pending(2)] == ["study", "trial/0/1"]
    assert (ledger.unsent(), ledger.unsent(1), ledger.unsent(2)) == (5, 2, 1)
    assert ledger.run_id() is None

    outbox.claim(entries[:2])
    assert [e.claimed for e in open_outbox(home.url, home.row.uid).pending(3)] == [True, True, False]
    outbox.sent({entries[0].id: "run-1", entries[2].id: "run-2"})
    assert [e.key for e in outbox.pending(10)] == ["trial/0/1", "trial/1/1", "final"]
    assert (ledger.unsent(), ledger.unsent(1)) == (3, 1)
    assert ledger.run_id() == "run-1"


def test_a_trial_in_the_outbox_is_the_whole_trial(home: Home) -> None:
    ledger = home.open()
    finished = run(ledger)
    payload = open_outbox(home.url, home.row.uid).pending(1)[0].payload
    trial = payload["trial"]
    assert trial["params"] == PARAMS
    assert trial["values"] == dict(finished.values)
    assert trial["reports"] == [{"step": 0, "metrics": {"accuracy": 0.1}}]
    assert payload["ended"] - payload["started"] == pytest.approx(1.5)


def test_outboxes_of_two_studies_are_apart(home: Home) -> None:
    other = home.store().create_study("other", {})
    run(home.open())
    assert open_outbox(home.url, other.uid).pending(5) == []
    with pytest.raises(StudyNotFound, match="'nobody'"):
        open_outbox(home.url, "nobody")


def test_the_writer_marks_entries_while_the_driver_writes(home: Home) -> None:
    script = """
import sys
from agentic_hpt.ledger import open_outbox
outbox = open_outbox(sys.argv[1], sys.argv[2])
seen = []
print("ready", flush=True)
while len(seen) < 40:
    entries = outbox.pending(3)
    outbox.claim(entries)
    outbox.sent({e.id: f"run-{e.key}" for e in entries})
    seen += [e.key for e in entries]
print("\\n".join(seen))
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", script, home.url, home.row.uid], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    ledger = home.open(Budget())
    for _ in range(40):
        run(ledger)
    seen, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert seen.split() == [f"trial/{n}/1" for n in range(40)], "each once, in order"
    assert ledger.unsent() == 0
    assert len(home.open(Budget()).trials()) == 40


# -- stores ---------------------------------------------------------------------------------------------------------


def test_studies_are_created_found_and_listed(home: Home) -> None:
    store = home.store()
    other = store.create_study("other", {"a": [1, None]})
    assert store.find("other") == other == store.by_uid(other.uid)
    assert other.config == {"a": [1, None]}
    assert other.folder == f"other-{other.uid}"
    assert [r.name for r in store.list_studies()] == ["digits", "other"]
    with pytest.raises(StudyExists, match="'digits'") as caught:
        store.create_study("digits", {})
    assert "hpt resume digits" in caught.value.hint
    with pytest.raises(StudyNotFound, match="'nope'") as missing:
        store.find("nope")
    assert "digits, other" in missing.value.hint
    with pytest.raises(StudyNotFound):
        store.by_uid("nope")


def test_status(home: Home) -> None:
    store = home.store()
    assert store.find("digits").status == "running"
    store.set_status(home.row.uid, "stopped", "user", "why")
    row = home.store().find("digits")
    assert (row.status, row.stopped_by, row.error) == ("stopped", "user", "why")


def test_archiving_frees_the_name_and_keeps_the_trials(home: Home) -> None:
    run(home.open())
    store = home.store()
    assert store.archive("digits") == "digits-archived-1"
    new = store.create_study("digits", {})
    assert new.uid != home.row.uid
    assert store.open_study(new, budget=BUDGET, seed=0).trials() == []
    assert store.archive("digits") == "digits-archived-2"
    old = store.find("digits-archived-1")
    assert (old.uid, old.folder) == (home.row.uid, home.row.folder)
    assert len(store.open_study(old, budget=BUDGET, seed=0).trials()) == 1
    with pytest.raises(StudyNotFound):
        store.archive("digits")


def test_a_long_name_can_be_archived_twice(home: Home) -> None:
    store = home.store()
    for number in (1, 2):
        store.create_study("x" * 100, {})
        assert store.archive("x" * 100) == f"{'x' * 80}-archived-{number}"


def test_two_studies_of_a_store_share_nothing(home: Home) -> None:
    store = home.store()
    other = store.open_study(store.create_study("other", {}), budget=BUDGET, seed=7)
    run(home.open())
    other.record_decision(decision(1))
    other.add_seconds(4)
    assert other.trials() == []
    assert home.open().decisions() == []
    assert home.open().usage().seconds == 0
    assert run(other).id == 0


def test_a_discarded_study_leaves_nothing_and_takes_nothing_else(home: Home) -> None:
    store = home.store()
    other = store.create_study("other", {})
    for row in (home.row, other):
        ledger = store.open_study(row, budget=Budget(), seed=0)
        run(ledger)
        ledger.record_call(call(1))
        ledger.record_decision(decision(1))
        ledger.record_evidence(1, {})
        ledger.add_note("x")
    store.discard(other.uid)
    assert [r.name for r in home.store().list_studies()] == ["digits"]
    for table in ("trials", "attempts", "reports", "decisions", "evidence", "model_calls", "notes", "outbox"):
        assert {r[0] for r in home.sql(f"select study from hpt_{table}")} == {home.row.id}, table
    again = store.create_study("other", {})
    assert store.open_study(again, budget=BUDGET, seed=0).trials() == []


def test_a_study_that_repeats_another_does_so_in_another_store_too(home: Home, tmp_path: Path) -> None:
    store = home.store()
    twin = store.create_study("twin", {}, replays=home.row.uid)
    there = LedgerStore(f"sqlite:///{tmp_path / 'there.db'}")
    for _ in range(2):
        store.copy_study(twin.uid, there, tell_again=True)
    assert there.replayed_by(twin.uid) == home.row.uid
    there.close()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_store_of_an_older_version_is_brought_up_and_loses_nothing(home: Home, create: bool, version: int) -> None:
    ledger = home.open()
    run(ledger)
    ledger.record_decision(decision(1))
    home.close()
    for table in (table.name for since, table in schema.TABLES_SINCE if version < since):
        home.sql(f"drop table {table}")
    for column in (column for since, column in schema.COLUMNS_SINCE if version < since):
        home.sql(f"alter table {column.table.name} drop column {column.name}")
    home.sql(f"update hpt_meta set value = '{version}' where key = 'schema_version'")
    store = LedgerStore(home.url, create=create)
    assert home.sql("select value from hpt_meta where key = 'schema_version'") == [("5",)]
    assert home.sql("select count(*) from hpt_notes") == [(0,)]
    again = store.open_study(home.row, budget=BUDGET, seed=7)
    assert [(t.id, t.continues, t.source) for t in again.trials()] == [(0, None, "")]
    assert again.decisions() == [decision(1)]
    assert again.evidence(1) is None, "none was kept then"
    again.record_evidence(2, {"round": 2})
    assert again.evidence(2) == {"round": 2}
    again.add_note("it works")
    assert [n.text for n in again.notes()] == ["it works"]
    hold = store.hold(home.row.uid, None)
    store.open_study(home.row, budget=BUDGET, seed=7, hold=hold).add_seconds(1.0)
    store.close()


def test_which_stopped_trial_one_goes_on_from_is_kept(home: Home) -> None:
    ledger = home.open()
    stopped = run(ledger, Outcome.pruned())
    promoted = ledger.reserve(
        round_=2, worker="p", kind="promotion", params=PARAMS, tuned=(), seed=stopped.seed, continues=stopped.id
    )
    assert promoted is not None
    assert home.open().trial(promoted.id) == promoted
    assert (promoted.continues, promoted.seed) == (stopped.id, stopped.seed)


def test_a_newer_store_is_refused_and_left_alone(home: Home) -> None:
    home.sql("update hpt_meta set value = '6' where key = 'schema_version'")
    home.close()
    before = home.sql("select * from hpt_meta")
    for open_ in (lambda: LedgerStore(home.url), lambda: open_outbox(home.url, home.row.uid)):
        with pytest.raises(StoreVersionError, match=r"store version 6; this agentic-hpt reads up to 5") as caught:
            open_()
        assert caught.value.exit_code == 2
        assert "upgrade" in caught.value.hint
    assert home.sql("select * from hpt_meta") == before


@pytest.mark.parametrize("told", ["delete from hpt_meta", "drop table hpt_meta", "update hpt_meta set value = 'new'"])
@pytest.mark.parametrize("create", [True, False])
def test_a_store_that_does_not_say_its_version_is_refused_and_left_alone(home: Home, told: str, create: bool) -> None:
    home.close()
    home.sql(told)
    with pytest.raises(StoreVersionError, match="does not say of which store version"):
        LedgerStore(home.url, create=create)
    assert home.sql("select name from hpt_studies") == [("digits",)]


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be read as one" * 40, b"SQLite format 3\0x"]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for create in (True, False):
        with pytest.raises(LedgerError, match=r"notes\.txt can't be read"):
            LedgerStore(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        LedgerStore(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LedgerError, match="can't be read"):
        LedgerStore(f"sqlite:///{tmp_path / 'no' / 'folder.db'}")


def test_a_database_of_something_else_is_no_ledger(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("create table things (x)")
    connection.close()
    with pytest.raises(LedgerError, match="holds no agentic-hpt ledger"):
        LedgerStore(f"sqlite:///{tmp_path / 'other.db'}", create=False)


def test_processes_that_make_the_same_store_at_once(home: Home) -> None:
    script = """
import sys
from agentic_hpt.ledger import LedgerStore
sys.stdin.readline()
store = LedgerStore(sys.argv[1])
store.create_study(sys.argv[2], {})
"""
    url = home.fresh()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, f"s{i}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [""] * 4
    store = LedgerStore(url, create=False)
    assert sorted(r.name for r in store.list_studies()) == ["s0", "s1", "s2", "s3"]
    store.close()
