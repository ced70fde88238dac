"""Objectives that are programs: any language, one tagged JSON line back."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from agentic_hpt.errors import ConfigError, FailureKind, TrialFailure, tells_out_of_memory
from agentic_hpt.protocols import TrialHandle
from agentic_hpt.records import JsonObject, Params, ParamValue

__all__ = ["CommandObjective"]

_TAG = "HPT "
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_GRACE = 2.0
"""Seconds that a program gets to end after SIGTERM."""
_SHELL_SIGKILL = 128 + signal.SIGKILL
"""What a shell or a container's tool says of a program that was killed so."""
_LOOKED_AT, _LAST_WORDS = 16_384, 1500
_LINE = 500


class CommandObjective:
    """Run a program for each trial; no shell is involved.

    `{name}` in an argument stands for a parameter's value (`{{` and `}}` for braces). An argument whose placeholders
    all stand for parameters that are not active in the trial is left out: write `--momentum={momentum}`, not two
    arguments. The program also finds `HPT_PARAMS` (JSON), `HPT_TRIAL`, `HPT_SEED`, `HPT_ARTIFACT_DIR` and
    `HPT_CHECKPOINT_DIR` in its environment.

    A line `HPT {"step": 0, "accuracy": 0.5}` on its standard output is a report; one without `step` is the result, the
    last one counts. Its other output goes to `output.log`, its standard error to `stderr.log` in the artifact folder.

    Raises `ConfigError` for an unknown placeholder, folder or program.
    """

    has_holdout = False

    def __init__(self, argv: Sequence[str], folder: str | None, space_names: Sequence[str], metric: str) -> None:
        if not argv:
            raise ConfigError("the command is empty", "give a program and its arguments")
        self._folder = str(Path(folder or ".").resolve())
        self._names = tuple(space_names)
        self._metric = metric
        for argument in argv:
            self._check(argument)
        self._argv = (_program(argv[0], self._folder), *argv[1:])

    def __repr__(self) -> str:
        return " ".join(self._argv)

    def preload(self) -> tuple[str, ...]:
        """Name nothing: the program brings its own libraries."""
        return ()

    def facts(self, params: Params) -> JsonObject:
        """Give nothing: what a program works on is not known; the study file's `job` may say it."""
        return {}

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Run the program to its end and give its last result.

        Raises `TrialFailure` for an exit code other than 0, for a broken `HPT` line and for a missing result.
        """
        environment = {
            **os.environ,
            "HPT_PARAMS": json.dumps(dict(params)),
            "HPT_TRIAL": str(trial.id),
            "HPT_SEED": str(trial.seed),
            "HPT_ARTIFACT_DIR": str(trial.artifact_dir),
            "HPT_CHECKPOINT_DIR": str(trial.checkpoint_dir),
        }
        output, errors = trial.artifact_dir / "output.log", trial.artifact_dir / "stderr.log"
        with output.open("ab", buffering=0) as log, errors.open("ab") as stderr:
            start = stderr.seek(0, os.SEEK_END)
            try:
                program = subprocess.Popen(
                    self._filled(params),
                    cwd=self._folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            except (OSError, ValueError) as error:
                raise TrialFailure(FailureKind.CRASH, f"the program could not be started: {error}") from error
            with program:
                try:
                    result = _follow(program, trial, log)
                finally:
                    _end(program)
        if program.returncode != 0:
            raise _exit_failure(program.returncode, _end_of(errors, start))
        if result is None:
            raise TrialFailure(
                FailureKind.INVALID_OUTPUT,
                f'the program gave no result; print a line like HPT {{"{self._metric}": 0.9}} to standard output',
            )
        return result

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Refuse: a program has no second way to be called."""
        raise ConfigError("a command has no holdout", "ask has_holdout first")

    def _check(self, argument: str) -> None:
        for token in _TOKEN.finditer(argument):
            name = token.group(1)
            if name is not None and name not in self._names:
                raise ConfigError(
                    f"command: {argument!r} has the unknown placeholder {{{name}}}",
                    f"the parameters are {', '.join(self._names)}; write {{{{ and }}}} for braces",
                )

    def _filled(self, params: Params) -> list[str]:
        def value(token: re.Match[str]) -> str:
            name = token.group(1)
            if name is None:
                return token.group()[0]
            return _text(params[name]) if name in params else ""

        filled = []
        for argument in self._argv:
            names = [t.group(1) for t in _TOKEN.finditer(argument) if t.group(1) is not None]
            if not names or any(name in params for name in names):
                filled.append(_TOKEN.sub(value, argument))
        return filled


