"""Measurements of a population: zero-shot, fine-tuned, as ensembles, and how novel its models are.

n models, S training states, B test images, C classes, P weights.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

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
from ..recipe import EvaluationRecipe
from ..zoo_values import complete_training, find_network, read_column, read_numbers
from .cache import read_or_measure
from .nulls import Repairer
from .population import SCRATCH, Population
from .result import EnsembleResult, PairSummary, PopulationResult
from .training_states import TrainingStates, hash_tensor

_ORDERS = 20  # random orders in which models join an ensemble


@dataclass(frozen=True, kw_only=True)
class BaseEvaluator:
    """Training states and the protocol: what nulls are made from."""

    states: TrainingStates
    recipe: EvaluationRecipe

    @property
    def repairer(self) -> Repairer | None:
        """REPAIR, which needs images; None without."""
        return None


@dataclass(frozen=True, kw_only=True)
class Evaluator(BaseEvaluator):
    """Everything that all populations are evaluated with: networks, images, and the training states."""

    engine: Engine
    images: Images
    training: Training  # hyper-parameters of the zoo

    @classmethod
    def from_states(
        cls, states: TrainingStates, recipe: EvaluationRecipe, engine: Engine, images_root: Path | None
    ) -> Self:
        """Evaluate models beside the training states of their zoo.

        Args:
            states: the training states.
            recipe: the protocol.
            engine: trains and runs the networks.
            images_root: folder of the image datasets; the user's cache by default.
        """
        network = find_network(states.zoo)
        return cls(
            states=states,
            engine=engine,
            images=load_images(states.zoo.images, images_root),
            training=dataclasses.replace(complete_training(states.zoo), activation=network.activation),
            recipe=recipe,
        )

    @property
    def architecture(self) -> str:
        """Name of the architecture of the models."""
        return self.states.zoo.architecture.name

    @property
    def network(self) -> NetworkSpec:
        """Activation and dropout of the models."""
        return NetworkSpec(self.training.activation, self.training.dropout)

    @cached_property
    def repairer(self) -> Repairer | None:
        """REPAIR for these networks; None where it cannot be folded into their weights."""
        return Repairer.from_images(self.architecture, self.network, self.images)

    @cached_property
    def train_errors(self) -> Tensor:
        """(S, B) bool: is this training state wrong on this test image?"""
        predictions = self._read("predictions", self.states.key, lambda: self._measure_predictions(self.states.weights))
        return predictions != self.images.labels("test")

    def predict(self, weights: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return the predicted classes (n, B) of models on the test images; the cache keeps them.

        Args:
            weights: the models (n, P).
            logits: their logits (n, B, C), where they are known.
        """
        return self._read(
            "predictions", {"states": hash_tensor(weights)}, lambda: self._measure_predictions(weights, logits)
        )

    def _measure_predictions(self, weights: Tensor, logits: Tensor | None = None) -> Tensor:
        dtype = torch.uint8 if self.images.classes <= 256 else torch.int16
        predictions = torch.empty(len(weights), len(self.images.labels("test")), dtype=dtype)
        for index, scores in self._iterate_logits(weights) if logits is None else enumerate(logits):
            predictions[index] = scores.argmax(dim=1)
        return predictions

    def _read(self, what: str, key: Mapping[str, str], measure: Callable[[], Tensor]) -> Tensor:
        """Return what these networks answer to these images: from the cache, or measured.

        Args:
            what: kind of the measurement.
            key: everything that decides the weights.
            measure: makes the result.
        """
        engine = self.engine.resolve(self.architecture)
        answers = {"architecture": self.architecture, "network": repr(self.network), "images": self.images.fingerprint}
        environment = {"engine": engine.name, **engine.environment(self.architecture)}
        return read_or_measure(what, {**key, **answers, **environment}, measure)

    def _iterate_logits(self, weights: Tensor) -> Iterable[tuple[int, Tensor]]:
        """Yield (index, logits (B, C)) of every model (n, P) on the test images, in the order of completion."""
        networks = [self.network] * len(weights)
        return self.engine.compute_logits(self.architecture, self.images, weights, networks, "test")

    def measure_accuracy(self, weights: Tensor, split: str) -> Tensor:
        """Return the accuracy (n,) of models (n, P) on a split; the cache keeps it."""
        networks = [self.network] * len(weights)
        return self._read(
            f"{split} accuracy",
            {"states": hash_tensor(weights)},
            lambda: self.engine.evaluate(self.architecture, self.images, weights, networks, split).accuracy,
        )

    def compute_logits(self, weights: Tensor) -> Tensor:
        """Return the logits (n, B, C) of models (n, P) on the test images; the cache keeps them."""
        return self._read("logits", {"states": hash_tensor(weights)}, lambda: self._measure_logits(weights))

    def _measure_logits(self, weights: Tensor) -> Tensor:
        result = torch.empty(len(weights), len(self.images.labels("test")), self.images.classes)
        for index, logits in self._iterate_logits(weights):
            result[index] = logits
        return result

    def finetune(
        self,
        weights: Tensor,
        progress: Progress,
        description: str,
        images: Images | None = None,
        architecture: str = "",
        training: Training | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fine-tune models for as many epochs as the protocol says.

        Args:
            weights: start weights (n, P).
            progress: reports the models.
            description: what the progress bar says.
            images: other images than those of the zoo.
            architecture: another architecture than that of the zoo.
            training: other hyper-parameters than those of the zoo.

        Returns:
            Test accuracy (n, E + 1) over the epochs, and the weights (n, P) after the last one.
        """
        training = dataclasses.replace(training or self.training, epochs=self.recipe.max_finetune_epochs)
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
    begin = _read_cpu_seconds()
    weights, labels = population.weights, evaluator.images.labels("test")
    logits = None
    if population.num_finetuned and evaluator.recipe.max_ensemble_size > 1:
        logits = evaluator.compute_logits(weights)
    predictions = evaluator.predict(weights, logits)
    overlap, _ = find_error_overlap(predictions != labels, evaluator.train_errors)
    curves, ensembles = _evaluate_finetuning(population, logits, evaluator, progress)
    result = measure_weights(population, evaluator.states)
    return dataclasses.replace(
        result,
        zero_shot=(predictions == labels).double().mean(dim=1).tolist(),
        curves=curves,
        error_overlap=overlap.tolist(),
        pairs={**result.pairs, "agreement": _summarize(agreement(predictions))},
        ensembles=ensembles,
        cpu_seconds=_read_cpu_seconds() - begin,
    )


def measure_weights(population: Population, states: TrainingStates) -> PopulationResult:
    """Measure what needs no images: novelty, the nearest training states, and distances between models.

    Args:
        population: the models.
        states: the training states.

    Returns:
        A result whose accuracies are empty.
    """
    aligned = states.alignment.align(population.weights)
    distance, nearest_state = states.measure_novelty(population.weights, aligned)
    rows = states.zoo.table.iloc[nearest_state.tolist()]
    l2, _ = weight_distances(aligned / states.alignment.scale)
    return PopulationResult(
        name=population.name,
        description=population.description,
        is_sample=population.is_sample,
        matched_to=population.matched_to,
        matched_index=list(population.matched_index),
        n=len(aligned),
        zero_shot=[],
        curves=[],
        distance=distance.tolist(),
        nearest=[(str(m), int(e)) for m, e in zip(rows["model_id"], rows["epoch"], strict=True)],
        pairs={"distance": _summarize(l2 / aligned.shape[1] ** 0.5)},
    )


def _summarize(matrix: Tensor) -> PairSummary:
    return PairSummary.from_json(replace_nan(summarize_pairs(matrix)))


def _read_cpu_seconds() -> float:
    """Return the CPU time of this process and of the workers that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _evaluate_finetuning(
    population: Population, logits: Tensor | None, evaluator: Evaluator, progress: Progress
) -> tuple[list[list[float]], dict[str, EnsembleResult]]:
    """Return the curves of fine-tuning, and the ensembles before and after it; none without logits."""
    count = min(population.num_finetuned, len(population.weights))
    if not count:
        return [], {}
    description = f"fine-tuning {population.name}"
    accuracy, tuned = evaluator.finetune(population.weights[:count], progress, description)
    ensembles: dict[str, EnsembleResult] = {}
    if logits is not None:
        for kind, members in (("zero-shot", logits), ("tuned", evaluator.compute_logits(tuned))):
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


def evaluate_scratch(zoo: Zoo) -> PopulationResult:
    """Return training from scratch as a population: the models of the zoo, over all of their epochs.

    Sparsified twins are not trained from scratch: the population is empty, and its description says so.
    """
    if read_column(zoo.table, "parent_id").notna().any():
        words = "none: the models of the zoo are sparsified twins, which begin with trained models"
        return PopulationResult(name=SCRATCH, description=words, is_sample=False, n=0, zero_shot=[], curves=[])
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
