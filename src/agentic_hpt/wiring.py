"""The one place where a study's description becomes live parts. Extras and heavy libraries are imported here, late."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_hpt.config import CoordinatorConfig, Settings, StudyConfig
from agentic_hpt.errors import ConfigError, MissingExtra
from agentic_hpt.graph.context import StudyParts, stopped_trials
from agentic_hpt.ledger import LedgerStore, StudyLedger, StudyRow
from agentic_hpt.protocols import Coordinator, Executor, Objective, Pruner, Situation, Strategy, Tracker
from agentic_hpt.records import DecisionRecord, FinalReport, Goal, ModelCall, Trial
from agentic_hpt.space import SearchSpace

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_TRAINER = "agentic_hpt.objectives.torch_trainer"
_PROVIDER_EXTRAS = {
    "openai": ("langchain_openai", "openai"),
    "anthropic": ("langchain_anthropic", "anthropic"),
    "ollama": ("langchain_ollama", "ollama"),
}


def make_objective(config: StudyConfig) -> Objective:
    """Build the objective that the description names. Raises `ConfigError` when it can't be loaded or found."""
    described = config.objective
    if described is None:
        raise ConfigError(
            f"study {config.study!r} has no objective in its description: it was handed over in code",
            "go on with it there: hpt.tune(..., if_exists='resume')",
        )
    if described.task is not None:
        from agentic_hpt.objectives.torch_trainer import TorchTrainer

        trainer = TorchTrainer(described.task)
        trainer.check(config.space.names, config.metric)
        return trainer
    if described.python is not None:
        from agentic_hpt.objectives.function import load_function

        return load_function(described.python, described.folder, described.final)
    from agentic_hpt.objectives.command import CommandObjective

    return CommandObjective(described.command or (), described.folder, config.space.names, config.metric)


def check_coordinator(config: CoordinatorConfig) -> None:
    """See that the model's provider can be imported. Raises `MissingExtra`, or `ConfigError` for an unknown one."""
    if config.model is None:
        return
    provider = config.model.split(":", 1)[0]
    package, extra = _PROVIDER_EXTRAS.get(provider, (f"langchain_{provider}", ""))
    if importlib.util.find_spec(package) is not None:
        return
    if extra:
        raise MissingExtra(f"coordinator.model: {config.model!r}", extra)
    raise ConfigError(
        f"coordinator.model: {config.model!r}: the provider {provider!r} is not installed",
        f"pip install {package.replace('_', '-')}, or use one of {', '.join(_PROVIDER_EXTRAS)}",
    )


def make_chat_model(config: CoordinatorConfig, settings: Settings) -> BaseChatModel:
    """Build the chat model. Raises whatever the provider raises, for a missing key say."""
    from langchain.chat_models import init_chat_model

    options: dict[str, object] = {
        "timeout": config.timeout_seconds,
        "max_retries": 0,  # the coordinator tries again: each try counts and is kept
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "base_url": config.base_url,
    }
    name = config.model or ""
    if name.startswith("openai:") and config.base_url and not settings.has_variable("OPENAI_API_KEY"):
        options["api_key"] = "unused"  # the client wants one, a local server does not
    if name.startswith("ollama:"):
        options["num_predict"] = options.pop("max_tokens")
        options["client_kwargs"] = {"timeout": options.pop("timeout")}
        options.pop("max_retries")
    model: BaseChatModel = init_chat_model(name, **{k: v for k, v in options.items() if v is not None})  # type: ignore[call-overload]
    return model


def open_parts(
    config: StudyConfig,
    settings: Settings,
    store: LedgerStore,
    row: StudyRow,
    objective: Objective,
    *,
    chat_model: BaseChatModel | None = None,
    seen: Callable[[Situation], Situation] | None = None,
    finished: Callable[[FinalReport | None], None],
) -> StudyParts:
    """Put a study's live parts together. Nothing is started yet. `seen` may change what a model is shown."""
    from agentic_hpt.coordinator import RulesCoordinator

    ledger = store.open_study(row, budget=config.limits_of_study, seed=config.seed)
    artifacts = settings.artifacts(row.folder)
    parts = StudyParts(
        name=row.name,
        config=config,
        space=config.space,
        ledger=ledger,
        strategy=make_strategy(config),
        pruner=_pruner(config, ledger.trials()),
        executor=_executor(config, objective),
        coordinator=RulesCoordinator(),
        tracker=make_tracker(config, settings, row),
        objective=objective,
        artifacts=artifacts,
        write_outputs=_outputs(config, ledger, artifacts),
        finished=finished,
        facts={**objective.facts(config.space.default()), **config.job},
        model_loader=_TRAINER if config.objective is not None and config.objective.task else None,
        mirror=_mirror(config, row),
        best=config.goal.best(ledger.trials()),
    )
    parts.stopping = stopped_trials(ledger.decisions())
    if (source := store.replayed_by(row.uid)) is not None:
        from agentic_hpt.coordinator.replay import ReplayCoordinator

        parts.coordinator, parts.replaying = ReplayCoordinator(store.decisions_of(source)), True
    elif config.coordinator.model is not None or chat_model is not None:
        parts.coordinator = _llm_coordinator(config, settings, parts, chat_model, seen)
    return parts