def _program(name: str, folder: str) -> str:
    """Find the program on the search path or in the folder, so that a typo shows before anything runs."""
    if not Path(folder).is_dir():
        raise ConfigError(f"command: there is no folder {folder}", "mend objective.folder")
    if _TOKEN.search(name):
        return name  # known only in the trial
    found = shutil.which(name) if os.sep not in name else None
    found = found or shutil.which(str(Path(folder, name)))
    if found is None and name in ("python", "python3"):
        found = sys.executable
    if found is None:
        raise ConfigError(
            f"command: there is no program {name!r} on the search path or in {folder}",
            "check the spelling, and that the file is executable",
        )
    return found


def _text(value: ParamValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parsed(line: str) -> dict[str, object]:
    try:
        message = json.loads(line[len(_TAG) :])
    except ValueError as error:
        text = f"not valid JSON ({error}) in the line: {_begin(line)}"
        raise TrialFailure(FailureKind.INVALID_OUTPUT, text) from None
    if not isinstance(message, dict):
        raise TrialFailure(FailureKind.INVALID_OUTPUT, f"not a JSON object in the line: {_begin(line)}")
    return message


def _exit_failure(code: int, last_words: str) -> TrialFailure:
    if code in (-signal.SIGKILL, _SHELL_SIGKILL):
        return TrialFailure(FailureKind.LOST_WORKER, "the program was killed from outside (SIGKILL)")
    ended = f"ended with exit code {code}" if code > 0 else f"died by {signal.Signals(-code).name}"
    last = last_words.rpartition("\n")[2]
    short = last.startswith("MemoryError") or "OutOfMemoryError" in last or tells_out_of_memory(last)
    kind = FailureKind.OUT_OF_MEMORY if short else FailureKind.CRASH
    return TrialFailure(kind, f"the program {ended}" + (f":\n{last_words}" if last_words else ""))


def _follow(program: subprocess.Popen[bytes], trial: TrialHandle, log: IO[bytes]) -> dict[str, object] | None:
    """Pass the program's reports on until it ends, and give its last result."""
    result: dict[str, object] | None = None
    for raw in _lines(program):
        line = raw.decode(errors="replace").rstrip()
        if not line.startswith(_TAG):
            log.write(raw + b"\n")
            continue
        message = _parsed(line)
        if "step" in message:
            step = message.pop("step")
            trial.report(message, step)  # type: ignore[arg-type]  # checked there
        else:
            result = message
    program.wait()
    return result


def _lines(program: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Give the program's lines until it has ended, even if something it started holds its output open."""
    assert program.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        while True:
            ended = program.poll() is not None
            if selector.select(0 if ended else 0.1):
                data = os.read(program.stdout.fileno(), 65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
            elif ended:
                break
    if rest:
        yield rest


def _end_of(file: Path, start: int) -> str:
    with file.open("rb") as stream:
        stream.seek(max(start, file.stat().st_size - _LOOKED_AT))
        return _masked(stream.read().decode(errors="replace"))[-_LAST_WORDS:].strip()


def _begin(line: str) -> str:
    return _masked(line)[:_LINE]


def _masked(text: str) -> str:
    """Mask secrets in what is cut afterwards: half of one would not be known as one."""
    from agentic_hpt.config import mask_secrets  # takes a while to import: not for trials that go well

    return mask_secrets(text)


def _end(program: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, because its trial was pruned or its output is broken."""
    if program.poll() is not None:
        return
    program.terminate()
    try:
        program.wait(_GRACE)
    except subprocess.TimeoutExpired:
        program.kill()
