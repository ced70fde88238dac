"""Inject all faults and print the table; exit code 1 when a study did not survive one.

python tests/chaos [--kills 200] [--workers 100] [--seed 0] [--jobs 2] [--only FAMILY ...] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.pop(0)  # this folder, whose `mlflow` isn't MLflow
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest finds this package, too

from chaos.bench import Case
from chaos.plan import planned, run_all, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of drivers")
    parser.add_argument("--workers", type=int, default=100, help="kills of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="studies at once")
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help=", ".join(planned(1, 1)))
    parser.add_argument("--folder", type=Path, help="where the studies are kept; a temporary folder by default")
    options = parser.parse_args()
    families = planned(options.kills, options.workers)
    unknown = set(options.only or ()) - set(families)
    if unknown:
        parser.error(f"no faults are named {', '.join(sorted(unknown))}")
    began, cases = time.monotonic(), list[Case]()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = [family for name, family in families.items() if not options.only or name in options.only]
        for case in run_all(chosen, folder, options.seed, options.jobs):
            cases.append(case)
            minutes = (time.monotonic() - began) / 60
            print(f"{minutes:5.1f} min  {len(cases):4}  {case.fault}: {case.moment or '-'}", file=sys.stderr)
            for problem in case.problems:
                print(f"      {problem}", file=sys.stderr)
    print(table(cases))
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes, seed {options.seed}")
    return int(any(case.problems for case in cases))


if __name__ == "__main__":
    sys.exit(main())
