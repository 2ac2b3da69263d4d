"""What is to be trained: a config of a recipe with its images, its architecture and, for twins, its parents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .._util import user_cache_folder, versions
from ..architectures import Architecture, resolve_architecture
from ..engines import Engine, Job, variational_layout
from ..errors import FormatError, RecipeError
from ..images import Images, load_images
from ..recipes import Member, Recipe, select_members
from ..zoo import ParentInfo, RecipeInfo, ZooFolder, ZooInfo

_BYTES_AT_ONCE = 1_000_000_000  # of parents' weights in memory


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that training a zoo needs to know."""

    recipe: Recipe
    config: str
    epochs: int | None  # instead of the recipe's
    images: Images
    architecture: Architecture
    parent: ZooFolder | None  # of sparsified twins

    @classmethod
    def of(
        cls, recipe: Recipe, config: str, *, images_root: Path, epochs: int | None = None, parent: Path | None = None
    ) -> "Plan":
        """Load the images and check that everything fits.

        Args:
            parent: zoo folder of the models that twins start from; not for other configs.

        Raises:
            RecipeError: unknown config, architecture or images, or images or dropout that it does not take.
            MissingImagesError: the images are neither in `images_root` nor to be downloaded.
            FormatError: the parent zoo is not complete, or not the one that the recipe names.
        """
        recipe.members(config, epochs=epochs)  # refuses what is not there, or cannot be trained
        images = load_images(recipe.images, images_root)
        architecture = resolve_architecture(recipe.architecture, images.input_shape, images.classes)
        for dropout in recipe.config(config).axes.get("dropout", ()):
            architecture.check_dropout(dropout)
        plan = cls(
            recipe=recipe,
            config=config,
            epochs=epochs,
            images=images,
            architecture=architecture,
            parent=_open_parent(recipe, config, parent),
        )
        plan._check_parent()
        return plan

    def _check_parent(self) -> None:
        if self.parent is None:
            return
        name = self.recipe.config(self.config).parent or ""
        expected, parent = RecipeInfo.from_recipe(self.recipe, name), self.parent.info
        # A parent zoo of fewer epochs is still the parent.
        if not expected.equals_but_epochs(parent.recipe) or parent.images_sha256 != self.images.fingerprint:
            raise FormatError(
                f"{self.parent.path} is not the zoo {self.recipe.name}/{name} whose twins {self.config} are; "
                "name its folder with --parent"
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
            versions=versions(),
            parent=None if self.parent is None else ParentInfo.from_zoo(self.parent.info),
            variational_layout=None if self.parent is None else variational_layout(self.architecture.name),
        )

    @cached_property
    def grid(self) -> list[Member]:
        """Every model of the config."""
        return self.recipe.members(self.config, epochs=self.epochs)

    def chosen(self, models: range | None) -> list[Member]:
        """The models at these places of the grid; if None all, of twins those whose parents are there.

        Raises:
            RecipeError: the grid ends before, or a parent is not there.
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
        """Jobs of these models, as many at once as their starting weights leave memory for."""
        size = max(1, _BYTES_AT_ONCE // (4 * self.architecture.layout.size)) if self.parent else max(1, len(members))
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


def _open_parent(recipe: Recipe, config: str, parent: Path | None) -> ZooFolder | None:
    name = recipe.config(config).parent
    if name is None:
        if parent is not None:
            raise RecipeError(f"recipe {recipe.name}: {config} has no parent, so --parent means nothing")
        return None
    if parent is None or not parent.is_dir():
        raise RecipeError(
            f"{recipe.name}/{config} are twins of {recipe.name}/{name}, whose zoo folder is not at {parent}; "
            "generate it first, or name it with --parent"
        )
    return ZooFolder.open(parent)


def resolve_parent(recipe: Recipe, config: str, out: Path, parent: Path | str | None) -> Path | None:
    """Return the zoo folder of the parents of twins: `parent`, or by default the folder of their config beside `out`.

    Args:
        recipe: The recipe.
        config: The config that is trained.
        out: Its zoo folder.
        parent: The folder that the caller names, if any.

    Returns:
        The folder, which may not exist, or None where the config has no parent and none is named.
    """
    if parent is not None:
        return Path(parent)
    name = recipe.config(config).parent
    return out.absolute().parent / name if name else None


def resolve_images_root(images_root: Path | str | None) -> Path:
    """Return the folder of the image datasets: `images_root`, or by default the user's cache folder."""
    return user_cache_folder("images") if images_root is None else Path(images_root)
