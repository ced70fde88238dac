"""The study file that `hpt init` writes. A line that begins with `#` and a key is a setting, switched off."""

from __future__ import annotations

import json

from agentic_hpt.records import JsonObject

__all__ = ["study_file"]


def study_file(objective: JsonObject) -> str:
    """Give the text of a documented, valid study file; `objective` as in the file, `{"task": "digits"}` say."""
    return _TEXT.replace("@OBJECTIVE@", json.dumps(objective, ensure_ascii=False))


_TEXT = """\
# A study of agentic-hpt. Run it:  hpt run FILE
# Lines like "#key: value" are settings that are switched off; take the # away to use them.

# The study's name: letters, digits, '.', '_', '-' and inner spaces. Names its files and its MLflow experiment.
study: digits

# What is run. One of
#   {task: digits}                        a built-in job: breast_cancer, digits, wine
#   {python: "train.py:train"}            a function train(params, trial) or train(params); returns the metric
#   {python: …, final: "train.py:score"}  and one that is called once, with the winner, and scores it on unseen data
#   {command: ["python", "train.py", "--lr", "{learning_rate}"]}
#                                         any program; {name} stands for a parameter ({{ and }} for braces), and the
#                                         environment variable HPT_PARAMS holds all of them as JSON.
#                                         It prints  HPT {"step": 3, "accuracy": 0.91}  while it runs, and last
#                                         HPT {"accuracy": 0.93}
# Relative paths start at this file's folder, or at `folder: …`.
objective: @OBJECTIVE@

# What the job is, in plain words: what is learned from which data, what is trained, what is known to matter. With the
# parameters' names this is all that a model that decides knows of the task.
description: "An MLP classifier of handwritten digits"

# Facts of the job, by name: at most 20, numbers or short texts. A built-in job adds its own.
#job: {rows: 50000, features: 20, classes: 3, model: "a gradient-boosted forest", seconds_per_epoch: 1.5}

# The figure to optimize, as the objective names it, and where to: maximize or minimize.
metric: accuracy
direction: maximize

# The search may stop once a trial's metric reaches this.
target: 0.992

# The parameters. Each is one of
#   {float: [low, high]}    with log: true for a log scale, or step: 0.1 for a grid
#   {int: [low, high]}      with log: true or step: 2
#   {choice: [a, b, c]}     with ordered: true when neighbours in the list are alike
# and may have default: VALUE (the first trial runs the defaults), and when: {OTHER: VALUE or [VALUES]}, which makes it
# play a part only where the parameter OTHER has such a value.
space:
  num_layers: {int: [1, 5], default: 2}
  learning_rate: {float: [0.0001, 0.1], log: true, default: 0.001}
  hidden_dim: {choice: [16, 32, 64, 128, 192, 256], ordered: true, default: 64}
  dropout: {float: [0.0, 0.6], default: 0.1}

# Hard limits; give trials or minutes, or both. calls, tokens and dollars only end the use of a model that decides.
budget:
  trials: 60
  #minutes: 30
  #calls: 40
  #tokens: 200000
  #dollars: 2.0

# Who proposes. per_parameter: a worker for each parameter, the others held at the best so far; joint: all at once;
# auto: the coordinator says after each round, by the evidence, which workers there are.
strategy: per_parameter

# Trials between two decisions. By default three for each parameter, or at least eight for joint.
#trials_per_round: 12

# Where trials run. processes: each in its own, on this machine; inline: in hpt itself, one at a time, for debugging.
executor: processes

# Trials at once. By default the number of cores.
#parallel: 2

# Limits of one trial, in seconds of wall time.
#limits: {seconds: 600}

# median stops a trial whose reports are worse than the median of the earlier ones at the same step; or none.
pruner: median

# Who decides after each round. Without model: the rules alone. With one, provider:name as LangChain takes it
# (openai:…, anthropic:…, ollama:…), the model decides under the rules' guards, and the rules stand in when it fails.
# Keys come from the provider's environment variable, never from this file.
coordinator:
  #model: "openai:gpt-5-mini"
  # Where the model answers, for a server of your own.
  #base_url: "http://127.0.0.1:8000/v1"
  # How long to wait for one answer.
  timeout_seconds: 60
  #temperature: 0.0
  # Upper bound of one answer's length, in tokens.
  max_tokens: 2000
  # The context window of a small model, in tokens: the evidence is cut to what fits beside the answer.
  #context_tokens: 16384
  # How often a call is tried again after an error that may pass.
  retries: 2
  # Ask a person before each decision is in force: approve, edit or refuse. `hpt run` asks on the terminal.
  approve: false
  # US dollars per million tokens; a budget in dollars needs it.
  #price: {input: 0.25, output: 2.0}

# How many new seeds the winner is retrained with at the end, to tell skill from luck.
fresh_seeds: 3

# The seed of the search and, through it, of each trial.
seed: 0

# Where runs are logged.
mlflow:
  enabled: true
  # By default MLFLOW_TRACKING_URI, else a SQLite store in the home.
  #tracking_uri: "http://127.0.0.1:5000"
  # By default the study's name.
  #experiment: digits
  # How long the coordinator waits for a round's runs before it reads the ledger's own records.
  wait_seconds: 30

# An Optuna storage (a URL) to which finished trials are mirrored, for `hpt ui STUDY --optuna` and other Optuna tools.
#optuna_storage: "sqlite:///optuna.db"

# Trials of an Optuna study that count as earlier trials.
#import_optuna: {storage: "sqlite:///earlier.db", study: earlier}
"""
