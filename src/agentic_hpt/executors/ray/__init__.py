"""Trials as tasks of a Ray cluster: each in a process of its own, as with `executors.processes`, on any node."""

from agentic_hpt.executors.ray.cluster import Cluster
from agentic_hpt.executors.ray.driving import RayExecutor

__all__ = ["Cluster", "RayExecutor"]
