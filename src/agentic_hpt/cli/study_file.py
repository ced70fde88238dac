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
# Where studies are kept is not said here: under --home, or in the database of AGENTIC_HPT_LEDGER=postgresql://…

# The study's name: letters, digits, '.', '_', '-' and inner spaces. Names its files and its MLflow experiment.
study: digits

# What is run. One of
#   {task: digits}                        a built-in job: breast_cancer, digits, wine
#   {python: "train.py:train"}            a function train(params, trial) or train(params); returns the metric
#   {python: …, final: "train.py:score"}  and one that is called once, with the winner, and scores it on unseen data
#   {python: "train.py:objective"}        a PyTorch module of yours, as hpt.torch_batch makes it an objective
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

# The figure to optimize, as the objective names it, and where to: maximize or minimize. Two to four figures are
# searched for their Pareto front: metric: [accuracy, latency_ms], direction: [maximize, minimize] (one for all, or one
# each), and the worst that still counts as reference: {accuracy: 0.5, latency_ms: 10} (else the first trials say it).
# Of any objective there are seconds and memory_mb (its peak), of a built-in job parameters and latency_ms, too.
metric: accuracy
direction: maximize

# The search may stop once a trial's metric reaches this; of several metrics write {accuracy: 0.98, latency_ms: 1.0}.
target: 0.992

# The parameters. Each is one of
#   {float: [low, high]}    with log: true for a log scale, or step: 0.1 for a grid
#   {int: [low, high]}      with log: true or step: 2
#   {choice: [a, b, c]}     with ordered: true when neighbours in the list are alike
# and may have default: VALUE (the first trial runs the defaults), and when: {OTHER: VALUE or [VALUES]}, which makes it
# play a part only where the parameter OTHER has such a value.
# A built-in job knows num_layers, hidden_dim, learning_rate, dropout, weight_decay, batch_size, epochs, activation
# (relu, gelu, silu, tanh), optimizer (adam, adamw, or sgd with its momentum) and schedule (cosine, linear, constant).
space:
  num_layers: {int: [1, 5], default: 2}
  learning_rate: {float: [0.0001, 0.1], log: true, default: 0.001}
  hidden_dim: {choice: [16, 32, 64, 128, 192, 256], ordered: true, default: 64}
  dropout: {float: [0.0, 0.6], default: 0.1}

# Conditions. Over parameters alone: what may be tried. With a metric in them: what the best trial must satisfy.
#constraints: ["num_layers * hidden_dim <= 512", "seconds <= 60"]

# Configurations to run first, behind the defaults: known good ones, say. What one leaves out has its default in it.
#initial: [{learning_rate: 0.01, dropout: 0.2}, {hidden_dim: 128}]

# Hard limits; give trials or minutes, or both. calls, tokens and dollars only end the use of a model that decides.
budget:
  trials: 60
  #minutes: 30
  #calls: 40
  #tokens: 200000
  #dollars: 2.0

# Who proposes. auto: a portfolio of samplers over one history (Gaussian process, local search, TPE, CMA-ES), each with
# the trials that it earns, beside the workers that decisions spawn; joint: TPE over all parameters at once;
# per_parameter: a worker for each parameter, the others held at the best so far.
strategy: auto

# Trials between two decisions. By default eight, or two a slot; three a parameter for per_parameter.
#trials_per_round: 12

# Where trials run. processes: each in its own, on this machine; batched: many at once in one, for built-in jobs and
# hpt.torch_batch (docs/batched.md); auto: batched where it can be and, by a measurement of some seconds before a study
# of 100 trials or more, pays, else processes; ray: processes on a Ray cluster (docs/cluster.md); inline: in hpt itself,
# one at a time, for debugging.
executor: auto

# For ray: the cluster (auto on one of its nodes, host:port, or ray://host:port from outside; by default one is started
# on this machine), variables of the trials' environment, a folder to copy to the nodes (by default they have the code
# at the same path), and whether the cluster may add larger nodes than it has.
#ray: {address: auto, env: {NCCL_DEBUG: WARN}, working_dir: ".", autoscaling: false}

# Trials at once. By default the number of cores; for ray, of the trials that the cluster has room for at the start; for
# batched 32, or 256 where there is a GPU, but at most a quarter of the trials.
#parallel: 2

# What one trial may use (docs/limits.md): seconds of wall time; MiB of memory, with all that it starts; threads of the
# numeric libraries (1 by default); GPUs, whole ones or a part of one. Beyond seconds or memory it is ended, as failed.
#limits: {seconds: 600, memory_mb: 4000, threads: 1, gpus: 0.5}

# A trial whose process is killed from outside, or gives no sign of life for lease_seconds, is tried again, `attempts`
# times in all. After `same` failures in a row with the same text, and nothing that ever worked, the study stops, until
# it is resumed; where trials worked before, after three times as many and once more with one of those
# (docs/resuming.md).
failures: {attempts: 3, lease_seconds: 30, same: 5}

# Which trials stop early. median: those whose reports are worse than the median of the earlier ones at the same step;
# asha: all but the best third where steps are compared, and who is among the best later goes on then; or none.
# By default median; asha where minutes are the only budget.
pruner: median

# Rungs of asha: the first one in steps (else measured), the factor between them. promote: stopped trials may go on
# later. Nothing is stopped before min_steps, by whatever rule.
#pruning: {min_steps: 4, eta: 3, promote: true}

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

# How many new seeds the winner is retrained with at the end, to tell skill from luck. Where there is noise the default
# is too, on the same seeds: the gain over it is told with its interval.
fresh_seeds: 3

# How many of the best first run on two other new seeds, by which the winner is chosen; these are not part of its
# figures. By default 1 where repeats have shown no noise, else 2 after 40 trials and 3 after 60.
#finalists: 3

# When the search ends although budget is left, never by default. no_gain: once the trials left may bring less than the
# noise of one run; or less than min_gain, or once the next round costs more dollars than its gain is worth.
#stop: {min_gain: 0.001, dollars_per_hour: 2.5, dollars_per_gain: 500}

# The seed of the search and, through it, of each trial.
seed: 0

# Where runs are logged.
mlflow:
  enabled: true
  # By default MLFLOW_TRACKING_URI, else a SQLite store in the home. What stands here is kept in the ledger, so that
  # an address with a password is better off in the variable.
  #tracking_uri: "http://127.0.0.1:5000"
  # By default the study's name.
  #experiment: digits
  # How long the coordinator waits for a round's runs before it reads the ledger's own records.
  wait_seconds: 30
  # Which trials become runs of their own: all, each as it ends; or top:N, the N best when the study ends, with a table
  # of all trials (trials.csv) in the study's run. Then the coordinator reads the ledger's records.
  children: all

# An Optuna storage (a URL) to which finished trials are mirrored, for `hpt ui STUDY --optuna` and other Optuna tools.
#optuna_storage: "sqlite:///optuna.db"

# Trials of an Optuna study that count as earlier trials.
#import_optuna: {storage: "sqlite:///earlier.db", study: earlier}

# Earlier studies of related tasks, at most five, to learn from as far as they predict this one: {study: name},
# {mlflow: experiment}, {csv: table.csv} or {optuna: name, storage: URL}; with metric: NAME if it is called so there.
#transfer: [{study: last-month, home: other-home}, {csv: sweep.csv, metric: val_accuracy}]
"""
