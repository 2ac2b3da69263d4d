"""The training state that a network of unknown origin may be a copy of, and the order of units that shows it.

Alignment to the mean of a zoo starts from the order of a network's own units. For a copy whose units were reordered it
can end far from the state that was copied, which would make the copy look new.

n networks, M models of the zoo, P weights.
"""

import dataclasses

import torch
from torch import Tensor

from modelzoo_datasets.analysis import find_nearest
from modelzoo_datasets.weights import Alignment, Symmetry, align_weights, apply_permutations

from .training_states import TrainingStates, select_last_epoch

_MAX_ORIGINS = 3  # models that a network is aligned to
_BUDGET = 2_000_000_000  # weights that are compared; with more, fewer models are tried for each network


def renumber_units(weights: Tensor, states: TrainingStates) -> Tensor:
    """Reorder the units of networks so that a copy lies on the training state that it is a copy of.

    Every model of the zoo is tried: its units are matched layer by layer from the images on, by incoming weights alone,
    and the nearest models are aligned to. The functions stay the same.

    Args:
        weights: networks (n, P).
        states: the training states.

    Returns:
        Weights (n, P): reordered if that brings a network nearer to the training states, as they were otherwise.
    """
    alignment = states.alignment
    if not alignment.symmetry:
        return weights
    models = alignment.align(select_last_epoch(states.zoo).weights)
    count = max(_MAX_ORIGINS, _BUDGET // weights.numel())
    candidates = _rank_models(weights, models, alignment)[:, :count]
    lengths = torch.full((len(weights), len(models)), torch.inf)
    for model in candidates.unique().tolist():
        rows = (candidates == model).any(dim=1).nonzero().squeeze(1)
        lengths[rows, model] = alignment.measure_distance(
            _match_forward(weights[rows], models[model], alignment), models[model]
        )
    result, distance = weights.clone(), states.measure_novelty(weights)[0]
    for origins in lengths.argsort(dim=1)[:, :_MAX_ORIGINS].unbind(1):
        moved = torch.cat([_align_to_model(weights[[i]], models[o], alignment) for i, o in enumerate(origins.tolist())])
        reached, _ = find_nearest(moved, states.weights, alignment.scale)
        is_nearer = reached < distance
        result[is_nearer], distance = moved[is_nearer], torch.minimum(reached, distance)
    return result


def _rank_models(weights: Tensor, models: Tensor, alignment: Alignment) -> Tensor:
    """Return the models (n, M), nearest first, by sums of absolute weights per unit, which no reordering changes."""
    own, others = (_sum_units(each / alignment.scale, alignment.symmetry) for each in (weights, models))
    return torch.cdist(own, others).argsort(dim=1)


def _sum_units(weights: Tensor, symmetry: Symmetry) -> Tensor:
    """Return the sums of the absolute weights of the units (n, units), sorted within each group."""
    sizes = weights.abs()
    sums = [torch.stack([axis.view(sizes).sum(dim=(1, 3)) for axis in group.axes]).sum(dim=0) for group in symmetry]
    return torch.cat([group.sort(dim=1).values for group in sums], dim=1)


def _match_forward(weights: Tensor, model: Tensor, alignment: Alignment) -> Tensor:
    """Match the units of networks (n, P) to those of a model (P,), layer by layer, by their incoming weights."""
    for group in alignment.symmetry:
        incoming = dataclasses.replace(group, axes=tuple(axis for axis in group.axes if axis.before == 1))
        scale, signs = alignment.scale, alignment.signs
        moves = align_weights(weights, model, (incoming,), scale=scale, signs=signs, sweeps=1)
        weights = apply_permutations(weights, (group,), moves)
    return weights


def _align_to_model(weights: Tensor, model: Tensor, alignment: Alignment) -> Tensor:
    """Align networks (n, P) to a model (P,), from the order of a forward match on."""
    return dataclasses.replace(alignment, reference=model).align(_match_forward(weights, model, alignment))
