"""Reliability ceilings: the R² that the noise of measuring on a finite number of images allows.

Networks that are measured on the same images share most of their errors, so that the noise between them is a part of
that of a network with images of its own. Where it is known which images each network gets right, that part is measured.

N states, B images.
"""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from ..zoo_values import read_numbers
from .bootstrap import find_last_epochs

MEASURED_ON = {"test_acc": ("test",), "ggap": ("test", "train")}  # property -> splits of images


def compute_ceilings(
    name: str, table: pd.DataFrame, sizes: Mapping[str, int], hits: Tensor | None = None
) -> dict[str, float | str]:
    """Compute the ceiling over all epochs, and the mean over the last five epochs of that within the epoch.

    Args:
        name: the property.
        table: the states, N rows.
        sizes: split -> number of images.
        hits: which test images each state gets right, (N, B) bool; None if it is not known.

    Returns:
        `ceiling`, `ceiling_within` and `ceiling_from`: "errors" or "size"; nothing for a property that no images
        measure, or if a value or the number of images is not known.
    """
    noise = _compute_binomial_noise(name, table, sizes)
    if noise is None:
        return {}
    target, epochs = read_numbers(table, name), torch.tensor(table["epoch"].to_numpy())

    def compute(rows: Tensor) -> float:
        share = 1.0 if hits is None else measure_noise_share(hits[rows])
        return compute_ceiling(target[rows], share * noise[rows])

    within = [compute(epochs == epoch) for epoch in find_last_epochs(target, epochs)]
    return {
        "ceiling": compute(torch.ones_like(epochs, dtype=torch.bool)),
        "ceiling_within": sum(within) / len(within) if within else float("nan"),
        "ceiling_from": "size" if hits is None else "errors",
    }


def compute_ceiling(target: Tensor, noise: Tensor) -> float:
    """Compute the ceiling: 1 - mean variance of the noise / variance of the target, at least 0.

    A predictor that knows all models without the noise of their measurement has this R² on average.

    Args:
        target: measured values (N,).
        noise: variance of the noise in each of them, (N,).
    """
    variance = (target - target.mean()).square().mean()
    return float((1 - noise.mean() / variance).clamp_min(0)) if variance > 0 else float("nan")


def measure_noise_share(hits: Tensor) -> float:
    """Measure the variance of accuracy between states by the choice of images, over that with images of their own.

    The accuracy of state i less the mean of all is the mean over images of h_i - mean h: the choice of B images gives
    it the variance Var(h_i - mean h) / B, where images of its own would give p_i (1 - p_i) / B.

    Args:
        hits: which images each state gets right, (N, B) bool.
    """
    if len(hits) < 2:
        return 1.0
    values = hits.float()
    mean = values.mean(dim=0)
    accuracies = values.mean(dim=1).double()
    squares = accuracies + mean.double().square().mean() - 2 * (values @ mean).double() / hits.shape[1]
    variances = squares - (accuracies - accuracies.mean()).square()
    binomial = (accuracies * (1 - accuracies)).mean()
    return float(variances.mean() / binomial * len(hits) / (len(hits) - 1)) if binomial > 0 else 1.0


def _compute_binomial_noise(name: str, table: pd.DataFrame, sizes: Mapping[str, int]) -> Tensor | None:
    """Return the variance p (1 - p) / B of each measurement (N,), None if it is not known.

    The gap is the difference of two accuracies, and has the noise of both.
    """
    columns = MEASURED_ON.get(name, ())
    shares = [(read_numbers(table, f"{split}_acc"), sizes.get(split, 0)) for split in columns]
    if not shares or any(p.isnan().any() or images < 1 for p, images in shares):
        return None
    return torch.stack([p * (1 - p) / images for p, images in shares]).sum(dim=0)
