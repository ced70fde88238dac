"""Which of a study's constraints say what may be tried, and which what must come of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from agentic_hpt.constraints import Condition
from agentic_hpt.errors import ConfigError
from agentic_hpt.records import OutcomeConstraint

_NEARLY = 0.85


def sorted_constraints(
    texts: Sequence[str], parameters: Sequence[str]
) -> tuple[tuple[Condition, ...], tuple[OutcomeConstraint, ...]]:
    """Give the conditions over parameters alone, and those with a metric in them: any name that is no parameter.

    Raises `ConfigError` for a text that can't be read, and for a name that looks like a parameter's, misspelt.
    """
    inputs: dict[str, Condition] = {}
    outcomes: dict[str, OutcomeConstraint] = {}
    for text in texts:
        condition = Condition.of(text)
        metrics = tuple(name for name in condition.names if name not in parameters)
        for name in metrics:
            _check_name(name, condition, parameters)
        if metrics:
            outcomes[condition.text] = OutcomeConstraint(condition.text, metrics)
        else:
            inputs[condition.text] = condition
    return tuple(inputs.values()), tuple(outcomes.values())


def _check_name(name: str, condition: Condition, parameters: Sequence[str]) -> None:
    if name in condition.quoted:
        return
    odd = [p for p in parameters if p not in condition.names and not p.isidentifier() and p in condition.text]
    near = [f"`{p}`" for p in odd] or difflib.get_close_matches(name, parameters, n=1, cutoff=_NEARLY)
    if near:
        raise ConfigError(
            f"constraints: {condition.text!r}: {name!r} is no parameter; did you mean {near[0]}?",
            f"if it is a metric, write it in backquotes: `{name}`",
        )
