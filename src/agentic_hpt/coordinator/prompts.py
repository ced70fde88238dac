"""The prompts: versioned files beside this module, filled with evidence."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from agentic_hpt.coordinator.decisions import answer_schema
from agentic_hpt.coordinator.evidence import build_evidence, describe_progress, render
from agentic_hpt.coordinator.guards import allowed, plateau
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject

VERSION = "coordinator_v1"

_MAY = {
    "continue": "- continue: go round again with the workers as they are.",
    "propose": "- propose: have up to 8 new, diverse configurations tried next, beside the workers.",
    "finalize": "- finalize: end the search; the best configuration is retrained and scored.",
}


def coordinator_prompt(situation: Situation) -> tuple[str, JsonObject]:
    """Give the prompt and the schema of the answer; both hold only the actions that could be accepted now."""
    may = allowed(situation)
    schema = answer_schema(situation.space, may)
    since, needed = plateau(situation)
    conclusion = f"After round {situation.round}: {describe_progress(situation)}. {since} trials since the best one; "
    conclusion += "finalize may be accepted." if since >= needed else f"finalize is refused before {needed}."
    parts = {
        "actions": "\n".join(_MAY[action] for action in may),
        "conclusion": conclusion,
        "schema": json.dumps(schema),
        "evidence": render(build_evidence(situation)),
    }
    # In one pass: what is put in may hold such a name itself.
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], _read(VERSION)), schema


def repair_prompt(error: str) -> str:
    """Give the one message that follows an answer which could not be used."""
    return _read("repair_v1").replace("{error}", error[:1000])


def _read(name: str) -> str:
    return (files("agentic_hpt.coordinator") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
