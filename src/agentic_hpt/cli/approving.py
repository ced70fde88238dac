"""Asking a person for a word on each decision, on stderr and stdin."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import click

from agentic_hpt.records import DecisionRecord, JsonObject
from agentic_hpt.report.asking import decision_lines, evidence_lines
from agentic_hpt.report.plain import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Asker"]

_KEYS = {"a": "approve", "approve": "approve", "e": "edit", "edit": "edit", "r": "refuse", "refuse": "refuse"}
_SHOW = ("s", "show")


class Asker:
    """Shows a decision and its evidence on stderr, and reads a/e/r from stdin. End of input raises `EOFError`.

    `paused` holds the live view back while a person reads and writes.
    """

    def __init__(self, paused: Callable[[], AbstractContextManager[None]], console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
        self._paused = paused
        self._console = console
        self._unread = b""

    def __call__(self, request: JsonObject) -> object:
        """Ask, and give the answer as the review takes it."""
        with self._paused():
            self._show(request)
            while True:
                word, _, rest = self._read("approve, edit or refuse? [a/e/r, and why] ").partition(" ")
                answer = _KEYS.get(word.lower())
                if word.lower() in _SHOW:
                    for line in str(request["evidence"]).splitlines():
                        self._say(f"  {visible(line)}")
                elif answer == "edit":
                    edited = self._edit(request)
                    if edited is not None:
                        return {"answer": "edit", "actions": edited, "comment": rest.strip()}
                elif answer is not None:
                    return {"answer": answer, "comment": rest.strip()}
                else:
                    self._say(
                        "a: approve, e: edit the actions, r: refuse them; a reason may follow, as in: r too early; "
                        "s: show all of the evidence"
                    )

    def _show(self, request: JsonObject) -> None:
        if request.get("problem"):
            for line in str(request["problem"]).splitlines():
                self._say(visible(line))
        else:
            self._say("evidence:")
            for line in evidence_lines(str(request["evidence"])):
                self._say(f"  {line}")
            self._say(
                f"  all of it: type s; once this is decided, `hpt decisions STUDY --evidence {request['round']}`, or "
                "evidence.json of the decision in MLflow"
            )
        for line in decision_lines(DecisionRecord.from_json(cast(JsonObject, request["decision"]))):
            self._say(line)
        self._say(f"possible now: {', '.join(cast(list[str], request['may']))}")

    def _edit(self, request: JsonObject) -> list[object] | None:
        """Have the actions edited as JSON, in an editor or, where stdin is no terminal, as one line."""
        decision = cast(JsonObject, request["decision"])
        actions = [a["asked"] for a in cast(list[JsonObject], decision["actions"]) if a.get("asked")]
        if sys.stdin.isatty():
            try:
                text = click.edit(json.dumps({"actions": actions}, indent=2), extension=".json")
            except click.ClickException as error:  # the study need not end for an editor that can't be started
                self._say(visible(error.format_message()))
                return None
            if text is None:
                self._say("nothing was changed")
                return None
        else:
            text = self._read("the actions, as one line of JSON: ")
        try:
            data = json.loads(text)
        except ValueError as error:
            self._say(f"that is no JSON: {error}")
            return None
        found = data.get("actions") if isinstance(data, Mapping) else data
        if not isinstance(found, list):
            self._say('write {"actions": [...]}, or a list of actions')
            return None
        return found

    def _read(self, prompt: str) -> str:
        """Read a line. Raises `EOFError` at the end of input, and where there is none.

        Not by `input`: a thread that waits in there holds a lock without which the interpreter can't end.
        """
        self._console.print(prompt, end="")
        self._console.file.flush()
        while b"\n" not in self._unread:
            # A closed stdin's number may be that of another file by now.
            more = os.read(0, 4096) if sys.stdin is not None else b""
            if not more:
                raise EOFError
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
