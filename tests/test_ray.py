"""Ray, run for real: in namespaces of its own, since it can't be kept off the network else, and since all must end.

What is tested lies in `on_ray`, whose files are not collected by themselves: each is a run of pytest in there, with a
second network interface that leads nowhere, by which a Ray that listens to others would be found out.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

INSIDE = Path(__file__).parent / "on_ray"
NETWORK = """
ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 10.9.8.7/24 dev v0 &&
ip link set v0 up && ip link set v1 up && ip route add default via 10.9.8.1 || exit 78
"$@"
"""
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"])]
ISOLATED = [*UNSHARE, "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", NETWORK, "sh"]


def why_not() -> str:
    """Say why Ray can't be run here; empty when it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'agentic-hpt[ray]'"
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "Ray runs only in a network namespace, and unshare or ip is missing here"
    tried = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return (
        f"Ray runs only in a network namespace, and none can be made here: {tried.stderr}" if tried.returncode else ""
    )


@pytest.mark.ray
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("file", ["contract.py", "workers.py", "studies.py", "nodes.py"])
def test_on_ray(file, tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    if file == "nodes.py":  # whose cluster is not one of our own, which has a token anyway
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="hr-") as short:  # sockets lie below it, whose paths can't be long
        done = subprocess.run(
            [
                *[*ISOLATED, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
                *["--timeout=600", f"--basetemp={tmp_path / 'inside'}", str(INSIDE / file)],
            ],
            cwd=Path(__file__).parents[1],
            env={**kept, "HOME": short, "TMPDIR": short, "PYTHONPATH": str(Path(__file__).parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-8000:]
