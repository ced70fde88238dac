"""The user's own module, tuned: each trial trains one, alone in a plain loop or many of them stacked together."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from agentic_hpt.errors import ConfigError
from agentic_hpt.objectives.function import load_function
from agentic_hpt.objectives.module_batch import answer, fail, train_alone, train_together
from agentic_hpt.objectives.module_data import make_task, rows_of
from agentic_hpt.objectives.module_memory import bytes_free, bytes_of_model, lacks_memory
from agentic_hpt.objectives.module_shapes import Shape, difference, shape_of
from agentic_hpt.objectives.module_stack import NotStackable
from agentic_hpt.objectives.module_training import Member, Recipe, Task, outputs_of, train
from agentic_hpt.objectives.torch_seeding import seeded
from agentic_hpt.protocols import Batch, Objective, TrialHandle
from agentic_hpt.records import JsonObject, Params

if TYPE_CHECKING:
    import torch

    from agentic_hpt.objectives.module_data import Pair
    from agentic_hpt.objectives.module_training import Score

__all__ = ["ModuleObjective", "torch_batch"]


def torch_batch(
    build_model: Callable[[dict[str, object]], torch.nn.Module],
    data: tuple[Pair, Pair] | Callable[[], tuple[Pair, Pair]],
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    metrics: Mapping[str, Score] | None = None,
    holdout: Pair | Callable[[], Pair] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    batch_size: int = 64,
    epochs: int = 20,
    optimizer: str = "adam",
    schedule: str = "constant",
    device: str = "auto",
) -> ModuleObjective:
    """Make an objective of a module of yours, for `hpt.tune` and study files: many trials are trained at once.

    `build_model(params)` gives a `torch.nn.Module`: one tensor of inputs in, one tensor of outputs out, a row each.
    `data` is `((inputs, targets), (inputs, targets))`, tensors or arrays to train on and to judge by; or a function
    that gives them, called where trials run: better when they are large. `holdout`, a pair or a function, is scored
    once at the end.

    `loss(outputs, targets)` gives a batch's mean as one number: by default cross-entropy for targets that are whole
    numbers, else the mean squared error. `metrics` are names with such functions, for all rows of the validation part;
    `loss` is always one, and `accuracy` where targets are whole numbers. All are reported after each epoch.

    How to train stands in the other arguments, and in the parameters of the same names (`lr` is `learning_rate`):
    `optimizer` is `adam`, `adamw` or `sgd`, `schedule` `constant`, `cosine` or `linear`; a weight is trained where it
    requires a gradient. The rate of `nn.Dropout` layers may differ between trials that are trained together; whatever
    else changes a model's layers, or their attributes, divides them. `device` is `auto`, `cpu`, `cuda` or `cuda:N`.
    Raises `ConfigError` for bad input.
    """
    recipe = Recipe(learning_rate, weight_decay, momentum, batch_size, epochs, optimizer, schedule)
    for name, given in (("build_model", build_model), ("loss", loss), *(metrics or {}).items()):
        if given is not None and not callable(given):
            raise ConfigError(f"torch_batch: {name} is {given!r}, not a function", "give a function")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
        raise ConfigError(f"torch_batch: unknown device {device!r}", "give auto, cpu, cuda or cuda:N")
    return ModuleObjective(build_model, data, loss, dict(metrics or {}), holdout, recipe, device)


class ModuleObjective:
    """What `torch_batch` makes. Everything random follows from a trial's seed; on the CPU neighbours don't matter."""

    def __init__(
        self,
        build_model: Callable[[dict[str, object]], torch.nn.Module],
        data: tuple[Pair, Pair] | Callable[[], tuple[Pair, Pair]],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
        metrics: Mapping[str, Score],
        holdout: Pair | Callable[[], Pair] | None,
        recipe: Recipe,
        device: str,
    ) -> None:
        self.source: tuple[str, str | None, str | None] | None = None
        self.functions = tuple(f for f in (build_model, loss, *metrics.values()) if f is not None)
        """What a trial's figures rest on, of the user's."""
        self.__name__ = getattr(build_model, "__name__", "module")
        self._given = (build_model, data, loss, metrics, holdout, recipe, device)
        self._build, self._data, self._loss, self._metrics, self._holdout, self._recipe, self._device = self._given
        self._task: Task | None = None
        self._unlike = ""
        """Why no two of the models that were divided last go together."""

    def __repr__(self) -> str:
        return f"torch_batch({self.__name__})"

    def __reduce__(self) -> tuple[Callable[..., Objective], tuple[object, ...]]:
        """Pickle what was given, not what was loaded; what was loaded by name as that name."""
        return (load_function, self.source) if self.source is not None else (ModuleObjective, self._given)

    @property
    def has_holdout(self) -> bool:
        """Whether a holdout part was given."""
        return self._holdout is not None

    def preload(self) -> tuple[str, ...]:
        """Name PyTorch, and the part of it that the first optimizer step imports."""
        return ("numpy", "torch", "torch._dynamo", "torch.func", __name__)

    def facts(self, params: Params) -> JsonObject:
        """Give how the default configuration is trained; what the model is, only building it would tell."""
        training = asdict(self._recipe.with_params(params))
        return {"model": self.__name__, **{f"{name}_at_default": value for name, value in training.items()}}

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Train one model in a plain loop; give its last epoch's figures and the number of its weights."""
        task = self._load()
        member = Member.begin(task, self._recipe.with_params(params), trial)
        return answer(member, train(task, member, lambda figures, epoch: trial.report(figures, step=epoch)))

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Train with the trial's seed, score the holdout, and leave `model/weights.pt` in the artifact folder.

        Raises `ConfigError` when no holdout was given.
        """
        import torch

        if self._holdout is None:
            raise ConfigError(f"{self!r} has no holdout", "ask has_holdout first")
        task = self._load()
        member = Member.begin(task, self._recipe.with_params(params), trial, keeps=False)
        train(task, member, None)
        rows = rows_of(self._holdout() if callable(self._holdout) else self._holdout, task.device, "holdout")
        outputs = outputs_of(member.model, rows.x)
        folder = trial.artifact_dir / "model"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(member.model.cpu().state_dict(), folder / "weights.pt")
        (folder / "config.json").write_text(json.dumps({"params": dict(params)}, indent=1) + "\n", encoding="utf-8")
        return answer(member, {name: float(score(outputs, rows.y)) for name, score in task.metrics.items()})

    def groups(self, params: Sequence[Params]) -> list[list[int]]:
        """Put those of one shape and one batch size together, as many as memory is thought to hold."""
        task = self._load()
        alike: dict[object, list[int]] = {}
        most: dict[object, int] = {}
        shapes: list[Shape] = []
        for position, own in enumerate(params):
            key: object = position
            with contextlib.suppress(Exception):  # such a trial fails alone, when it is run; for want of memory, too
                recipe = self._recipe.with_params(own)
                with seeded(0):
                    model = task.build(dict(own))
                shapes.append(shape_of(model))
                key = (recipe.batch_size, *shapes[-1].items())
                if key not in most:
                    needed = bytes_of_model(model, task, recipe.batch_size)
                    most[key] = max(1, bytes_free(task.device) // max(1, needed))
            alike.setdefault(key, []).append(position)
        apart = len(params) == len(alike) == len(shapes) > 1
        self._unlike = (difference(shapes[0], shapes[1]) or "batch_size") if apart else ""
        return [list(part) for key, members in alike.items() for part in _parts(members, most.get(key, 1))]

    def run_batch(self, batch: Batch) -> None:
        """Train trials together, where their models have one shape; one by one where they can't be stacked."""
        import torch

        task = self._load()
        workers = torch.get_num_threads() if task.device.type == "cpu" else 1
        if self._unlike:
            batch.remark(f"{self!r}: no two models can be trained together: they differ in {self._unlike}")
        alike: dict[object, list[Member]] = {}
        for trial in batch.trials:
            try:
                member = Member.begin(task, self._recipe.with_params(trial.params), trial)
                key = (member.recipe.batch_size, *shape_of(member.model).items())
            except Exception as error:
                if lacks_memory(error):
                    raise
                fail(batch, trial.id, error)
                continue
            alike.setdefault(key, []).append(member)
        for members in alike.values():
            try:
                with seeded(members[0].seed):
                    train_together(batch, task, members, workers)
            except NotStackable as reason:
                batch.remark(f"{self!r}: models are trained one by one, since they can't be stacked: {reason}")
                for member in members:
                    train_alone(batch, task, member)

    def _load(self) -> Task:
        """Load the data, once a process."""
        if self._task is None:
            import torch

            name = self._device if self._device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
            self._task = make_task(
                self._build,
                self._data() if callable(self._data) else self._data,
                self._loss,
                self._metrics,
                torch.device(name),
            )
        return self._task


def _parts(members: Sequence[int], most: int) -> list[Sequence[int]]:
    """Cut into as few parts as may be, of about one length."""
    parts = math.ceil(len(members) / most)
    size = math.ceil(len(members) / parts)
    return [members[begin : begin + size] for begin in range(0, len(members), size)]
