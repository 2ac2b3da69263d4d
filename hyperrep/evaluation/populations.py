"""Which models are judged: samples, and beside them everything that they must be compared with.

n models of a population, S training states, P weights.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.seeds import keyed_generator

from ..recipe import EvaluationRecipe
from ..sampler_names import SAMPLER_INFO, check_sampler, parse_sampler
from .baselines import SamplingContext, draw, pairs_of_models, with_noise
from .novelty import measure_novelty

MEMBERS, TRAINING_MEMBERS = "zoo members", "training members"
UNSEEN, SEEN = "reconstructed unseen", "reconstructed training"
PAIRS, ALL = "average of pairs", "average of all"
MOVE = "move"
_RIVALS = ("reconstruction", "noise", "average", "fresh")  # what samples are held against, under whatever name
_MOST = 200  # models of a population: enough for any test, and their outputs fit in memory
_FEWEST = 5  # averages that are compared with samples
_TRIED = 16  # pairs per model, among which one that lies far enough apart is looked for


@dataclass(frozen=True, kw_only=True)
class Population:
    """Models that are judged together: weights (n, P), how many of them are fine-tuned, and what they are."""

    name: str
    what: str
    weights: Tensor
    fine_tuned: int
    sampled: bool = False
    mirrors: str = ""  # the population that it is made to be as new as
    partners: tuple[int, ...] = ()  # the model of that population which each of these is to be compared with


def populations(source: SamplingContext, zoo: Mapping[str, Zoo], recipe: EvaluationRecipe) -> list[Population]:
    """Samples of every sampler, what is as new as they are, and what does not depend on them, from aligned models.

    Args:
        source: the training states; `recipe.top_fraction` and `recipe.bandwidth` are put into it.
        zoo: train and test split, each with the epochs the hyper-representation was learned from.

    Raises:
        ModelZooError: a sampler is not known, lacks its extra, or has too few states to draw from.
    """
    source = source.varied(quality=recipe.top_fraction, bandwidth=recipe.bandwidth)
    entries = [(entry, *parse_sampler(entry, recipe.top_fraction)) for entry in recipe.samplers]
    for _, name, _ in entries:
        check_sampler(name, with_weights=True)
    found = [*_zoo_and_reconstructions(source, zoo, recipe), *_noise_and_averages(source, recipe)]
    sampled = [_samples(entry, name, source.varied(quality=quality), recipe) for entry, name, quality in entries]
    for share in recipe.moves:
        moved = _samples(f"{MOVE} {share:g}", MOVE, source.varied(share=share), recipe)
        sampled.append(dataclasses.replace(moved, fine_tuned=0))
    for samples in sampled:
        found.append(samples)
        if samples.name.partition("@")[0] not in _RIVALS:
            found += _as_new_as(samples, source, recipe)
    return [population for population in found if len(population.weights)]


def _samples(entry: str, name: str, source: SamplingContext, recipe: EvaluationRecipe) -> Population:
    share = f"best {source.quality:.0%}" if source.quality < 1 else "all"
    return Population(
        name=entry,
        what=f"{SAMPLER_INFO[name].description}; from {share} of the training states",
        weights=draw(name, recipe.num_samples, source, keyed_generator(recipe.seed, "samples", entry)),
        fine_tuned=recipe.num_finetuned,
        sampled=True,
    )


def _zoo_and_reconstructions(
    source: SamplingContext, zoo: Mapping[str, Zoo], recipe: EvaluationRecipe
) -> list[Population]:
    rep = source.rep
    last = {split: rep.align(last_epoch(part).weights[:_MOST]) for split, part in zoo.items()}
    return [
        _population(MEMBERS, "test models as trained", last["test"], recipe),
        _population(TRAINING_MEMBERS, "training models as trained: what a copy would be", last["train"], recipe),
        _population(UNSEEN, "test models, encoded and decoded", rep.decode(rep.encode(last["test"])), recipe),
        _population(SEEN, "training models, encoded and decoded", rep.decode(rep.encode(last["train"])), recipe),
    ]


def _noise_and_averages(source: SamplingContext, recipe: EvaluationRecipe) -> list[Population]:
    """Both at several distances: the curves that samplers are held against."""
    found = []
    if len({source.models[i] for i in source.best.tolist()}) > 1:
        draws = keyed_generator(recipe.seed, "averages")
        pairs = pairs_of_models(source.best, source.models, recipe.num_samples, draws)
        ends = [source.aligned[index] for index in pairs]
        what = "means of two aligned training states of the best, of different models"
        found.append(_population(PAIRS, what, (ends[0] + ends[1]) / 2, recipe))
        for share in recipe.mixtures:
            weights = ends[0] + share * (ends[1] - ends[0])
            what = f"best training states moved {share:.0%} of the way to one of another model"
            found.append(_population(f"mixture {share:g}", what, weights, recipe, fine_tuned=0))
    mean = source.aligned.mean(0, keepdim=True)
    found.append(_population(ALL, "mean of all aligned training states", mean, recipe))
    for sigma in recipe.noise:
        noisy = draw(
            "noise",
            recipe.num_samples,
            source.varied(sigma=sigma),
            keyed_generator(recipe.seed, "noise", str(sigma)),
        )
        what = f"best training states with noise of {sigma:g} layer standard deviations"
        found.append(_population(f"noise {sigma:g}", what, noisy, recipe, fine_tuned=0))
    return found


def _as_new_as(samples: Population, source: SamplingContext, recipe: EvaluationRecipe) -> list[Population]:
    """Noise and averages, model by model as far from a training state as the samples are from the nearest."""
    distance = measure_novelty(source.rep, samples.weights, source.aligned)[0]
    draws = keyed_generator(recipe.seed, "noise", samples.name)
    donors = source.best[torch.randint(len(source.best), (len(distance),), generator=draws)]
    noisy = Population(
        name=f"noise like {samples.name}",
        what=f"best training states with noise, as far from them as the samples of {samples.name}",
        weights=with_noise(source.aligned[donors], source.rep.scale, distance, draws),
        fine_tuned=samples.fine_tuned,
        mirrors=samples.name,
        partners=tuple(range(len(distance))),
    )
    return [noisy, *_averages_as_new_as(samples, distance, source, recipe)]


def _averages_as_new_as(
    samples: Population, distance: Tensor, source: SamplingContext, recipe: EvaluationRecipe
) -> list[Population]:
    """Mixtures of two states that lie as far from the nearer one as each sample, each of another pair of states.

    Of the samples that mixtures can be so far as; none at all where those are too few for a comparison.
    """
    if len({source.models[i] for i in source.best.tolist()}) < 2:
        return []
    draws = keyed_generator(recipe.seed, "averages", samples.name)
    first, second = pairs_of_models(source.best, source.models, _TRIED * len(distance), draws, twice=False)
    step = source.aligned[second] - source.aligned[first]
    apart = (step / source.rep.scale).square().mean(dim=1).sqrt()
    partners, chosen = [], []
    free = torch.ones(len(apart), dtype=torch.bool)
    for i, wanted in enumerate(distance.tolist()):
        far = (free & (apart >= 2 * wanted)).nonzero().squeeze(1)
        if len(far):
            partners.append(i)
            chosen.append(int(far[torch.randint(len(far), (), generator=draws)]))
            free[chosen[-1]] = False
    if len(partners) < min(_FEWEST, len(distance)):
        return []
    pick = torch.tensor(chosen)
    share = (distance[partners] / apart[pick]).unsqueeze(1)
    return [
        Population(
            name=f"average like {samples.name}",
            what=f"two of the best training states mixed, as far from the nearer as the samples of {samples.name}",
            weights=source.aligned[first[pick]] + share * step[pick],
            fine_tuned=samples.fine_tuned,
            mirrors=samples.name,
            partners=tuple(partners),
        )
    ]


def last_epoch(zoo: Zoo) -> Zoo:
    """The states after the last epoch that there is."""
    return zoo.select(zoo.table["epoch"] == zoo.table["epoch"].max())


def _population(
    name: str, what: str, weights: Tensor, recipe: EvaluationRecipe, fine_tuned: int | None = None
) -> Population:
    return Population(
        name=name, what=what, weights=weights, fine_tuned=recipe.num_finetuned if fine_tuned is None else fine_tuned
    )
