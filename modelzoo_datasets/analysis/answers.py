"""Answers of networks to fixed probe images, as features that do not depend on the order of their units.

N models, P weights, K images, C classes
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engines import Engine, NetworkSpec, get_engine
from ..errors import ArgumentError
from ..images import Images, Split
from ..seeds import keyed_generator

NUM_PROBE_IMAGES = 128
_GRIDS = (2, 3, 5, 8)  # points per side of the random grids, from very smooth to less smooth
_GRAY = 0.5  # mean and standard deviation of pixels where the normalization is not known


def make_noise_images(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    num_images: int = NUM_PROBE_IMAGES,
) -> Images:
    """Return smooth noise images, which need no data and are the same everywhere, bit for bit.

    Image k is a grid of 2, 3, 5 or 8 random bytes a side per channel, drawn from a generator of its own, enlarged to
    the size of the images by bilinear interpolation, and stretched to pixels from 0 to 255. The arithmetic is that of
    integers. More images begin with the same images.

    Args:
        input_shape: Channels, height and width.
        classes: The number of outputs of the networks. The images have no labels: all are 0.
        mean: The mean per channel of pixels in [0, 1] by which the networks' images are normalized; 0.5 if unknown.
        std: The standard deviation per channel; 0.5 if unknown.
        num_images: K.

    Returns:
        The images, as the split `train`, which `compute_answers` takes.

    Example:
        >>> images = make_noise_images((3, 32, 32), 10, num_images=4)
        >>> tuple(images.inputs("train").shape)
        (4, 3, 32, 32)
    """
    channels, height, width = input_shape
    pixels = torch.stack([_draw_pixels(number, channels, height, width) for number in range(num_images)])
    return Images(
        name="smooth noise",
        classes=classes,
        mean=tuple(mean or [_GRAY] * channels),
        std=tuple(std or [_GRAY] * channels),
        splits={"train": Split(pixels, torch.zeros(num_images, dtype=torch.int64))},
    )


def _draw_pixels(number: int, channels: int, height: int, width: int) -> Tensor:
    """Return one noise image (C, H, W), uint8."""
    side = _GRIDS[number % len(_GRIDS)]
    grid = torch.randint(256, (channels, side, side), generator=keyed_generator(0, "probe image", number))
    values = _interpolate(side, height) @ grid @ _interpolate(side, width).mT
    low, high = values.aminmax()
    return ((values - low) * 255 // (high - low).clamp_min(1)).to(torch.uint8)


def _interpolate(side: int, size: int) -> Tensor:
    """Return the matrix (size, side) of linear interpolation, times size - 1, which makes it one of integers."""
    steps = max(size - 1, 1)
    positions = torch.arange(size) * (side - 1)
    first = (positions // steps).clamp_max(side - 2)
    weights = torch.zeros(size, side, dtype=torch.int64)
    rows, rest = torch.arange(size), positions - first * steps
    weights[rows, first], weights[rows, first + 1] = steps - rest, rest
    return weights


def compute_answers(
    weights: Tensor,
    architecture: str,
    networks: Sequence[NetworkSpec],
    images: Images,
    *,
    engine: str | Engine = "auto",
) -> Tensor:
    """Return the answers of networks to the images of the split `train`: log shares, the logarithms of the softmax.

    Permuted copies of a network have the same answers. A network whose logits are not finite says the same of every
    class, log(1 / C).

    Args:
        weights: The weights (N, P).
        architecture: The name of their registered architecture.
        networks: Activation and dropout of every network.
        images: K images, such as those of `make_noise_images`. Never take images that accuracies are measured on.
        engine: Runs the networks; an engine or its name.

    Returns:
        (N, K C) float32, the C log shares of one image after those of another.

    Raises:
        ArgumentError: There is not one activation for each network.
        RecipeError: The architecture is not registered.

    Example:
        >>> import torch
        >>> from modelzoo_datasets.architectures import cnn_s
        >>> from modelzoo_datasets.engines import NetworkSpec
        >>> images = make_noise_images(cnn_s.input_shape, cnn_s.classes, num_images=4)
        >>> weights = torch.zeros(2, cnn_s.layout.size)
        >>> answers = compute_answers(weights, "cnn-s", [NetworkSpec("tanh")] * 2, images, engine="torch")
        >>> tuple(answers.shape), round(float(answers[0, 0]), 4)
        ((2, 40), -2.3026)
    """
    if len(networks) != len(weights):
        raise ArgumentError(f"expected a NetworkSpec for each of {len(weights)} networks, got {len(networks)}")
    answers = torch.empty(len(weights), len(images.splits["train"]) * images.classes)
    for index, logits in get_engine(engine).compute_logits(architecture, images, weights, networks, "train"):
        finite = torch.where(logits.isfinite().all(), logits, torch.zeros_like(logits))
        answers[index] = finite.log_softmax(dim=1).flatten()
    return answers
