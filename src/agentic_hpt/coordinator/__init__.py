"""Who decides: the rules, or a chat model whose every action passes the guards."""

from agentic_hpt.coordinator.llm import LlmCoordinator
from agentic_hpt.coordinator.rules import RulesCoordinator

__all__ = ["LlmCoordinator", "RulesCoordinator"]
