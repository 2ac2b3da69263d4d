"""Similarity of the models of a population: of predictions, outputs, errors and weights.

Matrices of all pairs are (N, N), float64 and exactly symmetric.

    N and M models, B images, C classes, P weights
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ArgumentError

_BLOCK_SIZE = 2**23  # numbers per block, 64 MiB of float64: a comparison takes about half a GiB for any N
_MAX_COUNT = 2**20  # images per float32 count, which is exact up to 2^24; counts are summed in float64
_ROWS = 256  # models per block of `find_nearest`, which bounds its memory
_MAX_ERRORS = 2**25  # elements of `others` converted to float32 at once


def agreement(predictions: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Return the fraction of images for which two models predict the same class, (N, N), 1 on the diagonal.

    a_ij = 1/B sum_b [p_i(b) = p_j(b)], with exact counts: sum_c E_c E_c^T for one-hot matrices E_c (N, B) of class c.

    Args:
        predictions: The predicted classes (N, B), integers.
        batch_size: Models per block. It changes memory and speed, never the result.

    Raises:
        ArgumentError: The predictions are not integers, or there are no images.
    """
    if predictions.ndim != 2 or not predictions.shape[1] or predictions.is_floating_point():
        actual = f"{predictions.dtype} {tuple(predictions.shape)}"
        raise ArgumentError(f"predictions must be integers of shape (models, images), got {actual}")
    n = batch_size or max(1, _BLOCK_SIZE // predictions.shape[1])
    classes = sorted({label for part in predictions.split(n) for label in part.unique().tolist()})

    def count_agreements(first: Tensor, second: Tensor) -> Tensor:
        counts = first.new_zeros(len(first), len(second), dtype=torch.float64)
        for a, b in zip(first.split(_MAX_COUNT, dim=1), second.split(_MAX_COUNT, dim=1), strict=True):
            for label in classes:
                counts += (a == label).float() @ (b == label).float().mT
        return counts

    return _all_pairs(predictions, n, lambda part: part, count_agreements) / predictions.shape[1]


def cka(outputs: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Return the linear centered kernel alignment of the outputs of two models, (N, N) in [0, 1].

    CKA_ij = ||X_i^T X_j||_F^2 / (||X_i^T X_i||_F ||X_j^T X_j||_F) with X (B, C) centered per column (Kornblith et al.,
    1905.00414, section 3), which equals <K_i, K_j> / (||K_i|| ||K_j||) with K = X X^T. The cheaper form is computed:
    about 2 B C² operations per pair, or 2 B² (1 + C / `batch_size`) for few images of many classes.

    The diagonal is 1. A model with equal outputs for all images has NaN, also on the diagonal.

    Args:
        outputs: The outputs (N, B, C), e.g. logits.
        batch_size: Models per block. It changes memory, speed and rounding.

    Raises:
        ArgumentError: The outputs have another shape, or are not finite.
    """
    if outputs.ndim != 3 or not outputs.shape[1:].numel():
        raise ArgumentError(f"outputs must be of shape (models, images, classes), got {tuple(outputs.shape)}")
    require_finite(outputs, "outputs")
    _, images, classes = outputs.shape
    n = batch_size or max(1, _BLOCK_SIZE // (images * images))
    if images * (1 + classes / n) < classes * classes:
        values = _all_pairs(outputs, n, _kernels, lambda a, b: a @ b.mT)
    else:
        n = batch_size or max(1, _BLOCK_SIZE // (images * classes))
        values = _all_pairs(outputs, n, _columns, lambda a, b: _block_norms(a @ b.mT, classes))
    own = values.diagonal()
    return (values / (own[:, None] * own).sqrt()).clamp(max=1)


def weight_distances(weights: Tensor, *, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the Euclidean and the cosine distances between the weight vectors of all pairs of models.

    l2_ij = ||w_i - w_j|| and cosine_ij = 1 - cos(w_i, w_j), computed without cancellation as
    ||w_i/||w_i|| - w_j/||w_j|| ||² / 2. Both are exactly 0 between identical models. The arithmetic is float64. The
    cosine distance to a model of zeros is NaN, including its own.

    The vectors are compared as they are. Align them first with `modelzoo_datasets.weights.align_weights` if permuted
    copies count as near. For weights / scale, l2 / sqrt(P) is in the units of `find_nearest`.

    Args:
        weights: The weights (N, P).
        batch_size: Models per block. It changes memory and speed, never the result.

    Returns:
        Euclidean distances (N, N), and cosine distances (N, N) in [0, 2].

    Raises:
        ArgumentError: The weights have another shape, or are not finite.
    """
    if weights.ndim != 2 or not weights.shape[1]:
        raise ArgumentError(f"weights must be of shape (models, weights), got {tuple(weights.shape)}")
    require_finite(weights, "weights")
    n = batch_size or max(1, _BLOCK_SIZE // weights.shape[1])
    l2 = _all_pairs(weights, n, lambda part: part.double(), _euclidean)
    return l2, _all_pairs(weights, n, _unit, lambda a, b: _euclidean(a, b).square() / 2)


def summarize_pairs(matrix: Tensor) -> dict[str, float]:
    """Return summary statistics over all unordered pairs of different models in a symmetric matrix (N, N).

    Returns:
        `pairs`, `left_out` (the number of NaN pairs), and `mean`, `std` (with n - 1 in the denominator), `min` and
        `max` of the other pairs, which are NaN if there are too few pairs.

    Raises:
        ArgumentError: The matrix is not square.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ArgumentError(f"a matrix of pairs must be square, got {tuple(matrix.shape)}")
    every = matrix[torch.ones_like(matrix, dtype=torch.bool).triu(1)].double()
    values = every[~every.isnan()]
    count, nan = len(values), float("nan")
    return {
        "pairs": count,
        "left_out": len(every) - count,
        "mean": values.mean().item() if count else nan,
        "std": values.std().item() if count > 1 else nan,
        "min": values.min().item() if count else nan,
        "max": values.max().item() if count else nan,
    }


def require_finite(values: Tensor, what: str) -> None:
    """Raise ArgumentError if values (N, ...) are not finite; the message counts the models."""
    rest = tuple(range(1, values.ndim))
    # The extremes are NaN or infinite if any value is, and need no copy of the values.
    bad = int((~(values.amin(dim=rest).isfinite() & values.amax(dim=rest).isfinite())).sum())
    if bad:
        raise ArgumentError(f"{bad} of {len(values)} models have {what} that are not finite; leave them out")


def _all_pairs(
    values: Tensor, batch_size: int, prepare: Callable[[Tensor], Tensor], compare: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the matrix (N, N) of all pairs, computed in blocks on and above the diagonal and mirrored below it.

    Args:
        values: The values (N, ...).
        batch_size: Models per block.
        prepare: A function of one block.
        compare: A function of two prepared blocks of n and m models that returns (n, m).
    """
    starts = range(0, len(values), batch_size)
    result = torch.empty(len(values), len(values), dtype=torch.float64, device=values.device)
    for i in starts:
        first = prepare(values[i : i + batch_size])
        for j in starts[i // batch_size :]:
            block = compare(first, first if i == j else prepare(values[j : j + batch_size])).double()
            if i == j:  # a matrix product can differ from its transpose in the last bit
                block = block.triu() + block.triu(1).mT
            result[i : i + batch_size, j : j + batch_size] = block
            result[j : j + batch_size, i : i + batch_size] = block.mT
    return result


def _center(outputs: Tensor) -> Tensor:
    """Return outputs (n, B, C) centered per column and scaled to norm 1, float64; NaN for constant outputs."""
    shifted = outputs.double()
    shifted = shifted - shifted[:, :1]  # makes constant columns exactly zero, which a rounded mean would not
    shifted -= shifted.mean(dim=1, keepdim=True)
    # Two steps, so that squares neither overflow nor underflow.
    shifted /= shifted.abs().amax(dim=(1, 2), keepdim=True)
    return shifted / shifted.square().sum(dim=(1, 2), keepdim=True).sqrt()


def _kernels(outputs: Tensor) -> Tensor:
    centered = _center(outputs)
    return (centered @ centered.mT).flatten(1)  # (n, B²)


def _columns(outputs: Tensor) -> Tensor:
    return _center(outputs).mT.flatten(0, 1)  # (n C, B)


def _block_norms(products: Tensor, classes: int) -> Tensor:
    """Return the squared norms (n, m) of all (C, C) blocks of a matrix (n C, m C)."""
    n, m = (side // classes for side in products.shape)
    return products.square().view(n, classes, m, classes).sum(dim=(1, 3))


def _unit(weights: Tensor) -> Tensor:
    rows = weights.double()
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def _euclidean(first: Tensor, second: Tensor) -> Tensor:
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def find_nearest(weights: Tensor, others: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest of the other models for each model.

    The distance is sqrt(mean over weights of ((w - w') / scale)²). Align both sides to one reference first, because a
    permuted copy is no new model.

    Args:
        weights: The weights (N, P).
        others: The weights (M, P) to search.
        scale: The standard deviation (P,) of the layer of each weight.

    Returns:
        The distances (N,), float32, and the indices (N,) of the nearest models.
    """
    scaled = (others / scale).double()
    distances, indices = [], []
    for part in (weights / scale).double().split(_ROWS):
        nearest = _euclidean(part, scaled).min(dim=1)
        distances.append(nearest.values / weights.shape[1] ** 0.5)
        indices.append(nearest.indices)
    return torch.cat(distances).float(), torch.cat(indices)


def find_error_overlap(wrong: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Find the other model with the largest overlap of errors for each model.

    The overlap is |E ∩ E'| / |E ∪ E'|, the intersection over union of the sets of misclassified images, as in the study
    of memorization by Zeng et al. (2506.07998). It is 1 for two models without errors. A copy errs on the same images
    as its original, a new model on others.

    Args:
        wrong: True where a model misclassifies an image, (N, B) bool.
        others: The same for the models to search, (M, B) bool.

    Returns:
        The largest overlaps (N,), float64, and the indices (N,) of these models.

    Raises:
        ArgumentError: The numbers of images differ, or there are no other models.
    """
    if wrong.ndim != 2 or others.ndim != 2 or wrong.shape[1] != others.shape[1] or not len(others):
        raise ArgumentError(f"expected errors on the same images, got {tuple(wrong.shape)} and {tuple(others.shape)}")
    best, index = torch.full((len(wrong),), -1.0, dtype=torch.float64), torch.zeros(len(wrong), dtype=torch.long)
    errors = wrong.float()
    batch_size = max(1, _MAX_ERRORS // max(1, wrong.shape[1]))
    for first in range(0, len(others), batch_size):
        part = others[first : first + batch_size].float()
        both = (errors @ part.mT).double()  # counts, exact in float32 up to 2^24 images
        either = errors.sum(1, dtype=torch.float64).unsqueeze(1) + part.sum(1, dtype=torch.float64) - both
        largest = torch.where(either > 0, both / either, 1.0).max(dim=1)
        better = largest.values > best
        best = torch.where(better, largest.values, best)
        index = torch.where(better, largest.indices + first, index)
    return best, index
