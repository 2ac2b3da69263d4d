"""How alike the models of a population are: in what they predict, in what they compute, in their weights.

N models, B images, C classes, P weights. Every matrix is (N, N) float64 and symmetric to the bit.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import FormatError

_NUMBERS = 2**23  # numbers per block: 64 MiB of float64, so a comparison takes about half a GiB at any N
_EXACT = 2**20  # float32 counts exactly to 2^24; counts of so many images are then summed in float64


def agreement(
    predictions: Tensor,  # (N, B) integers
    *,
    at_once: int | None = None,
) -> Tensor:
    """Share of images on which two models predict the same class, (N, N); exact counts, 1 on the diagonal.

    a_ij = 1/B sum_b [p_i(b) = p_j(b)]. With one-hot E_c (N, B) of class c the counts are sum_c E_c E_c^T.

    Args:
        at_once: models per block; memory and speed, never the result.

    Raises:
        FormatError: predictions are not integers, or there are none.
    """
    if predictions.ndim != 2 or not predictions.shape[1] or predictions.is_floating_point():
        found = f"{predictions.dtype} {tuple(predictions.shape)}"
        raise FormatError(f"predictions must be integers of shape (models, images), got {found}")
    n = at_once or max(1, _NUMBERS // predictions.shape[1])
    classes = sorted({label for part in predictions.split(n) for label in part.unique().tolist()})

    def shared(left: Tensor, right: Tensor) -> Tensor:
        counts = left.new_zeros(len(left), len(right), dtype=torch.float64)
        for a, b in zip(left.split(_EXACT, dim=1), right.split(_EXACT, dim=1), strict=True):
            for label in classes:
                counts += (a == label).float() @ (b == label).float().mT
        return counts

    return _all_pairs(predictions, n, lambda part: part, shared) / predictions.shape[1]


def cka(
    outputs: Tensor,  # (N, B, C)
    *,
    at_once: int | None = None,
) -> Tensor:
    """Linear centred kernel alignment of the outputs of two models, (N, N) in [0, 1], 1 on the diagonal.

    CKA_ij = ||X_i^T X_j||_F^2 / (||X_i^T X_i||_F ||X_j^T X_j||_F) with X (B, C) centred per column (Kornblith et al.,
    1905.00414, section 3), equal to <K_i, K_j> / (||K_i|| ||K_j||) with K = X X^T. Of the two forms the cheaper one is
    computed: about 2 B C² operations per pair, or 2 B² (1 + C / `at_once`) for few images of many classes.

    NaN, diagonal included, for a model whose outputs are the same on all images: nothing is there to align.

    Args:
        at_once: models per block; memory, speed and rounding.

    Raises:
        FormatError: the shape is another, or outputs are not finite.
    """
    if outputs.ndim != 3 or not outputs.shape[1:].numel():
        raise FormatError(f"outputs must be of shape (models, images, classes), got {tuple(outputs.shape)}")
    require_finite(outputs, "outputs")
    _, images, classes = outputs.shape
    n = at_once or max(1, _NUMBERS // (images * images))
    if images * (1 + classes / n) < classes * classes:
        found = _all_pairs(outputs, n, _kernels, lambda a, b: a @ b.mT)
    else:
        n = at_once or max(1, _NUMBERS // (images * classes))
        found = _all_pairs(outputs, n, _columns, lambda a, b: _squared_blocks(a @ b.mT, classes))
    own = found.diagonal()
    return (found / (own[:, None] * own).sqrt()).clamp(max=1)


def weight_distances(
    weights: Tensor,  # (N, P)
    *,
    at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Between the weight vectors of two models: Euclidean distance (N, N) and cosine distance (N, N) in [0, 2].

    l2_ij = ||w_i - w_j||; cosine_ij = 1 - cos(w_i, w_j), computed as ||w_i/||w_i|| - w_j/||w_j|| ||² / 2, which loses
    nothing to cancellation: both are exactly 0 between identical models. Differences and sums are float64. The cosine
    distance to a model of zeros is NaN, its own included.

    The vectors are compared as they are: align them first (`symmetry`) where a permuted copy is to count as near. With
    weights / scale, the l2 divided by sqrt(P) is in the layer standard deviations of `find_nearest`; the l2 of unit
    vectors is sqrt(2 cosine).

    Args:
        at_once: models per block; memory and speed, never the result.

    Raises:
        FormatError: the shape is another, or weights are not finite.
    """
    if weights.ndim != 2 or not weights.shape[1]:
        raise FormatError(f"weights must be of shape (models, weights), got {tuple(weights.shape)}")
    require_finite(weights, "weights")
    n = at_once or max(1, _NUMBERS // weights.shape[1])
    l2 = _all_pairs(weights, n, lambda part: part.double(), _euclidean)
    return l2, _all_pairs(weights, n, _unit, lambda a, b: _euclidean(a, b).square() / 2)


def summarize_pairs(matrix: Tensor) -> dict[str, float]:
    """The unordered pairs of two different models in a symmetric matrix (N, N), in numbers.

    Returns:
        pairs, left_out (pairs that are NaN), mean, std (n - 1 in the denominator), min and max of the others; NaN where
        there are too few of them.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise FormatError(f"a matrix of pairs must be square, got {tuple(matrix.shape)}")
    every = matrix[torch.ones_like(matrix, dtype=torch.bool).triu(1)].double()
    kept = every[~every.isnan()]
    count, nan = len(kept), float("nan")
    return {
        "pairs": count,
        "left_out": len(every) - count,
        "mean": kept.mean().item() if count else nan,
        "std": kept.std().item() if count > 1 else nan,
        "min": kept.min().item() if count else nan,
        "max": kept.max().item() if count else nan,
    }


def require_finite(values: Tensor, what: str) -> None:
    """Raise FormatError that counts the models of (N, ...) with a number that is not finite."""
    rest = tuple(range(1, values.ndim))
    # Extremes are NaN or infinite if anything is, and need no copy of the values.
    bad = int((~(values.amin(dim=rest).isfinite() & values.amax(dim=rest).isfinite())).sum())
    if bad:
        raise FormatError(f"{bad} of {len(values)} models have {what} that are not finite; leave them out")


def _all_pairs(
    values: Tensor,  # (N, ...)
    at_once: int,
    prepare: Callable[[Tensor], Tensor],
    compare: Callable[[Tensor, Tensor], Tensor],  # prepared blocks of n and m models -> (n, m)
) -> Tensor:
    """The matrix (N, N), block by block on and above the diagonal and mirrored below it."""
    starts = range(0, len(values), at_once)
    result = torch.empty(len(values), len(values), dtype=torch.float64, device=values.device)
    for i in starts:
        left = prepare(values[i : i + at_once])
        for j in starts[i // at_once :]:
            block = compare(left, left if i == j else prepare(values[j : j + at_once])).double()
            if i == j:  # a product need not be symmetric to the last bit
                block = block.triu() + block.triu(1).mT
            result[i : i + at_once, j : j + at_once] = block
            result[j : j + at_once, i : i + at_once] = block.mT
    return result


def _centred(outputs: Tensor) -> Tensor:
    """Outputs (n, B, C) centred per column and scaled to norm 1, float64: CKA knows no scale; NaN if constant."""
    shifted = outputs.double()
    shifted = shifted - shifted[:, :1]  # constant columns become exact zeros, which a rounded mean would not leave
    shifted -= shifted.mean(dim=1, keepdim=True)
    # In two steps, so that squares neither overflow nor vanish.
    shifted /= shifted.abs().amax(dim=(1, 2), keepdim=True)
    return shifted / shifted.square().sum(dim=(1, 2), keepdim=True).sqrt()


def _kernels(outputs: Tensor) -> Tensor:
    centred = _centred(outputs)
    return (centred @ centred.mT).flatten(1)  # (n, B²)


def _columns(outputs: Tensor) -> Tensor:
    return _centred(outputs).mT.flatten(0, 1)  # (n C, B)


def _squared_blocks(products: Tensor, classes: int) -> Tensor:
    """Squared norm of every (C, C) block of (n C, m C): (n, m)."""
    n, m = (side // classes for side in products.shape)
    return products.square().view(n, classes, m, classes).sum(dim=(1, 3))


def _unit(weights: Tensor) -> Tensor:
    rows = weights.double()
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def _euclidean(left: Tensor, right: Tensor) -> Tensor:
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
