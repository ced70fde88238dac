"""The built-in job: a PyTorch multilayer perceptron on one of the bundled data sets, on one CPU thread."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentic_hpt.errors import ConfigError, FailureKind, Pruned, TrialFailure
from agentic_hpt.objectives.buckets import Bucket, buckets
from agentic_hpt.objectives.datasets import Split, load, sizes
from agentic_hpt.objectives.mlp import SMOOTHING, Hyperparameters, build, make_optimizer, make_schedule, weights
from agentic_hpt.objectives.mlp_batch import train_together
from agentic_hpt.objectives.module_memory import bytes_free
from agentic_hpt.objectives.torch_checkpoint import Checkpoint, Stateful
from agentic_hpt.objectives.torch_seeding import seeded
from agentic_hpt.objectives.torch_stack import Data
from agentic_hpt.presets import TASKS
from agentic_hpt.protocols import Batch, TrialHandle
from agentic_hpt.records import JsonObject, Params

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["TorchTrainer", "load_example", "load_model"]

METRICS = ("accuracy", "loss", "parameters", "latency_ms", "seconds", "memory_mb")
"""What a study may look at; the last two are the executor's to measure."""
_EXAMPLE_ROWS = 3
_PASSES = 50
LAUNCH = {"cpu": 3e6, "cuda": 5e8}
"""What a step of a stack costs however little is in it, in multiplications: 0.4 ms on one core; estimated for a GPU."""
MOST = {"cpu": 32, "cuda": 4096}
"""Networks in a stack: on a CPU more gain nothing (`bench/batched.py`), and their answers come later."""


