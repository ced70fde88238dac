"""Early stopping: rules that say which trials look poor, and the minimums that no rule touches."""

from agentic_hpt.strategies.pruning.floor import FloorRule
from agentic_hpt.strategies.pruning.halving import AsyncHalving
from agentic_hpt.strategies.pruning.median import MedianPruner, NoPruner
from agentic_hpt.strategies.pruning.several import FrontPruner

__all__ = ["AsyncHalving", "FloorRule", "FrontPruner", "MedianPruner", "NoPruner"]
