"""Who proposes: strategies divide a round among workers, a sampler proposes each worker's configurations."""

from agentic_hpt.strategies.auto import Auto
from agentic_hpt.strategies.joint import Joint
from agentic_hpt.strategies.per_parameter import PerParameter
from agentic_hpt.strategies.pruning import AsyncHalving, FloorRule, FrontPruner, MedianPruner, NoPruner

__all__ = ["AsyncHalving", "Auto", "FloorRule", "FrontPruner", "Joint", "MedianPruner", "NoPruner", "PerParameter"]
