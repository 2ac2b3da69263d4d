"""An architecture and an image dataset of one's own: modelzoo-generate stripes.toml --plugin stripes.py."""

from pathlib import Path

import torch
from torch import nn

from modelzoo_datasets.architectures import ACTIVATION_MODULES, Architecture, register_architecture
from modelzoo_datasets.images import ImageDataset, Split, register_images


def perceptron(activation: str, dropout: float) -> nn.Module:
    """64 -> 16 -> 2; anything that torch can build, its weights need not be set."""
    hidden = [nn.Linear(64, 16), ACTIVATION_MODULES[activation](), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 2))


def stripes(root: Path) -> dict[str, Split]:
    """Noisy stripes, lying (class 0) or standing (class 1); files of one's own would be read from `root`."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (1200,), generator=draws)
    phase = torch.randint(2, (1200, 1), generator=draws)
    waves = ((torch.arange(8) // 2 + phase) % 2 * 128).view(-1, 1, 8, 1).expand(-1, 1, 8, 8)
    turned = torch.where(labels.view(-1, 1, 1, 1) == 1, waves.mT, waves)
    pixels = (turned + torch.randint(128, (1200, 1, 8, 8), generator=draws)).to(torch.uint8)
    return {"train": Split(pixels[:1000], labels[:1000]), "test": Split(pixels[1000:], labels[1000:])}


register_architecture(Architecture("perceptron", input_shape=(1, 8, 8), classes=2, build=perceptron))
register_images(
    ImageDataset("stripes", stripes, sizes=(800, 200, 200), mean=(0.5,), std=(0.25,), classes=2, size=(8, 8))
)
