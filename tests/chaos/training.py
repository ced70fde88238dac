"""The job of all studies that are harmed: it notes in a file of its own each execution that begins and ends."""

from __future__ import annotations

OBJECTIVE = """
import os, time
from pathlib import Path

LOG = Path(__file__).with_name("executions.log")

def say(word, trial):
    with LOG.open("a") as log:
        log.write(f"{word} {trial.id} {os.getpid()}\\n")

def train(params, trial):
    say("begins", trial)
    for step in range(3):
        time.sleep(SECONDS / 3)
        trial.report({"score": -abs(params["x"] - 0.3) - params["y"] / (step + 1)}, step=step)
    say("ends", trial)
    return {"score": -abs(params["x"] - 0.3) - params["y"] / 3}
"""
SPACE = {"x": {"float": [0.0, 1.0]}, "y": {"float": [1e-4, 1.0], "log": True}, "n": {"int": [1, 9]}}
