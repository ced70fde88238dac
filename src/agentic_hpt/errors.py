"""The error tree. Each class says who must act.

HptError
├── ConfigError          the user mends the study description        exit code 2
│   ├── SpaceError       ... its search space
│   ├── MissingExtra     ... the installation: names the pip extra
│   ├── StudyExists      ... the name: resume it, or start afresh
│   ├── StudyNotFound    ... the name, or the home
│   └── StudyBusy        ... waits: another process runs this study
├── TrialFailure         nobody: it is recorded, the study goes on
├── TransientError       nobody: it is tried again
│   └── TrackerAway      ... MLflow did not answer; the ledger's records stand in
├── CoordinatorError     nobody: the rules decide instead
├── SameFailure          the user mends the objective, and resumes the study
└── LedgerError          the operator; the study stops cleanly, nothing is lost
    ├── NoLedger         ... or nobody: no study was made there yet
    └── StoreVersionError  ... a store this version can't read     exit code 2

Pruned                   not an error: control flow, raised by `trial.report`
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "ConfigError",
    "CoordinatorError",
    "FailureKind",
    "HptError",
    "LedgerError",
    "MissingExtra",
    "NoLedger",
    "Pruned",
    "SameFailure",
    "SpaceError",
    "StoreVersionError",
    "StudyBusy",
    "StudyExists",
    "StudyNotFound",
    "TrackerAway",
    "TransientError",
    "TrialFailure",
    "tells_out_of_memory",
]


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED: Out of memory",
)
"""What PyTorch, cuBLAS, cuDNN and JAX say."""


class FailureKind(StrEnum):
    """Why a failed trial has no value."""

    CRASH = "crash"
    """The objective raised, its process died by a signal of its own, or a command exited with another code than 0."""
    TIMEOUT = "timeout"
    """The trial exceeded its time limit."""
    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    """The metric was NaN, infinite, or too large to reckon with (above 1e150)."""
    INVALID_OUTPUT = "invalid_output"
    """The objective returned nothing, not a number, or not the declared metric."""
    LOST_WORKER = "lost_worker"
    """The trial's process or its node was lost, again and again: each time it was tried anew, up to the limit."""
    CANCELLED = "cancelled"
    """The study's time budget ended while the trial ran."""

    @property
    def infrastructure(self) -> bool:
        """Whether it says nothing of the configuration: no sampler and no evidence learns from it."""
        return self in (FailureKind.LOST_WORKER, FailureKind.CANCELLED)


def tells_out_of_memory(text: str) -> bool:
    """Say whether a library's error says that memory was short, the machine's or a GPU's."""
    return any(words in text for words in _OUT_OF_MEMORY)


class HptError(Exception):
    """Base of all errors of this package: what was wrong and where, and in `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HptError):
    """The study description, a flag or an environment variable is wrong; nothing was started."""

    exit_code = 2


class SpaceError(ConfigError):
    """The search space, or a configuration meant to lie in it, is wrong."""


class MissingExtra(ConfigError):
    """An optional dependency is needed that isn't installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed", f"pip install 'agentic-hpt[{extra}]'")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.what, self.extra)


class StudyExists(ConfigError):
    """The study's name is taken in this home."""


class StudyNotFound(ConfigError):
    """No study of this name is in this home."""


class StudyBusy(ConfigError):
    """Another process is running this study now."""


class TrialFailure(HptError):
    """One trial failed; its kind is recorded, it has no value, and the study goes on."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[TrialFailure], tuple[FailureKind, str]]:
        return type(self), (self.kind, self.message)


class TransientError(HptError):
    """Something outside did not answer; trying again may help."""


class TrackerAway(TransientError):
    """MLflow did not answer in time."""


class CoordinatorError(HptError):
    """A decision could not be had from the model."""


class SameFailure(HptError):
    """Trials fail alike again and again: the study stops, so that its budget is not burnt."""


class LedgerError(HptError):
    """The ledger could not be read or written, or a write broke its rules."""


class NoLedger(LedgerError):
    """There is no ledger in this home or database."""


class StoreVersionError(LedgerError):
    """The store was written by a newer version of this package."""

    exit_code = 2


class Pruned(Exception):
    """Raised inside an objective by `trial.report` when the trial should stop early."""
