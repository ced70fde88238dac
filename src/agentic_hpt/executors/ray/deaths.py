"""What an error of Ray says of a trial."""

from __future__ import annotations

from agentic_hpt.errors import FailureKind

__all__ = ["meaning"]

_LENGTH = 300
"""Of what Ray says: advice on its own tools follows."""


def meaning(error: Exception) -> tuple[FailureKind, str]:
    """Say what ended an attempt that gave no outcome: all is the cluster's doing but a lack of memory."""
    from ray import exceptions as ray

    text = str(error).strip()[:_LENGTH]
    if isinstance(error, ray.OutOfMemoryError):
        return FailureKind.OUT_OF_MEMORY, f"Ray ended the trial because its node ran out of memory: {text}"
    if isinstance(error, ray.RayTaskError):
        return FailureKind.LOST_WORKER, f"hpt could not run the trial on its node: {_last_line(str(error))}"
    if isinstance(error, ray.TaskCancelledError):
        return FailureKind.LOST_WORKER, "the trial's task was cancelled from outside"
    if isinstance(error, ray.RuntimeEnvSetupError):
        return FailureKind.LOST_WORKER, f"Ray could not set up ray.env or ray.working_dir on a node: {text}"
    if isinstance(error, ray.WorkerCrashedError):
        return FailureKind.LOST_WORKER, f"the trial's worker or its node died: {text}"
    return FailureKind.LOST_WORKER, f"the trial's node was lost: {type(error).__name__}: {text}"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:_LENGTH] if text.strip() else "no reason given"