def make_strategy(config: StudyConfig) -> Strategy:
    """Build the strategy."""
    from agentic_hpt.strategies import Auto, Joint, PerParameter

    kinds: dict[str, Callable[[SearchSpace, Goal], Strategy]]
    kinds = {"per_parameter": PerParameter, "joint": Joint, "auto": Auto}
    return kinds[config.strategy](config.space, config.goal)


def make_tracker(config: StudyConfig, settings: Settings, row: StudyRow) -> Tracker:
    """Build the tracker; it starts no process yet."""
    if not config.mlflow.enabled:
        from agentic_hpt.tracking.null import NullTracker

        return NullTracker()
    from agentic_hpt.tracking.client import MlflowTracker

    return MlflowTracker(
        ledger_url=settings.ledger_url,
        uid=row.uid,
        study=row.first_name,
        tracking_uri=settings.resolve_tracking_uri(config.mlflow),
        experiment=config.mlflow.experiment or row.first_name,
        artifact_root=settings.home / "artifacts" / "mlflow",
        log=settings.home / "mlflow-writer.log",
    )


def import_optuna(config: StudyConfig) -> tuple[list[Trial], int]:
    """Read the trials of `import_optuna`; give those that fit the space, and how many did not."""
    from agentic_hpt.ledger.optuna_mirror import read_optuna

    source = config.import_optuna
    return read_optuna(source.storage, source.study, config.space, config.goal) if source else ([], 0)


def _llm_coordinator(
    config: StudyConfig,
    settings: Settings,
    parts: StudyParts,
    chat_model: BaseChatModel | None,
    seen: Callable[[Situation], Situation] | None,
) -> Coordinator:
    from agentic_hpt.coordinator import LlmCoordinator

    async def record(call: ModelCall) -> None:
        await parts.think(parts.ledger.record_call, call)

    def make() -> BaseChatModel:
        return chat_model if chat_model is not None else make_chat_model(config.coordinator, settings)

    name = config.coordinator.model or type(chat_model).__name__
    return LlmCoordinator(name, make, config.coordinator, record, seen=seen)


def _executor(config: StudyConfig, objective: Objective) -> Executor:
    if config.executor == "inline":
        from agentic_hpt.executors.inline import InlineExecutor

        return InlineExecutor(objective, config.metric)
    from agentic_hpt.executors.processes import ProcessExecutor

    return ProcessExecutor(objective, config.metric, config.slots)


def _pruner(config: StudyConfig, earlier: Sequence[Trial]) -> Pruner:
    from agentic_hpt.records import TrialState
    from agentic_hpt.strategies import MedianPruner, NoPruner

    if config.pruner == "none":
        return NoPruner()
    pruner = MedianPruner(config.goal)
    for trial in earlier:
        if trial.state is TrialState.COMPLETE:
            for report in trial.reports:
                pruner.should_stop(trial.id, report)
            pruner.ended(trial.id, complete=True)
    return pruner


def _mirror(config: StudyConfig, row: StudyRow) -> Callable[[Sequence[Trial]], int] | None:
    if config.optuna_storage is None:
        return None
    from agentic_hpt.ledger.optuna_mirror import OptunaMirror

    return OptunaMirror(config.optuna_storage, row.name, row.uid, config.space, config.goal)


def _outputs(
    config: StudyConfig, ledger: StudyLedger, artifacts: Path
) -> Callable[[Sequence[Trial], Sequence[DecisionRecord], FinalReport], list[Path]]:
    def write(trials: Sequence[Trial], decisions: Sequence[DecisionRecord], final: FinalReport) -> list[Path]:
        from agentic_hpt.coordinator.effects import stated_effects
        from agentic_hpt.report.figures import confusion_figure, history_figure
        from agentic_hpt.report.html import write_report

        artifacts.mkdir(parents=True, exist_ok=True)
        files = [history_figure(config.goal, trials, artifacts / "history.png")]
        predictions = Path(final.model_dir).parent / "holdout.json" if final.model_dir else None
        if predictions is not None and predictions.is_file():
            files.append(confusion_figure(predictions, artifacts / "confusion.png"))
        files.append(
            write_report(
                artifacts / "report.html",
                config=config,
                status="finalized",
                trials=trials,
                decisions=decisions,
                final=final,
                artifacts=artifacts,
                usage=ledger.usage(),
                effects=stated_effects(config, ledger.usage(), trials, decisions),
            )
        )
        return files

    return write
