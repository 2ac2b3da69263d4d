"""What one would train many small models with: our engine, and one model after the other in plain PyTorch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from live import Work
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.architectures.modules import initialize_weights
from modelzoo_datasets.engines import Job, get_engine
from modelzoo_datasets.engines.chain import Stage, get_chain
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.recipes import Training

LR = 3e-4
ACTIVATION = "tanh"


@dataclass(frozen=True)
class Case:
    """One row of the comparison: random images, tanh, Adam with the published learning rate."""

    architecture: str
    batch: int  # 0: nothing is trained
    images: int = 9_600  # of training; whole batches of 32 and of 10
    test_images: int = 1_000
    engine: str = "native"
    cores: int = 2
    models: int = 16  # that an engine is given at once
    epochs: int = 25  # of fine-tuning

    def __str__(self) -> str:
        return f"{self.architecture}, batches of {self.batch}" if self.batch else self.architecture


def random_images(case: Case) -> Images:
    """Pixels and labels without any meaning: no rival's speed depends on them."""
    architecture, draws = get_architecture(case.architecture), torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        pixels = torch.randint(0, 256, (n, *architecture.input_shape), generator=draws, dtype=torch.uint8)
        return Split(pixels, torch.randint(0, architecture.classes, (n,), generator=draws))

    channels = architecture.input_shape[0]
    splits = {"train": split(case.images), "validation": split(1), "test": split(case.test_images)}
    return Images("random", architecture.classes, (0.5,) * channels, (0.25,) * channels, splits)


def training(case: Case, epochs: int) -> Training:
    """How every model is trained."""
    return Training(
        epochs=epochs,
        batch_size=case.batch,
        activation=ACTIVATION,
        init="kaiming_uniform",
        optimizer="adam",
        lr=LR,
    )


def ours(case: Case) -> Work:
    """`engine.train` from fresh weights to the last state, whatever it does on the way; nothing is evaluated."""
    engine, images = get_engine(case.engine, case.cores), random_images(case)

    def work(steps: int) -> int:
        each = -(-steps // case.models)
        epochs = max(1, round(each * case.batch / case.images))
        few = _first(images, min(case.images, each * case.batch))
        jobs = [Job(training=training(case, epochs), seed=seed) for seed in range(case.models)]
        for _ in engine.train(case.architecture, few, jobs, metrics_on=()):
            pass
        return case.models * epochs * -(-len(few.splits["train"]) // case.batch)

    return work


def _first(images: Images, n: int) -> Images:
    """The same with the first n training images."""
    train = images.splits["train"]
    return replace(images, splits={**images.splits, "train": Split(train.pixels[:n], train.labels[:n])})


def plain(case: Case) -> Work:
    """The loop that everybody writes, all images in memory."""
    return _loop(case, torch.contiguous_format)


def channels_last(case: Case) -> Work:
    """The plain loop in the memory format that is faster on CPUs."""
    return _loop(case, torch.channels_last)


def _loop(case: Case, memory_format: torch.memory_format) -> Work:
    images, model = random_images(case), fresh_module(case.architecture, 0).to(memory_format=memory_format)
    inputs, labels = images.inputs("train").contiguous(memory_format=memory_format), images.labels("train")
    parts, optimizer = endless_order(case, 0), torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def work(steps: int) -> int:
        for _ in range(steps):
            index = next(parts)
            step(model, optimizer, inputs[index], labels[index])
        return steps

    return work


def data_loader(case: Case) -> Work:
    """The plain loop with a DataLoader, in its own process, which is fastest for images in memory."""
    images, model = random_images(case), fresh_module(case.architecture, 0)
    data = TensorDataset(images.inputs("train"), images.labels("train"))
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(data, case.batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def batches() -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from loader

    endless = batches()

    def work(steps: int) -> int:
        for _ in range(steps):
            step(model, optimizer, *next(endless))
        return steps

    return work


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Forwards, backwards, Adam."""
    optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    optimizer.step()


def endless_order(case: Case, seed: int) -> Iterator[Tensor]:
    """Whole batches of indices, epoch after epoch."""
    draws = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(case.images, generator=draws)
        yield from order[: case.images // case.batch * case.batch].split(case.batch)


def fresh_module(architecture: str, seed: int) -> nn.Sequential:
    """The network as one writes it down, without layers that do nothing; its weights drawn with the seed."""
    layers: list[nn.Module] = []
    for stage in get_chain(architecture, ACTIVATION, 0.0):
        if stage.linear and not any(isinstance(layer, nn.Flatten) for layer in layers):
            layers.append(nn.Flatten())
        layers += _written(stage)
    module = nn.Sequential(*layers)
    initialize_weights(module, "kaiming_uniform", torch.Generator().manual_seed(seed))
    return module


def _written(stage: Stage) -> Iterator[nn.Module]:
    """The layers of one stage."""
    channels, height, width = stage.input_shape
    if stage.linear:
        yield nn.Linear(channels * height * width, stage.units, bias=stage.bias is not None)
    elif stage.weight is not None:
        yield nn.Conv2d(channels, stage.units, stage.kernel, bias=stage.bias is not None)
    if stage.pool:
        yield nn.MaxPool2d(2)
    if stage.activation is not None:
        yield nn.Tanh()
