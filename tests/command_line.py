"""The command line, called in this process."""

from __future__ import annotations

import os
import sys

import pytest

from agentic_hpt.cli.app import main


def called(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Give exit code, stdout and stderr. `--json` claims stdout for good: it is given back."""
    stdout, descriptor = sys.stdout, os.dup(1)
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stdout = stdout
        os.dup2(descriptor, 1)
        os.close(descriptor)
    return code, *capfd.readouterr()
