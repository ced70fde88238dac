"""Which networks are trained together: those of a shape as far as it goes, so that little is spent on padding."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import TypeVar

from agentic_hpt.objectives.datasets import Sizes
from agentic_hpt.objectives.mlp import Hyperparameters

__all__ = ["Bucket", "buckets", "bytes_of_network", "padded_share", "work"]

_LEVELS = 24
"""So many widths, and so many batch sizes, are told apart: the division is worked out for each pair of them."""
_NUMBER, _INDEX = 4, 8
"""Bytes."""

Level = TypeVar("Level", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Positions of the networks that are trained together, and what they are padded to."""

    members: tuple[int, ...]
    width: int
    batch_size: int


def work(data: Sizes, depth: int, width: int) -> int:
    """Give the multiplications of one network for one row: what a step costs grows with it."""
    return data.features * width + (depth - 1) * width * width + width * data.classes if depth else data.features


def bytes_of_network(data: Sizes, depth: int, width: int, batch_size: int) -> int:
    """Give what one network takes in a stack of networks that are padded to this."""
    sizes = (data.features, *[width] * depth, data.classes)
    weights = sum((a + 1) * b for a, b in pairwise(sizes))
    rows = min(batch_size, data.train)
    # Four tensors of its weights; inputs, sums, outputs, their gradients and masks of a step; what the loss needs.
    numbers = 4 * weights + rows * (data.features + 5 * depth * width + 3 * data.classes) + 2 * data.validation * width
    # Its order, the same cut into steps, and what they are made of: keys, places, weights of rows.
    indices = 5 * data.train + 2 * math.ceil(data.train / rows) * rows
    return _NUMBER * numbers + _INDEX * indices


def buckets(networks: Sequence[Hyperparameters], data: Sizes, *, launch: float, room: float, most: int) -> list[Bucket]:
    """Divide networks into buckets, each position in one; those of a bucket have one depth and activation.

    `launch` is what a step of a bucket costs however little is in it, in multiplications: the larger, the fewer
    buckets. `room` are the bytes that a bucket may take, `most` the networks it may have. Batch sizes, and the widths
    at each run of these, are cut so that padding and launches together cost least, by dynamic programming.
    """

    def by_width(sizes: Sequence[int], members: Sequence[int], depth: int) -> tuple[float, list[tuple[int, list[int]]]]:
        """Cut the members at a run of batch sizes by their widths."""
        steps, rows = math.ceil(data.train / sizes[0]), min(sizes[-1], data.train)
        at = _by_level(members, lambda k: networks[k].hidden_dim)

        def cost(widths: Sequence[int]) -> float:
            held = sum(len(at[width]) for width in widths)
            return steps * (launch + held * rows * work(data, depth, widths[-1]))

        total, runs = _divided(sorted(at), cost)
        return total, [(run[-1], [k for width in run for k in at[width]]) for run in runs]

    found = []
    alike = sorted(range(len(networks)), key=lambda k: (networks[k].num_layers, networks[k].activation, k))
    for (depth, _), group in groupby(alike, key=lambda k: (networks[k].num_layers, networks[k].activation)):
        at = _by_level(group, lambda k: networks[k].batch_size)

        def members(sizes: Sequence[int], at: dict[int, list[int]] = at) -> list[int]:
            return [k for size in sizes for k in at[size]]

        for sizes in _divided(sorted(at), lambda sizes, d=depth, m=members: by_width(sizes, m(sizes), d)[0])[1]:  # type: ignore[misc]
            for width, held in by_width(sizes, members(sizes), depth)[1]:
                fit = max(1, min(most, int(room // bytes_of_network(data, depth, width, sizes[-1]))))
                # As even as can be: a small rest would cost as many launches as a full bucket.
                part = math.ceil(len(held) / math.ceil(len(held) / fit))
                found += [_bucket(networks, held[start : start + part]) for start in range(0, len(held), part)]
    return found


def _bucket(networks: Sequence[Hyperparameters], members: Sequence[int]) -> Bucket:
    return Bucket(
        tuple(members),
        max(networks[k].hidden_dim for k in members),
        max(networks[k].batch_size for k in members),
    )


def _by_level(members: Iterable[int], of: Callable[[int], int]) -> dict[int, list[int]]:
    """Group members by a number of theirs; where there are many numbers, by the next of a few levels above it."""
    members = list(members)
    levels = sorted({of(k) for k in members})
    if len(levels) > _LEVELS:
        levels = [levels[(i + 1) * len(levels) // _LEVELS - 1] for i in range(_LEVELS)]
    found: dict[int, list[int]] = {}
    for k in members:
        found.setdefault(levels[bisect_left(levels, of(k))], []).append(k)
    return found


def _divided(levels: Sequence[Level], cost: Callable[[Sequence[Level]], float]) -> tuple[float, list[Sequence[Level]]]:
    """Cut levels into runs that together cost least; give the cost and the runs."""

    @cache
    def best(start: int) -> tuple[float, int]:
        """Give the least cost of all from `start` on, and where the first run ends."""
        if start == len(levels):
            return 0.0, start
        ends = range(start + 1, len(levels) + 1)
        return min((cost(levels[start:end]) + best(end)[0], end) for end in ends)

    runs, start = [], 0
    while start < len(levels):
        end = best(start)[1]
        runs.append(levels[start:end])
        start = end
    return best(0)[0], runs


def padded_share(networks: Sequence[Hyperparameters], made: Sequence[Bucket], data: Sizes) -> float:
    """Give the share of all multiplications that is spent on padding, of widths and of rows, in [0, 1)."""

    def rows(size: int, steps_of: int) -> int:
        return math.ceil(data.train / steps_of) * min(size, data.train)

    useful = sum(data.train * work(data, hp.num_layers, hp.hidden_dim) for hp in networks)
    done = 0
    for bucket in made:
        own = [networks[k] for k in bucket.members]
        trained = rows(bucket.batch_size, min(hp.batch_size for hp in own))
        done += len(own) * trained * work(data, own[0].num_layers, bucket.width)
    return 1 - useful / done if done else 0.0
