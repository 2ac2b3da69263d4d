"""Baselines that a sampler must beat: models made from training weights, with the same call as samplers.

n samples, S training states, P weights. All states are aligned to one reference: the mean of unaligned networks is not
a sensible network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.errors import ModelZooError
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation, draw_embeddings, select_best_states
from ..sampler_names import DEFAULT_TOP_FRACTION, SAMPLER_INFO, check_sampler
from ..zoo_values import complete_training
from .training_states import TrainingStates, draw_indices, draw_model_pairs


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """The source of samples: a hyper-representation and, for baselines, its training states."""

    rep: HyperRepresentation
    training: TrainingStates | None = None  # the states that it learned from, in the order of `rep.embeddings`
    top_fraction: float = DEFAULT_TOP_FRACTION  # share of the states, best first, that samples are drawn from
    bandwidth: float = 0.002  # width of kernels: in units of z, for weights in layer standard deviations
    sigma: float = 0.2  # size of the baseline `noise`, in layer standard deviations
    share: float = 0.4  # part of the way that the sampler `move` moves embeddings

    @property
    def states(self) -> TrainingStates:
        """The training states; raises ModelZooError where there are none."""
        if self.training is None:
            raise ModelZooError(
                "training weights are needed; name the dataset that the hyper-representation learned from"
            )
        return self.training

    @cached_property
    def best(self) -> Tensor:
        """Indices of the states that samples are drawn from."""
        return select_best_states(self.rep.accuracy, self.top_fraction)


def draw_weights(name: str, n: int, context: SamplingContext, generator: torch.Generator) -> Tensor:
    """Draw models by a sampler or a baseline.

    Args:
        name: name of the sampler or baseline.
        n: number of models.
        context: the hyper-representation, its training states, and options.
        generator: source of all randomness.

    Returns:
        Weights (n, P).

    Raises:
        ModelZooError: the name is unknown, a number is out of range, there are too few states, or an extra is missing.
    """
    check_sampler(name, with_weights=context.training is not None)
    if n < 1 or not 0 < context.top_fraction <= 1:
        raise ModelZooError(
            f"n must be at least 1 and top_fraction in (0, 1]; got n {n}, top_fraction {context.top_fraction}"
        )
    if name in BASELINES:
        return BASELINES[name](context, n, generator)
    return context.rep.sample(
        n, sampler=name, top_fraction=context.top_fraction, bandwidth=context.bandwidth, generator=generator
    )


def reconstruction(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) decoded embeddings of training states: a sampler that copies would give these."""
    return context.rep.decode(context.rep.embeddings[draw_indices(context.best, n, generator)])


def noise(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) training states, each moved by exactly `sigma` in a random direction."""
    donors = context.states.weights[draw_indices(context.best, n, generator)]
    return add_noise(donors, context.rep.scale, torch.full((n,), context.sigma), generator)


def move(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) training states, moved as the decoder moves when embeddings move: W + D(z') - D(z).

    z' = z + share (draw - z), with draws of the sampler `normal`. Whatever the decoder cannot express of a state stays,
    so a small share gives a model that is near, where decoding alone goes far.
    """
    rep, donors = context.rep, draw_indices(context.best, n, generator)
    z = rep.embeddings[donors]
    best = select_best_states(rep.accuracy, context.top_fraction, SAMPLER_INFO["normal"].min_states)
    target = draw_embeddings("normal", rep.embeddings[best], n, context.bandwidth, generator)
    step = rep.decode(z + context.share * (target - z)) - rep.decode(z)
    return context.states.weights[donors] + step


def average(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) means of two training states of different models."""
    first, second = draw_model_pairs(context.best, context.states.models, n, generator)
    return (context.states.weights[first] + context.states.weights[second]) / 2


def kde_weights(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) by a kernel density per weight: the sampler `kde` without a hyper-representation."""
    states = context.states.weights[context.best]
    donors = torch.randint(len(states), (n, states.shape[1]), generator=generator)
    kernels = context.bandwidth * torch.randn(n, states.shape[1], generator=generator)
    return states.gather(0, donors) + kernels * context.rep.scale


def fresh(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) untrained models, initialized as the models of the zoo were."""
    context.states.zoo.architecture.check_runnable()
    init = complete_training(context.states.zoo).init
    seeds = torch.randint(2**62, (n,), generator=generator).tolist()
    return initialize_models(context.rep.architecture.name, context.rep.activation, init, seeds)


BASELINES: dict[str, Callable[[SamplingContext, int, torch.Generator], Tensor]] = {
    "reconstruction": reconstruction,
    "move": move,
    "noise": noise,
    "average": average,
    "kde-weights": kde_weights,
    "fresh": fresh,
}


def add_noise(weights: Tensor, scale: Tensor, distance: Tensor, generator: torch.Generator) -> Tensor:
    """Move models in random directions: the baseline at matched distance.

    Args:
        weights: (n, P).
        scale: (P,) standard deviation of each weight's layer.
        distance: (n,) in layer standard deviations, root mean square over the weights; it is met exactly.
        generator: source of all randomness.
    """
    direction = torch.randn(weights.shape, generator=generator)
    direction = direction / direction.square().mean(dim=1, keepdim=True).sqrt()
    return weights + distance.unsqueeze(1) * direction * scale


def initialize_models(architecture: str, activation: str, init: str, seeds: Sequence[int]) -> Tensor:
    """Return untrained models (n, P) of an architecture, one per seed."""
    rows, target = [], get_architecture(architecture)
    for seed in seeds:
        module = target.module(activation)
        initialize_weights(module, init, keyed_generator(seed, "init"))
        rows.append(target.layout.pack(module.state_dict()))
    return torch.stack(rows)
