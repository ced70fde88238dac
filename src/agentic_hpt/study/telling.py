"""What a study's record means: gathered here, from the coordinator's view of it, for the report to put in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_hpt.study.core import Study
from agentic_hpt.study.result import Result

if TYPE_CHECKING:
    from agentic_hpt.report.explain import Explanation


def _incidents(study: Study, result: Result) -> list[str]:
    from agentic_hpt.report.incidents import change_sentences, lost_sentences, revision_sentences

    stopped = [f"It stopped because {result.error}"] if result.status == "stopped" and result.error else []
    changed = [*revision_sentences(study.revisions), *change_sentences(study.changes())]
    return [*changed, *lost_sentences(study.lost_attempts()), *stopped]


def explain_study(study: Study) -> Explanation:
    """Tell a study, running or ended, in plain words."""
    from agentic_hpt.coordinator.effects import stated_effects
    from agentic_hpt.coordinator.statistics import beyond_noise, noise_sd
    from agentic_hpt.report.explain import explain

    result = study.result()
    goal, trials = result.config.goal.merged(result.trials)
    measured = noise_sd(trials, goal)
    told = result.final is not None and result.final.sd is not None and goal.merges is None
    afterwards = measured is None and told
    if afterwards and result.final is not None:
        measured = result.final.sd
    return explain(
        result.config,
        result.status,
        result.stopped_by,
        result.trials,
        result.decisions,
        result.final,
        result.usage,
        effects=stated_effects(
            result.config, result.usage, result.trials, result.decisions, measured, since=result.begins
        ),
        noise_sd=measured,
        noise_afterwards=afterwards,
        beyond_noise=beyond_noise,
        notes=study.notes(),
        incidents=_incidents(study, result),
        models={call.round: call.model for call in study.calls()},
    )
