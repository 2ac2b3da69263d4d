"""The plan of a training: a config of a recipe with its images, its architecture and, for twins, their parents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..architectures import Architecture, resolve_architecture
from ..engines import Engine, Job, variational_layout
from ..errors import FormatError, RecipeError
from ..images import Images, load_images
from ..recipes import Member, Recipe, select_config, select_members
from ..zoo import RecipeInfo, ZooFolder, ZooInfo

_MAX_WEIGHTS_BYTES = 1_000_000_000  # initial weights of twins in memory


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A config of a recipe with everything that its training needs."""

    recipe: Recipe
    config: str
    epochs: int | None  # instead of the recipe's
    images: Images
    architecture: Architecture
    parent: ZooFolder | None  # for sparsified twins

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe | str,
        config: str | None,
        *,
        out: Path,
        images_root: Path | str | None,
        epochs: int | None,
        parent: Path | str | None,
    ) -> "Plan":
        """Load the images and check that recipe, images, architecture and parents fit together.

        Args:
            recipe: The recipe, or its name or TOML file, with or without a config.
            config: Name of the config, where `recipe` does not name it.
            out: The zoo folder that will be written.
            images_root: Folder of the image datasets, which are downloaded if missing; the user's cache by default.
            epochs: Number of epochs instead of the recipe's.
            parent: For twins only, the zoo folder of their parents; by default the one beside `out`.

        Raises:
            RecipeError: The recipe, config, architecture or images are unknown, or the architecture does not support
                these images or this dropout.
            MissingImagesError: The images are neither in `images_root` nor can they be downloaded.
            FormatError: The parent zoo is incomplete, or not the one that the recipe names.
        """
        recipe, config = select_config(recipe, config)
        recipe.members(config, epochs=epochs)  # raises where the config cannot be trained
        images = load_images(recipe.images, None if images_root is None else Path(images_root))
        architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
        for dropout in recipe.config(config).axes.get("dropout", ()):
            architecture.check_dropout(dropout)
        name = recipe.config(config).parent
        if name is None and parent is not None:
            raise RecipeError(f"recipe {recipe.name}: {config} has no parent; leave --parent out")
        folder = out.absolute().parent / name if name is not None and parent is None else parent
        return cls(
            recipe=recipe,
            config=config,
            epochs=epochs,
            images=images,
            architecture=architecture,
            parent=None if folder is None else _open_parent(recipe, config, Path(folder), images),
        )

    def zoo_info(self, engine: Engine) -> ZooInfo:
        """Return all that decides the weights: zoos with equal infos have equal weights."""
        return ZooInfo(
            name=f"{self.recipe.name}/{self.config}",
            architecture=self.architecture.name,
            images=self.images.name,
            recipe=RecipeInfo.from_recipe(self.recipe, self.config, epochs=self.epochs),
            layout=self.architecture.layout,
            images_sha256=self.images.fingerprint,
            classes=self.images.classes,
            engine=engine.name,
            versions=engine.environment(self.architecture.name),
            parent=None if self.parent is None else self.parent.info.to_parent(),
            variational_layout=None if self.parent is None else variational_layout(self.architecture.name),
        )

    @cached_property
    def grid(self) -> list[Member]:
        """All models of the config."""
        return self.recipe.members(self.config, epochs=self.epochs)

    def select_members(self, models: range | None) -> list[Member]:
        """Return the models at these positions of the grid, counted from 1.

        Args:
            models: The positions; None for all models or, for twins, all whose parents exist.

        Raises:
            RecipeError: The grid has no such position, or a parent does not exist.
        """
        members = select_members(self.grid, models)
        if self.parent is None:
            return members
        ready = [member for member in members if member.parent_id in self._last_epoch]
        if models is not None and len(ready) < len(members):
            orphan = next(member for member in members if member.parent_id not in self._last_epoch)
            raise RecipeError(f"{self.parent.path} has no model {orphan.parent_id}, the parent of {orphan.model_id}")
        return ready

    def jobs(self, members: Sequence[Member]) -> Iterator[tuple[list[Member], list[Job]]]:
        """Yield models with their jobs, in parts whose initial weights fit into memory."""
        size = (
            max(1, _MAX_WEIGHTS_BYTES // (4 * self.architecture.layout.size)) if self.parent else max(1, len(members))
        )
        for first in range(0, len(members), size):
            part = list(members[first : first + size])
            yield part, [self._job(member) for member in part]

    def _job(self, member: Member) -> Job:
        if self.parent is None or member.parent_id is None:
            return Job(training=member.training, seed=member.seed)
        start = self.parent.weights(member.parent_id, self._last_epoch[member.parent_id])
        return Job(training=member.training, seed=member.seed, initial_weights=start, sparsify=True)

    @cached_property
    def _last_epoch(self) -> dict[str, int]:
        if self.parent is None:
            return {}
        return {
            str(model): int(epoch) for model, epoch in self.parent.states.groupby("model_id")["epoch"].max().items()
        }


def _open_parent(recipe: Recipe, config: str, folder: Path, images: Images) -> ZooFolder:
    """Open the zoo folder of the parents of twins.

    Raises:
        RecipeError: There is no such folder.
        FormatError: The folder holds another zoo, or an incomplete one.
    """
    name = recipe.config(config).parent or ""
    if not folder.is_dir():
        raise RecipeError(
            f"{recipe.name}/{config} are twins of {recipe.name}/{name}, whose zoo folder is not at {folder}; "
            "generate it first, or name it with --parent"
        )
    zoo, expected = ZooFolder.open(folder), RecipeInfo.from_recipe(recipe, name)
    # A parent zoo of fewer epochs is still the parent.
    if not expected.equals_but_epochs(zoo.info.recipe) or zoo.info.images_sha256 != images.fingerprint:
        raise FormatError(
            f"{folder} is not the zoo {recipe.name}/{name} whose twins {config} are; name its folder with --parent"
        )
    return zoo
