"""The strategy `auto`: the coordinator says which workers a round has; what it leaves over explores all at once."""

from __future__ import annotations

from agentic_hpt.strategies.joint import Joint


class Auto(Joint):
    """Workers as spawned by the coordinator, beside a joint worker; see `protocols.Strategy`.

    Before the first decision it is the joint worker's startup: draws over the whole space.
    """
