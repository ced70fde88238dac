"""A study's live parts, made of its description."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentic_hpt.config import CoordinatorConfig, MlflowConfig, Settings, StudyConfig, TransferSource
from agentic_hpt.earlier import Usable, firsts, usable
from agentic_hpt.errors import ConfigError, HptError, MissingExtra
from agentic_hpt.graph.context import StudyParts, stopped_trials
from agentic_hpt.graph.remarking import remark
from agentic_hpt.ledger import Hold, LedgerStore, StudyLedger, StudyRow
from agentic_hpt.protocols import Coordinator, EarlyStopping, Objective, Pruner, Situation, Strategy, Tracker
from agentic_hpt.records import DecisionRecord, EarlierStudy, FinalReport, ModelCall, Params, Trial
from agentic_hpt.space import SearchSpace
from agentic_hpt.wiring.executors import make_executor, where_trials_run

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

        trainer = TorchTrainer(described.task, latency="latency_ms" in config.measured)
        trainer.check(config.space.names, [objective.metric for objective in config.goal.objectives])
        return trainer
    if described.python is not None:
        from agentic_hpt.objectives.function import load_function

        return load_function(described.python, described.folder, described.final)
    from agentic_hpt.objectives.command import CommandObjective

    return CommandObjective(described.command or (), described.folder, config.space.names, config.goal.metric)


def code_of(config: StudyConfig, objective: Objective) -> str:
    """Give the fingerprint of the objective's code; empty where none can be had, or it is this package's own."""
    from agentic_hpt.objectives import fingerprint

    described = config.objective
    if described is None:
        functions: Sequence[Callable[..., object]] = getattr(objective, "functions", ())
        return " ".join(filter(None, map(fingerprint.of_function, functions)))
    if described.python is not None:
        return fingerprint.of_named([s for s in (described.python, described.final) if s], described.folder)
    return fingerprint.of_command(described.command, described.folder) if described.command else ""


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
    hold: Hold | None = None,
) -> StudyParts:
    """Put a study's live parts together. Nothing is started yet. `seen` may change what a model is shown.

    `hold` is the driver's, which its writes are let through by.
    """
    from agentic_hpt.coordinator import RulesCoordinator

    told = config.mlflow.top is None
    ledger = store.open_study(row, budget=config.limits_of_study, seed=config.seed, hold=hold, told=told)
    artifacts = settings.artifacts(row.folder)
    earlier, made = usable_earlier(config, ledger), ledger.revisions
    pruner = _early_stopping(config, ledger.trials())
    reopened = [change for change in ledger.changes() if change.reopens]
    ends = [FinalReport.from_json(change.final) for change in reopened if change.final is not None]
    parts = StudyParts(
        name=row.name,
        config=config,
        space=config.space,
        ledger=ledger,
        strategy=make_strategy(config, earlier),
        pruner=pruner,
        executor=make_executor(config, objective, pruner, lambda text: remark(parts, text)),
        coordinator=RulesCoordinator(),
        tracker=make_tracker(config, settings, row),
        objective=objective,
        artifacts=artifacts,
        together=config.executor == "batched",
        write_outputs=_outputs(config, ledger, artifacts),
        finished=finished,
        facts={**objective.facts(config.space.default()), **config.job},
        begins=ledger.begins,
        refitted=made[-1].trials if made else 0,
        revised=len(made),
        reopened=len(reopened),
        goes_on=reopened[-1].round if reopened else 0,
        ended_with=ends[-1] if ends else None,
        initial=first_configurations(config, earlier),
        remarks=(
            *(f"earlier trials: {study.told}" for study in earlier),
            *where_trials_run(config),
            *_of_mlflow(config.mlflow),
        ),
        model_loader=_TRAINER if config.objective is not None and config.objective.task else None,
        mirror=_mirror(config, row, len(made)),
        best=config.goal.best(ledger.trials()),
    )
    parts.stopping = stopped_trials(ledger.decisions())
    if (source := store.replayed_by(row.uid)) is not None:
        from agentic_hpt.coordinator.replay import ReplayCoordinator

        parts.coordinator, parts.replaying = ReplayCoordinator(store.decisions_of(source)), True
    elif config.coordinator.model is not None or chat_model is not None:
        parts.coordinator = _llm_coordinator(config, settings, parts, chat_model, seen)
    return parts


def make_strategy(config: StudyConfig, earlier: Sequence[Usable] = ()) -> Strategy:
    """Build the strategy; `earlier` is what `auto` knows of other studies."""
    from agentic_hpt.strategies import Auto, Joint, PerParameter

    if config.strategy == "auto":
        return Auto(config.space, config.goal, config.seed, earlier)
    return (Joint if config.strategy == "joint" else PerParameter)(config.space, config.goal)


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


def usable_earlier(config: StudyConfig, ledger: StudyLedger) -> list[Usable]:
    """Give what the space can take of the earlier studies that the ledger keeps."""
    found = [usable(study, config.space) for study in ledger.earlier()]
    left = [t for t in ledger.outside() if config.goal.value(t) is not None]
    if left:  # of what is outside the space now, a surrogate can still learn what happens towards the edge
        sign = -1.0 if config.goal.direction == "maximize" else 1.0
        losses = tuple(sign * cast(float, config.goal.value(t)) for t in left)
        barred = tuple(place for place, t in enumerate(left) if not config.goal.feasible(t))
        source = "this study, outside its space as revised"
        own = EarlierStudy(source, tuple(t.params for t in left), losses, barred=barred)
        found.append(usable(own, config.space))
    return found


def first_configurations(config: StudyConfig, earlier: Sequence[Usable]) -> tuple[Params, ...]:
    """Give the configurations that run first, behind the default: the given ones, then the best of earlier studies."""
    given = config.initial_configurations
    return *given, *firsts(earlier, config.space, config.budget.trials, (config.space.default(), *given))


def read_transfer(config: StudyConfig, settings: Settings) -> list[EarlierStudy]:
    """Read the earlier studies of `transfer`. Raises `ConfigError` that names the one that can't be had."""
    found = []
    for number, source in enumerate(config.transfer, start=1):
        try:
            found.append(_related(_read_earlier(source, config, settings), config.space))
        except HptError as error:
            raise ConfigError(f"transfer: source {number}: {error.message}", error.hint) from None
    return found


