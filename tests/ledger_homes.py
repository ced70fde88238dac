"""Ledgers for tests, on SQLite and on PostgreSQL, which can be looked into and made to fail."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psycopg
import pytest

from agentic_hpt.ledger import LedgerStore, StudyLedger
from agentic_hpt.records import Budget
from postgres_server import PostgresServer

BUDGET = Budget(trials=3)


class Home:
    """A ledger that can be opened as often as a test likes, as after a kill: nothing is closed before."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.on_file = url.startswith("sqlite")
        self._stores: list[LedgerStore] = []
        self.row = self.store().create_study("digits", {"seed": 7})

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    def store(self) -> LedgerStore:
        self._stores.append(LedgerStore(self.url))
        return self._stores[-1]

    def open(self, budget: Budget = BUDGET) -> StudyLedger:
        return self.store().open_study(self.row, budget=budget, seed=7)

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        if not self.on_file:
            with psycopg.connect(self.url, autocommit=True) as server:
                cursor = server.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        connection = sqlite3.connect(self.path)
        try:
            rows = connection.execute(statement).fetchall()
            connection.commit()
            return rows
        finally:
            connection.close()

    def forbid(self, what: str) -> None:
        """Let every `insert on TABLE`, or `update on TABLE`, fail."""
        if self.on_file:
            self.sql(f"create trigger no before {what} begin select raise(abort, 'not today'); end")
        else:
            body = "begin raise exception using message = 'not today', errcode = '23000'; end"
            self.sql(f"create function refuse() returns trigger language plpgsql as $$ {body} $$")
            self.sql(f"create trigger no before {what} for each row execute function refuse()")
        self._forbidden = what.rsplit(" ", 1)[1]

    def allow(self) -> None:
        self.sql("drop trigger no" if self.on_file else f"drop trigger no on {self._forbidden}")

    def fresh(self) -> str:
        """Give the address of a store in which nothing is yet."""
        if self.on_file:
            return f"{self.url}.fresh"
        self.close()
        self.sql("drop schema public cascade")
        self.sql("create schema public")
        return self.url

    def close(self) -> None:
        for store in self._stores:
            store.close()


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """Be a fixture with `KINDS` for parameters."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = _database(request.getfixturevalue("postgres"))
        with psycopg.connect(url, autocommit=True) as connection:  # much quicker than another database
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")
    home = Home(url)
    yield home
    home.close()


@cache
def _database(server: PostgresServer) -> str:
    return server.url()


__all__ = ["BUDGET", "KINDS", "Home", "opened"]
