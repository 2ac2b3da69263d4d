"""Zoo folders of random states: written by the real writer, without training anything."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import METRICS, SPARSITY, variational_layout
from modelzoo_datasets.recipes import Config, Member, Recipe
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.zoo import RecipeInfo, ZooInfo, ZooWriter

ARCHITECTURE = "cnn-s"
CLASSES = 10


def recipe(models: int, epochs: int) -> Recipe:
    """One config `seed` of so many models, and their twins `seed-sparse`."""
    axes: dict[str, tuple[Any, ...]] = {
        **{"epochs": (epochs,), "batch_size": (10,), "activation": ("tanh",), "init": ("uniform",)},
        **{"optimizer": ("adam",), "lr": (1e-3,)},
    }
    seeds = tuple(range(1, models + 1))
    configs = {"seed": Config(axes=axes, seeds=seeds), "seed-sparse": Config(axes=axes, seeds=seeds, parent="seed")}
    return Recipe(name="random", images="none", architecture=ARCHITECTURE, seed=1, configs=configs)


def zoo_info(chosen: Recipe, storage: str, config: str = "seed") -> ZooInfo:
    """The content of zoo.json of such a zoo."""
    info = ZooInfo(
        name=f"random/{config}",
        architecture=ARCHITECTURE,
        images="none",
        recipe=RecipeInfo.from_recipe(chosen, config),
        layout=get_architecture(ARCHITECTURE).layout,
        images_sha256="",
        classes=CLASSES,
        engine="none",
        versions={},
    )
    if config == "seed-sparse":
        parent = zoo_info(chosen, storage).to_parent()
        info = replace(info, parent=parent, variational_layout=variational_layout(ARCHITECTURE))
    return info.with_storage(storage)


def weights_of(member: Member, epoch: int, size: int) -> Tensor:
    """The random state (size,) of a model after an epoch."""
    return torch.randn(size, generator=keyed_generator(member.seed, "random state", epoch))


def add_model(writer: ZooWriter, member: Member) -> None:
    """Hand over all states of a model."""
    size, more = get_architecture(ARCHITECTURE).layout.size, None
    for epoch in range(member.training.epochs + 1):
        if member.parent_id is not None:
            more = weights_of(member, epoch, size + variational_layout(ARCHITECTURE).size)[size:]
        metrics = {name: member.seed + epoch / 8 for name in METRICS} | ({} if more is None else {SPARSITY: epoch / 16})
        recall = torch.linspace(0, 1, CLASSES, dtype=torch.float64)
        writer.add(member, epoch, weights_of(member, epoch, size), metrics, recall, more)


def write_zoo(
    folder: Path, chosen: Recipe, storage: str, places: Iterable[int] | None = None, config: str = "seed"
) -> list[str]:
    """Make sure that the models at these places of the grid are there, all if None; returns those it had to write."""
    grid = chosen.members(config)
    wanted: Sequence[Member] = grid if places is None else [grid[place - 1] for place in places]
    with ZooWriter(folder, zoo_info(chosen, storage, config)) as writer:
        finished = writer.find_finished(wanted)
        missing = [member for member in wanted if member.model_id not in finished]
        for member in missing:
            add_model(writer, member)
        writer.complete(grid)
    return [member.model_id for member in missing]
