"""What all verbs share: the options, the answer's two forms, and how errors are said."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from agentic_hpt.records import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Answer", "Session", "debug_option", "say_error", "verb"]


@dataclass
class Session:
    """What one call of the command line remembers."""

    debug: bool = False


@dataclass(frozen=True)
class Answer:
    """What a verb answers: the document for `--json`, how to show it to a person, and the exit code.

    `afterwards` is what is left to do once the answer is out (a server to wait for).
    """

    document: JsonObject
    show: Callable[[Console], None]
    exit_code: int = 0
    afterwards: Callable[[], None] | None = None


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).debug = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_remember_debug, help="Show where an error happened."
)


def verb(function: Callable[..., Answer]) -> Callable[..., int]:
    """Make a verb of a function: give it `--home`, `--json` and `--debug`, and write its answer.

    With `--json`, stdout gets one JSON document and nothing else, whatever libraries, objectives or programs print.
    """

    @click.option("--home", metavar="DIR", help="Where studies are kept. [AGENTIC_HPT_HOME, else hpt-home]")
    @click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
    @debug_option
    @functools.wraps(function)
    def command(*, as_json: bool, **options: object) -> int:
        if as_json:
            write = _claim_stdout()
            answer = function(**options)
            write(json.dumps(_finite(answer.document), allow_nan=False, indent=2) + "\n")
        else:
            answer = function(**options)
            answer.show(_console())
        sys.stdout.flush()
        if answer.afterwards is not None:
            answer.afterwards()
        return answer.exit_code

    return command


def say_error(message: str, hint: str = "") -> None:
    """Write an error and what to do about it to stderr, with secrets masked and control characters escaped."""
    from agentic_hpt.config import mask_secrets
    from agentic_hpt.report.plain import visible

    for head, text in (("error", message), ("hint", hint)):
        if text:
            lines = "\n".join(visible(line) for line in mask_secrets(text).splitlines())
            click.echo(f"{head}: {lines}", err=True)


def _claim_stdout() -> Callable[[str], None]:
    """Keep stdout for one text, which the given function writes; everything else goes to stderr from now on.

    Not undone: what C libraries have buffered, and what is printed at exit, must not follow the document.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def write(text: str) -> None:
        with contextlib.closing(os.fdopen(kept, "w", encoding="utf-8")) as stream:
            stream.write(text)

    return write


def _finite(value: object) -> object:
    """Give `value` with `null` for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _console() -> Console:
    """Give a console for stdout that reads no markup; one that is no terminal gets lines of any length."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
