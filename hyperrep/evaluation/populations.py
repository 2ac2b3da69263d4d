"""The populations that are judged: samples, and everything that they must be compared with.

n models of a population, P weights.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from ..sampler_names import SAMPLER_INFO, SamplerEntry, check_sampler
from .baselines import SamplingContext, draw_weights
from .metrics import BaseEvaluator, Evaluator
from .nulls import (
    AVERAGE,
    GAUSSIAN,
    NOISE,
    REPAIR,
    Way,
    draw_matched_ways,
    make_averages,
    make_gaussian,
    make_noise,
    match_distance,
)
from .population import Population
from .training_states import draw_indices, draw_model_pairs, select_last_epoch

MEMBERS, TRAINING_MEMBERS = "zoo members", "training members"
UNSEEN, SEEN = "reconstructed unseen", "reconstructed training"
PAIRS, ALL = "average of pairs", "average of all"
RETRIEVAL = "retrieval"
MOVE = "move"
_BASELINES = ("reconstruction", "noise", "average", "fresh")  # baselines that need no matched nulls of their own
_MAX_MODELS = 200  # per population: enough for any test, and their outputs fit in memory
_MIN_MATCHED = 5  # fewer nulls are not compared with samples
_DESCRIPTIONS = {
    NOISE: "best training states with noise",
    AVERAGE: "mixtures of two best training states",
    GAUSSIAN: "best training states moved towards draws from a Gaussian in PCA codes",
}
_DESCRIPTIONS |= {name + REPAIR: f"{description}, with REPAIR" for name, description in _DESCRIPTIONS.items()}


def draw_samples(context: SamplingContext, evaluator: Evaluator) -> list[Population]:
    """Draw samples by every sampler of a protocol; those of a share of the states are drawn from all states too.

    Args:
        context: the hyper-representation and its training states.
        evaluator: has the protocol, and the images by which draws are dropped.

    Raises:
        ModelZooError: a sampler is unknown, lacks its extra, or has too few states to draw from.
    """
    recipe = evaluator.recipe
    context = dataclasses.replace(context, bandwidth=recipe.bandwidth)
    entries = [SamplerEntry.parse(text, recipe.top_fraction) for text in recipe.samplers]
    for entry in entries:
        check_sampler(entry.sampler, with_weights=True)
    is_ranked = not context.rep.accuracy.isnan().all()
    entries = [entry if is_ranked else dataclasses.replace(entry, top_fraction=1.0) for entry in entries]
    samples = {entry.name: _draw_samples(entry.name, entry, context, evaluator) for entry in entries}
    for entry in entries:
        whole = dataclasses.replace(entry, top_fraction=1.0)
        if whole.name not in samples:
            population = _draw_samples(whole.name, whole, context, evaluator)
            samples[whole.name] = dataclasses.replace(population, num_finetuned=0, has_nulls=False)
    for share in recipe.moves:
        entry = SamplerEntry(MOVE, recipe.top_fraction if is_ranked else 1.0)
        name = entry.name.replace(MOVE, f"{MOVE} {share:g}")
        moves = _draw_samples(name, entry, dataclasses.replace(context, share=share), evaluator)
        samples[name] = dataclasses.replace(moves, num_finetuned=0)
    return list(samples.values())


def _draw_samples(name: str, entry: SamplerEntry, context: SamplingContext, evaluator: Evaluator) -> Population:
    """Draw the samples of one entry; where draws are dropped, more are drawn, and the best by validation stay."""
    recipe, context = evaluator.recipe, dataclasses.replace(context, top_fraction=entry.top_fraction)
    generator = keyed_generator(recipe.seed, "samples", name)
    count = round(recipe.num_samples / entry.keep_fraction)
    weights = draw_weights(entry.sampler, count, context, generator)
    if count > recipe.num_samples:
        accuracy = evaluator.measure_accuracy(weights, "validation")
        weights = weights[accuracy.argsort(descending=True, stable=True)[: recipe.num_samples].sort().values]
    return Population(
        name=name,
        description=f"{SAMPLER_INFO[entry.sampler].description}; {entry.describe_selection()}",
        weights=weights,
        num_finetuned=recipe.num_finetuned,
        is_sample=True,
        has_nulls=entry.sampler not in _BASELINES,
    )


def surround_samples(
    samples: Sequence[Population], splits: Mapping[str, Zoo], evaluator: BaseEvaluator
) -> list[Population]:
    """Return zoo members, nulls at several distances, and samples, each followed by nulls at its own distances.

    Args:
        samples: populations of samples.
        splits: train and test states; the last epoch of each is judged. Without test states there are no members.
        evaluator: has the training states, the protocol and REPAIR.
    """
    populations = [*make_members(splits, evaluator), *_make_null_curves(evaluator)]
    for population in samples:
        populations.append(population)
        if population.has_nulls:
            populations += _make_matched_nulls(population, evaluator)
    return [population for population in populations if len(population.weights)]


def make_members(splits: Mapping[str, Zoo], evaluator: BaseEvaluator) -> list[Population]:
    """Make the populations of zoo members: test models, and training models, which copies would be."""
    names = {"test": (MEMBERS, "test models as trained")}
    names["train"] = (TRAINING_MEMBERS, "training models as trained: copies would be these")
    return [
        _make_population(*names[split], _take_last(splits[split], evaluator), evaluator.recipe)
        for split in names
        if split in splits and len(splits[split])
    ]


def make_reconstructions(rep: HyperRepresentation, splits: Mapping[str, Zoo], evaluator: Evaluator) -> list[Population]:
    """Make the populations of test and training models that a hyper-representation has encoded and decoded.

    Args:
        rep: the hyper-representation.
        splits: train and test states; the last epoch of each is encoded.
        evaluator: has the training states and the protocol.
    """
    names = {
        "test": (UNSEEN, "test models, encoded and decoded"),
        "train": (SEEN, "training models, encoded and decoded"),
    }
    return [
        _make_population(*words, rep.decode(rep.encode(_take_last(splits[split], evaluator))), evaluator.recipe)
        for split, words in names.items()
    ]


def _take_last(zoo: Zoo, evaluator: BaseEvaluator) -> Tensor:
    return evaluator.states.alignment.align(select_last_epoch(zoo).weights[:_MAX_MODELS])


def _make_null_curves(evaluator: BaseEvaluator) -> list[Population]:
    """Make nulls at several distances: the curves that samplers are compared with."""
    recipe, states = evaluator.recipe, evaluator.states
    best, n = states.select_best(recipe.top_fraction), recipe.num_samples
    populations = []
    if states.can_average(best):
        way = make_averages(states, *draw_model_pairs(best, states.models, n, keyed_generator(recipe.seed, "averages")))
        words = "means of two aligned training states of the best, of different models"
        populations += _make_nulls(PAIRS, words, way, 0.5, evaluator, recipe.num_finetuned)
        for share in recipe.mixtures:
            words = f"best training states moved {share:.0%} of the way to a state of another model"
            populations += _make_nulls(f"mixture {share:g}", words, way, share, evaluator)
    mean = states.weights.mean(0, keepdim=True)
    populations.append(_make_population(ALL, "mean of all aligned training states", mean, recipe))
    for sigma in recipe.noise:
        generator = keyed_generator(recipe.seed, NOISE, str(sigma))
        way = make_noise(states, draw_indices(best, n, generator), generator)
        words = f"best training states with noise of {sigma:g} layer standard deviations"
        populations += _make_nulls(f"{NOISE} {sigma:g}", words, way, sigma, evaluator)
    if len(best) > 1:
        way = make_gaussian(states, best, n, keyed_generator(recipe.seed, GAUSSIAN))
        words = "draws from a Gaussian in PCA codes of the best aligned training states"
        populations += _make_nulls(GAUSSIAN, words, way, 1.0, evaluator)
    return populations


def _make_nulls(
    name: str, description: str, way: Way, t: float, evaluator: BaseEvaluator, num_finetuned: int = 0
) -> list[Population]:
    """Make the models at t of the ways, and these with REPAIR."""
    share = torch.full((len(way),), t)
    populations = [_make_population(name, description, way.walk(share), evaluator.recipe, num_finetuned)]
    if (repairer := evaluator.repairer) is not None:
        weights = way.repair(share, repairer)
        populations.append(
            _make_population(name + REPAIR, f"{description}, with REPAIR", weights, evaluator.recipe, num_finetuned)
        )
    return populations


def _make_matched_nulls(samples: Population, evaluator: BaseEvaluator) -> list[Population]:
    """Make nulls that are, model by model, as far from their training state as the samples from theirs.

    The strongest kinds of noise and averages are fine-tuned too.
    """
    states, recipe = evaluator.states, evaluator.recipe
    distance, nearest = states.measure_novelty(samples.weights)
    best = states.select_best(recipe.top_fraction)
    populations = []
    for kind, (way, index) in draw_matched_ways(states, best, distance, recipe.seed, samples.name).items():
        for repairer in dict.fromkeys((None, evaluator.repairer)):
            weights, is_matched = match_distance(way, distance[index], states, repairer)
            name = kind + (REPAIR if repairer is not None else "")
            description = f"{_DESCRIPTIONS[name]}, at the distances of the samples of {samples.name}"
            population = _match(name, description, weights[is_matched], samples, index[is_matched].tolist())
            is_finetuned = kind != GAUSSIAN and repairer is evaluator.repairer
            populations.append(population if is_finetuned else dataclasses.replace(population, num_finetuned=0))
    few = min(_MIN_MATCHED, len(distance))
    words = f"the training state that is nearest to each sample of {samples.name}"
    retrieval = _match(RETRIEVAL, words, states.weights[nearest], samples, range(len(nearest)))
    return [p for p in populations if len(p.weights) >= few] + [dataclasses.replace(retrieval, num_finetuned=0)]


def _match(
    name: str, description: str, weights: Tensor, samples: Population, matched_index: Iterable[int]
) -> Population:
    return Population(
        name=f"{name} like {samples.name}",
        description=description,
        weights=weights,
        num_finetuned=samples.num_finetuned,
        matched_to=samples.name,
        matched_index=tuple(matched_index),
    )


def _make_population(
    name: str, description: str, weights: Tensor, recipe: EvaluationRecipe, num_finetuned: int | None = None
) -> Population:
    count = recipe.num_finetuned if num_finetuned is None else num_finetuned
    return Population(name=name, description=description, weights=weights, num_finetuned=count)
