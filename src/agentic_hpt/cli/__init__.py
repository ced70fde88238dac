"""The command line, `hpt`: one file a verb, each imported only when it is called."""

from agentic_hpt.cli.app import main

__all__ = ["main"]
