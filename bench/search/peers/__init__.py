"""Peers: other optimizers, each a script in an environment of its own, asked and told by lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

from bench.search.peers.protocol import Parameter
from bench.search.trials import Lab, Setting, first_trials

from agentic_hpt.records import Params, ParamValue
from agentic_hpt.space import Choice, SearchSpace


@dataclass(frozen=True)
class Peer:
    """An optimizer of somebody else. `script` and its environment have the same name."""

    name: str
    script: str
    arm: str = ""
    seeds_from: int = 0
    in_batches: bool = False
    """With several under way it suggests them together, and all of them end before the next."""


PEERS = {
    peer.name: peer
    for peer in (
        Peer("random", "optuna", "random"),
        Peer("optuna tpe", "optuna", "tpe"),
        Peer("optuna cmaes", "optuna", "cmaes"),
        Peer("optuna gp", "optuna", "gp"),
        Peer("smac3", "smac"),
        Peer("ax", "ax"),
        Peer("hebo", "hebo", in_batches=True),
    )
}


class Child:
    """A peer's process. It serves run after run, so that its libraries are imported once."""

    def __init__(self, python: Path, script: str) -> None:
        path = Path(__file__).parent / f"{script}_peer.py"
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [str(python), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads},
        )
        self.seconds = 0.0
        """CPU time that the optimizer took since it was last looked at."""

    def send(self, do: str, **message: object) -> Mapping[str, object]:
        """Ask something. Raises `RuntimeError` when the peer is gone; what it said stands on stderr."""
        requests, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            requests.write(json.dumps({"do": do, **message}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the peer ended while it was asked to {do}; its words stand above")
        answer: Mapping[str, object] = json.loads(line)
        self.seconds += cast(float, answer["seconds"])
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            cast(IO[str], self._process.stdin).close()
        cast(IO[str], self._process.stdout).close()
        self._process.wait()


def python_of(script: str, envs: Path) -> Path:
    """Give the interpreter of a peer's environment."""
    return envs / script / "bin" / "python"


def play(child: Child, peer: Peer, lab: Lab, setting: Setting) -> tuple[str, list[float]]:
    """Run a peer on a task; give its version and the CPU seconds that it took for each trial."""
    space = lab.task.space
    first = [(params, lab.evaluate(params)) for params in first_trials(lab.task, lab.seed, setting.first)]
    child.seconds = 0.0
    told = [(to_numbers(space, params), value) for params, value in first]
    answer = child.send(
        "start",
        arm=peer.arm,
        space=[asdict(entry) for entry in described(space)],
        seed=lab.seed,
        trials=setting.trials,
        pending=setting.pending,
        first=told,
    )
    seconds, running = [0.0] * len(first), list[tuple[int, Params]]()
    asking = True
    while len(lab.params) < setting.trials:
        room = len(lab.params) + len(running) < setting.trials and len(running) < setting.pending
        asking = room and (asking or not running or not peer.in_batches)
        if asking:
            asked = child.send("ask")
            seconds.append(child.seconds)
            child.seconds = 0.0
            params = from_numbers(space, cast(Mapping[str, float], asked["params"]))
            running.append((cast(int, asked["number"]), params))
        else:
            number, params = running.pop(0)
            child.send("tell", number=number, value=lab.evaluate(params))
    return str(answer["version"]), seconds


def described(space: SearchSpace) -> Sequence[Parameter]:
    """Give a space as peers see it: without what has one value, parents before their children."""
    found: list[Parameter] = []
    for name in space.order:
        p = space[name]
        default = _number(space, name, p.resolved_default())
        when = {parent: [_number(space, parent, w) for w in _listed(wanted)] for parent, wanted in p.when.items()}
        if isinstance(p, Choice):
            kind = "ordered" if p.ordered else "categorical"
            entry = Parameter(name, kind, 0, len(p.values) - 1, default=default, when=when)  # type: ignore[arg-type]
        else:
            step = p.step if p.kind == "float" or p.step != 1 else None
            entry = Parameter(name, p.kind, p.low, p.high, p.log, step, default, when)  # type: ignore[arg-type]
        if entry.low < entry.high:
            found.append(entry)
    return found


def to_numbers(space: SearchSpace, params: Params) -> dict[str, float]:
    """Give a configuration as peers see it."""
    shown = {entry.name for entry in described(space)}
    return {name: _number(space, name, value) for name, value in params.items() if name in shown}


def from_numbers(space: SearchSpace, numbers: Mapping[str, float]) -> dict[str, ParamValue]:
    """Read a peer's configuration: what is not active is left out, what has one value is put in, ends are ends."""
    params: dict[str, ParamValue] = {}
    for name, number in numbers.items():
        p = space[name]
        params[name] = p.values[int(number)] if isinstance(p, Choice) else p.snap(min(max(number, p.low), p.high))
    return space.validated(space.complete(params))


def _number(space: SearchSpace, name: str, value: ParamValue) -> float:
    p = space[name]
    return p.index(value) if isinstance(p, Choice) else cast(float, value)


def _listed(wanted: object) -> Sequence[ParamValue]:
    return wanted if isinstance(wanted, list | tuple) else (cast(ParamValue, wanted),)
