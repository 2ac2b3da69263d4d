"""Nulls: models that need no learning, on straight ways from training states, with and without REPAIR.

A sampler that has learned anything is better than each of them at equal novelty. REPAIR (2211.08403) sets the
pre-activations of a null to the statistics of the states that it is made from, which are its parents: it makes noise
and averages much stronger.

n models, S training states, P weights.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from modelzoo_datasets.analysis import (
    UnitStatistics,
    find_nearest,
    find_repair_obstacle,
    measure_units,
    repair,
)
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.images import Images
from modelzoo_datasets.seeds import keyed_generator

from .training_states import TrainingStates, draw_indices, draw_model_pairs

REPAIR = " + REPAIR"  # end of the names of nulls with it
NOISE, AVERAGE, GAUSSIAN = "noise", "average", "PCA Gaussian"
_NUM_IMAGES = 256  # unlabelled training images that statistics are measured on
_MAX_AXES = 24  # principal axes of the Gaussian; more of them make worse models
_MAX_FITTED = 1000  # states that the Gaussian is fitted to
_TRIES = 16  # pairs per model, among which one that is far enough apart is searched
_ROUNDS = 4  # steps along a way, until the distance after REPAIR is met
_TOLERANCE = 0.05  # relative error of that distance
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Repairer:
    """REPAIR for the networks of one zoo."""

    architecture: str
    network: NetworkSpec
    inputs: Tensor  # normalized training images (B, C, H, W)

    @classmethod
    def from_images(cls, architecture: str, network: NetworkSpec, images: Images) -> Self | None:
        """Take a few hundred training images; None, with a line, where these networks cannot be repaired."""
        if obstacle := find_repair_obstacle(architecture, network):
            _log.warning("nulls are without REPAIR: %s", obstacle)
            return None
        pixels = images.splits["train"].pixels
        index = torch.randperm(len(pixels), generator=keyed_generator(0, "REPAIR"))[:_NUM_IMAGES]
        return cls(architecture=architecture, network=network, inputs=images.normalize(pixels[index]))

    def measure(self, weights: Tensor) -> UnitStatistics:
        """Return the statistics of the pre-activations of models (n, P)."""
        return measure_units(self.architecture, weights, self.network, self.inputs)

    def repair(self, weights: Tensor, target: UnitStatistics) -> Tensor:
        """Return models (n, P) with the statistics of a target, row by row."""
        return repair(self.architecture, weights, target, self.network, self.inputs)


@dataclass(frozen=True, kw_only=True)
class Way:
    """Straight ways from training states: start + t step, t from 0 to `limit`, for n models."""

    start: Tensor  # (n, P)
    step: Tensor  # (n, P)
    limit: float = 1.0
    has_two_parents: bool = False  # the end is a training state too

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: Tensor) -> "Way":
        return dataclasses.replace(self, start=self.start[index], step=self.step[index])

    def walk(self, t: Tensor) -> Tensor:
        """Return the models (n, P) at t (n,)."""
        return self.start + t.unsqueeze(1) * self.step

    def parents(self, repairer: Repairer) -> Callable[[Tensor], UnitStatistics]:
        """Return the statistics of the parents as a function of t: between two parents, those in between."""
        first = repairer.measure(self.start)
        if not self.has_two_parents:
            return lambda t: first
        second = repairer.measure(self.start + self.step)
        return lambda t: first.lerp(second, t)

    def repair(self, t: Tensor, repairer: Repairer) -> Tensor:
        """Return the models at t (n,) with the statistics of their parents."""
        return repairer.repair(self.walk(t), self.parents(repairer)(t))


def match_distance(
    way: Way, distance: Tensor, states: TrainingStates, repairer: Repairer | None
) -> tuple[Tensor, Tensor]:
    """Walk until each model is as far from its start as it must be.

    Args:
        way: n ways.
        distance: (n,) in layer standard deviations.
        states: has the standard deviations of the layers.
        repairer: applies REPAIR, which moves a model further; None for the models as they are.

    Returns:
        Models (n, P), and which of them are at their distance, (n,) bool.
    """
    if not len(way):
        return way.start, torch.zeros(0, dtype=torch.bool)
    length = states.alignment.measure_distance(way.start + way.step, way.start)
    t = distance / length
    if repairer is None:
        return way.walk(t), t <= way.limit
    parents = way.parents(repairer)
    for number in range(_ROUNDS):
        t = t.clamp(max=way.limit)
        weights = repairer.repair(way.walk(t), parents(t))
        actual = states.alignment.measure_distance(weights, way.start)
        if number < _ROUNDS - 1:
            t = t * distance / actual.clamp_min(1e-12)
    return weights, (actual / distance - 1).abs() <= _TOLERANCE


def make_noise(states: TrainingStates, donors: Tensor, generator: torch.Generator) -> Way:
    """Return ways in random directions; t is the distance in layer standard deviations.

    Args:
        states: the training states.
        donors: (n,) indices of the states to start from.
        generator: source of the directions.
    """
    start = states.weights[donors]
    direction = torch.randn(start.shape, generator=generator)
    direction = direction / direction.square().mean(dim=1, keepdim=True).sqrt()
    return Way(start=start, step=direction * states.alignment.scale, limit=float("inf"))


def make_averages(states: TrainingStates, first: Tensor, second: Tensor) -> Way:
    """Return ways from states (n,) to states (n,) of other models, up to the middle."""
    start = states.weights[first]
    return Way(start=start, step=states.weights[second] - start, limit=0.5, has_two_parents=True)


def make_gaussian(states: TrainingStates, best: Tensor, n: int, generator: torch.Generator) -> Way:
    """Return ways to draws from a Gaussian in the widest principal axes, each from the best state next to its draw.

    Args:
        states: the training states.
        best: indices of the best states, which the Gaussian is fitted to.
        n: number of ways.
        generator: source of the draws.
    """
    if len(best) > _MAX_FITTED:
        best = best[torch.randperm(len(best), generator=generator)[:_MAX_FITTED]]
    scale, weights = states.alignment.scale, states.weights[best]
    mean = weights.mean(dim=0)
    centered = ((weights - mean) / scale).double()
    count = max(0, min(_MAX_AXES, len(best) - 1))
    # Eigenvectors of the Gram matrix give the principal axes, times the standard deviation along each of them.
    vectors = torch.linalg.eigh(centered @ centered.mT).eigenvectors[:, len(best) - count :]
    axes = centered.mT @ vectors / max(1, len(best) - 1) ** 0.5
    codes = torch.randn(n, count, generator=generator, dtype=torch.float64)
    ends = mean + (codes @ axes.mT).float() * scale
    _, nearest = find_nearest(ends, weights, scale)
    return Way(start=weights[nearest], step=ends - weights[nearest])


def draw_matched_ways(
    states: TrainingStates, best: Tensor, distance: Tensor, seed: int, name: str
) -> Mapping[str, tuple[Way, Tensor]]:
    """Draw ways that can reach the distances of samples.

    Args:
        states: the training states.
        best: indices of the states to start from.
        distance: (n,) of the samples.
        seed: seed of the protocol.
        name: name of the samples.

    Returns:
        Kind -> ways (m,), and the sample (m,) that each belongs to. Averages and the Gaussian do not reach every one.
    """
    generator, n = keyed_generator(seed, NOISE, name), len(distance)
    noise = make_noise(states, draw_indices(best, n, generator), generator)
    gaussian = make_gaussian(states, best, n, keyed_generator(seed, GAUSSIAN, name))
    ways = {NOISE: (noise, torch.arange(n)), GAUSSIAN: (gaussian, torch.arange(n))}
    if states.can_average(best):
        ways[AVERAGE] = _pair_averages(states, best, distance, keyed_generator(seed, "averages", name))
    return ways


def _pair_averages(
    states: TrainingStates, best: Tensor, distance: Tensor, generator: torch.Generator
) -> tuple[Way, Tensor]:
    """Draw a pair of states for each sample that any pair is far enough apart for; every pair serves once."""
    pairs = draw_model_pairs(best, states.models, _TRIES * len(distance), generator, repeat=False)
    length = states.alignment.measure_distance(*(states.weights[index] for index in pairs))
    index, rows = [], []
    free = torch.ones(len(length), dtype=torch.bool)
    for i, target in enumerate(distance.tolist()):
        candidates = (free & (length >= 2 * target)).nonzero().squeeze(1)
        if len(candidates):
            index.append(i)
            rows.append(int(candidates[torch.randint(len(candidates), (), generator=generator)]))
            free[rows[-1]] = False
    chosen_pairs = torch.tensor(rows, dtype=torch.long)
    return make_averages(states, pairs[0][chosen_pairs], pairs[1][chosen_pairs]), torch.tensor(index, dtype=torch.long)
