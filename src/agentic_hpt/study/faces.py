"""The calls that most users make: tune a function, run or resume a study, list them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentic_hpt.config import Settings, StudyConfig
from agentic_hpt.errors import ConfigError, NoLedger, StudyExists
from agentic_hpt.records import Budget, Direction, Goal, JsonObject, Trial
from agentic_hpt.space import Parameter, SearchSpace
from agentic_hpt.study.core import Listener, Study
from agentic_hpt.study.looping import Approver, check_approver
from agentic_hpt.study.replaying import Likeness, compared
from agentic_hpt.study.result import Result

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from agentic_hpt.protocols import Objective


def run_study(
    config: StudyConfig,
    *,
    home: str | Path | None = None,
    fresh: bool = False,
    approver: Approver | None = None,
    listener: Listener | None = None,
) -> Result:
    """Make a study and run it to its end. Bad input raises `ConfigError` before anything is made."""
    from agentic_hpt import wiring

    check_approver(config, approver)
    objective = wiring.make_objective(config)
    made = Study.create(config, home=home, fresh=fresh)
    return made.run(objective=objective, approver=approver, listener=listener)


def resume_study(
    name: str,
    *,
    home: str | Path | None = None,
    described: StudyConfig | None = None,
    trials: int | str | None = None,
    minutes: float | str | None = None,
    target: float | None = None,
    space: SearchSpace | Mapping[str, object] | None = None,
    constraints: Sequence[str] | None = None,
    approver: Approver | None = None,
    listener: Listener | None = None,
) -> Result:
    """Go on with a study that was stopped or killed; a finished one gives its result. Raises `StudyNotFound`.

    What is changed comes first: the description as a whole (`Study.redescribe`), the budget, `"+50"` or a new total,
    or the target (`Study.extend`), the search space (`Study.revise`).
    """
    study = Study.open(name, home)
    notices = []
    if (described or study.config) != study.config or space is not None:
        check_approver(described or study.config, approver)
    more = not (trials is None and minutes is None and target is None)
    if described is not None and not more and (told := study.redescribe(described)):
        notices.append(f"the study was described anew: {'; '.join(told)}")
    if space is not None:
        study.in_space(space, constraints)  # refused before there is more budget, or the next try gave it twice
    if more:  # with what was changed beside: a study that has ended goes on for both together
        total_trials, total_minutes = (None if given is None else str(given) for given in (trials, minutes))
        told = study.extend(total_trials, total_minutes, target, described)
        notices.append(f"the study goes on: {'; '.join(told) or 'nothing was changed'}")
    if space is not None:
        notices.append(f"the space was revised: {study.revise(space, constraints).told}")
    if listener is not None:
        for text in notices:
            listener({"type": "notice", "text": text})
    return study.run(approver=approver, listener=listener)


def replay_study(
    name: str,
    *,
    study: str | None = None,
    home: str | Path | None = None,
    fresh: bool = False,
    objective: Callable[..., object] | Objective | None = None,
    listener: Listener | None = None,
) -> tuple[Result, Likeness]:
    """Run a study again, as `study`, on the decisions that its ledger holds: no model and no person is asked.

    Gives the result, and how like the first one it is. `objective` is needed where the study was made in code. The name
    is that of the study with `-replay` behind it, and a number where that is taken. Raises `StudyNotFound`.
    """
    from agentic_hpt import wiring
    from agentic_hpt.objectives.function import as_objective

    source = Study.open(name, home)
    if study is None:
        taken = {str(entry["study"]) for entry in list_studies(home)}
        study, number = f"{name[:80]}-replay", 1
        while study in taken:
            number += 1
            study = f"{name[:80]}-replay-{number}"
    config = StudyConfig.from_mapping({**source.config.to_json(), "study": study}, where=f"replay of {name!r}")
    wrapped = as_objective(objective) if objective is not None else wiring.make_objective(config)
    made = Study.create(config, home=home, fresh=fresh, replays=source)
    result = made.run(objective=wrapped, listener=listener)
    return result, compared(source.trials(), source.decisions(), result.trials)


def open_view(name: str, home: str | Path | None = None) -> Study:
    """Open a study to look at it. Raises `StudyNotFound`."""
    return Study.open(name, home)


def list_studies(home: str | Path | None = None) -> list[JsonObject]:
    """Give all studies of a home with status, number of trials and best value; none when the home does not exist."""
    from agentic_hpt.ledger import LedgerStore

    settings = Settings.load(home)
    try:
        store = LedgerStore(settings.ledger_url, create=False)
    except NoLedger:
        return []
    found: list[JsonObject] = []
    for row in store.list_studies():
        study = Study(settings, store, row)
        entry: JsonObject = {
            "study": row.name,
            "status": study.status,
            "trials": study.usage.trials,
            "best": _figure(study.config.goal, study.best()),
        }
        found.append(entry)
    return found


def _figure(goal: Goal, best: Trial | None) -> object:
    """Give the best value; with several objectives the knee's, by metric."""
    if best is None or not goal.several:
        return goal.value(best) if best is not None else None
    return {o.metric: best.values[o.metric] for o in goal.objectives}


