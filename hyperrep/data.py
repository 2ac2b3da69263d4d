"""Inputs of the commands: datasets and hyper-representations, in a folder or on the Hub, and states of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modelzoo_datasets._util import SPLITS, versions
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.hub import get_commit, parse_repo_id
from modelzoo_datasets.images import get_image_dataset, image_dataset_names
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.recipes import recipe_names
from modelzoo_datasets.zoo import DatasetInfo, read_json

from .model import locate_files
from .recipe import HyperRecipe
from .recipe_toml import read_hyper_recipe
from .storage import DatasetOrigin, TrainingInfo


def locate_representation(source: str | Path) -> Path:
    """Return the folder of a hyper-representation: a local one, or the download of a model repo of the Hub."""
    return locate_files(source, ["*.json", "*.safetensors"])


def read_dataset_info(source: str | Path) -> DatasetInfo:
    """Read zoo.json of a dataset folder or repo.

    Raises:
        FormatError: there is none, or it is of another format.
    """
    folder = locate_files(source, ["zoo.json"], repo_type="dataset")
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{source} is not a dataset folder: it has no zoo.json; build one with modelzoo-build")
    return DatasetInfo.read(folder)


def read_origin(source: str | Path, config: str) -> DatasetOrigin:
    """Return repo, revision, license and images of a config of a dataset, as far as they are known."""
    info, repo_id = read_dataset_info(source), parse_repo_id(source)
    zoo = info.configs.get(config)
    return DatasetOrigin(
        dataset=repo_id or info.repo_id,
        revision=None if repo_id is None else get_commit(repo_id),
        license=None if info.card is None else info.card.license,
        images=None if zoo is None else zoo.images,
    )


def describe_training(source: str | Path, recipe: HyperRecipe, *, with_origin: bool = False) -> TrainingInfo:
    """Describe the training of a recipe on a dataset.

    Args:
        source: dataset folder or repo.
        recipe: recipe of the hyper-representation.
        with_origin: look up the public name of the dataset too.

    Raises:
        FormatError: there is no such dataset, or it lacks the config.
    """
    config, configs = recipe.data.config, read_dataset_info(source).configs
    if config not in configs:
        raise FormatError(
            f"{source} has no config {config!r}, which recipe {recipe.name} trains on; it has {', '.join(configs)}"
        )
    states_sha256 = configs[config].states_sha256
    if states_sha256 is None:
        raise FormatError(f"{source} has no hash of its states; build it again with modelzoo-build")
    origin = read_origin(source, config) if with_origin else None
    return TrainingInfo(
        recipe=recipe,
        evaluation=recipe.evaluation,
        states_sha256=states_sha256,
        origin=origin,
        versions=versions(),
    )


def read_stored_recipe(representation: str | Path) -> HyperRecipe:
    """Return the recipe that a hyper-representation was trained by, with the protocol of its [evaluation].

    Earlier releases did not store the protocol: a shipped recipe has its own, any other the defaults.

    Args:
        representation: its folder, or its model repo on the Hub.

    Raises:
        FormatError: there is no hyper-representation, or it cannot be read.
    """
    info = TrainingInfo.read(locate_representation(representation))
    if info.evaluation is None and info.recipe.name in recipe_names("hyperrep"):
        shipped = read_hyper_recipe(info.recipe.name)
        if shipped.to_json() == info.recipe.to_json():
            return shipped
    return info.recipe


def check_trained_on(representation: Path, recipe: HyperRecipe, source: str | Path) -> TrainingInfo:
    """Check that a hyper-representation was trained by this recipe on this dataset; return its training.json.

    The splits of another dataset may differ: its test models can be training models here.

    Raises:
        FormatError: it was trained by another recipe or on another dataset.
    """
    info = TrainingInfo.read(representation)
    if info.is_same_training(describe_training(source, recipe)):
        return info
    hint = "name the dataset that it was trained on"
    if info.recipe.to_json() != recipe.to_json():
        hint = f"its recipe is {info.recipe.name}, which it stores: leave out --recipe"
    raise FormatError(f"{representation} was not trained by recipe {recipe.name} on {source}; {hint}")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The numbers of images and the normalization of a zoo's image dataset, empty as far as they are unknown."""

    sizes: Mapping[str, int] = field(default_factory=dict)  # split -> number of images
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def find_image_spec(zoo: Zoo) -> ImageSpec:
    """Describe the images of a zoo by the registered image dataset, or else by images.json of its dataset."""
    if zoo.images in image_dataset_names():
        images = get_image_dataset(zoo.images)
        return ImageSpec(sizes=dict(zip(SPLITS, images.sizes, strict=True)), mean=images.mean, std=images.std)
    try:
        values = read_json(locate_files(zoo.dataset, ["images.json"], repo_type="dataset") / "images.json")
        sizes = {name: int(split["images"]) for name, split in values["splits"].items()}
        return ImageSpec(sizes=sizes, mean=tuple(map(float, values["mean"])), std=tuple(map(float, values["std"])))
    except (ModelZooError, LookupError, TypeError, ValueError, AttributeError):  # not there, or not known to it
        return ImageSpec()


def load_recipe_states(source: str | Path, recipe: HyperRecipe, split: str) -> Zoo:
    """Load the finite states of a split, of the epochs that the recipe trains on."""
    first, last = recipe.data.epochs
    return drop_diverged(load_zoo(source, recipe.data.config, split=split, epochs=range(first, last + 1)))


def drop_diverged(zoo: Zoo) -> Zoo:
    """Leave out states with weights that are not finite, if the dataset has any."""
    return zoo.select(zoo.table["finite"]) if "finite" in zoo.table else zoo


def drop_large(zoo: Zoo, max_weight: float | None) -> Zoo:
    """Leave out states with a trained weight beyond a limit; None keeps all. Buffers do not count."""
    if max_weight is None:
        return zoo
    slots = [slot for slot in zoo.layout.slots if not slot.buffer]
    largest = torch.stack([zoo.weights[:, slot.start : slot.stop].abs().amax(dim=1) for slot in slots]).amax(dim=0)
    return zoo.select(largest <= max_weight)


def drop_untrained(zoo: Zoo) -> Zoo:
    """Leave out the states of epoch 0: probing them is trivial and would flatter every representation.

    Raises:
        FormatError: there are no other states.
    """
    if not (zoo.table["epoch"] > 0).any():
        raise FormatError(f"all {len(zoo)} states are of epoch 0, untrained: probes need states of trained models")
    return zoo.select(zoo.table["epoch"] > 0)


def group_by_split(zoo: Zoo) -> dict[str, Zoo]:
    """Return split -> its states, without empty splits."""
    return {split: zoo.select(zoo.table["split"] == split) for split in SPLITS if (zoo.table["split"] == split).any()}


def parse_source(text: str) -> tuple[str, str | None]:
    """Split DATASET or DATASET/CONFIG into the folder or repo, and the config, None if there is none.

    Raises:
        FormatError: it is neither a dataset folder nor a repo.
    """
    head, _, tail = text.rstrip("/").rpartition("/")
    for source, config in ((text, None), (head, tail)):
        if (Path(source) / "zoo.json").is_file() or (source and parse_repo_id(source) is not None):
            return source, config
    raise FormatError(f"{text} is not a dataset folder, a repo, or a config of one; write DATASET or DATASET/CONFIG")
