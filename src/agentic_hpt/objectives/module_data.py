"""What is given to `torch_batch`, as it is trained on: tensors on a device, and losses and scores by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agentic_hpt.errors import ConfigError
from agentic_hpt.objectives.module_training import Rows, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from agentic_hpt.objectives.module_training import Score

    Array = torch.Tensor | NDArray[np.generic]
    Pair = tuple[Array, Array]
    """Inputs and targets."""

__all__ = ["make_task", "rows_of"]

_WANTED = "give ((inputs, targets), (inputs, targets)): to train on and to judge by"


def make_task(
    build: Callable[[dict[str, object]], torch.nn.Module],
    data: tuple[Pair, Pair],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    metrics: Mapping[str, Score],
    device: torch.device,
) -> Task:
    """Put a task together. Raises `ConfigError` for data that can't be trained on."""
    try:
        train, validation = data
    except (TypeError, ValueError):
        raise ConfigError("torch_batch: data are not two pairs", _WANTED) from None
    rows = rows_of(train, device, "the first of data")
    classes = not rows.y.is_floating_point()
    own = loss or (_cross_entropy if classes else _squared_error)
    scores: dict[str, Score] = {"loss": own, **({"accuracy": _accuracy} if classes and loss is None else {}), **metrics}
    return Task(build, own, scores, rows, rows_of(validation, device, "the second of data"))


def rows_of(pair: Pair, device: torch.device, which: str) -> Rows:
    """Give inputs and targets as tensors: arrays of fractions with PyTorch's precision, of whole numbers as `int64`."""
    try:
        x, y = (_tensor(part) for part in pair)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"torch_batch: {which} is no pair of tensors or arrays: {error}", _WANTED) from None
    if not len(x) or len(x) != len(y):
        raise ConfigError(
            f"torch_batch: {which} has {len(x)} inputs and {len(y)} targets", "give a target for each input, and some"
        )
    return Rows(x.to(device), y.to(device))


def _tensor(given: Array) -> torch.Tensor:
    import numpy as np
    import torch

    if isinstance(given, torch.Tensor):
        return given.detach()
    array = np.asarray(given)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array.astype(np.float64)).to(torch.get_default_dtype())


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.cross_entropy(outputs, targets)


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    import torch

    if outputs.dim() == targets.dim() + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs are {tuple(outputs.shape)}, targets {tuple(targets.shape)}: give a loss of your own")
    return torch.nn.functional.mse_loss(outputs, targets)


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).to(outputs.dtype).mean()
