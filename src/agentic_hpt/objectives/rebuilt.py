"""Objectives that are built anew where a trial runs: their files lie in another folder there."""

from __future__ import annotations

from collections.abc import Callable

from agentic_hpt.protocols import Objective, TrialHandle
from agentic_hpt.records import JsonObject, Params

__all__ = ["RebuiltObjective"]


class RebuiltObjective:
    """The objective `here`, which is pickled as a call: `build(*arguments)`, made in the trial's process."""

    def __init__(self, here: Objective, build: Callable[..., Objective], *arguments: object) -> None:
        self._here = here
        self._call = build, arguments
        self.has_holdout = here.has_holdout

    def __repr__(self) -> str:
        return repr(self._here)

    def __reduce__(self) -> tuple[Callable[..., Objective], tuple[object, ...]]:
        return self._call

    def preload(self) -> tuple[str, ...]:
        """Name the modules worth importing once before trial processes are forked."""
        return self._here.preload()

    def facts(self, params: Params) -> JsonObject:
        """Give what is known of the job before it runs."""
        return self._here.facts(params)

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Run the trial here."""
        return self._here.run(params, trial)

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Score the final model here."""
        return self._here.holdout(params, trial)
