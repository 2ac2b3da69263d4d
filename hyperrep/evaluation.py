"""The protocol: what sampled models are worth, beside everything they must be compared with.

n models of a population, N training states, P weights, E epochs of fine-tuning.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.engines import Engine, Network
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.population import fine_tune, nearest
from modelzoo_datasets.progress import Progress, silent
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import derive, generator

from .autoencoder import HyperRepresentation
from .baselines import with_noise
from .probes import layer_statistics, ridge_r2
from .recipe import EvaluationRecipe
from .samplers import SAMPLERS, best_states, principal_axes
from .training import reconstruction_r2

PROBED = ("test_acc", "ggap", "epoch")


@dataclass(frozen=True, kw_only=True)
class Population:
    """Models that are judged together: weights (n, P), how many of them are fine-tuned, and what they are."""

    name: str
    what: str
    weights: Tensor
    fine_tuned: int


def populations(rep: HyperRepresentation, zoo: Mapping[str, Zoo], recipe: EvaluationRecipe) -> list[Population]:
    """Samples of every sampler, and the baselines beside them, made from aligned models.

    Args:
        zoo: train and test split, each with the epochs the hyper-representation was learned from.
    """
    train = rep.align(zoo["train"].weights)
    last = {split: rep.align(_last_epoch(part).weights) for split, part in zoo.items()}
    best = best_states(rep.accuracy, recipe.quality)
    found = [
        _population("zoo members", "test models as trained", last["test"], recipe),
        _population(
            "reconstructed unseen",
            "test models, encoded and decoded",
            _decoded(rep, last["test"]),
            recipe,
        ),
        _population(
            "reconstructed training",
            "training models, encoded and decoded",
            _decoded(rep, last["train"]),
            recipe,
        ),
        _population(
            "average of pairs",
            "means of two aligned training states of the best, of different models",
            _averages(train[best], list(zoo["train"].table["model_id"].iloc[best.tolist()]), recipe),
            recipe,
        ),
        _population(
            "average of all",
            "mean of all aligned training states",
            train.mean(0, keepdim=True),
            recipe,
        ),
    ]
    found = [population for population in found if len(population.weights)]
    for name in SAMPLERS:
        draws = generator(recipe.seed, "samples", name)
        sampled = rep.sample(
            recipe.samples,
            sampler=name,
            quality=recipe.quality,
            bandwidth=recipe.bandwidth,
            generator=draws,
        )
        distance = novelty(rep, sampled, train)
        noise = generator(recipe.seed, "noise", name)
        donors = best[torch.randint(len(best), (recipe.samples,), generator=noise)]
        noisy = with_noise(train[donors], rep.scale, distance, noise)
        found.append(
            Population(
                name=name,
                what=f"samples of {name}, best {recipe.quality:.0%} of the training states",
                weights=sampled,
                fine_tuned=recipe.samples,
            )
        )
        what = f"best training states with noise, as far from them as the samples of {name}"
        found.append(_population(f"noise like {name}", what, noisy, recipe))
    return found


def judge(
    population: Population,
    rep: HyperRepresentation,
    train: Tensor,  # (N, P) aligned training states
    engine: Engine,
    images: Images,
    training: Training,
    recipe: EvaluationRecipe,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Zero-shot and fine-tuned test accuracy, and the distance to the nearest training state, as plain values."""
    chosen = population.weights
    networks = rep.architecture.name, images
    told = dataclasses.replace(training, epochs=recipe.epochs)
    count = min(population.fine_tuned, len(chosen))
    seeds = [derive(recipe.seed, "fine-tuning", i) for i in range(count)]
    what = f"fine-tuning {population.name}"
    curves = fine_tune(engine, *networks, chosen[:count], told, seeds, progress=progress, what=what)
    zero_shot = curves[:, 0]
    if count < len(chosen):
        network = Network(training.activation, training.dropout)
        rest = engine.evaluate(*networks, chosen[count:], [network] * (len(chosen) - count), "test")
        zero_shot = torch.cat([zero_shot, rest.accuracy])
    return {
        "name": population.name,
        "what": population.what,
        "n": len(chosen),
        "zero_shot": zero_shot.tolist(),
        "curves": curves.tolist(),
        "distance": novelty(rep, chosen, train).tolist(),
    }


