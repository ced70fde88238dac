"""The one place where a study's description becomes live parts. Extras and heavy libraries are imported here, late."""

from agentic_hpt.wiring.executors import choose_executor, sent_to_nodes, with_slots
from agentic_hpt.wiring.parts import (
    check_coordinator,
    code_of,
    first_configurations,
    import_optuna,
    make_chat_model,
    make_objective,
    make_strategy,
    make_tracker,
    open_parts,
    read_transfer,
    usable_earlier,
)

__all__ = [
    "check_coordinator",
    "choose_executor",
    "code_of",
    "first_configurations",
    "import_optuna",
    "make_chat_model",
    "make_objective",
    "make_strategy",
    "make_tracker",
    "open_parts",
    "read_transfer",
    "sent_to_nodes",
    "usable_earlier",
    "with_slots",
]
