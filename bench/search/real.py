"""Real training on data that scikit-learn brings: two of its models, and the product's own PyTorch trainer.

A configuration is trained with three seeds: a trial observes one of them, the truth is their mean. What was trained
once is remembered as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import cast

from bench.search.suite import Task

from agentic_hpt.records import ConfigurationKey, Params, configuration_key
from agentic_hpt.space import Choice, Float, Int, SearchSpace

_REPEATS = 3
_EPOCHS = 2

Train = Callable[[Params, int], float]
"""Trains a configuration with a seed and gives its loss."""


def real_task(name: str) -> Task:
    """Give one of the real tasks by its name."""
    space, train, best = _TASKS[name]
    known: dict[ConfigurationKey, list[float]] = {}

    def evaluate(params: Params, seed: int) -> tuple[float, float]:
        key = configuration_key(params)
        if key not in known:
            known[key] = [train(params, repeat) for repeat in range(_REPEATS)]
        return known[key][seed % _REPEATS], fmean(known[key])

    return Task(f"real/{name}", space, evaluate, best)


def _digits_svc(params: Params, seed: int) -> float:
    """Give the share of digits that a support vector machine takes for others."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, train_size=600, stratify=y, random_state=seed)
    return 1.0 - float(SVC(**params, max_iter=5000).fit(x_train, y_train).score(x_test, y_test))


def _cancer_boosting(params: Params, seed: int) -> float:
    """Give the cross-entropy of boosted trees on the breast cancer data, in nats."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
    model = GradientBoostingClassifier(**params, random_state=seed).fit(x_train, y_train)
    return float(log_loss(y_test, model.predict_proba(x_test)))


@dataclass
class _Handle:
    """A trial as an objective sees it; nothing is kept of what it reports."""

    id: int
    params: Params
    seed: int
    worker: str = "bench"
    artifact_dir: Path = field(default_factory=Path)
    checkpoint_dir: Path = field(default_factory=Path)

    def report(self, metrics: object, step: int) -> None:
        """Go on."""


def _digits_network(params: Params, seed: int) -> float:
    """Give the validation cross-entropy of the built-in trainer after a few epochs, in nats."""
    import torch

    from agentic_hpt.objectives.torch_trainer import TorchTrainer

    torch.set_num_threads(1)
    figures = TorchTrainer("digits").run({**params, "epochs": _EPOCHS}, _Handle(seed, params, seed))
    return float(cast(dict[str, float], figures)["loss"])


_SVC = SearchSpace(
    C=Float(1e-2, 1e3, log=True, default=1.0),
    kernel=Choice(["rbf", "poly", "sigmoid", "linear"]),
    gamma=Float(1e-5, 1.0, log=True, default=1e-2, when={"kernel": ["rbf", "poly", "sigmoid"]}),
    degree=Int(2, 5, default=3, when={"kernel": "poly"}),
    coef0=Float(0.0, 1.0, default=0.0, when={"kernel": ["poly", "sigmoid"]}),
)
_BOOSTING = SearchSpace(
    n_estimators=Int(5, 100, log=True, default=50),
    learning_rate=Float(1e-2, 1.0, log=True, default=0.1),
    max_depth=Int(1, 6, default=3),
    subsample=Float(0.3, 1.0, default=1.0),
    max_features=Float(0.1, 1.0, default=1.0),
    min_samples_leaf=Int(1, 30, log=True, default=1),
)
_NETWORK = SearchSpace(
    num_layers=Int(1, 5, default=2),
    learning_rate=Float(1e-4, 1e-1, log=True, default=1e-3),
    hidden_dim=Choice([16, 32, 64, 128, 192, 256], ordered=True, default=64),
    dropout=Float(0.0, 0.6, default=0.1),
    batch_size=Choice([16, 32, 64, 128], ordered=True, default=64),
    activation=Choice(["relu", "gelu", "silu", "tanh"]),
)
_TASKS: dict[str, tuple[SearchSpace, Train, float]] = {
    "digits_svc": (_SVC, _digits_svc, 0.013),
    "cancer_boosting": (_BOOSTING, _cancer_boosting, 0.1),
    "digits_network": (_NETWORK, _digits_network, 0.11),
}
"""Each with its best known truth: a little below the lowest that some 1,000 trials found."""
