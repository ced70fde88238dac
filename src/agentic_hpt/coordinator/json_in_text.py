"""The JSON in a model's answer, which may stand among words, and may be cut short."""

from __future__ import annotations

import json
import re

from agentic_hpt.errors import CoordinatorError

_MAX_BRACES = 100
_LONGEST_END = 40
_END = re.compile(r"[-+.\w]*[\s`]*")
"""What may follow where JSON was cut short: the beginning of a number or a word, and the end of a code fence."""


def first_object(text: str) -> object:
    """Find the first JSON object with `actions` in text, else the first at all (models wrap it in words or fences).

    A part of an answer that was cut short is not taken for the whole of it.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    start, cut_short = -1, False
    others: list[object] = []
    for _ in range(_MAX_BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            cut_short = cut_short or _ends_early(error)
            continue
        if isinstance(found, dict) and "actions" in found:
            return found
        others.append(found)
        start = end - 1
    if cut_short:
        raise CoordinatorError(
            "the answer's JSON ends before it is complete: close every bracket, give fewer actions and shorter reasons"
        )
    if not others:
        raise CoordinatorError("the answer holds no JSON object")
    return others[0]


def _ends_early(error: Exception) -> bool:
    """Say whether a text was JSON up to its end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    rest = error.doc[error.pos : error.pos + _LONGEST_END + 1]
    return error.msg.startswith("Unterminated string") or _END.fullmatch(rest) is not None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