def _related(study: EarlierStudy, space: SearchSpace) -> EarlierStudy:
    """Give an earlier study that has a parameter of the space. Raises `ConfigError` for one that has none."""
    names = {name for params in study.params for name in params}
    if study.params and not names & set(space):
        raise ConfigError(
            f"{study.source} has none of the parameters {', '.join(space.names)}; "
            f"it has {', '.join(sorted(names)[:10]) or 'none at all'}",
            "name them alike, or leave this source out: nothing can be learned from it",
        )
    return study


def _read_earlier(source: TransferSource, config: StudyConfig, settings: Settings) -> EarlierStudy:
    from agentic_hpt.ledger import reading_earlier as reading

    metric, direction = source.metric or config.goal.metric, source.direction or config.goal.direction
    if source.study is not None:
        url = Settings.load(source.home).in_files().ledger_url if source.home is not None else settings.ledger_url
        return reading.from_ledger(url, source.study, metric, direction, config.goal.constraints)
    if source.csv is not None:
        return reading.from_csv(Path(source.csv), metric, direction)
    if source.optuna is not None:
        return reading.from_optuna(source.storage or "", source.optuna, metric, direction)
    from agentic_hpt.tracking.earlier import read_experiment

    experiment = source.mlflow or ""
    uri = source.tracking_uri or settings.resolve_tracking_uri(config.mlflow)
    runs, without = read_experiment(uri, experiment, metric)
    return reading.earlier_study(f"MLflow experiment {experiment!r}", runs, direction, without)


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


def _early_stopping(config: StudyConfig, earlier: Sequence[Trial]) -> EarlyStopping:
    from agentic_hpt.strategies import FloorRule

    stopping = FloorRule(_pruner(config), config.pruning.halving)
    for trial in earlier:
        stopping.remember(trial, config.goal.feasible(trial))
    return stopping


def _pruner(config: StudyConfig) -> Pruner:
    from agentic_hpt.strategies import AsyncHalving, FrontPruner, MedianPruner, NoPruner

    if config.pruner == "none":
        return NoPruner()
    if config.goal.several:
        return FrontPruner(config.goal)
    if config.pruner == "asha":
        return AsyncHalving(config.goal, config.pruning.halving)
    return MedianPruner(config.goal)


def _mirror(config: StudyConfig, row: StudyRow, revised: int) -> Callable[[Sequence[Trial]], int] | None:
    if config.optuna_storage is None:
        return None
    from agentic_hpt.ledger.optuna_mirror import OptunaMirror

    name = f"{row.name}-revision-{revised}" if revised else row.name  # a study there keeps to its distributions
    return OptunaMirror(config.optuna_storage, name, row.uid, config.space, config.goal)


def _of_mlflow(config: MlflowConfig) -> tuple[str, ...]:
    """Say what MLflow does not get, and what follows from that."""
    if not config.enabled or config.top is None:
        return ()
    return (
        f"mlflow.children: {config.children}: the best become runs at the end, with a table of all trials; until then "
        "decisions rest on the ledger's own records",
    )


def _outputs(
    config: StudyConfig, ledger: StudyLedger, artifacts: Path
) -> Callable[[Sequence[Trial], Sequence[DecisionRecord], FinalReport], list[Path]]:
    def write(trials: Sequence[Trial], decisions: Sequence[DecisionRecord], final: FinalReport) -> list[Path]:
        from agentic_hpt.coordinator.effects import stated_effects
        from agentic_hpt.report.figures import confusion_figure, front_figure, history_figure
        from agentic_hpt.report.html import write_report

        artifacts.mkdir(parents=True, exist_ok=True)
        files = [history_figure(config.goal, trials, artifacts / "history.png")]
        if config.goal.several:
            files.append(front_figure(config.goal, trials, artifacts / "front.png"))
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
                effects=stated_effects(config, ledger.usage(), trials, decisions, since=ledger.begins),
                since=ledger.begins,
            )
        )
        if config.mlflow.top is not None:
            from agentic_hpt.report.table import write_table

            files.append(write_table(artifacts / "trials.csv", ledger.tried()))
        return files

    return write