class TorchTrainer:
    """Train on the train part, report accuracy and loss on the validation part after each epoch.

    The result is the last epoch's, not the best one's: choosing an epoch by the figure that is reported would flatter
    it. Everything random follows from the trial's seed. Raises `ConfigError` for an unknown task.
    """

    has_holdout = True

    def __init__(self, task: str, latency: bool = False) -> None:
        if task not in TASKS:
            raise ConfigError(f"unknown task {task!r}", f"the tasks are {', '.join(TASKS)}")
        self.task = task
        self._latency = latency  # costs time and differs from run to run: measured where the study looks at it

    def check(self, names: Sequence[str], metrics: Sequence[str]) -> None:
        """See that the trainer knows the parameters and the metrics. Raises `ConfigError` before a trial is spent."""
        unknown = [name for name in names if name not in Hyperparameters.__slots__]
        if unknown:
            raise ConfigError(
                f"space: the built-in trainer has no parameter {unknown[0]!r}",
                f"it knows {', '.join(Hyperparameters.__slots__)}",
            )
        for metric in metrics:
            if metric not in METRICS:
                raise ConfigError(
                    f"metric: the built-in trainer does not give {metric!r}", f"it gives {', '.join(METRICS)}"
                )

    def __repr__(self) -> str:
        return f"TorchTrainer({self.task!r})"

    def preload(self) -> tuple[str, ...]:
        """Name PyTorch, the part of it that the first optimizer step imports, and the data's library."""
        return ("numpy", "torch", "torch._dynamo", "sklearn.datasets", "sklearn.model_selection", __name__)

    def facts(self, params: Params) -> JsonObject:
        """Give the sizes of the data's parts, what is trained, and how many weights it has with `params`."""
        data, hp = sizes(self.task), Hyperparameters.read(params)
        facts: JsonObject = {
            "task": self.task,
            "training_rows": data.train,
            "validation_rows": data.validation,
            "holdout_rows": data.holdout,
            "features": data.features,
            "classes": data.classes,
            "model": "multilayer perceptron on standardised features, one CPU thread",
            "epochs_at_default": hp.epochs,
        }
        with contextlib.suppress(TypeError, ValueError):  # where a size is no whole number, it is the trials that fail
            facts["weights_at_default"] = weights(hp, data.features, data.classes)
        return facts

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Train; give validation accuracy and loss (cross-entropy, nats), and the number of weights."""
        split = load(self.task)
        model, figures = _train(Hyperparameters.read(params).checked(), trial.seed, split, trial)
        return {**figures, **self._of_model(model, split)}

    def groups(self, params: Sequence[Params]) -> list[list[int]]:
        """Divide configurations into those whose networks are stacked; one that can't be trained is alone."""
        known = {}
        for position, given in enumerate(params):
            with contextlib.suppress(ConfigError):
                known[position] = Hyperparameters.read(given).checked()
        positions = list(known)
        together: list[list[int]] = []
        most = MOST["cpu"] * _workers(_device()) if _device().type == "cpu" else 1  # a GPU works on a stack at a time
        for bucket in self._buckets(list(known.values()), len(known)):
            members = [positions[m] for m in bucket.members]
            if together and len(together[-1]) + len(members) <= most:
                together[-1] += members
            else:
                together.append(members)
        return together + [[position] for position in range(len(params)) if position not in known]

    def run_batch(self, batch: Batch) -> None:
        """Train many networks together, on a GPU if there is one; the figures are those of `run`.

        On a GPU data order and dropout are drawn there: another sample from the same distributions.
        """
        import torch

        device = _device()
        split, data = _resident(self.task, device)
        known: list[tuple[TrialHandle, Hyperparameters]] = []
        for trial in batch.trials:
            try:
                known.append((trial, Hyperparameters.read(trial.params).checked()))
            except ConfigError as error:
                batch.fail(trial.id, FailureKind.INVALID_OUTPUT, str(error))

        def measure(network: torch.nn.Sequential) -> dict[str, float]:
            return {"latency_ms": _latency(_standardised(network, split).eval(), split)}

        workers = _workers(device)
        stacks = self._buckets([hp for _, hp in known], math.ceil(len(known) / workers))
        with torch.random.fork_rng(devices=[device], enabled=device.type == "cuda"):
            lists = [[known[member] for member in stack.members] for stack in stacks]
            train_together(batch, lists, data, workers, measure if self._latency else None)

    def _buckets(self, known: Sequence[Hyperparameters], most: int) -> list[Bucket]:
        device = _device()
        return buckets(
            known,
            sizes(self.task),
            launch=LAUNCH[device.type],
            room=bytes_free(device),
            most=max(1, min(most, MOST[device.type])),
        )

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Train with the trial's seed, leave the model and its predictions in the artifact folder, score the holdout.

        `model/` holds `weights.pt`, `config.json` and `input_example.json`; `holdout.json` the labels' names, the
        true and the predicted classes.
        """
        import torch

        split = load(self.task)
        model, _ = _train(Hyperparameters.read(params).checked(), trial.seed, split, None)
        with torch.no_grad():
            logits = model(torch.from_numpy(split.holdout.features))
            labels = torch.from_numpy(split.holdout.labels)
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
        predicted = logits.argmax(1)
        _save_model(model, trial.artifact_dir / "model", self.task, params, split)
        _write_json(
            trial.artifact_dir / "holdout.json",
            {"labels": list(split.labels), "true": labels.tolist(), "predicted": predicted.tolist()},
        )
        figures = {"accuracy": (predicted == labels).float().mean().item(), "loss": loss}
        return {**figures, **self._of_model(model, split)}

    def _of_model(self, model: torch.nn.Module, split: Split) -> dict[str, float]:
        """Give the number of weights, and if wanted the milliseconds that one row takes: the median of many."""
        figures: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters())}
        if self._latency:
            figures["latency_ms"] = _latency(model, split)
        return figures


def load_model(folder: str | Path) -> torch.nn.Module:
    """Load a model from the folder with `weights.pt` and `config.json`: raw features in, logits out, in eval mode."""
    import torch

    config = json.loads((Path(folder) / "config.json").read_text())
    model = build(Hyperparameters.read(config["params"]), config["inputs"], len(config["labels"]))
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
    return model.eval()


def load_example(folder: str | Path) -> NDArray[np.float32]:
    """Load the raw example rows that lie beside a model."""
    import numpy as np

    return np.array(json.loads((Path(folder) / "input_example.json").read_text()), dtype=np.float32)


def _train(
    hp: Hyperparameters, seed: int, split: Split, trial: TrialHandle | None
) -> tuple[torch.nn.Sequential, dict[str, float]]:
    """Train with label smoothing; give the model in eval mode and its last figures.

    A trial that was stopped or killed before goes on from its checkpoint, to the same figures.

    Raises `TrialFailure` of kind `nan` when the loss stops being a number.
    """
    import torch

    x, y = torch.from_numpy(split.standardised("train")), torch.from_numpy(split.train.labels)
    x_val, y_val = torch.from_numpy(split.standardised("validation")), torch.from_numpy(split.validation.labels)
    with seeded(seed):
        model = _standardised(build(hp, x.shape[1], len(split.labels)), split)
        body = model[1:]
        optimizer = make_optimizer(hp, body)
        schedule = make_schedule(hp, optimizer, math.ceil(len(x) / hp.batch_size))
        held = None if trial is None else _checkpoint(trial, hp, (body, optimizer, schedule))
        behind = [] if held is None else held.load()
        if trial is not None:
            for epoch, known in enumerate(behind):
                trial.report(known, step=epoch)
        for epoch in range(len(behind), hp.epochs):
            body.train()
            for batch in torch.randperm(len(x)).split(hp.batch_size):  # type: ignore[no-untyped-call]
                loss = torch.nn.functional.cross_entropy(body(x[batch]), y[batch], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            figures = _figures(body, x_val, y_val)
            if not math.isfinite(figures["loss"]):
                raise TrialFailure(FailureKind.NAN, f"the training diverged: the loss is {figures['loss']}")
            behind.append(figures)
            if trial is not None and held is not None:
                held.save_now_and_then(behind)
                try:
                    trial.report(figures, step=epoch)
                except Pruned:  # it may go on later
                    held.save(behind)
                    raise
        if held is not None:
            held.remove()
    return model.eval(), behind[-1] if behind else {}


def _standardised(model: torch.nn.Sequential, split: Split) -> torch.nn.Sequential:
    """Let a network standardise its features as the split does."""
    import torch

    norm = cast(torch.nn.BatchNorm1d, model[0])
    norm.running_mean = torch.from_numpy(split.mean)
    norm.running_var = torch.from_numpy(split.scale**2)
    return model


def _device() -> torch.device:
    """Give where batches are trained."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _workers(device: torch.device) -> int:
    """Give how many stacks are trained at once: a core each; a GPU works on one."""
    import torch

    return torch.get_num_threads() if device.type == "cpu" else 1


