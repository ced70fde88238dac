"""What a peer's script speaks with the harness: a JSON object a line, on stdin and stdout.

A script imports its optimizer and nothing of ours, so that each can live in an environment of its own. The harness
holds the task. Configurations travel as numbers, a choice as the position of its value in the list; what is not active
in a configuration is left out by the harness.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Numbers = Mapping[str, float]
"""A configuration."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as a peer sees it. Both kinds of choices run from 0 to `high`."""

    name: str
    kind: Literal["float", "int", "ordered", "categorical"]
    low: float
    high: float
    log: bool = False
    step: float | None = None
    default: float = 0.0
    when: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """It is active where all of these hold one of these values; parents come before their children."""


def active(parameter: Parameter, params: Numbers) -> bool:
    """Say whether a parameter plays a part in a configuration of which its parents are known."""
    return all(params.get(parent, None) in wanted for parent, wanted in parameter.when.items())


@dataclass(frozen=True)
class Start:
    """How a run begins."""

    arm: str
    space: tuple[Parameter, ...]
    seed: int
    trials: int
    """The whole budget, the first trials among them."""
    pending: int
    """How many configurations may be asked for before one is told."""
    first: tuple[tuple[Numbers, float], ...]
    """The first trials, run already: what was tried, and what was observed (to be minimised)."""


class Optimizer(Protocol):
    """A run of a peer's optimizer."""

    def ask(self) -> tuple[int, Numbers]:
        """Give the next configuration and a number to tell its value by."""

    def tell(self, number: int, value: float) -> None:
        """Take in what was observed of a configuration."""


def serve(version: str, make: Callable[[Start], Optimizer]) -> None:
    """Answer the harness until it goes; each answer says how much CPU time the optimizer took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    optimizer: Optimizer | None = None
    for line in sys.stdin:
        message = json.loads(line)
        began = time.process_time()
        answer: dict[str, object] = {}
        if message["do"] == "start":
            del message["do"]
            space = tuple(Parameter(**entry) for entry in message.pop("space"))
            first = tuple((params, value) for params, value in message.pop("first"))
            optimizer = make(Start(space=space, first=first, **message))
            answer = {"version": version}
        elif optimizer is None:
            raise SystemExit("the first message must be a start")
        elif message["do"] == "ask":
            number, params = optimizer.ask()
            answer = {"number": number, "params": params}
        else:
            optimizer.tell(message["number"], message["value"])
        answers.write(json.dumps({**answer, "seconds": time.process_time() - began}) + "\n")
        answers.flush()
