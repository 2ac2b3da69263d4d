"""Measurements of a population: zero-shot, fine-tuned, as ensembles, and how novel its models are.

n models, S training states, B test images, C classes, P weights.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from modelzoo_datasets.analysis import (
    agreement,
    ensemble_curve,
    find_error_overlap,
    fine_tune,
    summarize_pairs,
    weight_distances,
)
from modelzoo_datasets.engines import Engine, NetworkSpec
from modelzoo_datasets.images import Images, load_images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import derive_seed, keyed_generator

from ..json_record import replace_nan
from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from ..zoo_values import complete_training, find_network, read_numbers
from .baselines import SamplingContext
from .cache import read_or_measure
from .populations import SCRATCH, Population, measure_novelty
from .result import EnsembleResult, PairSummary, PopulationResult

_ORDERS = 20  # random orders in which models join an ensemble


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that all populations are evaluated with: networks, images, and the training states."""

    rep: HyperRepresentation
    train: Zoo  # the training states of the hyper-representation
    aligned: Tensor  # (S, P) their aligned weights
    engine: Engine
    images: Images
    training: Training  # hyper-parameters of the zoo
    recipe: EvaluationRecipe
    key: Mapping[str, str] = field(default_factory=dict)  # identifies the aligned states in the cache, if it is used

    @classmethod
    def from_context(
        cls, context: SamplingContext, recipe: EvaluationRecipe, engine: Engine, images_root: Path | None
    ) -> Self:
        """Evaluate models beside the training states of a sampling context.

        Args:
            context: the hyper-representation and its training states.
            recipe: the protocol.
            engine: trains and runs the networks.
            images_root: folder of the image datasets; the user's cache by default.
        """
        train = context.states
        network = find_network(train)
        return cls(
            rep=context.rep,
            train=train,
            aligned=context.train_weights,
            engine=engine,
            images=load_images(train.images, images_root),
            training=dataclasses.replace(complete_training(train), activation=network.activation),
            recipe=recipe,
            key=context.key,
        )

    @property
    def architecture(self) -> str:
        """Name of the architecture of the models."""
        return self.rep.architecture.name

    @cached_property
    def train_errors(self) -> Tensor:
        """(S, B) bool: is this training state wrong on this test image?"""
        key = dict(self.key)
        if key:
            engine = self.engine.resolve(self.architecture)
            key |= {"images": self.images.fingerprint, "engine": engine.name, **engine.environment(self.architecture)}
        packed = read_or_measure("errors", key, self._measure_packed_errors)
        wrong = np.unpackbits(packed.numpy(), axis=1, count=len(self.images.labels("test")))
        return torch.from_numpy(wrong.astype(bool))

    def _measure_packed_errors(self) -> Tensor:
        """Return the errors of the training states as (S, B / 8) bytes of eight images each."""
        labels = self.images.labels("test")
        wrong = np.empty((len(self.aligned), len(labels)), dtype=bool)
        for index, logits in self.iterate_logits(self.aligned):
            wrong[index] = (logits.argmax(dim=1) != labels).numpy()
        return torch.from_numpy(np.packbits(wrong, axis=1))

    def iterate_logits(self, weights: Tensor) -> Iterable[tuple[int, Tensor]]:
        """Yield (index, logits (B, C)) of every model (n, P) on the test images, in the order of completion."""
        networks = [NetworkSpec(self.training.activation, self.training.dropout)] * len(weights)
        return self.engine.compute_logits(self.architecture, self.images, weights, networks, "test")

    def compute_logits(self, weights: Tensor) -> Tensor:
        """Return the logits (n, B, C) of models (n, P) on the test images."""
        result = torch.empty(len(weights), len(self.images.labels("test")), self.images.classes)
        for index, logits in self.iterate_logits(weights):
            result[index] = logits
        return result

    def finetune(
        self,
        weights: Tensor,
        progress: Progress,
        description: str,
        images: Images | None = None,
        architecture: str = "",
    ) -> tuple[Tensor, Tensor]:
        """Fine-tune models with the hyper-parameters of the zoo.

        Args:
            weights: start weights (n, P).
            progress: reports the models.
            description: what the progress bar says.
            images: other images than those of the zoo.
            architecture: another architecture than that of the zoo.

        Returns:
            Test accuracy (n, E + 1) over the epochs, and the weights (n, P) after the last one.
        """
        training = dataclasses.replace(self.training, epochs=self.recipe.max_finetune_epochs)
        seeds = [derive_seed(self.recipe.seed, "fine-tuning", i) for i in range(len(weights))]
        where = architecture or self.architecture, images or self.images
        return fine_tune(self.engine, *where, weights, training, seeds, progress=progress, what=description)


