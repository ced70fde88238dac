"""Small data sets that come with scikit-learn, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentic_hpt.errors import ConfigError
from agentic_hpt.presets import TASKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Features = NDArray[np.float32]
    Labels = NDArray[np.int64]

__all__ = ["Part", "Sizes", "Split", "load", "sizes"]

_SPLIT_SEED = 0
"""One split for all trials: with a split of its own, a trial's luck with it would pass for skill."""

# Pixels: scaled one by one, those at the rim that are hardly ever lit would drown the others.
_ONE_UNIT = ("digits",)

# Rows, columns and classes: to tell them, no library need be imported.
_SHAPES = {"breast_cancer": (569, 30, 2), "digits": (1797, 64, 10), "wine": (178, 13, 3)}
_TRAIN = 0.6


@dataclass(frozen=True)
class Part:
    """Rows of a data set: features (rows, columns) in their own units, and a class number for each row."""

    features: Features
    labels: Labels


@dataclass(frozen=True)
class Split:
    """A data set in three parts, stratified by class: 60 % train, 20 % validation, 20 % holdout."""

    train: Part
    validation: Part
    holdout: Part
    mean: Features
    """A number for each column, of the train part only; `scale` too."""
    scale: Features
    """The standard deviation; where all columns share a unit, the square root of their mean variance for each."""
    labels: tuple[str, ...]
    """The names of the classes."""

    def standardised(self, part: Literal["train", "validation", "holdout"]) -> Features:
        """Give a part's features around the train part's mean, in units of its scale."""
        features: Features = (getattr(self, part).features - self.mean) / self.scale
        return features


@dataclass(frozen=True)
class Sizes:
    """How large a data set and its parts are."""

    train: int
    validation: int
    holdout: int
    features: int
    classes: int


def sizes(task: str) -> Sizes:
    """Give the sizes of one of `presets.TASKS`, without loading it."""
    rows, features, classes = _SHAPES[task]
    train = int(_TRAIN * rows)
    validation = (rows - train) // 2
    return Sizes(train, validation, rows - train - validation, features, classes)


def load(task: str) -> Split:
    """Load one of `presets.TASKS`. Raises `ConfigError` for any other name.

    Sources: UCI optical digits (1,797 rows, 64 columns, 10 classes), UCI wine (178, 13, 3), UCI breast cancer
    Wisconsin (569, 30, 2), as bundled with scikit-learn.
    """
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}", f"the tasks are {', '.join(TASKS)}")
    import numpy as np
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    data = getattr(datasets, f"load_{task}")()
    x, y = data.data.astype(np.float32), data.target.astype(np.int64)
    x_train, x_rest, y_train, y_rest = train_test_split(x, y, train_size=_TRAIN, stratify=y, random_state=_SPLIT_SEED)
    x_val, x_hold, y_val, y_hold = train_test_split(
        x_rest, y_rest, train_size=0.5, stratify=y_rest, random_state=_SPLIT_SEED
    )
    deviation = x_train.std(axis=0)
    if task in _ONE_UNIT:
        deviation = np.full_like(deviation, np.sqrt((deviation**2).mean()))
    return Split(
        train=Part(x_train, y_train),
        validation=Part(x_val, y_val),
        holdout=Part(x_hold, y_hold),
        mean=x_train.mean(axis=0),
        scale=np.where(deviation > 0, deviation, 1.0).astype(np.float32),  # a column may be constant
        labels=tuple(str(name) for name in data.target_names),
    )
