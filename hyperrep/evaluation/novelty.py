"""Novelty of models: their distance to the nearest training state.

n models, S training states, P weights.
"""

from torch import Tensor, where

from modelzoo_datasets.analysis import find_nearest

from ..model import HyperRepresentation


def measure_novelty(rep: HyperRepresentation, weights: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Measure the distance of models to the nearest aligned training state.

    A model is compared as it is and aligned to the reference, and the smaller distance counts: alignment is a heuristic
    and can miss.

    Args:
        rep: gives alignment and the standard deviations of the layers.
        weights: models (n, P).
        train: aligned training states (S, P).

    Returns:
        Distance (n,) in layer standard deviations, root mean square over the weights, and the index (n,) of the state.
    """
    plain, aligned = (find_nearest(version, train, rep.scale) for version in (weights, rep.align(weights)))
    nearer = plain[0] <= aligned[0]
    return where(nearer, plain[0], aligned[0]), where(nearer, plain[1], aligned[1])
