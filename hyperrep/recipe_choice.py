"""The choice of a recipe for a dataset: a shipped one that was made for it, or one that is adapted to it.

Only zoo.json is read: images, architecture, and the models of every config with their epochs and hyperparameters.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelzoo_datasets.architectures import architecture_names
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.images import image_dataset_names
from modelzoo_datasets.recipes import Member, Training
from modelzoo_datasets.zoo import ZooInfo

from .data import read_dataset_info
from .recipe import DataRecipe, HyperRecipe, LearningRecipe
from .recipe_toml import read_hyper_recipe

_SMALL, _FULL = "demo", "fashion-mnist"  # recipes for a few thousand images and for image datasets in full size
_MADE_FOR = {_SMALL: ("fashion-mnist-5k", "cnn-s"), _FULL: ("fashion-mnist", "cnn-s")}  # images, architecture
_CONFIG = "seed"  # the config that both are made for: its models differ in their seed alone


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe, and why it was chosen."""

    recipe: HyperRecipe
    reason: str  # a sentence without its name


def choose_recipe(dataset: str | Path) -> RecipeChoice:
    """Choose a recipe by what a dataset is: its images, its architecture, its configs and their epochs.

    Args:
        dataset: dataset folder, or repo such as ORG/NAME.

    Returns:
        The shipped recipe that was made for this dataset. Otherwise one that is adapted: its config is `seed`, or else
        the first one whose models were trained alike; its epochs are those of the config; there is no functional loss
        where images or architecture are unknown here.

    Raises:
        FormatError: there is no such dataset, or it holds sparsified twins alone.

    Example:
        >>> from hyperrep import choose_recipe
        >>> choice = choose_recipe(dataset)
        >>> choice.recipe.name, choice.recipe.data.epochs
        ('demo (adapted)', (2, 2))
        >>> print(choice.reason)
        it is for cnn-s on fashion-mnist-5k; adapted to this dataset: epochs 2 to 2 (shipped: 6 to 10), batch_size 14
    """
    info, members = _choose_config(dataset)
    name = _SMALL if info.images == _MADE_FOR[_SMALL][0] else _FULL
    base = read_hyper_recipe(name)
    data, learning = _adapt_data(base.data, info, members), _adapt_learning(base.learning, info)
    learning = _fit_batch_size(learning, data, members)
    is_own = _MADE_FOR[name] == (info.images, info.architecture)
    origin = f"it is for {info.architecture} on {info.images}"
    if is_own and (data, learning) == (base.data, base.learning):
        return RecipeChoice(base, origin)
    if not is_own:
        origin = f"no shipped recipe is for {info.architecture} on {info.images}"
    recipe = dataclasses.replace(
        base,
        name=f"{name} (adapted)",
        data=data,
        learning=learning,
        evaluation=read_hyper_recipe(_SMALL).evaluation,  # its samplers need no extra
    )
    return RecipeChoice(recipe, f"{origin}; adapted to this dataset: {_describe_changes(base, recipe, info)}")


def _choose_config(dataset: str | Path) -> tuple[ZooInfo, Sequence[Member]]:
    """Return the config to learn from, and its models: `seed`, or else the first whose models were trained alike."""
    configs = {name: info for name, info in read_dataset_info(dataset).configs.items() if info.parent is None}
    if not configs:
        raise FormatError(f"{dataset} holds sparsified twins alone, for which no recipe is shipped; pass --recipe FILE")
    members = {name: [*info.members(Path(dataset, "zoo.json")).values()] for name, info in configs.items()}
    alike = [name for name in configs if _are_trained_alike(members[name])]
    name = _CONFIG if _CONFIG in configs else next(iter(alike or configs))
    return configs[name], members[name]


def _are_trained_alike(members: Sequence[Member]) -> bool:
    fields = [field.name for field in dataclasses.fields(Training)]
    return all(len({getattr(member.training, name) for member in members} - {None}) <= 1 for name in fields)


def _adapt_data(data: DataRecipe, info: ZooInfo, members: Sequence[Member]) -> DataRecipe:
    """Return the states to learn from: the epochs of the recipe if all models have them, or else those that exist."""
    first, last = data.epochs
    epochs = sorted({epoch for member in members for epoch in member.epochs if epoch > 0})
    if info.import_info is not None or not {first, last} <= {*epochs}:
        first, last = (epochs[len(epochs) // 2], epochs[-1]) if first > 1 else (epochs[0], min(last, epochs[-1]))
        if info.import_info is not None:  # few epochs may be published, and the last ones are the trained models
            first, last = epochs[0], epochs[-1]
    is_odd = {member.training.activation for member in members} == {"tanh"}
    return dataclasses.replace(data, config=info.recipe.config, epochs=(first, last), signs=data.signs and is_odd)


def _adapt_learning(learning: LearningRecipe, info: ZooInfo) -> LearningRecipe:
    """Leave out the functional loss where networks cannot be run on their images."""
    if info.images in image_dataset_names() and info.architecture in architecture_names():
        return learning
    return dataclasses.replace(learning, functional_weight=0.0, mixed_functional_weight=0.0)


def _fit_batch_size(learning: LearningRecipe, data: DataRecipe, members: Sequence[Member]) -> LearningRecipe:
    """Make batches no larger than the training states."""
    first, last = data.epochs
    train = [member for member in members if member.split == "train"]
    num_states = sum(first <= epoch <= last for member in train for epoch in member.epochs)
    return dataclasses.replace(learning, batch_size=max(1, min(learning.batch_size, num_states)))


def _describe_changes(base: HyperRecipe, recipe: HyperRecipe, info: ZooInfo) -> str:
    """Return what differs from the shipped recipe."""
    changes = []
    if recipe.data.config != base.data.config:
        changes.append(f"config {recipe.data.config}")
    if recipe.data.epochs != base.data.epochs:
        changes.append("epochs {} to {} (shipped: {} to {})".format(*recipe.data.epochs, *base.data.epochs))
    if recipe.data.signs != base.data.signs:
        changes.append("signs are not aligned, because the activation is not tanh")
    if recipe.learning.batch_size != base.learning.batch_size:
        changes.append(f"batch_size {recipe.learning.batch_size}")
    if recipe.learning.functional_weight != base.learning.functional_weight:
        kind = "images" if info.images not in image_dataset_names() else "architecture"
        changes.append(f"no functional loss, because {getattr(info, kind)!r} is not registered here")
    return ", ".join(changes) or "the protocol of the demo"
