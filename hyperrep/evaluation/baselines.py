"""Baselines that a sampler must beat: models made from training weights, with the same call as samplers.

n samples, S training states, P weights. All states are aligned to one reference: the mean of unaligned networks is not
a sensible network.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation, draw_embeddings, select_best_states
from ..sampler_names import DEFAULT_TOP_FRACTION, SAMPLER_INFO, check_sampler
from ..zoo_values import complete_training
from .cache import read_or_measure

_MAX_PAIRED = 1000  # states; all of their pairs are listed


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """The source of samples: a hyper-representation and, for baselines, its training states."""

    rep: HyperRepresentation
    zoo: Zoo | None = None  # the training states, in the order of `rep.embeddings`
    top_fraction: float = DEFAULT_TOP_FRACTION  # share of the states, best first, that samples are drawn from
    bandwidth: float = 0.002  # width of kernels: in units of z, for weights in layer standard deviations
    sigma: float = 0.2  # size of the baseline `noise`, in layer standard deviations
    share: float = 0.4  # part of the way that the sampler `move` moves embeddings
    hyperrep_sha256: str = ""  # hash of its model.safetensors; if it is known, results are cached for all processes

    def __post_init__(self) -> None:
        if self.zoo is None:
            return
        self.rep.check_architecture(self.zoo.architecture, "the zoo")
        if len(self.zoo) != len(self.rep.accuracy):
            raise FormatError(
                f"this hyper-representation learned from {len(self.rep.accuracy)} states, but the dataset has "
                f"{len(self.zoo)}; name the dataset and the recipe that it learned with"
            )

    def replace(self, **changes: Any) -> "SamplingContext":
        """Return the same states with other options; alignment is not repeated."""
        other = dataclasses.replace(self, **changes)
        if self.zoo is not None:
            other.__dict__["train_weights"] = self.train_weights  # cached_property looks here
        return other

    @property
    def states(self) -> Zoo:
        """The training states; raises ModelZooError where there are none."""
        if self.zoo is None:
            raise ModelZooError(
                "training weights are needed; name the dataset that the hyper-representation learned from"
            )
        return self.zoo

    @cached_property
    def train_weights(self) -> Tensor:
        """(S, P) aligned weights of all training states."""
        return read_or_measure("aligned", self.key, lambda: self.rep.align(self.states.weights))

    @cached_property
    def key(self) -> dict[str, str]:
        """The part of cache keys that decides the alignment; empty if results are not cached."""
        if not self.hyperrep_sha256:
            return {}
        weights = np.ascontiguousarray(self.states.weights.numpy())
        return {"hyperrep": self.hyperrep_sha256, "states": hashlib.sha256(weights.data).hexdigest()}

    @cached_property
    def best(self) -> Tensor:
        """Indices of the states that samples are drawn from."""
        return select_best_states(self.rep.accuracy, self.top_fraction)

    @cached_property
    def models(self) -> list[str]:
        """The model_id of each state."""
        return list(self.states.table["model_id"])

    @property
    def can_average(self) -> bool:
        """True if the states that samples are drawn from are of several models."""
        return len({self.models[i] for i in self.best.tolist()}) > 1


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
    check_sampler(name, with_weights=context.zoo is not None)
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
    return context.rep.decode(context.rep.embeddings[_draw_indices(context.best, n, generator)])


def noise(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) training states, each moved by exactly `sigma` in a random direction."""
    donors = context.train_weights[_draw_indices(context.best, n, generator)]
    return add_noise(donors, context.rep.scale, torch.full((n,), context.sigma), generator)


def move(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) training states, moved as the decoder moves when embeddings move: W + D(z') - D(z).

    z' = z + share (draw - z), with draws of the sampler `normal`. Whatever the decoder cannot express of a state stays,
    so a small share gives a model that is near, where decoding alone goes far.
    """
    rep, donors = context.rep, _draw_indices(context.best, n, generator)
    z = rep.embeddings[donors]
    best = select_best_states(rep.accuracy, context.top_fraction, SAMPLER_INFO["normal"].min_states)
    target = draw_embeddings("normal", rep.embeddings[best], n, context.bandwidth, generator)
    step = rep.decode(z + context.share * (target - z)) - rep.decode(z)
    return context.train_weights[donors] + step


def average(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) means of two training states of different models."""
    first, second = draw_model_pairs(context.best, context.models, n, generator)
    return (context.train_weights[first] + context.train_weights[second]) / 2


def kde_weights(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) by a kernel density per weight: the sampler `kde` without a hyper-representation."""
    states = context.train_weights[context.best]
    donors = torch.randint(len(states), (n, states.shape[1]), generator=generator)
    kernels = context.bandwidth * torch.randn(n, states.shape[1], generator=generator)
    return states.gather(0, donors) + kernels * context.rep.scale


def fresh(context: SamplingContext, n: int, generator: torch.Generator) -> Tensor:
    """Draw (n, P) untrained models, initialized as the models of the zoo were."""
    context.states.architecture.check_runnable()
    init = complete_training(context.states).init
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


def draw_model_pairs(
    states: Tensor, models: Sequence[str], n: int, generator: torch.Generator, *, repeat: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw ordered pairs of states of different models; a pair repeats only when all others have served.

    Args:
        states: (S,) indices of the states to pair.
        models: the model of every state, by index.
        n: number of pairs.
        generator: source of all randomness.
        repeat: without it every unordered pair serves at most once, so there may be fewer than n.

    Returns:
        Indices (n,) of the first and of the second states.

    Raises:
        ModelZooError: all states are of one model.
    """
    if len(states) > _MAX_PAIRED:
        states = states[torch.randperm(len(states), generator=generator)[:_MAX_PAIRED]]
    first, second = torch.cartesian_prod(states, states).unbind(1)
    numbers = {model: number for number, model in enumerate(dict.fromkeys(models))}
    model = torch.tensor([numbers[name] for name in models])
    pairs = ((model[first] != model[second]) & (repeat | (first < second))).nonzero().squeeze(1)
    if not len(pairs):
        raise ModelZooError(
            f"averages need states of two models, but the {len(states)} states to draw from are of one; draw from a "
            "larger share of the states (top_fraction)"
        )
    rounds = [torch.randperm(len(pairs), generator=generator) for _ in range(-(-n // len(pairs)) if repeat else 1)]
    index = pairs[torch.cat(rounds)[:n]]
    return first[index], second[index]


def initialize_models(architecture: str, activation: str, init: str, seeds: Sequence[int]) -> Tensor:
    """Return untrained models (n, P) of an architecture, one per seed."""
    rows, target = [], get_architecture(architecture)
    for seed in seeds:
        module = target.module(activation)
        initialize_weights(module, init, keyed_generator(seed, "init"))
        rows.append(target.layout.pack(module.state_dict()))
    return torch.stack(rows)


def _draw_indices(states: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n of these indices, with replacement."""
    return states[torch.randint(len(states), (n,), generator=generator)]
