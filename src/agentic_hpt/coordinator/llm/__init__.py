"""A chat model as coordinator: it advises, the guards decide, and the rules stand in when it fails."""

from agentic_hpt.coordinator.llm.deciding import LlmCoordinator

__all__ = ["LlmCoordinator"]
