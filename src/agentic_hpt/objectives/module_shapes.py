"""Which modules can be stacked: those that differ in nothing but weights, buffers and dropout rates."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING

from agentic_hpt.objectives.module_training import NAMES

if TYPE_CHECKING:
    import torch

__all__ = ["Shape", "difference", "dropout_kinds", "shape_of"]

Shape = Mapping[str, Hashable]
"""What must be alike, by where it is found."""

_TENSORS = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, str, bytes, type(None), type)
_LONG = 64
"""A longer list counts as one thing."""


def dropout_kinds() -> tuple[type[torch.nn.Module], ...]:
    """Give the layers whose rate may differ within a stack."""
    from torch import nn

    return nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d


def shape_of(model: torch.nn.Module) -> Shape:
    """Tell a model's shape: its layers' classes, tensors and attributes, all that its forward pass may read.

    What training alone reads doesn't count, wherever a model keeps it: its learning rate, say.
    """
    found: dict[str, Hashable] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        local = "<" in kind.__qualname__  # another call makes another class
        found[f"{path}.__class__"] = (kind,) if local else f"{kind.__module__}.{kind.__qualname__}"
        rated = isinstance(module, dropout_kinds())
        for name, value in vars(module).items():
            if name not in _TENSORS and not (rated and name == "p"):
                found.update(_told(f"{path}.{name}", name, value))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad)
    return found


def difference(one: Shape, other: Shape) -> str:
    """Name a place where two shapes differ."""
    return next((place for place in {**one, **other} if one.get(place) != other.get(place)), "").lstrip(".")


def _told(place: str, name: object, value: object) -> Iterator[tuple[str, Hashable]]:
    if name in NAMES and name != "momentum" and isinstance(value, _PLAIN):  # a layer may have a momentum of its own
        return
    if isinstance(value, Mapping) and len(value) <= _LONG:
        for key, entry in value.items():
            yield from _told(f"{place}[{key!r}]", key, entry)
    elif isinstance(value, (list, tuple)) and len(value) <= _LONG:
        for position, entry in enumerate(value):
            yield from _told(f"{place}[{position}]", position, entry)
    else:
        yield place, _token(value)


def _token(value: object) -> Hashable:
    """Give something that is equal for values that do the same; where that can't be known, for no other value."""
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    if isinstance(value, MethodType) and hasattr(value.__self__, "named_modules"):
        return value.__func__.__qualname__  # a model's own: its other parts are compared anyway
    if isinstance(value, (FunctionType, BuiltinFunctionType)) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    import cloudpickle

    try:
        return hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
    except Exception:  # whatever somebody's class raises
        return object()
