"""Ask and tell: a study in the hands of those who own their loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.handle import number_of
from agentic_hpt.protocols import Strategy
from agentic_hpt.records import Assignment, Outcome, Params, Trial, configuration_key, is_figure

if TYPE_CHECKING:
    from agentic_hpt.ledger import StudyLedger


@dataclass(frozen=True)
class Asking:
    """What asks and tells of one study share. Whoever has it holds the study's lock."""

    config: StudyConfig
    ledger: StudyLedger
    strategy: Strategy
    initial: tuple[Params, ...] = ()
    """The configurations that are asked for first, behind the default."""

    def ask(self) -> Trial:
        """Reserve the next trial, first the default and those given. Raises `ConfigError` when none is left."""
        trials, names = self.ledger.trials(), self.config.space.names
        params: Params = self.config.space.default()
        tried = {configuration_key(t.params) for t in trials}
        given = [p for p in self.initial if configuration_key(p) not in tried]
        begins = not any(t.counted for t in trials) and configuration_key(params) not in tried
        if not begins and given:
            params = given[0]
        elif not begins:
            assignment = Assignment("ask", "ask", 0, 1, names)
            proposal = self.strategy.propose(assignment, trials, self.config.proposal_seed(len(trials)))
            if proposal is None:
                raise ConfigError("every configuration of the space was tried", "widen the space")
            params = proposal.params
        trial = self.ledger.reserve(round_=0, worker="ask", kind="ask", params=params, tuned=names, begin=True)
        if trial is None:
            raise ConfigError(f"all {self.config.budget.trials} trials are spent", "make a study with a larger budget")
        return trial

    def tell(
        self,
        number: int,
        values: Mapping[str, float] | float | None,
        state: Literal["complete", "pruned", "failed"],
        message: str,
    ) -> Trial:
        """Close a trial. Raises `LedgerError` for a second answer, `ConfigError` for other wrong input."""
        held, goal = self.ledger.trial(number), self.config.goal
        if state == "complete":
            given: dict[str, object] = dict(values) if isinstance(values, Mapping) else {goal.metric: values}
            numbers = {name: number_of(value) for name, value in given.items()}
            metrics = {name: number for name, number in numbers.items() if number is not None and is_figure(number)}
            missing = [o.metric for o in goal.objectives if o.metric not in metrics]
            if missing:
                raise ConfigError(
                    f"tell: {values!r} has no finite number for the metric {missing[0]!r}",
                    "tell state='failed' for a trial without a value",
                )
            self._check_first(metrics)
            outcome = Outcome.complete(metrics)
        elif state == "pruned":
            outcome = Outcome.pruned(message=mask_secrets(message))
        elif state == "failed":
            outcome = Outcome.failed(FailureKind.CRASH, mask_secrets(message))
        else:
            raise ConfigError(f"tell: the state is {state!r}", "a trial is complete, pruned or failed")
        return self.ledger.finish(number, held.attempt, outcome)

    def _check_first(self, metrics: Mapping[str, float]) -> None:
        """See that the study's first answer has what its constraints need: without that no trial is ever the best."""
        lacking = self.config.goal.unmeasured(metrics)
        if lacking is None or any(t.finished and t.counted for t in self.ledger.trials()):
            return
        metric, constraint = lacking
        raise ConfigError(
            f"tell: there is no {metric!r}, which the constraint {constraint.text!r} needs",
            "tell it with the other metrics",
        )
