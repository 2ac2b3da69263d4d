"""What a population is worth: zero-shot, fine-tuned, as ensembles, and how new its models are.

n models, S training states, B test images, C classes, P weights.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.recipes import Training
from modelzoo_datasets.seeds import derive_seed, keyed_generator

from ..model import HyperRepresentation
from ..recipe import EvaluationRecipe
from .novelty import measure_novelty
from .populations import Population

_ORDERS = 20  # in which ensembles of each size are put together


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """What all populations are judged with."""

    rep: HyperRepresentation
    train: Zoo  # the states that it learned from
    aligned: Tensor  # (S, P) their weights, aligned
    engine: Engine
    images: Images
    training: Training  # hyper-parameters of the zoo
    recipe: EvaluationRecipe

    @property
    def architecture(self) -> str:
        """Of the models."""
        return self.rep.architecture.name

    @cached_property
    def train_errors(self) -> Tensor:
        """Whether each training state is wrong on each test image, (S, B) bool."""
        labels = self.images.labels("test")
        wrong = torch.empty(len(self.aligned), len(labels), dtype=torch.bool)
        for index, logits in self.outputs(self.aligned):
            wrong[index] = logits.argmax(dim=1) != labels
        return wrong

    def outputs(self, weights: Tensor) -> Iterable[tuple[int, Tensor]]:
        """(index, logits (B, C)) of every model on the test images, as they come."""
        networks = [NetworkSpec(self.training.activation, self.training.dropout)] * len(weights)
        return self.engine.compute_logits(self.architecture, self.images, weights, networks, "test")

    def logits(self, weights: Tensor) -> Tensor:
        """Those of all models, (n, B, C)."""
        found = torch.empty(len(weights), len(self.images.labels("test")), self.images.classes)
        for index, logits in self.outputs(weights):
            found[index] = logits
        return found

    def tune(
        self, weights: Tensor, progress: Progress, what: str, images: Images | None = None, architecture: str = ""
    ) -> tuple[Tensor, Tensor]:
        """Test accuracy (n, E + 1) over the epochs of fine-tuning with the zoo's hyper-parameters, and the weights."""
        told = dataclasses.replace(self.training, epochs=self.recipe.max_finetune_epochs)
        seeds = [derive_seed(self.recipe.seed, "fine-tuning", i) for i in range(len(weights))]
        where = architecture or self.architecture, images or self.images
        return fine_tune(self.engine, *where, weights, told, seeds, progress=progress, what=what)


def judge(population: Population, bench: Evaluator, *, progress: Progress = NO_PROGRESS) -> dict[str, Any]:
    """Everything that the report says of a population, as plain values; one entry per model where there are lists."""
    weights, labels = population.weights, bench.images.labels("test")
    logits = bench.logits(weights)
    predictions = logits.argmax(dim=2)
    distance, nearest_state = measure_novelty(bench.rep, weights, bench.aligned)
    overlap, _ = find_error_overlap(predictions != labels, bench.train_errors)
    rows = bench.train.table.iloc[nearest_state.tolist()]
    count = min(population.fine_tuned, len(weights))
    curves: list[list[float]] = []
    ensembles: dict[str, Any] = {}
    if count:
        accuracy, tuned = bench.tune(weights[:count], progress, f"fine-tuning {population.name}")
        curves = accuracy.tolist()
        if bench.recipe.max_ensemble_size > 1:
            kinds = {"zero-shot": logits, "tuned": bench.logits(tuned)}
            found = {kind: _ensembles(of, labels, population.name, bench.recipe) for kind, of in kinds.items()}
            ensembles = {kind: ensemble for kind, ensemble in found.items() if ensemble}
    l2, _ = weight_distances(weights / bench.rep.scale)
    return {
        "name": population.name,
        "what": population.what,
        "sampled": population.sampled,
        "mirrors": population.mirrors,
        "partners": list(population.partners),
        "n": len(weights),
        "zero_shot": (predictions == labels).double().mean(dim=1).tolist(),
        "curves": curves,
        "distance": distance.tolist(),
        "nearest": [[str(m), int(e)] for m, e in zip(rows["model_id"], rows["epoch"], strict=True)],
        "error_similarity": overlap.tolist(),
        "pairs": {
            "distance": _summary(l2 / weights.shape[1] ** 0.5),
            "agreement": _summary(agreement(predictions)),
        },
        "ensembles": ensembles,
    }


def _summary(matrix: Tensor) -> dict[str, float | None]:
    return {name: value if value == value else None for name, value in summarize_pairs(matrix).items()}


def _ensembles(logits: Tensor, labels: Tensor, name: str, recipe: EvaluationRecipe) -> dict[str, Any]:
    """Accuracy of ensembles by size, mean and spread over random members; the images that the largest one misses.

    Models that diverged are no members of any; nothing where all did.
    """
    finite = logits.isfinite().flatten(1).all(dim=1)
    logits = logits[finite]
    if not len(logits):
        return {}
    draws = keyed_generator(recipe.seed, "ensembles", name)
    accuracy, right = ensemble_curve(logits, labels, recipe.max_ensemble_size, _ORDERS, draws)
    return {
        "mean": accuracy.mean(dim=0).tolist(),
        "std": accuracy.std(dim=0).tolist(),
        "diverged": int((~finite).sum()),
        "missed": (~right).nonzero().squeeze(1).tolist(),
        "images": len(labels),
    }


def scratch(zoo: Zoo) -> dict[str, Any]:
    """Models trained from scratch with the same hyper-parameters: the zoo's own, over all the epochs that it has."""
    table = zoo.table.pivot(index="model_id", columns="epoch", values="test_acc")
    curves = table.reindex(columns=range(int(table.columns.max()) + 1)).astype(object)
    rows: Sequence[Sequence[float | None]] = curves.where(curves.notna(), None).to_numpy().tolist()
    return {
        "name": "scratch",
        "what": "the zoo's own models from their first epoch on",
        "sampled": False,
        "mirrors": "",
        "partners": [],
        "n": len(rows),
        "zero_shot": [row[0] for row in rows],
        "curves": rows,
        "distance": [],
        "nearest": [],
        "error_similarity": [],
        "pairs": {},
        "ensembles": {},
    }
