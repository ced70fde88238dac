"""Functions that do to a trial what real ones do to theirs: raise, crash, hang, fork, print, give rubbish."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PRELOADED_IN = os.getpid()


def fine(params, trial):
    return {"accuracy": params["x"] * 2, "extra": 1, "note": "text"}


def just_a_number(params):
    return params["x"]


def nothing(params):
    return 0.5


def reports(params, trial):
    for step in range(params.get("steps", 5)):
        trial.report({"accuracy": step / 10}, step=step)
    return 0.5


def reports_forever(params, trial):
    step = 0
    while True:
        trial.report(0.1, step=step)
        step += 1


def raises(params):
    raise ValueError("the learning rate is cursed")


def exits(params):
    sys.exit("giving up")


def runs_out_of_memory(params):
    return len(bytearray(1 << 60))


def cuda_out_of_memory(params):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def torch_out_of_memory(params):
    raise OutOfMemoryError("no room")


def gives_nan(params):
    return {"accuracy": math.nan}


def reports_nan(params, trial):
    trial.report({"accuracy": math.inf}, step=0)
    return 0.5


def reports_text(params, trial):
    trial.report({"accuracy": "high"}, step=0)
    return 0.5


def reports_bad_step(params, trial):
    trial.report(0.5, step=-1)
    return 0.5


def gives_none(params):
    return None


def gives_text(params):
    return "0.9"


def gives_true(params):
    return True


def gives_other_metric(params):
    return {"loss": 0.1}


def gives_text_metric(params):
    return {"accuracy": "0.9"}


def segfaults(params):
    print("just before the fault")
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(params):
    print("a last word")
    os._exit(7)


def is_killed(params):
    os.kill(os.getpid(), signal.SIGKILL)


def names_its_folders(params, trial):
    (trial.artifact_dir / "model.txt").write_text("weights")
    (trial.checkpoint_dir / "state.txt").write_text("state")
    return {"accuracy": trial.seed, "id": trial.id}


def prints(params):
    print("printed by python")
    print("an error by python", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo printed by a program"], check=True)
    return 0.5


def environment(params):
    return {"accuracy": 0.5, "threads": int(os.environ["OMP_NUM_THREADS"]), "mark": int(os.environ.get("MARK", "0"))}


def preloaded(params):
    return {"accuracy": 0.5, "preloaded_in": PRELOADED_IN, "pid": os.getpid()}


def hangs_with_grandchild(params, trial):
    """Ignore SIGTERM, as does a grandchild; leave both pids in a file, tell of it, and wait."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "600"])  # an ignored signal stays ignored across exec
    Path(params["file"]).write_text(f"{os.getpid()} {grandchild.pid}")
    trial.report(0.1, step=0)
    threading.Event().wait()


def leaves_grandchild(params):
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(params["file"]).write_text(str(grandchild.pid))
    return 0.5


def unpicklable_closure():
    lock = threading.Lock()

    def train(params):
        with lock:
            return 0.5

    return train
