"""The evidence as text: JSON, a key a line; in a compact form for a model with a small context."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import cast

from agentic_hpt.coordinator.evidence.shortening import cut
from agentic_hpt.records import JsonObject

_LONGEST_LINE = 160
_DROPPED = (
    "source",
    "counts",
    "workers",
    "curves",
    "stopping",
    "outlook",
    "rounds",
    "kinds",
    "cost",
    "bounds",
    "effects",
    "top_fifth",
    "model",
    "decisions",
    "steering",
    "failures",
    "insights",
    "noise",
    "front",
    "job",
    "description",
    "trials",
    "constraints",
    "space",
)
"""What a compact form drops when cutting is not enough, the least needed first."""
_LAST = ("conclusions", "goal", "best")
_Cut = Callable[[JsonObject], JsonObject]


def render(evidence: JsonObject, budget_characters: int | None = None) -> str:
    """Give the evidence as text for a model: JSON. No text in it can close the tag around it.

    With `budget_characters` detail is dropped in a fixed order until the text fits: curves, the spread of trials, old
    decisions and rounds, long texts, and at last whole keys, named in `left_out`. The conclusions stay longest; what
    they leave no room for is cut from their end.
    """
    text = _text(evidence)
    if budget_characters is None or len(text) <= budget_characters:
        return text
    for smaller in _smaller(evidence):
        text = _text(smaller)
        if len(text) <= budget_characters:
            return text
    evidence = {key: evidence[key] for key in _LAST if key in evidence}
    text = _text(evidence)
    conclusions = list(cast(list[str], evidence.get("conclusions", [])))
    while conclusions and len(text) > budget_characters:
        text = _text({"conclusions": conclusions})
        conclusions.pop()
    return text if len(text) <= budget_characters else "{}"


def evidence_id(evidence: JsonObject) -> str:
    """Give a short hash of the evidence, the same for the same evidence."""
    return hashlib.sha256(render(evidence).encode()).hexdigest()[:16]


def _text(evidence: JsonObject) -> str:
    lines = (f"{json.dumps(key)}: {_line(value)}" for key, value in evidence.items())
    return "{\n" + ",\n".join(lines).replace("<", "\\u003c") + "\n}"


def _line(value: object) -> str:
    """Give a value on one line, or an entry a line where it is long."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    if len(text) <= _LONGEST_LINE:
        return text
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value) + "\n]"
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {_line(entry)}" for key, entry in value.items()) + "\n}"
    return text


def _smaller(evidence: JsonObject) -> Iterator[JsonObject]:
    """Give ever smaller forms of the evidence."""
    cuts: tuple[_Cut, ...] = (
        lambda e: _first(e, "curves", 3),
        lambda e: _trials(e, 30),
        lambda e: _first(e, "workers", 5),
        lambda e: _last(e, "decisions", 3),
        lambda e: _last(e, "rounds", 6),
        lambda e: _first(e, "curves", 0),
        lambda e: _last(e, "effects", 4),
        lambda e: _trials(e, 16),
        lambda e: {**e, "description": cut(str(e["description"]), 300)} if "description" in e else e,
        lambda e: _notes(e, 150),
        lambda e: _last(e, "decisions", 1),
        _differing,
        lambda e: _trials(e, 8),
        lambda e: _last(e, "rounds", 3),
    )
    for shrink in cuts:
        evidence = shrink(evidence)
        yield evidence
    left_out: list[str] = []
    for key in _DROPPED:
        if key in evidence:
            left_out.append(key)
            evidence = {k: v for k, v in evidence.items() if k not in (key, "left_out")} | {"left_out": [*left_out]}
            yield evidence


def _first(evidence: JsonObject, key: str, most: int) -> JsonObject:
    return {**evidence, key: cast(list[object], evidence[key])[:most]} if key in evidence else evidence


def _last(evidence: JsonObject, key: str, most: int) -> JsonObject:
    return {**evidence, key: cast(list[object], evidence[key])[-most:]} if key in evidence else evidence


def _trials(evidence: JsonObject, most: int) -> JsonObject:
    """Keep the best half and the newest of the trials shown."""
    shown = evidence.get("trials")
    if not isinstance(shown, dict) or len(shown["rows"]) <= most:
        return evidence
    place = shown["columns"].index("value")
    goal = cast(dict[str, object], evidence["goal"])
    sign = -1.0 if goal["direction"] == "maximize" else 1.0
    valued = [row for row in shown["rows"] if not isinstance(row[place], str)]
    chosen = {row[0] for row in sorted(valued, key=lambda row: (sign * row[place], row[0]))[: most // 2]}
    newest = [row[0] for row in shown["rows"][::-1] if row[0] not in chosen]
    chosen.update(newest[: most - len(chosen)])
    return {**evidence, "trials": {**shown, "rows": [row for row in shown["rows"] if row[0] in chosen]}}


def _notes(evidence: JsonObject, length: int) -> JsonObject:
    """Drop the notes that were seen before, and cut the new ones."""
    notes = cast(list[JsonObject], evidence.get("notes", []))
    kept = [{**note, "text": cut(str(note["text"]), length)} for note in notes if note["new"]]
    return {**evidence, "notes": kept} if notes else evidence


def _differing(evidence: JsonObject) -> JsonObject:
    entries = cast(list[JsonObject], evidence.get("top_fifth", []))
    return {**evidence, "top_fifth": [entry for entry in entries if entry["differs"]]} if entries else evidence
