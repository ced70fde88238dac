"""The tracker of a study that is not logged to MLflow."""

from __future__ import annotations

from agentic_hpt.errors import TrackerAway
from agentic_hpt.records import JsonObject, Trial


class NullTracker:
    """Write nothing and read nothing: the ledger's own records stand in."""

    async def start(self) -> None:
        """Do nothing."""

    async def read_round(self, round_: int, expected: int, wait: float) -> list[Trial]:
        """Raise `TrackerAway`."""
        raise TrackerAway("MLflow is switched off")

    async def drain(self, wait: float) -> int:
        """Give 0: nothing is ever left to write."""
        return 0

    async def info(self) -> JsonObject:
        """Give the same keys as the real tracker, all empty."""
        return {"tracking_uri": None, "experiment": None, "run_id": None, "away": "MLflow is switched off"}

    async def close(self) -> None:
        """Do nothing."""
