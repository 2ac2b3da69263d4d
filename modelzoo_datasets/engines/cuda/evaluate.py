"""Evaluate the models of a cohort together, in eval mode and float32, and record their states.

M models, P numbers of a model, Q of a variational one, B images, C classes; m of M models
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ...architectures import sparsity
from ...images import Images
from ...weights import Layout
from ..base import SPARSITY, Job, States
from ..common import build_job_module, evaluate_splits, prune_vector
from .rng import measure_demand
from .stacked import StackedModels, StackedWeights, build_training_module, stack_models

_MAX_BATCH_SIZE = 500  # images
_MAX_ACTIVATION_BYTES = 1 << 29  # for the outputs of all layers in one call


@dataclass(frozen=True)
class DeviceImages:
    """Images on the device: pixels uint8 and labels of some splits."""

    images: Images
    pixels: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @classmethod
    def from_images(cls, images: Images, splits: set[str], device: torch.device) -> "DeviceImages":
        """Copy splits to the device.

        Args:
            images: Images on the host.
            splits: Names of splits; those that the images lack are skipped.
            device: Device to copy to.
        """
        needed = [split for split in images.splits if split in splits]
        pixels = {split: images.splits[split].pixels.to(device) for split in needed}
        return cls(images, pixels, {split: images.labels(split).to(device) for split in needed})

    @property
    def num_bytes(self) -> int:
        """Size in bytes of all pixels and labels."""
        return sum(p.numel() for p in self.pixels.values()) + sum(8 * y.numel() for y in self.labels.values())


@dataclass(frozen=True)
class CohortEvaluator:
    """Evaluates networks that are called together, on images of the device."""

    groups: Sequence[StackedModels]  # all M models
    images: DeviceImages
    num_activations: int  # numbers in the outputs of all layers for one image

    def iterate_logits(self, weights: StackedWeights, split: str) -> Iterator[tuple[StackedModels, slice, Tensor]]:
        """Yield networks, indices within the split, and their logits (m, B, C), for all networks and images."""
        n, images = len(self.images.labels[split]), self.images.images
        for group in self.groups:
            max_images = _MAX_ACTIVATION_BYTES // (4 * self.num_activations * group.num_models)
            batch_size = max(1, min(_MAX_BATCH_SIZE, max_images))
            parameters = weights.parameters(group.models)
            buffers = [buffer[group.models] for buffer in weights.buffers.values()]
            for first in range(0, n, batch_size):
                part = slice(first, first + batch_size)
                x = images.normalize(self.images.pixels[split][part])
                if weights.channels_last:
                    x = x.contiguous(memory_format=torch.channels_last)
                yield group, part, group.compute_logits(parameters, buffers, x)

    @torch.no_grad()
    def evaluate(self, weights: StackedWeights, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss (M,), accuracy (M,) and recall (M, C) on the host; this waits for the device once."""
        y, classes, device = self.images.labels[split], self.images.images.classes, weights.trained.device
        num_models = len(weights.trained)
        loss = torch.zeros(num_models, dtype=torch.float64, device=device)
        hits = torch.zeros(num_models, classes, dtype=torch.float64, device=device)
        for group, part, logits in self.iterate_logits(weights, split):
            target = y[part].expand(group.num_models, -1)  # (m, B)
            losses = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            loss[group.models] += losses.view_as(target).sum(dim=1).double()
            correct = (logits.argmax(dim=2) == target).double()
            hits[group.models] += correct @ one_hot(y[part], classes).double()
        counts, hits = torch.bincount(y.cpu(), minlength=classes), hits.cpu()
        return loss.cpu() / len(y), hits.sum(dim=1) / len(y), hits / counts


class StateRecorder:
    """Turns the weights of a cohort into states, with their metrics."""

    def __init__(self, architecture: str, images: DeviceImages, jobs: Sequence[Job], metrics_on: Sequence[str]) -> None:
        """Build the plain networks of a cohort.

        Args:
            architecture: Name of the architecture.
            images: Images to evaluate on.
            jobs: Jobs of the cohort.
            metrics_on: Splits to evaluate; those that the images lack are skipped.
        """
        self._architecture, self._images, self._jobs = architecture, images, jobs
        self._splits = [split for split in metrics_on if split in images.pixels]
        build, shape = partial(build_job_module, architecture), images.images.input_shape
        first = build(jobs[0])
        self._layout = Layout.from_module(first)
        groups = stack_models(build, jobs, shape, images.labels["train"].device)
        self._evaluator = CohortEvaluator(groups, images, measure_demand(first, (1, *shape)).num_activations)

    def record(self, members: Tensor, epoch: int, vectors: Tensor, running: tuple[Tensor, Tensor] | None) -> States:
        """Evaluate the models after an epoch and return their states.

        Args:
            members: Index of the job of every model (M,).
            epoch: Number of finished epochs.
            vectors: Weights (M, P), of twins (M, Q).
            running: Training loss and accuracy of the epoch, (M,) each; None at epoch 0.
        """
        nan = torch.full((len(members),), float("nan"), dtype=torch.float64)
        missing = nan, nan.unsqueeze(1).expand(-1, self._images.images.classes).clone()
        twins = self._jobs[0].sparsify
        weights, sparsities = self._prune(vectors, epoch) if twins else (vectors, nan)
        stack = StackedWeights.from_vectors(self._layout, weights, self._images.labels["train"].device)
        metrics, recall = evaluate_splits(
            partial(self._evaluator.evaluate, stack), self._splits, epoch, running, missing
        )
        if twins:
            metrics[SPARSITY] = sparsities
        return States(members, torch.full_like(members, epoch), weights, metrics, recall, vectors if twins else None)

    def _prune(self, vectors: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the weights to store of twins (M, P), and their sparsity (M,); at epoch 0 the parents' weights."""
        weights, sparsities = [], []
        for job, vector in zip(self._jobs, vectors, strict=True):
            module = build_training_module(self._architecture, job)
            weights.append(prune_vector(self._architecture, module, job, epoch, vector))
            sparsities.append(sparsity(module) if epoch > 0 else 0.0)
        return torch.stack(weights), torch.tensor(sparsities, dtype=torch.float64)
