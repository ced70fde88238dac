"""`python -m agentic_hpt.cli`, where the `hpt` script is not on the path."""

from __future__ import annotations

import sys

from agentic_hpt.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
