"""Whether the graph's checkpoint and the ledger tell the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from agentic_hpt.graph.context import StudyParts
from agentic_hpt.graph.state import WorkerReport

if TYPE_CHECKING:
    from langgraph.types import StateSnapshot


def ledger_is_behind(parts: StudyParts, snapshot: StateSnapshot) -> bool:
    """Say whether the checkpoint knows of decisions or trials that the ledger does not hold.

    So it is after a power cut, which may take the ledger's last transactions only, and when the ledger is restored from
    a copy. Then the ledger counts: the graph begins again, and finds in it what was done. For the brain thread.
    """
    state: Mapping[str, object] = snapshot.values
    round_ = cast(int, state.get("round", parts.begins))
    decided = "start_workers" in snapshot.next or "finalize" in snapshot.next
    needed = set(range(parts.begins + 1, round_ + 1 if decided else round_))
    held = {decision.round for decision in parts.ledger.decisions()}
    reports = list(cast("Sequence[WorkerReport]", state.get("reports", ())))
    for task in snapshot.tasks:  # workers that are done while others of their round are not
        reports += cast("Mapping[str, list[WorkerReport]]", task.result or {}).get("reports", [])
    ended = Counter((trial.round, trial.worker) for trial in parts.ledger.trials() if trial.finished)
    missing = any(ended[report["round"], report["worker"]] < report["trials"] for report in reports)
    return not snapshot.next or missing or not needed <= held
