"""Progress of a running study on stderr: a live view in a terminal, one line an event elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agentic_hpt.cli.progress import Progress
from agentic_hpt.records import JsonObject
from agentic_hpt.report.plain import counted, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Shown", "progress_shown", "view"]


class Shown:
    """The listener that shows a study's events; `paused` keeps the screen still while a person is asked."""

    def __init__(
        self,
        listen: Callable[[JsonObject], None],
        paused: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._listen = listen
        self.paused = paused

    def __call__(self, event: JsonObject) -> None:
        """Take an event in."""
        self._listen(event)


@contextlib.contextmanager
def progress_shown(console: Console | None = None) -> Iterator[Shown]:
    """Give the listener that shows a study's events on stderr while the block runs."""
    if console is None:
        from rich.console import Console

        console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    progress = Progress()
    if not console.is_terminal:
        yield Shown(_lines(progress))
        return
    from rich.live import Live

    lock = threading.Lock()  # events come from the running thread, the clock's refresh from Live's own
    heard = time.monotonic()

    def listen(event: JsonObject) -> None:
        nonlocal heard
        with lock:
            progress.apply(event)
            if "seconds_used" in event:
                heard = time.monotonic()

    def render() -> RenderableType:
        with lock:
            return view(progress, time.monotonic() - heard)

    live = Live(get_renderable=render, console=console, refresh_per_second=4, vertical_overflow="ellipsis")

    @contextlib.contextmanager
    def paused() -> Iterator[None]:
        live.stop()
        try:
            yield
        finally:
            live.start()

    with live:
        yield Shown(listen, paused)


def _lines(progress: Progress) -> Callable[[JsonObject], None]:
    def listen(event: JsonObject) -> None:
        line = progress.apply(event)
        if line is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    return listen


def view(progress: Progress, since: float) -> RenderableType:
    """Render the progress; `since` is the time since the study last said its time, in seconds."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((progress.study or "study", "bold"), f"  {progress.phase}")
    if progress.round and progress.phase == "searching":
        head.append(f", round {progress.round}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("trials", Text(_used(progress)))
    facts.add_row("time", Text(_time(progress, since)))
    if progress.lost:
        facts.add_row("lost", Text(f"{counted(progress.lost, 'worker')}: their trials are tried again", style="yellow"))
    facts.add_row("best", Text(progress.best or "none yet", style="green" if progress.best else "dim"))
    facts.add_row("decision", Text(progress.decision or "none yet"))
    for notice in progress.notices:
        facts.add_row("note", Text(notice, style="yellow"))
    parts: list[RenderableType] = [head, facts]
    if progress.workers:
        workers = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("worker", "kind", "done", "failed", "running", "why"):
            workers.add_column(column, justify="right" if column in ("done", "failed") else "left", overflow="ellipsis")
        for worker in progress.workers.values():
            running = ", ".join(str(trial) for trial in sorted(worker.running))
            done = f"{worker.ended}/{worker.trials}"
            row = (worker.name, worker.kind, done, str(worker.failed or ""), running, worker.reason)
            workers.add_row(*(Text(cell, no_wrap=True) for cell in row))
        parts.append(workers)
    return Group(*parts)


def _used(progress: Progress) -> str:
    if progress.trials_budget is None:
        return f"{progress.trials_used} done"
    left = max(0, progress.trials_budget - progress.trials_used)
    return f"{progress.trials_used} of {progress.trials_budget} done, {left} left"


def _time(progress: Progress, since: float) -> str:
    """Write the time used. The study says it with each trial; between trials the clock goes on here."""
    used = progress.seconds_used + (since if progress.phase == "searching" else 0.0)
    if progress.seconds_budget is None:
        return duration(used)
    return f"{duration(used)} of {duration(progress.seconds_budget)}"
