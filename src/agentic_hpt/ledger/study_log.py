"""What is kept of a study beside its trials: decisions with their evidence, calls, notes, final figures, the outbox."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from agentic_hpt.ledger.schema import decisions, earlier, evidence, model_calls, notes, outbox, studies, transaction
from agentic_hpt.records import DecisionRecord, EarlierStudy, FinalReport, JsonObject, ModelCall, Note


class StudyLog:
    """The part of a study's ledger that has no trials in it; see `protocols.Ledger`."""

    def __init__(self, engine: Engine, study: int) -> None:
        self._engine = engine
        self._study = study
        spent = select(
            func.count(),
            func.coalesce(func.sum(model_calls.c.tokens), 0),
            func.coalesce(func.sum(model_calls.c.dollars), 0.0),
        ).where(model_calls.c.study == study)
        with transaction(engine) as connection:
            calls = connection.execute(spent).one()
        self._calls, self._tokens, self._dollars = int(calls[0]), int(calls[1]), float(calls[2])
        self._decided: dict[int, DecisionRecord] = {}

    def decision(self, round_: int) -> DecisionRecord | None:
        """Give the decision taken after a round, if there is one."""
        query = select(decisions.c.body).where(decisions.c.study == self._study, decisions.c.round == round_)
        with transaction(self._engine) as connection:
            body = connection.execute(query).scalar()
        return DecisionRecord.from_json(json.loads(body)) if body else None

    def decisions(self) -> list[DecisionRecord]:
        """Give all decisions, in order; each is read once, since none is ever changed."""
        query = select(decisions.c.round, decisions.c.body).where(decisions.c.study == self._study)
        newest = max(self._decided, default=-1)
        with transaction(self._engine) as connection:
            rows = connection.execute(query.where(decisions.c.round > newest).order_by(decisions.c.round)).all()
        self._decided.update({row.round: DecisionRecord.from_json(json.loads(row.body)) for row in rows})
        return list(self._decided.values())

    def record_decision(self, decision: DecisionRecord) -> None:
        """Keep a decision; a second one for the same round is refused with `LedgerError`.

        The verdicts go into the call of the model that gave the answer. MLflow is told after it was told of the study,
        which an opening decision comes before.
        """
        body = decision.to_json()
        with transaction(self._engine) as connection:
            connection.execute(
                insert(decisions).values(
                    study=self._study, round=decision.round, body=json.dumps(body), created=time.time()
                )
            )
            self._judge_calls(connection, decision)
            if decision.round or self._is_posted(connection, "study"):
                self._post_decision(connection, decision.round, body)

    def record_evidence(self, round_: int, shown: JsonObject) -> None:
        """Keep what the decision after a round rests on, in place of what was kept before: no decision came of that."""
        body = _packed(shown)
        here = evidence.c.study == self._study, evidence.c.round == round_
        with transaction(self._engine) as connection:
            connection.execute(delete(evidence).where(*here))
            connection.execute(insert(evidence).values(study=self._study, round=round_, body=body))

    def evidence(self, round_: int) -> JsonObject | None:
        """Give what the decision after a round rests on; `None` where none was kept."""
        with transaction(self._engine) as connection:
            return evidence_of(connection, self._study, round_)

    def record_call(self, call: ModelCall) -> None:
        """Keep a call of the model."""
        tokens = call.input_tokens + call.output_tokens
        with transaction(self._engine) as connection:
            connection.execute(
                insert(model_calls).values(
                    study=self._study,
                    round=call.round,
                    tokens=tokens,
                    dollars=call.dollars,
                    body=json.dumps(asdict(call)),
                    created=time.time(),
                )
            )
        self._calls, self._tokens, self._dollars = self._calls + 1, self._tokens + tokens, self._dollars + call.dollars

    def calls(self) -> list[ModelCall]:
        """Give all calls of the model, in order."""
        query = select(model_calls.c.body).where(model_calls.c.study == self._study).order_by(model_calls.c.id)
        with transaction(self._engine) as connection:
            return [ModelCall.from_json(json.loads(body)) for body in connection.execute(query).scalars()]

    def notes(self) -> list[Note]:
        """Give the person's notes, also those that another process left a moment ago."""
        query = select(notes.c.id, notes.c.text, notes.c.created).where(notes.c.study == self._study)
        with transaction(self._engine) as connection:
            rows = connection.execute(query.order_by(notes.c.id)).all()
        return [Note(row.id, row.text, row.created) for row in rows]

    def add_note(self, text: str) -> Note:
        """Leave a note; any process may."""
        now = time.time()
        with transaction(self._engine) as connection:
            made = connection.execute(insert(notes).values(study=self._study, text=text, created=now))
        return Note(cast(int, made.inserted_primary_key[0]), text, now)  # type: ignore[index]

    def post_study(self, payload: JsonObject) -> None:
        """Put the study's description into the outbox, once, and behind it the decision that came before it."""
        with transaction(self._engine) as connection:
            if self._is_posted(connection, "study"):
                return
            self._post(connection, "study", "study", 0, payload)
            query = select(decisions.c.body).where(decisions.c.study == self._study, decisions.c.round == 0)
            opening = connection.execute(query).scalar()
            if opening is not None:
                self._post_decision(connection, 0, json.loads(opening))

    def keep_earlier(self, studies_: Sequence[EarlierStudy]) -> None:
        """Keep the trials of earlier studies, as they were there."""
        rows = [
            {"study": self._study, "position": position, "body": _packed(found.to_json())}
            for position, found in enumerate(studies_)
        ]
        with transaction(self._engine) as connection:
            connection.execute(insert(earlier), rows)

    def earlier(self) -> list[EarlierStudy]:
        """Give the trials of the earlier studies that this one learns from."""
        query = select(earlier.c.body).where(earlier.c.study == self._study).order_by(earlier.c.position)
        with transaction(self._engine) as connection:
            bodies = connection.execute(query).scalars().all()
        return [EarlierStudy.from_json(_unpacked(body)) for body in bodies]

    def record_final(self, report: FinalReport, payload: JsonObject) -> None:
        """Keep the final figures and put `payload` into the outbox."""
        with transaction(self._engine) as connection:
            connection.execute(
                update(studies).where(studies.c.id == self._study).values(final=json.dumps(report.to_json()))
            )
            if not self._is_posted(connection, "final"):
                self._post(connection, "final", "final", 0, payload)

    def final(self) -> FinalReport | None:
        """Give the final figures, once there are any."""
        with transaction(self._engine) as connection:
            body = connection.execute(select(studies.c.final).where(studies.c.id == self._study)).scalar()
        return FinalReport.from_json(json.loads(body)) if body else None

    def run_id(self) -> str | None:
        """Give the id of the study's MLflow run, once it is known."""
        query = select(outbox.c.ref).where(outbox.c.study == self._study, outbox.c.key == "study")
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    def unsent(self, round_: int | None = None) -> int:
        """Count outbox entries that MLflow has not got yet, of one round or of all."""
        query = select(func.count()).where(outbox.c.study == self._study, outbox.c.ref.is_(None))
        if round_ is not None:
            query = query.where(outbox.c.round == round_)
        with transaction(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def _post(self, connection: Connection, kind: str, key: str, round_: int, payload: JsonObject) -> None:
        row = {"study": self._study, "kind": kind, "key": key, "round": round_, "payload": json.dumps(payload)}
        connection.execute(insert(outbox), {**row, "claimed": 0})

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


def _packed(data: JsonObject) -> bytes:
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode())


def _unpacked(body: bytes) -> JsonObject:
    return cast(JsonObject, json.loads(zlib.decompress(body)))