def evaluate_population(
    population: Population, evaluator: Evaluator, *, progress: Progress = NO_PROGRESS
) -> PopulationResult:
    """Measure everything that the report says about a population.

    Args:
        population: the models.
        evaluator: runs and fine-tunes them, and knows the training states.
        progress: reports the models that are fine-tuned.
    """
    weights, labels = population.weights, evaluator.images.labels("test")
    logits = evaluator.compute_logits(weights)
    predictions = logits.argmax(dim=2)
    distance, nearest_state = measure_novelty(evaluator.rep, weights, evaluator.aligned)
    overlap, _ = find_error_overlap(predictions != labels, evaluator.train_errors)
    rows = evaluator.train.table.iloc[nearest_state.tolist()]
    curves, ensembles = _evaluate_finetuning(population, logits, evaluator, progress)
    l2, _ = weight_distances(weights / evaluator.rep.scale)
    return PopulationResult(
        name=population.name,
        description=population.description,
        is_sample=population.is_sample,
        matched_to=population.matched_to,
        matched_index=list(population.matched_index),
        n=len(weights),
        zero_shot=(predictions == labels).double().mean(dim=1).tolist(),
        curves=curves,
        distance=distance.tolist(),
        nearest=[(str(m), int(e)) for m, e in zip(rows["model_id"], rows["epoch"], strict=True)],
        error_overlap=overlap.tolist(),
        pairs={
            name: PairSummary.from_json(replace_nan(summarize_pairs(matrix)))
            for name, matrix in (("distance", l2 / weights.shape[1] ** 0.5), ("agreement", agreement(predictions)))
        },
        ensembles=ensembles,
    )


def _evaluate_finetuning(
    population: Population, logits: Tensor, evaluator: Evaluator, progress: Progress
) -> tuple[list[list[float]], dict[str, EnsembleResult]]:
    """Return the curves of fine-tuning, and the ensembles before and after it."""
    count = min(population.num_finetuned, len(population.weights))
    if not count:
        return [], {}
    description = f"fine-tuning {population.name}"
    accuracy, tuned = evaluator.finetune(population.weights[:count], progress, description)
    ensembles: dict[str, EnsembleResult] = {}
    if evaluator.recipe.max_ensemble_size > 1:
        kinds = {"zero-shot": logits, "tuned": evaluator.compute_logits(tuned)}
        for kind, members in kinds.items():
            if ensemble := _evaluate_ensembles(members, evaluator, population.name):
                ensembles[kind] = ensemble
    return accuracy.tolist(), ensembles


def _evaluate_ensembles(logits: Tensor, evaluator: Evaluator, name: str) -> EnsembleResult | None:
    """Measure ensembles of 1, 2, ... models, over random orders, from logits (n, B, C).

    Models that diverged are in no ensemble; where all diverged there is none.
    """
    labels, recipe = evaluator.images.labels("test"), evaluator.recipe
    finite = logits.isfinite().flatten(1).all(dim=1)
    if not finite.any():
        return None
    generator = keyed_generator(recipe.seed, "ensembles", name)
    accuracy, right = ensemble_curve(logits[finite], labels, recipe.max_ensemble_size, _ORDERS, generator)
    missed = right < _ORDERS
    return EnsembleResult(
        mean=accuracy.mean(dim=0).tolist(),
        std=accuracy.std(dim=0).tolist(),
        diverged=int((~finite).sum()),
        missed=missed.nonzero().squeeze(1).tolist(),
        num_missed=(_ORDERS - right[missed]).tolist(),
        orders=_ORDERS,
        images=len(labels),
    )


def has_all_orders(result: PopulationResult) -> bool:
    """Tell whether a result counts the errors of its ensembles in all orders; earlier releases noted one order."""
    return all(ensemble.orders == _ORDERS for ensemble in result.ensembles.values())


def evaluate_scratch(zoo: Zoo) -> PopulationResult:
    """Return training from scratch as a population: the models of the zoo, over all of their epochs."""
    recorded = zoo.table.assign(test_acc=read_numbers(zoo.table, "test_acc").numpy())
    table = recorded.pivot(index="model_id", columns="epoch", values="test_acc")
    curves = table.reindex(columns=range(int(table.columns.max()) + 1)).astype(object)
    rows: Sequence[Sequence[float | None]] = curves.where(curves.notna(), None).to_numpy().tolist()
    return PopulationResult(
        name=SCRATCH,
        description="the models of the zoo from their first epoch on",
        is_sample=False,
        n=len(rows),
        zero_shot=[row[0] for row in rows if row[0] is not None],
        curves=rows if curves.notna().any(axis=None) else [],  # nothing was recorded
    )
