"""The zoos of recipes with their sizes: models, states, parameters, bytes on disk, and images seen in training."""

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
class CatalogueEntry:
    """A zoo before it is trained: its recipe, and the sizes that follow from it."""

    recipe: Recipe
    config: str
    architecture: Architecture
    images: ImageDataset
    members: Sequence[Member]

    @property
    def name(self) -> str:
        """RECIPE/CONFIG, as commands take it."""
        return f"{self.recipe.name}/{self.config}"

    @property
    def is_twins(self) -> bool:
        """True if the models are sparsified twins."""
        return self.recipe.config(self.config).parent is not None

    @property
    def parameters(self) -> int:
        """Number of trained weights of one model, without buffers such as the statistics of BatchNorm."""
        return sum(slot.size for slot in self.architecture.layout.slots if not slot.buffer)

    @property
    def states(self) -> int:
        """Number of states of all models, including epoch 0."""
        return sum(member.training.epochs + 1 for member in self.members)

    @property
    def states_as_published(self) -> int:
        """Number of states as 2209.14764 counts them: without epoch 0 of the ResNets and of the twins."""
        skips_initial = self.is_twins or self.architecture.family == "resnet18"
        return self.states - skips_initial * len(self.members)

    @property
    def files(self) -> int:
        """Number of state files with the default storage, without the tables."""
        return self.states * (2 if self.is_twins else 1)

    @property
    def bytes(self) -> int:
        """Size of all state files in bytes with the default storage."""
        name = self.architecture.name
        return sum(
            (m.training.epochs + 1)
            * (_state_bytes(name, m.training.dropout) + self.is_twins * _variational_bytes(name))
            for m in self.members
        )

    @property
    def images_trained(self) -> int:
        """Number of images that pass forward and backward through a network."""
        return sum(m.training.epochs for m in self.members) * self.images.sizes[0]

    @property
    def images_evaluated(self) -> int:
        """Number of images that pass only forward through a network.

        These are the validation and test images of every state, and the training images of every initial state.
        """
        train, validation, test = self.images.sizes
        return self.states * (validation + test) + len(self.members) * train


def list_published_zoos() -> list[CatalogueEntry]:
    """Return the zoos of 2209.14764 and their twins, in the order of the recipes."""
    return [entry for entry in list_shipped_zoos() if entry.recipe.source is not None]


def list_shipped_zoos() -> list[CatalogueEntry]:
    """Return all zoos of all shipped recipes."""
    recipes = [read_recipe(name) for name in recipe_names("generation")]
    return list(itertools.chain.from_iterable(list_zoos(recipe) for recipe in recipes))


def list_zoos(recipe: Recipe, config: str | None = None) -> list[CatalogueEntry]:
    """Return the zoo of one config of a recipe, or of every config if none is named.

    Raises:
        RecipeError: The config, architecture or images are unknown.
    """
    images = get_image_dataset(recipe.images)
    architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
    return [
        CatalogueEntry(
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
    """Return the size of one state file: its numbers and its header."""
    empty = layout.unpack(torch.zeros(layout.size))
    return len(safetensors.torch.save({k: v.contiguous() for k, v in empty.items()}, metadata={"format": "pt"}))