def novelty(rep: HyperRepresentation, weights: Tensor, train: Tensor) -> Tensor:
    """Distance (n,) of models (n, P) to the nearest aligned training state (N, P), in layer standard deviations.

    Of a model as it is or aligned to the reference, whichever is nearer: alignment is a heuristic and can miss.
    """
    return torch.minimum(nearest(weights, train, rep.scale)[0], nearest(rep.align(weights), train, rep.scale)[0])


def scratch(zoo: Zoo, epochs: int) -> dict[str, Any]:
    """Models trained from scratch for as long, with the same hyper-parameters: the zoo's own first epochs."""
    table = zoo.table[zoo.table["epoch"] <= epochs]
    curves = table.pivot(index="model_id", columns="epoch", values="test_acc").to_numpy()
    return {
        "name": "scratch",
        "what": "the zoo's own models in their first epochs",
        "n": len(curves),
        "zero_shot": curves[:, 0].tolist(),
        "curves": curves.tolist(),
        "distance": [],
    }


def probe_all(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, dict[str, float]]:
    """R² on test models of linear probes: property -> representation (W, s(W), z) -> R²."""
    features = {
        "W": {split: part.weights for split, part in zoo.items()},
        "s(W)": {s: layer_statistics(part.weights, rep.layout) for s, part in zoo.items()},
        "z": {split: rep.embed(part.weights) for split, part in zoo.items()},
    }
    result = {}
    for name in PROBED:
        targets = {s: torch.tensor(part.table[name].to_numpy(float)) for s, part in zoo.items()}
        result[name] = {kind: ridge_r2(values, targets) for kind, values in features.items()}
    return result


def reconstruction(rep: HyperRepresentation, zoo: Mapping[str, Zoo]) -> dict[str, Any]:
    """R² of reconstruction, in all and per layer, of training and of unseen states."""
    found = {}
    for split, part in zoo.items():
        measured = reconstruction_r2(rep, rep.align(part.weights))
        found[split] = {"total": measured.total, "layers": list(measured.layers), "n": len(part)}
    return found


def embeddings_2d(rep: HyperRepresentation, zoo: Mapping[str, Zoo], populated: list[Population]) -> dict[str, Any]:
    """The two widest principal axes of z, of zoo states with their accuracy and of samples."""
    mean, axes = principal_axes(rep.embeddings)

    def flat(weights: Tensor) -> Any:
        return ((rep.embed(weights) - mean) @ axes[:, :2]).tolist()

    found: dict[str, Any] = {
        split: {"z": flat(zoo[split].weights), "test_acc": zoo[split].table["test_acc"].tolist()}
        for split in ("train", "test")
    }
    for population in populated:
        if population.name in SAMPLERS:
            found[population.name] = {"z": flat(population.weights)}
    return found


def _population(name: str, what: str, weights: Tensor, recipe: EvaluationRecipe) -> Population:
    return Population(name=name, what=what, weights=weights, fine_tuned=recipe.compared)


def _last_epoch(zoo: Zoo) -> Zoo:
    return zoo.select(zoo.table["epoch"] == zoo.table["epoch"].max())


def _decoded(rep: HyperRepresentation, weights: Tensor) -> Tensor:
    return rep.decode(rep.embed(weights))


def _averages(weights: Tensor, models: list[str], recipe: EvaluationRecipe) -> Tensor:
    """Means of random pairs of states (N, P) of different models; `models` names the model of each state."""
    draws = generator(recipe.seed, "averages")
    pairs = [(i, j) for i in range(len(weights)) for j in range(i) if models[i] != models[j]]
    chosen = torch.randperm(len(pairs), generator=draws)[: recipe.compared]
    return weights[torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)[chosen]].mean(dim=1)
