"""Which of the published zoos a folder is: by the words in its name and by the architecture of its states."""

import re
from collections.abc import Iterable, Mapping, Sequence

from .._util import is_config_name, is_recipe_name
from ..architectures import Architecture
from ..errors import FormatError, RecipeError
from ..images import get_image_dataset, image_dataset_names
from ..recipes import Recipe, read_recipe, recipe_names
from .base import Identity, Overrides

_CONFIG = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_SPARSE = "-sparse"
_IMAGES = (  # words in the names of published zoos -> how the names of our images begin; the first that fits
    (r"(f|fashion)[_-]?mnist", "fashion-mnist"),
    (r"[a-z][_-]mnist", None),  # of letters or others, none of ours
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


def augmentation_of(images: str) -> str:
    """How the published zoos of these images were augmented: those of ResNets are, those of CNNs are not."""
    return _AUGMENTED.get(images, "none")


def identify(folder: str, architecture: Architecture, claims: Overrides, *, twins: bool) -> Identity:
    """What a zoo is called here, and what it was trained on: what the user says, or else what its name says.

    Raises:
        FormatError: its name says nothing of its images, or what the user says does not fit its architecture.
        RecipeError: there are no such images, or the name given is none.
    """
    recipe = (
        _published_recipe(folder, architecture) if claims.images is None else _recipe_of(claims.images, architecture)
    )
    images = claims.images or (recipe.images if recipe else None)
    if images is None:
        fitting = [name for name in image_dataset_names() if _fits(name, architecture)]
        raise FormatError(
            f"{folder} does not say on which images it was trained; say it with --images: {', '.join(fitting)}"
        )
    check_images(images, architecture)
    config = next((ours for words, ours in _CONFIGS if _says(folder, words)), "zoo")
    config += _SPARSE if twins else ""
    name = f"{recipe.name if recipe else f'{images}-{architecture.family}'}/{config}"
    # As published, the validation images of these zoos were augmented when they were measured.
    otherwise = ("validation",) if augmentation_of(images) != "none" else ()
    return named(claims.name or name, images, otherwise, twins=twins)


def named(
    name: str,
    images: str,
    measured_otherwise: Sequence[str] = (),
    *,
    twins: bool = False,
    columns: Mapping[str, str] | None = None,
    measured: Sequence[str] = (),
) -> Identity:
    """A zoo of this name, RECIPE/CONFIG; raises RecipeError where it is none."""
    recipe, _, config = name.partition("/")
    if not is_recipe_name(recipe) or not is_config_name(config):
        raise RecipeError(f"--name must look like mnist-cnn-s/seed, got {name!r}")
    return Identity(
        recipe=recipe,
        config=config,
        images=images,
        parent_config=config.removesuffix(_SPARSE) if twins else None,
        columns=columns,
        measured=measured,
        measured_otherwise=measured_otherwise,
    )


def _shipped(architecture: Architecture) -> Iterable[Recipe]:
    recipes = map(read_recipe, recipe_names("generation"))
    return [r for r in recipes if r.architecture in (architecture.family, architecture.name)]


def _recipe_of(images: str, architecture: Architecture) -> Recipe | None:
    return next((recipe for recipe in _shipped(architecture) if recipe.images == images), None)


def _published_recipe(folder: str, architecture: Architecture) -> Recipe | None:
    begins = next((ours for words, ours in _IMAGES if _says(folder, words)), None)
    if begins is None:
        return None
    fitting = [r for r in _shipped(architecture) if r.images.startswith(begins) and _fits(r.images, architecture)]
    return min(fitting, key=lambda recipe: recipe.source is None, default=None)


def _says(folder: str, words: str) -> bool:
    """Whether a name has these words, whole: EMNIST is not MNIST."""
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
