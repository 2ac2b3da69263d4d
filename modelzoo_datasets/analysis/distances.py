"""Distances between models in units of their layers' standard deviations.

N and M models, P weights.
"""

import torch
from torch import Tensor

_ROWS = 256  # models compared at once: bounds memory at any population size


def find_nearest(weights: Tensor, others: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """For each model (N, P) the distance (N,) to, and index (N,) of, the nearest of the others (M, P).

    Distance = sqrt(mean over weights of ((w - w') / scale)²), scale (P,) being the standard deviation of each weight's
    layer. Align both sides to one reference first: a permuted copy is no new model.
    """
    scaled = (others / scale).double()
    distances, indices = [], []
    for part in (weights / scale).double().split(_ROWS):
        found = torch.cdist(part, scaled, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        distances.append(found.values / weights.shape[1] ** 0.5)
        indices.append(found.indices)
    return torch.cat(distances).float(), torch.cat(indices)
