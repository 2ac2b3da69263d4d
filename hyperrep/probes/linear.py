"""Linear probes, which measure how much of a model's properties can be read off a representation of its weights.

Features and targets are given per split: train, test and, if there is one, validation.

N states, F features.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelzoo_datasets.extras import translate_import_errors

# The published regularization path (2110.15288 and 2209.14764, code of the ridge probe).
PENALTIES = (1e3, 3e2, 1e2, 3e1, 1e1, 3, 1, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # 1 / penalty of the softmax classifier
_ITERATIONS = 300
# Trees on all 2,464 weights of 700 networks take 33 s a property, on 64 axes 0.7 s, and score the same: test accuracy
# R² of .976 and .977 in the demo, within an epoch -.85 both. On 256 axes they are slower and worse.
MAX_TREE_FEATURES = 256
NUM_TREE_AXES = 64


@dataclass(frozen=True)
class Decomposition:
    """Singular value decomposition of training features with a column of ones, float64: one serves every target."""

    u: Tensor  # left singular vectors
    values: Tensor
    vh: Tensor  # right singular vectors

    @classmethod
    def from_features(cls, features: Tensor) -> "Decomposition":
        """Decompose features (N, F), which takes nearly all the time of a ridge regression."""
        return cls(*torch.linalg.svd(_append_ones(features.double()), full_matrices=False))


def reduce_features(features: Mapping[str, Tensor], decomposition: Decomposition) -> Mapping[str, Tensor]:
    """Project many features on the leading principal axes of the training states; a few stay as they are.

    Args:
        features: split -> (N, F).
        decomposition: of the training features.

    Returns:
        split -> (N, F), with F at most `MAX_TREE_FEATURES`.
    """
    if features["train"].shape[1] <= MAX_TREE_FEATURES:
        return features
    axes = decomposition.vh[:NUM_TREE_AXES]
    return {split: _append_ones(values.double()) @ axes.mT for split, values in features.items()}


def predict_ridge(
    features: Mapping[str, Tensor], targets: Mapping[str, Tensor], decomposition: Decomposition | None = None
) -> Tensor:
    """Predict by ridge regression with the penalty that is best on the validation split.

    The bias is a column of ones and is penalized like the others, and nothing is standardized, as published
    (2209.14764, property prediction). Without a validation split, or if all its targets are equal, the penalty is
    chosen on the training split.

    Args:
        features: split -> (N, F).
        targets: split -> (N,).
        decomposition: of the training features, if it is known.

    Returns:
        Predictions (N,) on the test split.
    """
    selection = find_selection_split(targets)
    x = {split: _append_ones(features[split].double()) for split in {selection, "test"}}
    y = {split: t.double() for split, t in targets.items()}
    # One decomposition serves the whole path of penalties.
    svd = decomposition if decomposition is not None else Decomposition.from_features(features["train"])
    projected = svd.u.mT @ y["train"]
    best = max(
        (svd.vh.mT @ (svd.values / (svd.values.square() + penalty) * projected) for penalty in PENALTIES),
        key=lambda w: compute_r2(x[selection] @ w, y[selection]),
    )
    predicted: Tensor = x["test"] @ best
    return predicted


def predict_boosted(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Predict (N,) on the test split by gradient boosted trees with scikit-learn's defaults.

    Targets that are whole numbers are classes; all others are regressed.
    """
    with translate_import_errors("probes", "learn"):
        from sklearn import ensemble  # takes a second to import, and most uses of this module do not need it

    has_classes = not targets["train"].is_floating_point()
    kind = ensemble.HistGradientBoostingClassifier if has_classes else ensemble.HistGradientBoostingRegressor
    model = kind(random_state=0, early_stopping=False).fit(features["train"].numpy(), targets["train"].numpy())
    return torch.from_numpy(model.predict(features["test"].numpy()))


def predict_softmax(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Predict classes (N,) on the test split by a linear softmax classifier, its L2 penalty chosen on validation.

    The published one (one linear layer, Adam with 1e-4 for 50 epochs, features as they are) stops long before it has
    fitted features of small variance; this one is the optimum, on features standardized by the training states.
    """
    with translate_import_errors("probes", "learn"):
        from sklearn.linear_model import LogisticRegression

    x = _rotate({split: f.double() for split, f in features.items()})
    y = {split: t.numpy() for split, t in targets.items()}
    selection = find_selection_split(targets)
    best_score, best = -1.0, targets["test"]
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: then a stronger penalty validates as well
            model.fit(x["train"], y["train"])
        if (score := float(model.score(x[selection], y[selection]))) > best_score:
            best_score, best = score, torch.from_numpy(model.predict(x["test"]))
    return best


def find_selection_split(targets: Mapping[str, Tensor]) -> str:
    """Return the split that penalties are chosen on: validation, or train without one or if all of it is equal."""
    validation = targets.get("validation")
    return "validation" if validation is not None and len(validation.unique()) > 1 else "train"


def _rotate(features: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Standardize by the training states and rotate to their principal axes, at most as many as there are states.

    An L2 penalty does not see the difference, and directions that no training state spans have weight 0.
    """
    mean, scale = features["train"].mean(dim=0), features["train"].std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    _, _, axes = torch.linalg.svd((features["train"] - mean) / scale, full_matrices=False)
    return {split: ((f - mean) / scale @ axes.mT).numpy() for split, f in features.items()}


def compute_r2(predicted: Tensor, target: Tensor) -> float:
    """Return the coefficient of determination of predictions (N,); 0 for predicting the mean, negative for worse."""
    error = (predicted - target).square().mean()
    return float(1 - error / (target - target.mean()).square().mean())


def _append_ones(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
