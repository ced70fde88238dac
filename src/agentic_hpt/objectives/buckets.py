"""Which networks are trained together: those of a shape as far as it goes, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from agentic_hpt.objectives.mlp import Hyperparameters

__all__ = ["Bucket", "buckets", "padded_share", "work"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Positions of the networks that are trained together, and the width they are padded to."""

    members: tuple[int, ...]
    width: int


def work(inputs: int, classes: int, depth: int, width: int) -> int:
    """Give the multiplications of one network for one row: what a step costs grows with it."""
    return inputs * width + (depth - 1) * width * width + width * classes


def buckets(
    networks: Sequence[Hyperparameters],
    inputs: int,
    classes: int,
    *,
    launch: float,
    most: Callable[[Hyperparameters], int],
) -> list[Bucket]:
    """Divide networks into buckets, each position in one; those of a bucket have one depth, activation and batch size.

    `launch` is what a bucket costs however few are in it, in multiplications a row: the larger, the fewer buckets.
    `most` says how many networks like a given one fit into memory. Widths are divided so that padding and launches
    together cost least, by dynamic programming over the distinct widths.
    """
    alike: dict[tuple[int, str, int], list[int]] = {}
    for position, hp in enumerate(networks):
        alike.setdefault((hp.num_layers, hp.activation, hp.batch_size), []).append(position)
    found = []
    for (depth, _, _), members in alike.items():
        by_width: dict[int, list[int]] = {}
        for position in members:
            by_width.setdefault(networks[position].hidden_dim, []).append(position)
        counts = {width: len(by_width[width]) for width in sorted(by_width)}
        for widths in _divided(counts, lambda width, d=depth: work(inputs, classes, d, width), launch):  # type: ignore[misc]
            together = [position for width in widths for position in by_width[width]]
            room = max(1, most(networks[by_width[widths[-1]][0]]))
            for start in range(0, len(together), room):
                part = together[start : start + room]
                found.append(Bucket(tuple(part), max(networks[position].hidden_dim for position in part)))
    return found


def _divided(counts: Mapping[int, int], cost: Callable[[int], float], launch: float) -> list[list[int]]:
    """Cut widths, in rising order, into runs: each is padded to its last one."""
    widths = list(counts)

    @cache
    def best(start: int) -> tuple[float, int]:
        """Give the least cost of all from `start` on, and where the first run ends."""
        if start == len(widths):
            return 0.0, start
        options, held = [], 0
        for end in range(start + 1, len(widths) + 1):
            held += counts[widths[end - 1]]
            options.append((launch + held * cost(widths[end - 1]) + best(end)[0], end))
        return min(options)

    runs, start = [], 0
    while start < len(widths):
        end = best(start)[1]
        runs.append(widths[start:end])
        start = end
    return runs


def padded_share(networks: Sequence[Hyperparameters], made: Sequence[Bucket], inputs: int, classes: int) -> float:
    """Give the share of all multiplications that is spent on padding, in [0, 1)."""
    useful = sum(work(inputs, classes, hp.num_layers, hp.hidden_dim) for hp in networks)
    done = sum(
        len(bucket.members) * work(inputs, classes, networks[bucket.members[0]].num_layers, bucket.width)
        for bucket in made
    )
    return 1 - useful / done if done else 0.0
