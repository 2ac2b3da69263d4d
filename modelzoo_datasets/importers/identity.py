"""Identification of published zoos: by the words in the name of a folder and by the architecture of its states."""

import re
from collections.abc import Iterable

from .._util import is_config_name, is_recipe_name
from ..architectures import Architecture
from ..errors import FormatError, RecipeError
from ..images import get_image_dataset, image_dataset_names
from ..recipes import Recipe, read_recipe, recipe_names
from .base import Identity, Overrides

_SPARSE = "-sparse"
_IMAGES = (  # words in names of published zoos -> beginning of the name of the images; the first match counts
    (r"(f|fashion)[_-]?mnist", "fashion-mnist"),
    (r"[a-z][_-]mnist", None),  # letters and others, which this package does not have
    (r"mnist", "mnist"),
    (r"svhn", "svhn"),
    (r"usps", "usps"),
    (r"cifar100", "cifar100"),
    (r"cifar10", "cifar10"),
    (r"stl", "stl10"),
    (r"tiny([_-]?imagenet)?", "tiny-imagenet"),
)
_CONFIGS = (
    (r"fixed_seeds?", "hyp-10-fix"),
    (r"random_seeds?", "hyp-10-rand"),
    (r"uniform|normal", "seed"),
    (r"ard|sparse", "seed"),
)
_AUGMENTED = {"cifar10-40k": "crop-flip", "cifar100": "crop-flip", "tiny-imagenet": "flip-rotate"}


def get_augmentation(images: str) -> str:
    """Return the augmentation of the published zoos of these images: ResNets have one, CNNs have none."""
    return _AUGMENTED.get(images, "none")


def identify(folder: str, architecture: Architecture, overrides: Overrides, twins: bool) -> Identity:
    """Return name and images of a zoo: those of the user, or else those in the name of its folder.

    Args:
        folder: Name of the folder.
        architecture: Architecture of the states.
        overrides: Statements of the user.
        twins: The states are of sparsified twins.

    Raises:
        FormatError: The name of the folder has no known images, or the images do not fit the architecture.
        RecipeError: There are no such images, or the name is not valid.
    """
    if overrides.images is None:
        recipe = _find_published_recipe(folder, architecture)
    else:
        recipe = _find_recipe(overrides.images, architecture)
    images = overrides.images or (recipe.images if recipe else None)
    if images is None:
        fitting = [name for name in image_dataset_names() if _fits(name, architecture)]
        raise FormatError(
            f"{folder} does not name the images it was trained on; name them with --images: {', '.join(fitting)}"
        )
    check_images(images, architecture)
    config = next((target for words, target in _CONFIGS if _has_words(folder, words)), "zoo")
    default = f"{recipe.name if recipe else f'{images}-{architecture.family}'}/{config}{_SPARSE if twins else ''}"
    recipe_name, config = parse_zoo_name(overrides.name or default)
    return Identity(
        recipe=recipe_name,
        config=config,
        images=images,
        parent_config=config.removesuffix(_SPARSE) if twins else None,
        # The published code also augments validation images when it measures them.
        incomparable_metrics=("validation",) if get_augmentation(images) != "none" else (),
    )


def parse_zoo_name(name: str) -> tuple[str, str]:
    """Split RECIPE/CONFIG; raises RecipeError where one of them is not a valid name."""
    recipe, _, config = name.partition("/")
    if not is_recipe_name(recipe) or not is_config_name(config):
        raise RecipeError(f"--name must look like mnist-cnn-s/seed, got {name!r}")
    return recipe, config


def _list_recipes(architecture: Architecture) -> Iterable[Recipe]:
    recipes = map(read_recipe, recipe_names("generation"))
    return [r for r in recipes if r.architecture in (architecture.family, architecture.name)]


def _find_recipe(images: str, architecture: Architecture) -> Recipe | None:
    return next((recipe for recipe in _list_recipes(architecture) if recipe.images == images), None)


def _find_published_recipe(folder: str, architecture: Architecture) -> Recipe | None:
    prefix = next((target for words, target in _IMAGES if _has_words(folder, words)), None)
    if prefix is None:
        return None
    fitting = [r for r in _list_recipes(architecture) if r.images.startswith(prefix) and _fits(r.images, architecture)]
    return min(fitting, key=lambda recipe: recipe.source is None, default=None)


def _has_words(folder: str, words: str) -> bool:
    """Return True for a name with these words as whole words: EMNIST is not MNIST."""
    return re.search(rf"(?<![a-z])({words})(?![a-z])", folder.lower()) is not None


def _fits(images: str, architecture: Architecture) -> bool:
    dataset = get_image_dataset(images)
    return (dataset.input_shape, dataset.classes) == (architecture.input_shape, architecture.classes)


def check_images(images: str, architecture: Architecture) -> None:
    """Raise FormatError where these images are not what the architecture is made for."""
    if not _fits(images, architecture):
        raise FormatError(
            f"images {images} do not fit: the states are of {architecture.name}, which is made for "
            f"{architecture.images}; name others with --images, or another variant with --architecture"
        )
