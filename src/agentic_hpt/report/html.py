"""The report as one HTML page: figures embedded, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError
from agentic_hpt.fronts import front_of
from agentic_hpt.records import DecisionRecord, FinalReport, Trial, Usage
from agentic_hpt.report.actions import Effect, action_words, decider_words, effect_words
from agentic_hpt.report.figures import confusion_figure, front_figure, history_figure
from agentic_hpt.report.plain import counted, duration, number, parameters, visible
from agentic_hpt.report.several import figures_of, heading, volume_words
from agentic_hpt.report.summary import summarize
from agentic_hpt.space import Choice, Parameter

__all__ = ["write_report"]


def write_report(
    path: Path,
    *,
    config: StudyConfig,
    status: str,
    trials: Sequence[Trial],
    decisions: Sequence[DecisionRecord],
    final: FinalReport | None,
    artifacts: Path | None,
    usage: Usage,
    effects: Sequence[Effect] = (),
    since: int = 0,
) -> Path:
    """Write a study's report to `path`, making its folder, and give the path.

    `effects` are what the accepted actions were to bring and have brought; behind the round `since` the search went on
    in a revised space.

    The confusion matrix is there when a `holdout.json` lies beside the final model's folder, or in `artifacts`.
    Raises `ConfigError` when the file can't be written.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        visible=visible,
        number=number,
        parameters=parameters,
        duration=duration,
        domain=_domain,
        counted=counted,
        action=action_words,
        decider=decider_words,
        heading=heading,
        figures_of=figures_of,
    )
    template = environment.from_string((files("agentic_hpt.report") / "report.html").read_text(encoding="utf-8"))
    shown = [t for t in trials if t.counted or t.kind == "imported"]
    page = template.render(
        config=config,
        description=mask_secrets(config.description),
        status=status,
        usage=usage,
        budget=config.limits_of_study,
        findings=summarize(config, status, trials, decisions, final, usage, since),
        effects={(effect.round, effect.position): effect_words(effect) for effect in effects},
        history=_embedded(lambda png: history_figure(config.goal, shown, png)) if shown else None,
        front=_embedded(lambda png: front_figure(config.goal, shown, png)) if config.goal.several and shown else None,
        pareto=front_of(config.goal, shown),
        volume=volume_words(config.goal, shown),
        confusion=_confusion(final, artifacts),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the report {path} can't be written: {error.strerror}", "choose another file") from None
    return path


def _embedded(draw: Callable[[Path], Path]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder) / "figure.png").read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _confusion(final: FinalReport | None, artifacts: Path | None) -> str | None:
    if final is None:
        return None
    folders = [Path(final.model_dir).parent] if final.model_dir else []
    for folder in [*folders, *([artifacts] if artifacts else [])]:
        found = folder / "holdout.json"
        if found.is_file():
            try:
                return _embedded(lambda png, found=found: confusion_figure(found, png))  # type: ignore[misc]
            except (OSError, ValueError, KeyError, IndexError, TypeError):
                return None  # the file is the objective's: a report without the figure beats none
    return None


def _domain(parameter: Parameter) -> str:
    """Write what values a parameter may take."""
    if isinstance(parameter, Choice):
        text = ", ".join(number(value) for value in parameter.values)
        return f"one of {text}"
    text = f"{number(parameter.low)} to {number(parameter.high)}"
    return f"{text}, log scale" if parameter.log else text
