"""What a sampler must beat: models made from training weights, by the same names and the same generator.

n samples, S training states, P weights. All states are aligned to one reference: means of unaligned ones are no
sensible networks.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture, initialize_weights
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights import Layout

from ..model import SAMPLERS, HyperRepresentation, select_best_states
from ..sampler_names import check_sampler

_MOST_PAIRED = 1000  # states of which all pairs are listed


@dataclass(frozen=True, kw_only=True)
class SamplingContext:
    """What is drawn from: a hyper-representation and, for the baselines, the states that it learned from."""

    rep: HyperRepresentation
    zoo: Zoo | None = None  # its training states, in the order of `rep.embeddings`
    quality: float = 1.0  # share of the states, the best by validation accuracy
    bandwidth: float = 0.002  # of kernels; in embeddings as they are, in weights in layer standard deviations
    sigma: float = 0.2  # of the noise baseline, in layer standard deviations
    share: float = 0.4  # of the way that embeddings are moved by the sampler `move`

    def __post_init__(self) -> None:
        if self.zoo is not None and self.zoo.architecture != self.rep.architecture:
            raise FormatError(
                f"this hyper-representation is of {self.rep.architecture.name}, the zoo holds models of "
                f"{self.zoo.architecture.name}"
            )
        if self.zoo is not None and len(self.zoo) != len(self.rep.accuracy):
            raise FormatError(
                f"this hyper-representation learned from {len(self.rep.accuracy)} states, the dataset has "
                f"{len(self.zoo)} of them; name the dataset and recipe that it was learned with"
            )

    def varied(self, **changes: Any) -> "SamplingContext":
        """The same states, which are aligned once, with other options."""
        other = dataclasses.replace(self, **changes)
        if self.zoo is not None:
            other.__dict__["aligned"] = self.aligned  # where cached_property keeps it
        return other

    @property
    def states(self) -> Zoo:
        """The training states; raises ModelZooError where there are none at hand."""
        if self.zoo is None:
            raise ModelZooError("training weights are needed; name the dataset that the hyper-representation learned")
        return self.zoo

    @cached_property
    def aligned(self) -> Tensor:
        """All training states (S, P), aligned."""
        return self.rep.align(self.states.weights)

    @cached_property
    def best(self) -> Tensor:
        """Indices of the states that are drawn from."""
        return select_best_states(self.rep.accuracy, self.quality)

    @cached_property
    def models(self) -> list[str]:
        """The model that each state is of."""
        return list(self.states.table["model_id"])


def draw(name: str, n: int, source: SamplingContext, draws: torch.Generator) -> Tensor:
    """Weights (n, P) of models drawn by a sampler or baseline of that name.

    Raises:
        ModelZooError: no such name, numbers out of range, too few states, or the sampler's extra is not installed.
    """
    check_sampler(name, with_weights=source.zoo is not None)
    if n < 1 or not 0 < source.quality <= 1:
        raise ModelZooError(f"expected n >= 1 and 0 < quality <= 1, got n {n}, quality {source.quality}")
    if name in BASELINES:
        return BASELINES[name](source, n, draws)
    return source.rep.sample(n, sampler=name, top_fraction=source.quality, bandwidth=source.bandwidth, generator=draws)


def reconstruction(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Embeddings of training states, drawn and decoded: what a sampler that copies would give."""
    return source.rep.decode(source.rep.embeddings[_drawn(source.best, n, draws)])


