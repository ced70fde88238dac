"""Keeping runs: a line a run, a file an arm and task; once they are packed, a compressed file an arm."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.search.trials import Setting

from agentic_hpt.records import ParamValue


@dataclass(frozen=True)
class Run:
    """A run of an arm on a task: what each trial observed, what its truth is, and the incumbent's regret after it."""

    task: str
    seed: int
    regret: tuple[float, ...]
    """The incumbent's truth above the best known. The incumbent is the optimizer's own choice by what it observed."""
    observed: tuple[float, ...] = ()
    truth: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    """CPU time that the optimizer took for each trial; 0 for the first ones, which it is given."""
    params: tuple[Mapping[str, ParamValue], ...] = ()
    """Not kept once runs are packed."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """How many trials each kind of worker had."""
    by: str = ""
    """The library that ran, and its version."""
    version: str = ""
    """Of our arm."""


class Store:
    """Keeps runs in a folder, so that only what changed is run again. A run is there once its line is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Name the arms that have runs."""
        found = {path.name.split(".")[0] for path in self._folder.glob("*") if path.is_dir() or path.suffix == ".xz"}
        return sorted(name.replace("-", " ") for name in found)

    def runs(self, arm: str, setting: Setting, version: str | None = None) -> dict[tuple[str, int], Run]:
        """Give an arm's runs under a setting, the newest of each task and seed; of one version, if it is named."""
        found: dict[tuple[str, int], Run] = {}
        for row in self._rows(arm):
            alike = row["setting"] == [setting.trials, setting.first, setting.pending]
            if alike and version in (None, row["version"]):
                run = _run(row)
                found[run.task, run.seed] = run
        return found

    def add(self, arm: str, setting: Setting, run: Run) -> None:
        """Keep a run."""
        path = self._folder / _file(arm) / f"{_file(run.task)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write(("\n" if torn else "") + json.dumps(_row(run, setting), separators=(",", ":")) + "\n")

    def pack(self, arm: str) -> None:
        """Put an arm's runs into one compressed file, without the configurations; later ones replace earlier ones."""
        kept: dict[str, dict[str, object]] = {}
        for row in self._rows(arm):
            kept[json.dumps([row[name] for name in ("task", "seed", "setting", "version")])] = row
        if not kept:
            return
        lines = [json.dumps({**row, "params": []}, separators=(",", ":")) + "\n" for _, row in sorted(kept.items())]
        (self._folder / f"{_file(arm)}.jsonl.xz").write_bytes(lzma.compress("".join(lines).encode(), preset=9))

    def _rows(self, arm: str) -> Iterator[dict[str, object]]:
        packed = self._folder / f"{_file(arm)}.jsonl.xz"
        if packed.exists():
            yield from _read(lzma.decompress(packed.read_bytes()).decode().splitlines())
        for path in sorted((self._folder / _file(arm)).glob("*.jsonl")):
            yield from _read(path.read_text().splitlines())


def _read(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """Read lines; one that a kill left torn is no run."""
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _file(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")


def _row(run: Run, setting: Setting) -> dict[str, object]:
    changes = [i for i, value in enumerate(run.regret) if not i or value != run.regret[i - 1]]
    return {
        "task": run.task,
        "seed": run.seed,
        "setting": [setting.trials, setting.first, setting.pending],
        "version": run.version,
        "by": run.by,
        "length": len(run.regret),
        "regret": [[i, _short(run.regret[i], 6)] for i in changes],
        "observed": [_short(value, 7) for value in run.observed],
        "truth": [] if run.truth == run.observed else [_short(value, 7) for value in run.truth],
        "seconds": [_short(value, 2) for value in run.seconds],
        "params": [{name: _short(value, 6) for name, value in params.items()} for params in run.params],
        "kinds": dict(run.kinds),
    }


def _run(row: Mapping[str, object]) -> Run:
    regret: list[float] = []
    for begins, value in row["regret"]:  # type: ignore[attr-defined]
        regret += [regret[-1] if regret else value] * (begins - len(regret)) + [value]
    regret += [regret[-1]] * (row["length"] - len(regret))  # type: ignore[operator]
    lists = {name: tuple(row[name]) for name in ("observed", "truth", "seconds", "params")}  # type: ignore[arg-type]
    lists["truth"] = lists["truth"] or lists["observed"]
    rest = {name: row[name] for name in ("task", "seed", "kinds", "by", "version")}
    return Run(regret=tuple(regret), **lists, **rest)  # type: ignore[arg-type]


def _short(value: ParamValue, digits: int) -> ParamValue:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