@lru_cache(maxsize=2)
def _resident(task: str, device: torch.device) -> tuple[Split, Data]:
    """Load a task's data and put it on a device; it stays there for the batches to come."""
    import torch

    split = load(task)
    x, y = torch.from_numpy(split.standardised("train")), torch.from_numpy(split.train.labels)
    x_val, y_val = torch.from_numpy(split.standardised("validation")), torch.from_numpy(split.validation.labels)
    return split, Data(x.to(device), y.to(device), x_val.to(device), y_val.to(device), len(split.labels))


def _checkpoint(trial: TrialHandle, hp: Hyperparameters, parts: Sequence[Stateful]) -> Checkpoint:
    return Checkpoint(trial.checkpoint_dir, {**asdict(hp), "seed": trial.seed}, parts)


def _figures(body: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    import torch

    body.eval()
    with torch.no_grad():
        logits = body(x)
    return {
        "accuracy": (logits.argmax(1) == y).float().mean().item(),
        "loss": torch.nn.functional.cross_entropy(logits, y).item(),
    }


def _latency(model: torch.nn.Module, split: Split) -> float:
    import torch

    row = torch.from_numpy(split.validation.features[:1])
    taken = []
    with torch.no_grad():
        for _ in range(_PASSES):
            started = time.perf_counter()
            model(row)
            taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def _save_model(model: torch.nn.Module, folder: Path, task: str, params: Params, split: Split) -> None:
    import sklearn
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "weights.pt")
    config = {
        "task": task,
        "params": dict(params),
        "inputs": int(split.train.features.shape[1]),
        "labels": list(split.labels),
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "input_example.json", split.train.features[:_EXAMPLE_ROWS].tolist())


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
