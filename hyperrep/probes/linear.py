"""Linear probes: how much of a model's properties can be read off a representation of its weights.

N states, F features.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# The published regularisation path (2110.15288 and 2209.14764, code of the ridge probe).
PENALTIES = (
    1e3,
    3e2,
    1e2,
    3e1,
    1e1,
    3,
    1,
    3e-1,
    1e-1,
    3e-2,
    1e-2,
    3e-3,
    1e-3,
    3e-4,
    1e-4,
    3e-5,
    1e-5,
)
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # 1 / penalty of the softmax classifier
_ITERATIONS = 300


@dataclass(frozen=True)
class Decomposition:
    """Singular value decomposition of training features with a column of ones, float64: serves every target."""

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Decomposition":
        """Of features (N, F); takes the time of a ridge regression, nearly all of it."""
        return cls(*torch.linalg.svd(_with_ones(features.double()), full_matrices=False))


def ridge(
    features: Mapping[str, Tensor],  # split -> (N, F)
    targets: Mapping[str, Tensor],  # split -> (N,)
    decomposition: Decomposition | None = None,  # of the training features, where it is known
) -> Tensor:
    """Predictions (N,) on the test split of ridge regression with the penalty that is best on the validation split.

    The bias is a column of ones and is penalised like the others, and nothing is standardised, as published
    (2209.14764, property prediction). Without a validation split, or with one target in it, training states choose.
    """
    chooser = chooser_of(targets)
    x = {split: _with_ones(features[split].double()) for split in {chooser, "test"}}
    y = {split: t.double() for split, t in targets.items()}
    # One decomposition serves the whole path.
    found = decomposition if decomposition is not None else Decomposition.of(features["train"])
    projected = found.left.mT @ y["train"]
    best = max(
        (found.right.mT @ (found.values / (found.values.square() + penalty) * projected) for penalty in PENALTIES),
        key=lambda w: r2(x[chooser] @ w, y[chooser]),
    )
    predicted: Tensor = x["test"] @ best
    return predicted


def boosted(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Predictions (N,) on the test split of gradient boosted trees, scikit-learn's defaults.

    Targets that are whole numbers are classes; all others are regressed.
    """
    from sklearn import ensemble  # here: it takes a second, and most uses of this module need none of it

    classes = not targets["train"].is_floating_point()
    kind = ensemble.HistGradientBoostingClassifier if classes else ensemble.HistGradientBoostingRegressor
    model = kind(random_state=0, early_stopping=False).fit(features["train"].numpy(), targets["train"].numpy())
    return torch.from_numpy(model.predict(features["test"].numpy()))


def softmax_classes(
    features: Mapping[str, Tensor],  # split -> (N, F)
    targets: Mapping[str, Tensor],  # split -> (N,) class numbers
) -> Tensor:
    """Classes (N,) on the test split that a linear softmax classifier predicts, its L2 penalty chosen on validation.

    The published one (one linear layer, Adam with 1e-4 for 50 epochs, features as they are) stops long before it has
    fitted features of small variance; this one is the optimum, on features standardised by the training states.
    """
    from sklearn.linear_model import LogisticRegression

    x = _rotated({split: f.double() for split, f in features.items()})
    y = {split: t.numpy() for split, t in targets.items()}
    chooser = chooser_of(targets)
    best, chosen = -1.0, targets["test"]
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: then a stronger penalty validates as well
            model.fit(x["train"], y["train"])
        if (score := float(model.score(x[chooser], y[chooser]))) > best:
            best, chosen = score, torch.from_numpy(model.predict(x["test"]))
    return chosen


def chooser_of(targets: Mapping[str, Tensor]) -> str:
    """The split that penalties are chosen on: validation, unless there is none or all of it is alike."""
    found = targets.get("validation")
    return "validation" if found is not None and len(found.unique()) > 1 else "train"


def _rotated(features: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Standardised by the training states and turned to their principal axes, at most as many as there are states.

    An L2 penalty does not see the difference, and what no training state spans has weight 0.
    """
    mean, scale = features["train"].mean(dim=0), features["train"].std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    _, _, axes = torch.linalg.svd((features["train"] - mean) / scale, full_matrices=False)
    return {split: ((f - mean) / scale @ axes.mT).numpy() for split, f in features.items()}


def r2(predicted: Tensor, target: Tensor) -> float:
    """Coefficient of determination of predictions (N,); 0 for predicting the mean, negative for worse."""
    error = (predicted - target).square().mean()
    return float(1 - error / (target - target.mean()).square().mean())


def _with_ones(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
