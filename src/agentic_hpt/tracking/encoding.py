"""How a trial looks in MLflow, and how it is read back from there: pure functions, no MLflow."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import cast

from pydantic import TypeAdapter

from agentic_hpt.config import mask_data, mask_secrets
from agentic_hpt.errors import FailureKind
from agentic_hpt.records import JsonObject, ParamValue, Trial, TrialState, WorkerKind

MESSAGE_LENGTH = 500
_LEGAL_KEY = re.compile(r"[\w.\- :/]{1,250}")
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric, as MLflow keeps it. `time` is in milliseconds since the epoch."""

    key: str
    value: float
    step: int
    time: int


def param_text(value: ParamValue) -> str:
    """Give a parameter's value as the text that MLflow keeps; `param_value` reads it back exactly.

    Numbers, booleans and `None` are written as in JSON. A string stands as it is, and in quotes only where it would
    read as something else ("3", "true", the empty string) or holds characters that don't print.
    """
    if isinstance(value, str) and value and value.isprintable() and param_value(value) == value:
        return value
    return json.dumps(value)


def param_value(text: str) -> ParamValue:
    """Read a parameter's value from MLflow's text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, list | dict) else cast(ParamValue, value)


def legal_key(name: str) -> str:
    """Give `name` if MLflow takes it as a metric's or parameter's name, else a form of it that MLflow takes."""
    if _LEGAL_KEY.fullmatch(name) and posixpath.normpath(name) == name and not name.startswith(("..", "/", ".")):
        return name
    return re.sub(r"[^\w\- :]", lambda found: f"_x{ord(found[0]):x}_", name)[:250] or "_"


def flat(data: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested data to dotted keys; lists stay whole, as JSON."""
    found: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            text = json.dumps(value) if isinstance(value, list | dict) else param_text(cast(ParamValue, value))
            found[legal_key(f"{prefix}{name}")] = text
    return found


def trial_status(trial: Trial) -> str:
    """Give MLflow's word for how the trial ended."""
    return _STATUS[trial.state]


def trial_tags(trial: Trial) -> dict[str, str]:
    """Give the tags of a trial's run, all that `trial_from_run` needs among them."""
    tags = {
        "hpt.trial": str(trial.id),
        "hpt.attempt": str(trial.attempt),
        "hpt.worker": trial.worker,
        "hpt.worker_kind": trial.kind,
        "hpt.round": str(trial.round),
        "hpt.revision": str(trial.revision),
        "hpt.tuned": ",".join(trial.tuned),
        "hpt.state": trial.state.value,
        "hpt.seed": str(trial.seed),
        "hpt.values": json.dumps([legal_key(name) for name in trial.values]),
    }
    if trial.seconds is not None:
        tags["hpt.seconds"] = repr(float(trial.seconds))
    if trial.failure is not None:
        tags["hpt.failure"] = trial.failure.value
    if trial.continues is not None:
        tags["hpt.continues"] = str(trial.continues)
    if trial.source:
        tags["hpt.source"] = trial.source
    if trial.message:
        tags["hpt.message"] = mask_secrets(trial.message)[:MESSAGE_LENGTH]
    renamed = {key: name for name in [*trial.params, *trial.values] if (key := legal_key(name)) != name}
    if renamed:
        tags["hpt.names"] = json.dumps(renamed)
    return tags


def trial_points(trial: Trial, started: int, ended: int) -> list[Point]:
    """Give a trial's metrics: its reports by step, then its final values, so that a key's latest value is final.

    `started` and `ended` are milliseconds. The times of reports are not known: they are spread evenly. Of several
    reports of one metric at one step the last counts.
    """
    steps: dict[tuple[str, int], Point] = {}
    newest: dict[str, int] = {}
    for number, report in enumerate(trial.reports, start=1):
        time = started + (ended - started) * number // (len(trial.reports) + 1)
        for name, value in report.metrics.items():
            key = legal_key(name)
            steps[key, report.step] = Point(key, float(value), report.step, time)
            newest[key] = max(report.step, newest.get(key, report.step))
    for name, value in trial.values.items():
        key = legal_key(name)
        last = steps.get((key, newest.get(key, -1)))
        if last is None or last.value != value:
            steps[key, newest.get(key, -1) + 1] = Point(key, float(value), newest.get(key, -1) + 1, ended)
    return list(steps.values())


def call_texts(calls: Sequence[JsonObject]) -> dict[str, str]:
    """Give the files that tell of a decision's calls of a model, by name: prompts, answers, and the rest of them all.

    In `calls.json` the names of its files stand in place of a call's prompt and answer.
    """
    texts: dict[str, str] = {}
    told: list[JsonObject] = []
    for number, call in enumerate(calls, start=1):
        mark = "" if number == 1 else f"-{number}"
        files = {f"{part}{mark}.txt": str(call[part]) for part in ("prompt", "answer")}
        texts |= files
        prompt, answer = (name if text else None for name, text in files.items())
        told.append({**call, "prompt": prompt, "answer": answer})
    return {**texts, "calls.json": json.dumps(mask_data(told), indent=2)} if told else {}


def trial_from_run(params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]) -> Trial:
    """Read a trial back from its run; reports are left out. Raises `KeyError` or `ValueError` for a damaged run."""
    names: dict[str, str] = json.loads(tags.get("hpt.names", "{}"))
    finals: list[str] = json.loads(tags["hpt.values"])
    values = {names.get(key, key): metrics[key] for key in finals}
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError(f"a final value of trial {tags['hpt.trial']} is not finite")
    return Trial(
        id=int(tags["hpt.trial"]),
        params={names.get(key, key): param_value(text) for key, text in params.items()},
        state=TrialState(tags["hpt.state"]),
        seed=int(tags["hpt.seed"]),
        worker=tags["hpt.worker"],
        kind=cast(WorkerKind, tags["hpt.worker_kind"]),
        round=int(tags["hpt.round"]),
        tuned=tuple(name for name in tags["hpt.tuned"].split(",") if name),
        revision=int(tags["hpt.revision"]),
        attempt=int(tags["hpt.attempt"]),
        values=values,
        failure=FailureKind(tags["hpt.failure"]) if "hpt.failure" in tags else None,
        message=tags.get("hpt.message", ""),
        seconds=float(tags["hpt.seconds"]) if "hpt.seconds" in tags else None,
        continues=int(tags["hpt.continues"]) if "hpt.continues" in tags else None,
        source=tags.get("hpt.source", ""),
    )


def trial_to_json(trial: Trial) -> JsonObject:
    """Give a trial as plain data."""
    return cast(JsonObject, asdict(trial))


def trial_from_json(data: object) -> Trial:
    """Rebuild a trial from plain data. Raises `ValueError` when it isn't one."""
    return _trial_adapter().validate_python(data)


@cache
def _trial_adapter() -> TypeAdapter[Trial]:
    return TypeAdapter(Trial)


def newest_attempts(trials: Iterable[Trial]) -> list[Trial]:
    """Give one trial for each number, its newest attempt, in order of their numbers."""
    kept: dict[int, Trial] = {}
    for trial in trials:
        held = kept.get(trial.id)
        if held is None or trial.attempt >= held.attempt:
            kept[trial.id] = trial
    return [kept[number] for number in sorted(kept)]