def tune(
    objective: Callable[..., object] | Objective,
    space: SearchSpace | Mapping[str, Parameter],
    *,
    metric: str | Sequence[str],
    direction: Direction | Sequence[Direction] = "maximize",
    target: float | Mapping[str, float] | None = None,
    budget: Budget | None = None,
    study: str | None = None,
    home: str | Path | None = None,
    final: Callable[..., object] | None = None,
    coordinator: str | Mapping[str, object] | BaseChatModel = "rules",
    if_exists: Literal["error", "resume", "fresh"] = "error",
    approver: Approver | None = None,
    listener: Listener | None = None,
    **options: object,
) -> Result:
    """Tune a Python function and give the result.

    `objective` is called as `objective(params)` or `objective(params, trial)` and returns the metric, or a mapping that
    holds it; or it is made by `torch_batch`. With two to four metrics, each with its direction, `result.pareto` is the
    front and the best trial its knee. `final`, called likewise with the winner once, gives the score on data that no
    trial saw. The study is named `study`, by default like the function. `coordinator` is what the study file has under
    that key, or LangChain's chat model itself. `options` are further keys of the study file: `parallel`, `strategy`,
    `executor`, `seed`, `pruner`, ...
    With `approver` each decision waits for its answer. Raises `ConfigError` for bad input and `StudyExists` when the
    name is taken.
    """
    from agentic_hpt.objectives.function import as_objective

    if if_exists not in ("error", "resume", "fresh"):
        raise ConfigError(f"tune: if_exists: {if_exists!r}", "give 'error', 'resume' or 'fresh'")
    wrapped = as_objective(objective, final)
    name = study or getattr(objective, "__name__", "study").strip("<>_") or "study"
    described: dict[str, object] = {
        "study": name,
        "metric": list(metric) if isinstance(metric, tuple) else metric,
        "direction": list(direction) if isinstance(direction, tuple) else direction,
        "target": target,
        "space": space if isinstance(space, SearchSpace) else SearchSpace(space),
        "budget": budget or Budget(trials=100),
        **options,
    }
    by, chat_model = _coordinator_of(coordinator)
    if chat_model is not None and budget is not None and budget.dollars is not None:
        raise ConfigError(
            "tune: budget.dollars needs the model's price, and a model handed over as an object has none",
            "name the model instead: coordinator={'model': …, 'price': {'input': …, 'output': …}}",
        )
    described["coordinator"] = {**by, "approve": True} if approver is not None else by
    config = StudyConfig.from_mapping(described, where="tune")
    try:
        made = Study.create(config, home=home, fresh=if_exists == "fresh")
    except StudyExists:
        if if_exists != "resume":
            raise
        made = Study.open(name, home)
        given = {"metric", "direction", "space", *options}
        given |= {key for key, value in {"budget": budget, "target": target}.items() if value is not None}
        given -= {"executor"} if config.executor == "auto" else set()  # that was settled when the study began
        _same_experiment(made.config, config, given)
    return made.run(objective=wrapped, chat_model=chat_model, approver=approver, listener=listener)


def _coordinator_of(
    given: str | Mapping[str, object] | BaseChatModel,
) -> tuple[dict[str, object], BaseChatModel | None]:
    """Give what the study file would have under `coordinator`, and the chat model that was handed over, if one was."""
    if isinstance(given, str):
        return {"model": None if given == "rules" else given}, None
    if isinstance(given, Mapping):
        return dict(given), None
    if not callable(getattr(given, "bind_tools", None)):
        raise ConfigError(
            f"tune: coordinator: {given!r:.80} is no coordinator",
            "give 'rules', 'provider:name', what a study file has under coordinator, or a LangChain chat model",
        )
    return {}, given


def _same_experiment(held: StudyConfig, asked: StudyConfig, given: set[str]) -> None:
    """See that nothing that was asked for differs from the study that is there. Raises `ConfigError`."""
    for key in sorted(given):
        if getattr(held, key) != getattr(asked, key):
            raise ConfigError(
                f"study {held.study!r} in this home has another {key}: {getattr(held, key)!r}",
                "give this one another name, or start anew with if_exists='fresh'",
            )
