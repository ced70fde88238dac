"""Studies under faults: real processes, real signals, real stores. `python tests/chaos` injects them all."""
