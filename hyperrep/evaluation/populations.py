"""The populations that are judged: samples, and everything that they must be compared with.

n models of a population, S training states, P weights.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modelzoo_datasets.analysis import find_nearest
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from ..sampler_names import SAMPLER_INFO, check_sampler, parse_sampler
from .baselines import SamplingContext, add_noise, draw_model_pairs, draw_weights

MEMBERS, TRAINING_MEMBERS = "zoo members", "training members"
UNSEEN, SEEN = "reconstructed unseen", "reconstructed training"
PAIRS, ALL = "average of pairs", "average of all"
SCRATCH, RANDOM = "scratch", "random init"
MOVE = "move"
_BASELINES = ("reconstruction", "noise", "average", "fresh")  # baselines that need no matched baselines of their own
_MAX_MODELS = 200  # per population: enough for any test, and their outputs fit in memory
_MIN_AVERAGES = 5  # fewer averages are not compared with samples
_TRIES = 16  # pairs per model, among which one that is far enough apart is searched


@dataclass(frozen=True, kw_only=True)
class Population:
    """Models that are evaluated together."""

    name: str
    description: str
    weights: Tensor  # (n, P)
    num_finetuned: int  # the first ones are fine-tuned
    is_sample: bool = False
    matched_to: str = ""  # samples at whose distances this baseline is made
    matched_index: tuple[int, ...] = ()  # for each model, its counterpart among those samples


def make_populations(context: SamplingContext, zoo: Mapping[str, Zoo], recipe: EvaluationRecipe) -> list[Population]:
    """Make samples of every sampler, baselines at matched distance, and baselines that depend on no sampler.

    Args:
        context: the training states; `recipe.top_fraction` and `recipe.bandwidth` replace its own.
        zoo: train and test split, each with the epochs that the hyper-representation learned from.
        recipe: the protocol.

    Raises:
        ModelZooError: a sampler is unknown, lacks its extra, or has too few states to draw from.
    """
    context = context.replace(top_fraction=recipe.top_fraction, bandwidth=recipe.bandwidth)
    entries = [(entry, *parse_sampler(entry, recipe.top_fraction)) for entry in recipe.samplers]
    for _, name, _ in entries:
        check_sampler(name, with_weights=True)
    populations = [*_make_members(context, zoo, recipe), *_make_noise_and_averages(context, recipe)]
    samples = [
        _draw_samples(entry, name, context.replace(top_fraction=top_fraction), recipe)
        for entry, name, top_fraction in entries
    ]
    for share in recipe.moves:
        moves = _draw_samples(f"{MOVE} {share:g}", MOVE, context.replace(share=share), recipe)
        samples.append(dataclasses.replace(moves, num_finetuned=0))
    for population in samples:
        populations.append(population)
        if population.name.partition("@")[0] not in _BASELINES:
            populations += _make_matched_baselines(population, context, recipe)
    return [population for population in populations if len(population.weights)]


def _draw_samples(entry: str, name: str, context: SamplingContext, recipe: EvaluationRecipe) -> Population:
    is_ranked = context.top_fraction < 1 and not context.rep.accuracy.isnan().all()
    share = f"best {context.top_fraction:.0%}" if is_ranked else "all"
    return Population(
        name=entry,
        description=f"{SAMPLER_INFO[name].description}; from {share} of the training states",
        weights=draw_weights(name, recipe.num_samples, context, keyed_generator(recipe.seed, "samples", entry)),
        num_finetuned=recipe.num_finetuned,
        is_sample=True,
    )


def _make_members(context: SamplingContext, zoo: Mapping[str, Zoo], recipe: EvaluationRecipe) -> list[Population]:
    """Make the populations of zoo members and of their reconstructions."""
    rep = context.rep
    last = {split: rep.align(select_last_epoch(part).weights[:_MAX_MODELS]) for split, part in zoo.items()}
    return [
        _make_population(MEMBERS, "test models as trained", last["test"], recipe),
        _make_population(TRAINING_MEMBERS, "training models as trained: copies would be these", last["train"], recipe),
        _make_population(UNSEEN, "test models, encoded and decoded", rep.decode(rep.encode(last["test"])), recipe),
        _make_population(SEEN, "training models, encoded and decoded", rep.decode(rep.encode(last["train"])), recipe),
    ]


def _make_noise_and_averages(context: SamplingContext, recipe: EvaluationRecipe) -> list[Population]:
    """Make noise and averages at several distances: the curves that samplers are compared with."""
    populations = []
    if context.can_average:
        generator = keyed_generator(recipe.seed, "averages")
        pairs = draw_model_pairs(context.best, context.models, recipe.num_samples, generator)
        ends = [context.train_weights[index] for index in pairs]
        description = "means of two aligned training states of the best, of different models"
        populations.append(_make_population(PAIRS, description, (ends[0] + ends[1]) / 2, recipe))
        for share in recipe.mixtures:
            weights = ends[0] + share * (ends[1] - ends[0])
            description = f"best training states moved {share:.0%} of the way to a state of another model"
            populations.append(_make_population(f"mixture {share:g}", description, weights, recipe, num_finetuned=0))
    mean = context.train_weights.mean(0, keepdim=True)
    populations.append(_make_population(ALL, "mean of all aligned training states", mean, recipe))
    for sigma in recipe.noise:
        generator = keyed_generator(recipe.seed, "noise", str(sigma))
        weights = draw_weights("noise", recipe.num_samples, context.replace(sigma=sigma), generator)
        description = f"best training states with noise of {sigma:g} layer standard deviations"
        populations.append(_make_population(f"noise {sigma:g}", description, weights, recipe, num_finetuned=0))
    return populations


def _make_matched_baselines(
    samples: Population, context: SamplingContext, recipe: EvaluationRecipe
) -> list[Population]:
    """Make noise and averages that are, model by model, as far from the training states as the samples."""
    distance = measure_novelty(context.rep, samples.weights, context.train_weights)[0]
    generator = keyed_generator(recipe.seed, "noise", samples.name)
    donors = context.best[torch.randint(len(context.best), (len(distance),), generator=generator)]
    weights = add_noise(context.train_weights[donors], context.rep.scale, distance, generator)
    noise = _match("noise", "best training states with noise", weights, samples, range(len(distance)))
    return [noise, *_make_matched_averages(samples, distance, context, recipe)]


def _match(
    kind: str, description: str, weights: Tensor, samples: Population, matched_index: Iterable[int]
) -> Population:
    return Population(
        name=f"{kind} like {samples.name}",
        description=f"{description}, at the distances of the samples of {samples.name}",
        weights=weights,
        num_finetuned=samples.num_finetuned,
        matched_to=samples.name,
        matched_index=tuple(matched_index),
    )


def _make_matched_averages(
    samples: Population, distance: Tensor, context: SamplingContext, recipe: EvaluationRecipe
) -> list[Population]:
    """Make mixtures of two states that are as far from the nearer state as each sample; every pair serves once.

    A sample that is farther than half the distance of every pair has no counterpart. With too few counterparts for a
    comparison there is no population.
    """
    if not context.can_average:
        return []
    generator = keyed_generator(recipe.seed, "averages", samples.name)
    first, second = draw_model_pairs(context.best, context.models, _TRIES * len(distance), generator, repeat=False)
    step = context.train_weights[second] - context.train_weights[first]
    length = (step / context.rep.scale).square().mean(dim=1).sqrt()
    matched_index, pairs = [], []
    free = torch.ones(len(length), dtype=torch.bool)
    for i, target in enumerate(distance.tolist()):
        candidates = (free & (length >= 2 * target)).nonzero().squeeze(1)
        if len(candidates):
            matched_index.append(i)
            pairs.append(int(candidates[torch.randint(len(candidates), (), generator=generator)]))
            free[pairs[-1]] = False
    if len(matched_index) < min(_MIN_AVERAGES, len(distance)):
        return []
    pair = torch.tensor(pairs)
    share = (distance[matched_index] / length[pair]).unsqueeze(1)
    weights = context.train_weights[first[pair]] + share * step[pair]
    return [_match("average", "mixtures of two best training states", weights, samples, matched_index)]


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
    return torch.where(nearer, plain[0], aligned[0]), torch.where(nearer, plain[1], aligned[1])


def select_last_epoch(zoo: Zoo) -> Zoo:
    """Return the states after the last epoch of a zoo."""
    return zoo.select(zoo.table["epoch"] == zoo.table["epoch"].max())


def _make_population(
    name: str, description: str, weights: Tensor, recipe: EvaluationRecipe, num_finetuned: int | None = None
) -> Population:
    count = recipe.num_finetuned if num_finetuned is None else num_finetuned
    return Population(name=name, description=description, weights=weights, num_finetuned=count)