def noise(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Training states, each moved by exactly `sigma` in a direction of its own."""
    donors = source.aligned[_drawn(source.best, n, draws)]
    return with_noise(donors, source.rep.scale, torch.full((n,), source.sigma), draws)


def move(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Training states, moved as their decoded embeddings move on the way to draws of `normal`: W + D(z') - D(z).

    z' = z + share (drawn - z). What the decoder cannot express of a state, half of it, stays: so a small share gives a
    model that is near, where decoding alone goes far.
    """
    rep, donors = source.rep, _drawn(source.best, n, draws)
    z = rep.embeddings[donors]
    drawn = SAMPLERS["normal"](rep.embeddings[source.best], n, source.bandwidth, draws)
    step = rep.decode(z + source.share * (drawn - z)) - rep.decode(z)
    return source.aligned[donors] + step


def average(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Means of two training states of different models."""
    first, second = pairs_of_models(source.best, source.models, n, draws)
    return (source.aligned[first] + source.aligned[second]) / 2


def kde_weights(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Kernel density per weight, weights independent: the stated sampler without a hyper-representation."""
    states = source.aligned[source.best]
    donors = torch.randint(len(states), (n, states.shape[1]), generator=draws)
    kernels = source.bandwidth * torch.randn(n, states.shape[1], generator=draws)
    return states.gather(0, donors) + kernels * source.rep.scale


def fresh(source: SamplingContext, n: int, draws: torch.Generator) -> Tensor:
    """Untrained models, initialised as those of the zoo were."""
    init = source.states.hyperparameters(0).init
    seeds = torch.randint(2**62, (n,), generator=draws).tolist()
    return fresh_weights(source.rep.architecture.name, source.rep.activation, init, seeds)


BASELINES: dict[str, Callable[[SamplingContext, int, torch.Generator], Tensor]] = {
    "reconstruction": reconstruction,
    "move": move,
    "noise": noise,
    "average": average,
    "kde-weights": kde_weights,
    "fresh": fresh,
}


def with_noise(
    weights: Tensor,  # (n, P)
    scale: Tensor,  # (P,)
    distance: Tensor,  # (n,) in layer standard deviations, root mean square over the weights
    draws: torch.Generator,
) -> Tensor:
    """Weights moved in a random direction by exactly the distance asked for: the baseline of equal novelty."""
    direction = torch.randn(weights.shape, generator=draws)
    direction = direction / direction.square().mean(dim=1, keepdim=True).sqrt()
    return weights + distance.unsqueeze(1) * direction * scale


def pairs_of_models(
    states: Tensor,  # (S,) indices
    models: Sequence[str],
    n: int,
    draws: torch.Generator,
    *,
    twice: bool = True,
) -> tuple[Tensor, Tensor]:
    """n ordered pairs (n,) and (n,) of these states, of different models, no pair twice while there are others.

    Not `twice`: at most as many as there are unordered pairs, each once.

    Raises:
        ModelZooError: all states are of one model.
    """
    if len(states) > _MOST_PAIRED:
        states = states[torch.randperm(len(states), generator=draws)[:_MOST_PAIRED]]
    first, second = torch.cartesian_prod(states, states).unbind(1)
    numbers = {model: number for number, model in enumerate(dict.fromkeys(models))}
    of = torch.tensor([numbers[model] for model in models])
    different = ((of[first] != of[second]) & (twice | (first < second))).nonzero().squeeze(1)
    if not len(different):
        raise ModelZooError(
            f"averages need states of two models, the {len(states)} states drawn from are of one; draw from a larger "
            "share of the states (quality)"
        )
    rounds = [torch.randperm(len(different), generator=draws) for _ in range(-(-n // len(different)) if twice else 1)]
    chosen = different[torch.cat(rounds)[:n]]
    return first[chosen], second[chosen]


def fresh_weights(architecture: str, activation: str, init: str, seeds: Sequence[int]) -> Tensor:
    """Untrained models (n, P) of an architecture, one per seed."""
    rows = []
    for seed in seeds:
        module = get_architecture(architecture).module(activation)
        initialize_weights(module, init, keyed_generator(seed, "init"))
        rows.append(Layout.from_module(module).pack(module.state_dict()))
    return torch.stack(rows)


def _drawn(states: Tensor, n: int, draws: torch.Generator) -> Tensor:
    """n of these indices, with replacement."""
    return states[torch.randint(len(states), (n,), generator=draws)]
