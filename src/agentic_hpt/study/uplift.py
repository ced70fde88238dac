"""Was the model worth it? The same study with the model, with the rules, and with the model fed shuffled outcomes.

Each arm and seed is a study of its own, in a home of its own, with the same budget, space and default. What is finished
is not run again, so an uplift that was stopped goes on where it was. The default configuration is also run alone, once
a seed, for its figure on fresh seeds. The holdout is left alone: it is the real study's, to be scored once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from agentic_hpt.config import Settings, StudyConfig
from agentic_hpt.errors import ConfigError, StudyNotFound
from agentic_hpt.protocols import Objective, TrialHandle
from agentic_hpt.records import JsonObject, Params, configuration_key
from agentic_hpt.study.core import Listener, Study
from agentic_hpt.study.result import Result
from agentic_hpt.study.shuffling import plain, shuffled
from agentic_hpt.study.uplift_statistics import Arm, ArmRun, Baseline, Comparison, best_so_far, compare

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["Uplift", "run_uplift"]

Role = Arm | Literal["default"]
_ROLES: tuple[Role, ...] = ("default", "rules", "model", "shuffled")


@dataclass(frozen=True)
class Uplift:
    """What an uplift found; `planned` is the number of its studies, `exit_code` says whether all were run."""

    study: str
    model: str
    home: Path
    comparison: Comparison
    runs: tuple[ArmRun, ...]
    baselines: tuple[Baseline, ...]
    planned: int
    exit_code: int

    @property
    def finished(self) -> int:
        """How many of its studies have ended."""
        return len(self.runs) + len(self.baselines)

    def to_json(self) -> JsonObject:
        """Give the document that `hpt uplift --json` prints."""
        return {
            "study": self.study,
            "model": self.model,
            "home": str(self.home),
            "studies": {"finished": self.finished, "planned": self.planned},
            **self.comparison.to_json(),
            "runs": [asdict(run) for run in self.runs],
            "defaults": [asdict(baseline) for baseline in self.baselines],
        }


@dataclass(frozen=True)
class _Unscored:
    """An objective without its holdout."""

    inner: Objective

    @property
    def has_holdout(self) -> bool:
        return False

    def preload(self) -> tuple[str, ...]:
        return self.inner.preload()

    def facts(self, params: Params) -> JsonObject:
        return self.inner.facts(params)

    def run(self, params: Params, trial: TrialHandle) -> object:
        return self.inner.run(params, trial)

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        raise ConfigError("an uplift scores no holdout", "ask has_holdout first")


def run_uplift(
    config: StudyConfig,
    *,
    seeds: int,
    home: str | Path | None = None,
    chat_model: BaseChatModel | None = None,
    objective: Objective | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Uplift:
    """Run what is missing of an uplift over seeds 0, 1, ..., `seeds` - 1, and compare.

    The model is the description's, or `chat_model`. The studies are kept under `uplift-NAME` in the home; `fresh`
    archives those of an earlier uplift. The target is left out, so that all arms have the same budget. `listener` gets
    the studies' events, and one of the type `uplift` at the begin and the end of each. Ctrl-C stops it like a study:
    what is finished is compared. Raises `ConfigError` for bad input before anything is made.
    """
    from agentic_hpt import wiring

    if seeds < 1:
        raise ConfigError(f"seeds: {seeds}: an uplift needs at least one seed", "5 or more can show something")
    if config.budget.trials is None:
        raise ConfigError("an uplift compares trial by trial, and there is no budget of trials", "give --trials N")
    if config.goal.several:
        raise ConfigError("an uplift compares one figure, and the study has several metrics", "name one of them")
    if config.coordinator.model is None and chat_model is None:
        raise ConfigError("there is no model to be judged", "give --model provider:name, openai:gpt-5-mini say")
    wiring.check_coordinator(config.coordinator)
    objective = _Unscored(objective if objective is not None else wiring.make_objective(config))
    folder = Settings.load(home).home / f"uplift-{config.study}"
    told = listener or (lambda event: None)
    runs: list[ArmRun] = []
    baselines: list[Baseline] = []
    plan = [(seed, role) for seed in range(seeds) for role in _ROLES]
    described = {step: _described(config, step[1], step[0]) for step in plan}
    exit_code = 0
    for number, (seed, role) in enumerate(plan, 1):
        study, known = _study(described[seed, role], folder, fresh)
        head: JsonObject = {"type": "uplift", "number": number, "of": len(plan), "arm": role, "seed": seed}
        if not known:
            told({**head, "state": "begins"})
        result = study.run(
            objective=objective,
            chat_model=chat_model if role in ("model", "shuffled") else None,
            seen=shuffled(config.study, seed) if role == "shuffled" else plain(config.study),
            listener=told,
        )
        if result.status not in ("finalized", "failed"):
            exit_code = result.exit_code
            break
        told({**head, "state": "kept" if known else "ended", **_in_short(result)})
        if role == "default":
            baselines.append(_baseline(seed, result))
        else:
            runs.append(_arm_run(role, seed, result))
    name = config.coordinator.model or type(chat_model).__name__
    comparison = compare(config.goal, config.budget.trials, runs, baselines)
    return Uplift(config.study, name, folder, comparison, tuple(runs), tuple(baselines), len(plan), exit_code)


def _described(config: StudyConfig, role: Role, seed: int) -> StudyConfig:
    """Describe the study of one arm and seed."""
    data = config.to_json()
    with_model = role in ("model", "shuffled")
    budget, coordinator, mlflow = (dict(cast(JsonObject, data[key])) for key in ("budget", "coordinator", "mlflow"))
    if not with_model:
        budget = {"trials": 1 if role == "default" else budget["trials"], "minutes": budget["minutes"]}
    changes: JsonObject = {
        "study": f"{config.study}-uplift-{role}-{seed}",
        "seed": seed,
        "target": None,
        "stop": None,
        "finalists": 1,
        "budget": budget,
        "coordinator": {**coordinator, "approve": False} if with_model else {},
        "mlflow": {**mlflow, "experiment": mlflow.get("experiment") or f"{config.study}-uplift"},
        "optuna_storage": None,
    }
    if config.executor in ("auto", "batched"):  # arms are compared: all run alike, whatever is measured at their time
        changes |= {"executor": "processes", "parallel": None if config.executor == "batched" else config.parallel}
    if role == "default":
        changes |= {"import_optuna": None, "initial": [], "transfer": []}
    return StudyConfig.from_mapping({**data, **changes}, where="uplift")


def _study(config: StudyConfig, home: Path, fresh: bool) -> tuple[Study, bool]:
    """Open the study of an arm, or make it; say whether it had ended before. Raises `ConfigError` for another one."""
    try:
        held = Study.open(config.study, home)
    except StudyNotFound:
        return Study.create(config, home=home), False
    if fresh:
        return Study.create(config, home=home, fresh=True), False
    if held.config.to_json() != config.to_json():
        raise ConfigError(
            f"{home} holds an uplift of this study with other settings",
            "start anew with --fresh, or choose another --home",
        )
    return held, held.status in ("finalized", "failed")


def _arm_run(arm: Arm, seed: int, result: Result) -> ArmRun:
    goal, final, usage = result.config.goal, result.final, result.usage
    asked = [d for d in result.decisions if d.kind == "llm" or d.fallback is not None]
    default = configuration_key(result.config.space.default())
    first = next((t for t in result.trials if t.counted and configuration_key(t.params) == default), None)
    return ArmRun(
        arm=arm,
        seed=seed,
        study=result.study,
        curve=best_so_far(goal, result.trials),
        default=goal.value(first) if first is not None else None,
        best=final.validation_best if final is not None else None,
        fresh=final.mean if final is not None else None,
        fresh_sd=final.sd if final is not None else None,
        fresh_seeds=final.fresh_seeds if final is not None else 0,
        calls=usage.calls,
        tokens=usage.tokens,
        dollars=usage.dollars,
        fallbacks=sum(d.fallback is not None for d in asked),
        asked=len(asked),
        seconds=usage.seconds,
        trials=sum(t.counted for t in result.trials),
    )


def _baseline(seed: int, result: Result) -> Baseline:
    final = result.final
    return Baseline(seed, None, None, 0) if final is None else Baseline(seed, final.mean, final.sd, final.fresh_seeds)


def _in_short(result: Result) -> JsonObject:
    return {
        "best": result.config.goal.value(result.best) if result.best is not None else None,
        "trials": sum(t.counted for t in result.trials),
        "fallbacks": sum(d.fallback is not None for d in result.decisions),
        "seconds": result.usage.seconds,
        "status": result.status,
    }
