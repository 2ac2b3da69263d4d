"""Every zoo of the shipped recipes: models, states, parameters, bytes on disk, and the images it takes to train."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import safetensors.torch
import torch

from ..architectures import Architecture, get_architecture, resolve_architecture
from ..engines import variational_layout
from ..images import ImageDataset, get_image_dataset
from ..recipes import Member, Recipe, read_recipe, recipe_names
from ..weights import Layout


@dataclass(frozen=True, kw_only=True)
class ZooFacts:
    """What is known of a zoo before it is trained."""

    recipe: Recipe
    config: str
    architecture: Architecture
    images: ImageDataset
    members: Sequence[Member]

    @property
    def name(self) -> str:
        """As a command takes it."""
        return f"{self.recipe.name}/{self.config}"

    @property
    def twins(self) -> bool:
        """Whether these are sparsified twins."""
        return self.recipe.config(self.config).parent is not None

    @property
    def parameters(self) -> int:
        """Trained numbers of one model; buffers such as the statistics of BatchNorm do not count."""
        return sum(slot.size for slot in self.architecture.layout.slots if not slot.buffer)

    @property
    def states(self) -> int:
        """States kept, epoch 0 included."""
        return sum(member.training.epochs + 1 for member in self.members)

    @property
    def states_as_published(self) -> int:
        """States as 2209.14764 counts them: epoch 0 of the ResNets and of the twins does not."""
        uncounted = self.twins or self.architecture.family == "resnet18"
        return self.states - uncounted * len(self.members)

    @property
    def files(self) -> int:
        """State files with the default layout; the tables beside them do not count."""
        return self.states * (2 if self.twins else 1)

    @property
    def bytes(self) -> int:
        """Of all state files with the default layout."""
        name = self.architecture.name
        return sum(
            (m.training.epochs + 1) * (_state_bytes(name, m.training.dropout) + self.twins * _variational_bytes(name))
            for m in self.members
        )

    @property
    def images_trained(self) -> int:
        """Images that go forward and backward."""
        return sum(m.training.epochs for m in self.members) * self.images.sizes[0]

    @property
    def images_evaluated(self) -> int:
        """Images that only go forward: validation and test after every epoch, training images once before the first."""
        train, validation, test = self.images.sizes
        return self.states * (validation + test) + len(self.members) * train


def published_zoos() -> list[ZooFacts]:
    """The zoos of 2209.14764 and their twins, in the order of the recipes."""
    return [facts for facts in all_zoos() if facts.recipe.source is not None]


def all_zoos() -> list[ZooFacts]:
    """Every zoo of every shipped recipe."""
    recipes = [read_recipe(name) for name in recipe_names("generation")]
    return list(itertools.chain.from_iterable(zoos_of(recipe) for recipe in recipes))


def zoos_of(recipe: Recipe, config: str = "") -> list[ZooFacts]:
    """One zoo of a recipe, or every one if no config is named; raises RecipeError for what is not known."""
    images = get_image_dataset(recipe.images)
    architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
    return [
        ZooFacts(
            recipe=recipe,
            config=name,
            architecture=architecture,
            images=images,
            members=recipe.members(name),
        )
        for name in ([config] if config else recipe.configs)
    ]


@cache
def _state_bytes(architecture: str, dropout: float) -> int:
    return _file_bytes(Layout.from_module(get_architecture(architecture).module("relu", dropout)))


@cache
def _variational_bytes(architecture: str) -> int:
    return _file_bytes(variational_layout(architecture))


def _file_bytes(layout: Layout) -> int:
    """Size of one state file: its numbers and its header."""
    empty = layout.unpack(torch.zeros(layout.size))
    return len(safetensors.torch.save({k: v.contiguous() for k, v in empty.items()}, metadata={"format": "pt"}))
