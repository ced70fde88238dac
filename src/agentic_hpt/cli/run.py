"""`hpt run`: run a study from a study file or for a built-in task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agentic_hpt.cli.approving import Asker
from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.live import progress_shown
from agentic_hpt.cli.shown import show_result
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.presets import TASKS
from agentic_hpt.report.plain import visible

if TYPE_CHECKING:
    from rich.console import Console

    from agentic_hpt.study.replaying import Likeness


@click.command("run")
@click.argument("file", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path))
@click.option("--task", metavar="NAME", help=f"A built-in job: {', '.join(TASKS)}.")
@click.option("--study", metavar="NAME", help="The study's name.")
@click.option("--coordinator", metavar="WHO", help="Who decides: rules, or a chat model as provider:model.")
@click.option("--base-url", metavar="URL", help="Where the chat model answers; goes with --coordinator.")
@click.option("--strategy", metavar="NAME", help="Who proposes: auto, joint or per_parameter.")
@click.option("--executor", metavar="NAME", help="Where trials run: auto, processes, batched, ray or inline.")
@click.option("--trials", type=int, metavar="N", help="Budget: at most N trials.")
@click.option("--minutes", type=float, metavar="M", help="Budget: at most M minutes.")
@click.option("--target", type=float, metavar="X", help="Stop once the metric reaches X.")
@click.option("--parallel", type=int, metavar="N", help="Trials at once.")
@click.option("--seed", type=int, metavar="S", help="Seed of the search and of the trials.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="STUDY",
    help="Learn from this study's trials, as far as they predict; may be given several times.",
)
@click.option("--approve", is_flag=True, help="Ask on the terminal before each decision is in force.")
@click.option(
    "--replay",
    metavar="STUDY",
    help="Repeat the decisions of STUDY from the ledger, without a model. Exit code 1 when the assignments differ.",
)
@click.option("--fresh", is_flag=True, help="Archive a study of the same name and start anew.")
@verb
def command(
    file: Path | None,
    task: str | None,
    coordinator: str | None,
    base_url: str | None,
    trials: int | None,
    minutes: float | None,
    sources: tuple[str, ...],
    home: str | None,
    fresh: bool,
    approve: bool,
    replay: str | None,
    **plain: object,
) -> Answer:
    """Run a study from a study file, for a built-in task, or both. Flags override the file.

    Progress goes to stderr, the result to stdout. Exit codes: 0 finished, 1 the study failed or a replay had other
    assignments, 2 bad input, 3 stopped with work left, 130 Ctrl-C; the last two can be continued by `hpt resume NAME`.
    """
    if base_url is not None and coordinator is None:
        raise ConfigError("--base-url is given without a model", "add --coordinator provider:model")
    if replay is not None:
        others = [
            file,
            task,
            coordinator,
            trials,
            minutes,
            approve or None,
            sources or None,
            *(v for k, v in plain.items() if k != "study"),
        ]
        if any(value is not None for value in others):
            raise ConfigError(
                "--replay repeats a study as it was described", "only --study, --fresh and --home go with it"
            )
        return _replayed(replay, cast("str | None", plain["study"]), home, fresh)
    groups: dict[str, dict[str, object]] = {
        "objective": {"task": task},
        "budget": {"trials": trials, "minutes": minutes},
    }
    overrides: dict[str, object] = {key: value for key, value in plain.items() if value is not None}
    for key, entries in groups.items():
        given = {name: value for name, value in entries.items() if value is not None}
        if given:
            overrides[key] = given
    if coordinator is not None:
        model = None if coordinator == "rules" else coordinator
        overrides["coordinator"] = {"model": model, "base_url": base_url}
    if approve:
        overrides["coordinator"] = {**cast(dict[str, object], overrides.get("coordinator", {})), "approve": True}
    config = _described(file, overrides)
    if sources:
        held = [source.model_dump() for source in config.transfer]
        learned = [*held, *({"study": name} for name in sources)]
        config = StudyConfig.from_mapping({**config.to_json(), "space": config.space, "transfer": learned}, "flags")

    from agentic_hpt.study import run_study

    with progress_shown() as listener:
        asker = Asker(listener.paused)
        result = run_study(config, home=home, fresh=fresh, approver=asker, listener=listener)
    document = result.to_json()
    return Answer(document, lambda console: show_result(console, config.goal, document), result.exit_code)


def _replayed(name: str, study: str | None, home: str | None, fresh: bool) -> Answer:
    from agentic_hpt.study import open_view, replay_study

    view = open_view(name, home)
    config = view.config
    changed = bool(view.revisions) or any(change.reopens for change in view.changes())
    with progress_shown() as listener:
        result, likeness = replay_study(name, study=study, home=home, fresh=fresh, listener=listener)
    words = _likeness_words(likeness, config.slots, changed)
    document = {**result.to_json(), "replay": {"of": name, **likeness.to_json(), "in_words": words}}

    def show(console: Console) -> None:
        console.print(f"replay of {visible(name)}: {visible(words)}", soft_wrap=True)
        show_result(console, config.goal, document)

    return Answer(document, show, result.exit_code or int(not likeness.assignments))


def _likeness_words(likeness: Likeness, slots: int, changed: bool) -> str:
    if not likeness.difference:
        return "the same assignments and the same configurations"
    head = "the same assignments, but other configurations" if likeness.assignments else "OTHER ASSIGNMENTS"
    why = f"; with {slots} trials at a time results came in another order" if slots > 1 else ""
    if changed:
        why = "; the study got another space or budget on its way, and is replayed as it is described now"
    return f"{head}: it differs first in {likeness.difference}{why}"


def _described(file: Path | None, overrides: dict[str, object]) -> StudyConfig:
    if file is not None:
        return StudyConfig.from_file(file, overrides)
    if "objective" not in overrides:
        raise ConfigError(
            "there is nothing to run: neither a study file nor --task is given",
            f"try `hpt run --task {TASKS[1]}`, or write a study file by `hpt init`",
        )
    return StudyConfig.from_mapping(overrides, where="flags")
