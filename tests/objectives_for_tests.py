"""Functions that do to a trial what real ones do to theirs: raise, crash, hang, fork, print, give rubbish."""

from __future__ import annotations

import ctypes
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


def gives_numpy_true(params):
    import numpy as np

    return np.bool_(True)


def gives_an_array_of_one(params):
    import numpy as np

    return np.array([0.75])


def gives_too_much(params):
    return {"accuracy": -1e200, "extra": 1.0}


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


def tells_pid_and_waits(params, trial):
    """Leave the pid in a file, tell of it, and wait where nothing of Python's runs on."""
    Path(params["file"]).write_text(str(os.getpid()))
    trial.report(0.1, step=0)
    if params.get("holds_the_interpreter"):
        ctypes.PyDLL(None).sleep(int(params["holds_the_interpreter"]))
    else:
        signal.pause()
    return 0.5


def starts_a_process(params, trial):
    """Start a process in some way that gets it out of the group, leave its pid in a file, and end in some way."""
    writes_pid = f"import os, time; open({params['file']!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    program = [sys.executable, "-S", "-c", writes_pid]
    if params["how"] == "session":
        subprocess.Popen(program, start_new_session=True)
    elif os.fork() == 0:  # a daemon as the book has it
        os.setsid()
        if os.fork() == 0:
            if params["how"] == "daemon":
                os.execv(program[0], program)
            if params["how"] == "daemon without variables":
                os.execve(program[0], program, {})
            Path(params["file"]).write_text(str(os.getpid()))
            signal.pause()
        os._exit(0)
    while not (Path(params["file"]).exists() and Path(params["file"]).read_text()):
        pass
    if params["end"] == "waits":
        trial.report(0.1, step=0)
        signal.pause()
    if params["end"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.5


def fills_memory(params, trial):
    """Hold some memory here and some in a process that it starts, and wait."""
    script = f"import time; block = b'x' * ({params['there']} << 20); print(flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
    Path(params["file"]).write_text(str(other.pid))
    other.stdout.readline()
    block = b"x" * (params["here"] << 20)
    signal.pause()
    return len(block)


def is_killed_by_the_kernel(params):
    """Use more memory than the control group has that this process joins."""
    Path(params["group"], "cgroup.procs").write_text(str(os.getpid()))
    return len(bytearray(params["bytes"]))


def counts_in_its_checkpoint(params, trial):
    """Count the attempts in the checkpoint folder; the first two are killed, one of them while it writes."""
    file = trial.checkpoint_dir / "count"
    count = int(file.read_text()) if file.exists() else 0
    if count < 2:
        written = file.with_suffix(".new")
        written.write_text(str(count + 1))
        written.replace(file)
        written.write_text("torn")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"accuracy": 0.5, "attempts before": count}


def answers_when_terminated(params, trial):
    def stop(signum, frame):
        raise InterruptedError

    signal.signal(signal.SIGTERM, stop)
    try:
        trial.report(0.1, step=0)
        signal.pause()
    except InterruptedError:
        trial.report(0.7, step=1)
        return 0.9


def closes_what_is_not_its_own(params):
    os.closerange(3, 256)
    if params["waits"]:
        signal.pause()
    return 0.5


def comes_back_twice(params):
    """Return from a fork of the trial's process first, then from the process itself."""
    pid = os.fork()
    if pid == 0:
        return 0.1
    os.waitpid(pid, 0)
    return 0.9


def leaves_with(code):
    def train(params):
        os._exit(code)

    return train


def variables(params):
    """Give the threads that are set, and write down which GPUs."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    (threads,) = {int(os.environ[name]) for name in names}
    return {"accuracy": 0.5, "threads": threads}


def waits_for_the_other(params, trial):
    """Write down the GPUs, and wait until the other trial has: so both run at once."""
    Path(params["mine"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not Path(params["other"]).exists():
        pass
    return 0.5
