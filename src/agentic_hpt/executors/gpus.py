"""Which GPUs this machine has, and which of them each trial gets."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from agentic_hpt.errors import ConfigError

__all__ = ["VARIABLE", "Gpus", "visible_gpus"]

VARIABLE = "CUDA_VISIBLE_DEVICES"
_SMI_SECONDS = 30.0
_UUID = re.compile(r"UUID: ([^)]+)\)")


class Gpus:
    """Hands out `each` of the `devices` to a trial: that many whole ones, or a part of one where it is below 1.

    The parts of one device never add up to more than it. Raises `ConfigError` when they don't suffice for `slots`
    trials at once.
    """

    def __init__(self, devices: Sequence[str], each: float, slots: int) -> None:
        self._whole = max(1, int(each))
        self._parts = int(1 / each + 1e-9) if each < 1 else 1
        self._used = dict.fromkeys(devices, 0)
        fit = len(devices) * self._parts // self._whole
        if fit < slots:
            raise ConfigError(
                f"limits.gpus: {each:g} for each of {slots} trials at once; this machine has {_counted(devices)}",
                f"set parallel: {fit}" + (", or give each trial a smaller part" if each <= 1 else "")
                if fit
                else "take limits.gpus away, or run where there are GPUs",
            )

    def take(self) -> tuple[str, ...]:
        """Give a trial its devices, the least used first. The caller has no more trials than there were `slots`."""
        free = sorted((used, number) for number, used in enumerate(self._used.values()) if used < self._parts)
        names = list(self._used)
        taken = tuple(names[number] for _, number in free[: self._whole])
        for name in taken:
            self._used[name] += 1
        return taken

    def give_back(self, taken: Sequence[str]) -> None:
        """Take a trial's devices back."""
        for name in taken:
            self._used[name] -= 1


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Give the names of this machine's GPUs as `CUDA_VISIBLE_DEVICES` takes them: those that it lists, else all."""
    if VARIABLE in environment:
        named = [name.strip() for name in environment[VARIABLE].split(",")]
        known = next((i for i, name in enumerate(named) if name in ("", "-1", "NoDevFiles")), len(named))
        return tuple(dict.fromkeys(named[:known]))  # CUDA, too, stops at the first name that is none
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[str] = []
    for line in listed.splitlines():
        if uuid := _UUID.search(line):
            if line.lstrip().startswith("MIG") and found and not found[-1].startswith("MIG"):
                found.pop()  # a GPU that is divided is used by its parts
            found.append(uuid.group(1))
    return tuple(found)


def _counted(devices: Sequence[str]) -> str:
    return f"{len(devices)} GPU{'s' * (len(devices) != 1)}" + (f" ({', '.join(devices)})" if devices else "")
