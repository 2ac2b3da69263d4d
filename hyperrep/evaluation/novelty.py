"""How new a model is: how far from every training state, and how alike in what it gets wrong.

n models, S training states, P weights.
"""

from torch import Tensor, where

from modelzoo_datasets.analysis import find_nearest

from ..model import HyperRepresentation


def measure_novelty(rep: HyperRepresentation, weights: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) of models (n, P) to the nearest aligned training state (S, P), and which one it is, (n,).

    In layer standard deviations, root mean square over the weights; of a model as it is or aligned to the reference,
    whichever is nearer: alignment is a heuristic and can miss.
    """
    plain, aligned = (find_nearest(version, train, rep.scale) for version in (weights, rep.align(weights)))
    nearer = plain[0] <= aligned[0]
    return where(nearer, plain[0], aligned[0]), where(nearer, plain[1], aligned[1])
