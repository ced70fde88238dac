"""Studies under faults: real processes, real signals, real stores. `python -m tests.chaos` injects them all."""
