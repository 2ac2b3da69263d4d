"""Loss, accuracy and recall of many models on a split at once, in eval mode and float32.

M models, P numbers of a model, B images, C classes
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ...images import Images
from ..base import SplitMetrics
from .stacked import Population, Stack

_BATCH = 500  # images at most
_IMAGES_BYTES = 1 << 29  # that what all layers give may take in one call


@dataclass(frozen=True)
class DeviceImages:
    """Images on the device: pixels uint8 and labels of the splits that are needed."""

    images: Images
    pixels: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @classmethod
    def of(cls, images: Images, splits: set[str], device: torch.device) -> "DeviceImages":
        """Those of the splits that the images have."""
        there = [split for split in images.splits if split in splits]
        pixels = {split: images.splits[split].pixels.to(device) for split in there}
        return cls(images, pixels, {split: images.labels(split).to(device) for split in there})

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(p.numel() for p in self.pixels.values()) + sum(8 * y.numel() for y in self.labels.values())


def logits_of(
    populations: list[Population], stack: Stack, resident: DeviceImages, split: str, activations: int
) -> Iterator[tuple[Population, slice, Tensor]]:
    """(networks, places in the split, logits (m, B, C)) for all networks and images; `activations` of one image."""
    n = len(resident.labels[split])
    for population in populations:
        batch = max(1, min(_BATCH, _IMAGES_BYTES // (4 * activations * population.count)))
        parameters = stack.parameters(population.models)
        buffers = [buffer[population.models] for buffer in stack.buffers.values()]
        for first in range(0, n, batch):
            part = slice(first, first + batch)
            x = resident.images.normalize(resident.pixels[split][part])
            if stack.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            yield population, part, population.logits(parameters, buffers, x)


@torch.no_grad()
def measure(
    populations: list[Population], stack: Stack, resident: DeviceImages, split: str, activations: int
) -> SplitMetrics:
    """Of all M models, on the host; waits for the device once."""
    y, classes, device = resident.labels[split], resident.images.classes, stack.trained.device
    models = len(stack.trained)
    loss = torch.zeros(models, dtype=torch.float64, device=device)
    hits = torch.zeros(models, classes, dtype=torch.float64, device=device)
    for population, part, logits in logits_of(populations, stack, resident, split, activations):
        target = y[part].expand(population.count, -1)  # (m, B)
        losses = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss[population.models] += losses.view_as(target).sum(dim=1).double()
        right = (logits.argmax(dim=2) == target).double()
        hits[population.models] += right @ one_hot(y[part], classes).double()
    counts = torch.bincount(y.cpu(), minlength=classes)
    hits = hits.cpu()
    return SplitMetrics(loss.cpu() / len(y), hits.sum(dim=1) / len(y), hits / counts)
