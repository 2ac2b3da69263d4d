"""What the commands read: datasets, local or on the Hub, and the states of them that a recipe speaks of."""

from pathlib import Path
from typing import Any

from modelzoo_datasets._util import SPLITS
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import download_files, get_commit, parse_repo_id
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.zoo import DatasetInfo, ZooInfo, read_json

from .model import HyperRepresentation
from .recipe import HyperRecipe
from .storage import facts_of, is_learned_by


def found_representation(source: str | Path) -> Path:
    """The folder of a hyper-representation: of this machine, or of the Hub's model repo of that name."""
    repo_id = None if (Path(source) / "training.json").is_file() else parse_repo_id(source)
    return Path(source) if repo_id is None else download_files(repo_id, ["*.json", "*.safetensors"], repo_type="model")


def read_dataset_info(source: str | Path) -> DatasetInfo:
    """Read zoo.json of a dataset folder or repo.

    Raises:
        FormatError: there is none, or it is of another format.
    """
    repo_id = parse_repo_id(source)
    folder = Path(source) if repo_id is None else download_files(repo_id, ["zoo.json"])
    if not (folder / "zoo.json").is_file():
        raise FormatError(f"{source} is no dataset folder; modelzoo-build makes one")
    return DatasetInfo.read(folder)


def origin_of(source: str | Path, config: str) -> dict[str, Any]:
    """What others may know a dataset by: repo and revision, and what it says of licence and images; None if unknown."""
    info, repo_id = read_dataset_info(source), parse_repo_id(source)
    zoo = info.configs.get(config)
    return {
        "dataset": repo_id or info.repo_id,
        "revision": None if repo_id is None else get_commit(repo_id),
        "license": None if info.card is None else info.card.license,
        "images": None if zoo is None else zoo.images,
    }


def read_zoo_info(source: str | Path, recipe: HyperRecipe) -> ZooInfo:
    """Read what zoo.json says of the config that a recipe learns from; raises FormatError where there is none."""
    configs = read_dataset_info(source).configs
    if recipe.data.config not in configs:
        raise FormatError(
            f"{source} has no config {recipe.data.config!r}, which recipe {recipe.name} learns from; "
            f"it has {', '.join(configs)}"
        )
    return configs[recipe.data.config]


def refuse_foreign(representation: Path, recipe: HyperRecipe, source: str | Path) -> None:
    """Another dataset may call test models what were training models here."""
    if is_learned_by(representation, facts_of(recipe, read_zoo_info(source, recipe))):
        return
    learned_by = read_json(representation / "training.json")["recipe"]["name"]
    remedy = (
        f"it was learned by recipe {learned_by}: name that, or its file"
        if learned_by != recipe.name
        else ("name the dataset, and the recipe's file, that it was learned from")
    )
    raise FormatError(f"{representation} was not learned by recipe {recipe.name} from {source}; {remedy}")


def learned_states(source: str | Path, recipe: HyperRecipe, split: str) -> Zoo:
    """The finite states of a split, of the epochs that the recipe learns from."""
    first, last = recipe.data.epochs
    return finite_states(load_zoo(source, recipe.data.config, split=split, epochs=range(first, last + 1)))


def finite_states(zoo: Zoo) -> Zoo:
    """Without states that diverged, where the dataset keeps them."""
    return zoo.select(zoo.table["finite"]) if "finite" in zoo.table else zoo


def splits_of(zoo: Zoo) -> dict[str, Zoo]:
    """Split -> its states, of those that there are."""
    return {split: zoo.select(zoo.table["split"] == split) for split in SPLITS if (zoo.table["split"] == split).any()}


def trained_states(zoo: Zoo) -> Zoo:
    """Without the untrained states: probing them is trivial and would flatter every representation.

    Raises:
        FormatError: there are no others.
    """
    if not (zoo.table["epoch"] > 0).any():
        raise FormatError(f"all {len(zoo)} states are of epoch 0, untrained: there is nothing to predict")
    return zoo.select(zoo.table["epoch"] > 0)


def parse_source(text: str) -> tuple[str, str | None]:
    """DATASET or DATASET/CONFIG: the folder or repo, and the config if one is named.

    Raises:
        FormatError: it names neither a dataset folder nor a repo.
    """
    head, _, tail = text.rstrip("/").rpartition("/")
    for source, config in ((text, None), (head, tail)):
        if (Path(source) / "zoo.json").is_file() or (source and parse_repo_id(source) is not None):
            return source, config
    raise FormatError(f"{text} is no dataset folder, no repo, and no config of one; write DATASET or DATASET/CONFIG")


def refuse_other_architecture(rep: HyperRepresentation, zoo: Zoo, source: str | Path) -> None:
    """A hyper-representation is of one architecture; FormatError for a zoo of another."""
    if zoo.architecture != rep.architecture:
        raise FormatError(
            f"this hyper-representation is of {rep.architecture.name}, {source} holds models of {zoo.architecture.name}"
        )
