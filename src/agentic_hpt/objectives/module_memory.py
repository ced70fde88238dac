"""How much memory a model of the user's takes in a stack, and how much there is."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from agentic_hpt.errors import tells_out_of_memory
from agentic_hpt.objectives.module_training import Task
from agentic_hpt.objectives.torch_seeding import seeded

if TYPE_CHECKING:
    import torch

__all__ = ["bytes_free", "bytes_of_model", "lacks_memory"]

_COPIES = 7
"""Of the weights: they, their gradient, two moments, and what a step needs in between."""
_BACKWARD = 2.0
"""Of what a forward pass keeps: the gradients of it lie beside it."""
_SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Of the memory that is free now: on the CPU others want some of it too."""


def bytes_of_model(model: torch.nn.Module, task: Task, rows: int) -> int:
    """Give the memory of one model in training on batches of so many rows, by what a pass of it keeps."""
    import torch

    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # an address must not be used anew
        return tensor

    held: list[torch.Tensor] = []
    batch = task.train.first(rows)
    with seeded(0), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = copy.deepcopy(model).to(task.device).train()(batch.x)
        task.loss(outputs, batch.y)
    trained = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    judged = outputs[:1].numel() * outputs.element_size() * len(task.validation.x)
    activations = _BACKWARD * sum(kept.values()) + 2 * (_bytes(batch.x) + _bytes(batch.y))
    return int(_COPIES * trained + 2 * buffers + activations + 3 * judged + 32 * len(task.train.x))


def bytes_free(device: torch.device) -> int:
    """Give the memory that a stack may use on a device."""
    import torch

    if device.type == "cuda":
        return int(_SHARE["cuda"] * torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(_SHARE["cpu"] * psutil.virtual_memory().available)


def lacks_memory(error: Exception) -> bool:
    """Say whether an error tells that memory was short, the machine's or the device's."""
    return (
        isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__ or tells_out_of_memory(str(error))
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
