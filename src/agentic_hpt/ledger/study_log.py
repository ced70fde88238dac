"""What is kept of a study beside its trials: decisions with their evidence, calls, notes, final figures, the outbox."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar, cast

from sqlalchemy import Connection, delete, func, insert, select, update

from agentic_hpt.ledger.changing import add_change, changes_of
from agentic_hpt.ledger.database import Database, Fence
from agentic_hpt.ledger.schema import decisions, earlier, evidence, model_calls, notes, outbox, studies
from agentic_hpt.records import Change, DecisionRecord, EarlierStudy, FinalReport, JsonObject, ModelCall, Note

T = TypeVar("T")


class StudyLog:
    """The part of a study's ledger that has no trials in it; see `protocols.Ledger`. A driver's has its `fence`."""

    def __init__(self, database: Database, study: int, fence: Fence | None = None) -> None:
        self._database = database
        self._study = study
        self._fence = fence
        spent = select(
            func.count(),
            func.coalesce(func.sum(model_calls.c.tokens), 0),
            func.coalesce(func.sum(model_calls.c.dollars), 0.0),
        ).where(model_calls.c.study == study)
        calls = self._read(lambda connection: connection.execute(spent).one())
        self._calls, self._tokens, self._dollars = int(calls[0]), int(calls[1]), float(calls[2])
        self._decided: dict[int, DecisionRecord] = {}

    def decision(self, round_: int) -> DecisionRecord | None:
        """Give the decision taken after a round, if there is one."""
        query = select(decisions.c.body).where(decisions.c.study == self._study, decisions.c.round == round_)
        body = self._read(lambda connection: connection.execute(query).scalar())
        return DecisionRecord.from_json(json.loads(body)) if body else None

    def decisions(self) -> list[DecisionRecord]:
        """Give all decisions, in order; each is read once, since none is ever changed."""
        newest = max(self._decided, default=-1)
        query = (
            select(decisions.c.round, decisions.c.body)
            .where(decisions.c.study == self._study, decisions.c.round > newest)
            .order_by(decisions.c.round)
        )
        rows = self._read(lambda connection: connection.execute(query).all())
        self._decided.update({row.round: DecisionRecord.from_json(json.loads(row.body)) for row in rows})
        return list(self._decided.values())

    def record_decision(self, decision: DecisionRecord) -> None:
        """Keep a decision; a second one for the same round is refused with `LedgerError`.

        The verdicts go into the call of the model that gave the answer. MLflow is told after it was told of the study,
        which an opening decision comes before.
        """
        body = decision.to_json()
        row = {"study": self._study, "round": decision.round, "body": json.dumps(body), "created": time.time()}

        def record(connection: Connection) -> None:
            connection.execute(insert(decisions), row)
            self._judge_calls(connection, decision)
            if decision.round or self._is_posted(connection, "study"):
                self._post_decision(connection, decision.round, body)

        self._write(record)
        self._database.sync()  # with all that it rests on

    def record_evidence(self, round_: int, shown: JsonObject) -> None:
        """Keep what the decision after a round rests on, in place of what was kept before: no decision came of that."""
        body = _packed(shown)
        here = evidence.c.study == self._study, evidence.c.round == round_

        def record(connection: Connection) -> None:
            connection.execute(delete(evidence).where(*here))
            connection.execute(insert(evidence).values(study=self._study, round=round_, body=body))

        self._write(record)

    def evidence(self, round_: int) -> JsonObject | None:
        """Give what the decision after a round rests on; `None` where none was kept."""
        return self._read(lambda connection: evidence_of(connection, self._study, round_))

    def record_call(self, call: ModelCall) -> None:
        """Keep a call of the model."""
        tokens = call.input_tokens + call.output_tokens
        row = {
            "study": self._study,
            "round": call.round,
            "tokens": tokens,
            "dollars": call.dollars,
            "body": json.dumps(asdict(call)),
            "created": time.time(),
        }
        self._write(lambda connection: connection.execute(insert(model_calls), row))
        self._calls, self._tokens, self._dollars = self._calls + 1, self._tokens + tokens, self._dollars + call.dollars

    def calls(self) -> list[ModelCall]:
        """Give all calls of the model, in order."""
        query = select(model_calls.c.body).where(model_calls.c.study == self._study).order_by(model_calls.c.id)
        bodies = self._read(lambda connection: connection.execute(query).scalars().all())
        return [ModelCall.from_json(json.loads(body)) for body in bodies]

    def notes(self) -> list[Note]:
        """Give the person's notes, also those that another process left a moment ago."""
        query = select(notes.c.id, notes.c.text, notes.c.created).where(notes.c.study == self._study)
        rows = self._read(lambda connection: connection.execute(query.order_by(notes.c.id)).all())
        return [Note(row.id, row.text, row.created) for row in rows]

    def add_note(self, text: str) -> Note:
        """Leave a note; any process may."""
        text, now = storable(text), time.time()
        same = notes.c.study == self._study, notes.c.text == text, notes.c.created == now

        def add(connection: Connection) -> int:
            there: int | None = connection.execute(select(notes.c.id).where(*same)).scalar()
            if there is not None:  # the answer was lost, not the note
                return there
            made = connection.execute(insert(notes).values(study=self._study, text=text, created=now))
            return cast(int, made.inserted_primary_key[0])  # type: ignore[index]

        return Note(self._database.write(add), text, now)

    def post_study(self, payload: JsonObject) -> None:
        """Put the study's description into the outbox, once, and behind it the decision that came before it."""
        query = select(decisions.c.body).where(decisions.c.study == self._study, decisions.c.round == 0)

        def post(connection: Connection) -> None:
            if self._is_posted(connection, "study"):
                return
            self._post(connection, "study", "study", 0, payload)
            opening = connection.execute(query).scalar()
            if opening is not None:
                self._post_decision(connection, 0, json.loads(opening))

        self._write(post)

    def keep_earlier(self, studies_: Sequence[EarlierStudy]) -> None:
        """Keep the trials of earlier studies, as they were there."""
        rows = [
            {"study": self._study, "position": position, "body": _packed(found.to_json())}
            for position, found in enumerate(studies_)
        ]
        self._write(lambda connection: connection.execute(insert(earlier), rows))

    def earlier(self) -> list[EarlierStudy]:
        """Give the trials of the earlier studies that this one learns from."""
        query = select(earlier.c.body).where(earlier.c.study == self._study).order_by(earlier.c.position)
        bodies = self._read(lambda connection: connection.execute(query).scalars().all())
        return [EarlierStudy.from_json(_unpacked(body)) for body in bodies]

    def _record_final(self, report: FinalReport, payload: JsonObject, before: Callable[[Connection], None]) -> None:
        """Keep the final figures and put `payload` into the outbox, behind what `before` puts there."""
        body = json.dumps(report.to_json())

        def record(connection: Connection) -> None:
            connection.execute(update(studies).where(studies.c.id == self._study).values(final=body))
            key = self._end_key(connection, "final")
            if not self._is_posted(connection, key):
                before(connection)
                self._post(connection, "final", key, 0, payload)

        self._write(record)

    def record_failure(self, why: str) -> None:
        """Tell MLflow, if it was told of the study, that this ends without figures."""

        def record(connection: Connection) -> None:
            key = self._end_key(connection, "failed")
            if self._is_posted(connection, "study") and not self._is_posted(connection, key):
                self._post(connection, "failed", key, 0, {"why": why})

        self._write(record)

    def _end_key(self, connection: Connection, kind: str) -> str:
        """Name an end of the study in the outbox: it may have had others."""
        end = 1 + sum(change.reopens for change in changes_of(connection, self._study))
        return kind if end == 1 else f"{kind}/{end}"

    def changes(self) -> list[Change]:
        """Give what persons changed of the study beside its space, in order."""
        return self._read(lambda connection: changes_of(connection, self._study))

    def record_change(self, change: Change, config: JsonObject | None = None) -> None:
        """Keep a change, and the description that is in force with it. The ledger must be opened anew afterwards."""
        self._write(lambda connection: self._change(connection, change, config))

    def _change(self, connection: Connection, change: Change, config: JsonObject | None) -> None:
        number = add_change(connection, self._study, change, config)
        if change.told and self._is_posted(connection, "study"):
            self._post(connection, "change", f"change/{number}", change.round, change.to_json())

    def final(self) -> FinalReport | None:
        """Give the final figures, once there are any."""
        query = select(studies.c.final).where(studies.c.id == self._study)
        body = self._read(lambda connection: connection.execute(query).scalar())
        return FinalReport.from_json(json.loads(body)) if body else None

    def run_id(self) -> str | None:
        """Give the id of the study's MLflow run, once it is known."""
        query = select(outbox.c.ref).where(outbox.c.study == self._study, outbox.c.key == "study")
        return self._read(lambda connection: connection.execute(query).scalar())

    def unsent(self, round_: int | None = None) -> int:
        """Count outbox entries that MLflow has not got yet, of one round or of all."""
        query = select(func.count()).where(outbox.c.study == self._study, outbox.c.ref.is_(None))
        if round_ is not None:
            query = query.where(outbox.c.round == round_)
        return self._read(lambda connection: connection.execute(query).scalar_one())

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._database.read(work)

    def _write(self, work: Callable[[Connection], T]) -> T:
        return self._database.write(work, self._fence)

    def _post(self, connection: Connection, kind: str, key: str, round_: int, payload: JsonObject) -> None:
        connection.execute(insert(outbox), self._entry(kind, key, round_, payload))

    def _entry(self, kind: str, key: str, round_: int, payload: JsonObject) -> dict[str, object]:
        row = {"study": self._study, "kind": kind, "key": key, "round": round_, "payload": json.dumps(payload)}
        return {**row, "claimed": 0}

    def _is_posted(self, connection: Connection, key: str) -> bool:
        there = select(outbox.c.id).where(outbox.c.study == self._study, outbox.c.key == key)
        return connection.execute(there).scalar() is not None

    def _post_decision(self, connection: Connection, round_: int, body: JsonObject) -> None:
        calls = [json.loads(call) for call in self._calls_of(connection, round_)]
        self._post(connection, "decision", f"decision/{round_}", round_, {"decision": body, "calls": calls})

    def _judge_calls(self, connection: Connection, decision: DecisionRecord) -> None:
        """Put the guards' verdicts on what the model asked for into the last call of the round: it gave the answer."""
        verdicts = [f"{a.type}: {a.verdict}: {a.verdict_reason}" for a in decision.actions if a.asked and not a.by]
        if decision.kind != "llm" or not verdicts:
            return
        mine = model_calls.c.study == self._study, model_calls.c.round == decision.round
        row = connection.execute(
            select(model_calls.c.id, model_calls.c.body).where(*mine).order_by(model_calls.c.id.desc()).limit(1)
        ).first()
        if row is not None:
            body = json.dumps({**json.loads(row.body), "verdicts": verdicts})
            connection.execute(update(model_calls).where(model_calls.c.id == row.id).values(body=body))

    def _calls_of(self, connection: Connection, round_: int) -> Sequence[str]:
        query = select(model_calls.c.body).where(model_calls.c.study == self._study, model_calls.c.round == round_)
        return connection.execute(query.order_by(model_calls.c.id)).scalars().all()


def evidence_of(connection: Connection, study: int, round_: int) -> JsonObject | None:
    """Give what a study's decision after a round rests on; `None` where none was kept."""
    query = select(evidence.c.body).where(evidence.c.study == study, evidence.c.round == round_)
    body = connection.execute(query).scalar()
    return _unpacked(body) if body is not None else None


def storable(text: str) -> str:
    """Give `text` as every database can keep it: without NUL bytes and lone surrogates, which are written out."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _packed(data: JsonObject) -> bytes:
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode())


def _unpacked(body: bytes) -> JsonObject:
    return cast(JsonObject, json.loads(zlib.decompress(body)))
