"""The training states of a zoo: what samples are compared with, and what baselines are made from.

S training states, n models, P weights.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from modelzoo_datasets.analysis import find_nearest
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.weights import Alignment

from ..data import drop_diverged
from ..model import HyperRepresentation, select_best_states
from ..zoo_values import Ranking, read_column
from .cache import read_or_measure

_MAX_PAIRED = 1000  # states; all of their pairs are listed


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingStates:
    """The training states of a zoo, aligned to one reference, with the accuracies that the best are chosen by."""

    zoo: Zoo
    alignment: Alignment
    accuracy: Tensor  # (S,) validation accuracy; training accuracy where no state has one, NaN where none has either

    @classmethod
    def from_zoo(cls, zoo: Zoo) -> Self:
        """Align the finite states of a zoo to their own mean; negate units too where every activation is tanh."""
        zoo = drop_diverged(zoo)
        signs = {*read_column(zoo.table, "activation").dropna()} == {"tanh"}
        alignment = Alignment.fit(zoo.weights, zoo.layout, zoo.architecture.symmetry, signs=signs)
        return cls(zoo=zoo, alignment=alignment, accuracy=Ranking.from_table(zoo.table).accuracy)

    @classmethod
    def from_representation(cls, rep: HyperRepresentation, zoo: Zoo) -> Self:
        """Align states as a hyper-representation does that learned from them.

        Args:
            rep: the hyper-representation.
            zoo: the states that it learned from, in the order of `rep.embeddings`.

        Raises:
            FormatError: it learned from states of another architecture, or from another number of them.
        """
        rep.check_architecture(zoo.architecture, "the zoo")
        if len(zoo) != len(rep.accuracy):
            raise FormatError(
                f"this hyper-representation learned from {len(rep.accuracy)} states, but the dataset has {len(zoo)}; "
                "name the dataset and the recipe that it learned with"
            )
        return cls(zoo=zoo, alignment=rep.alignment, accuracy=rep.accuracy)

    @cached_property
    def weights(self) -> Tensor:
        """(S, P) aligned weights."""
        return read_or_measure("aligned", self.key, lambda: self.alignment.align(self.zoo.weights))

    @cached_property
    def key(self) -> dict[str, str]:
        """The part of cache keys that decides the aligned weights."""
        parts = {
            "states": self.zoo.weights,
            "reference": self.alignment.reference,
            "scale": self.alignment.scale,
        }
        hashes = {name: hash_tensor(values) for name, values in parts.items()}
        return {**hashes, "signs": str(self.alignment.signs), "groups": str(len(self.alignment.symmetry))}

    @cached_property
    def models(self) -> list[str]:
        """The model_id of each state."""
        return list(self.zoo.table["model_id"])

    @cached_property
    def last(self) -> Tensor:
        """Indices of the states after the last epoch."""
        epochs = torch.from_numpy(self.zoo.table["epoch"].to_numpy(copy=True))
        return (epochs == epochs.max()).nonzero().squeeze(1)

    def select_best(self, top_fraction: float) -> Tensor:
        """Return the indices of the best states that baselines are made from."""
        return select_best_states(self.accuracy, top_fraction)

    def can_average(self, states: Tensor) -> bool:
        """Return True if states, given by their indices, are of several models."""
        return len({self.models[i] for i in states.tolist()}) > 1

    def measure_novelty(self, weights: Tensor, aligned: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Measure the distance of models to the nearest training state.

        A model is compared as it is and aligned to the reference, and the smaller distance counts: alignment is a
        heuristic and can miss.

        Args:
            weights: models (n, P).
            aligned: the same models aligned, where they are known.

        Returns:
            Distance (n,) in layer standard deviations, root mean square over the weights, and the index (n,) of the
            state.
        """
        return measure_novelty(self.alignment, weights, self.weights, aligned)


def measure_novelty(
    alignment: Alignment, weights: Tensor, train: Tensor, aligned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Measure the distance of models to the nearest of some states; see `TrainingStates.measure_novelty`.

    Args:
        alignment: aligns models, and has the standard deviations of the layers.
        weights: models (n, P).
        train: aligned states (S, P).
        aligned: the models aligned, where they are known.
    """
    versions = (weights, alignment.align(weights) if aligned is None else aligned)
    (plain, state), (moved, moved_state) = (find_nearest(version, train, alignment.scale) for version in versions)
    nearer = plain <= moved
    return torch.where(nearer, plain, moved), torch.where(nearer, state, moved_state)


def hash_tensor(values: Tensor) -> str:
    """Return the SHA-256 of the bytes of a tensor."""
    return hashlib.sha256(np.ascontiguousarray(values.cpu().numpy()).data).hexdigest()


def select_last_epoch(zoo: Zoo) -> Zoo:
    """Return the states after the last epoch of a zoo."""
    return zoo.select(zoo.table["epoch"] == zoo.table["epoch"].max())


def draw_indices(states: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n of these indices, with replacement."""
    return states[torch.randint(len(states), (n,), generator=generator)]


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
