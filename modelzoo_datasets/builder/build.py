"""Build the dataset folder of one or more zoo folders, completely or not at all."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..analysis import read_statistics
from ..errors import FolderInUseError, FormatError
from ..hub import check_config_name, check_file_counts
from ..progress import NO_PROGRESS, Progress
from ..zoo import (
    DATASET_FORMAT,
    KEPT,
    LEFT_OUT,
    PAIRS_FILE,
    STATISTICS_FILE,
    ZOO_FILE,
    DatasetInfo,
    FormatTag,
    OutputLock,
    ZooFolder,
    ZooInfo,
    assign_trajectory_files,
    atomic_folder,
    check_plain_files,
    read_json,
    write_bytes,
    write_footers,
    write_json,
)
from .card import ConfigSummary, render_card
from .card_figures import draw_figures
from .card_metadata import CardMetadata
from .config_writer import write_tables
from .image_files import write_image_files
from .integrity import write_checksums
from .module_file import find_module_path, find_plugin, write_module_file
from .schema import TableSchema, choose_weights_location, find_missing_epochs, join_rows
from .shard_plan import split_into_shards

_log = logging.getLogger(__name__)
_COMMON = ("architecture", "images", "images_sha256", "engine", "versions")  # equal in all zoos of a dataset
_BUILD_SEPARATELY = "build them separately"


def build_dataset(
    zoos: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    repo_id: str | None = None,
    builder: str | None = None,
    keep_diverged: bool = False,
    progress: Progress = NO_PROGRESS,
) -> bool:
    """Build a dataset folder from one or more zoo folders, one config per zoo.

    Every written file is read back: each state in it must have the hash that was recorded when it was trained. If
    models lack states of some epochs, a warning is logged and the other states are published.

    Args:
        zoos: One zoo folder or several. They must have the same architecture, images, engine and versions.
        out: The dataset folder. It is written only if it does not exist or is empty.
        repo_id: ORG/NAME for the examples of the card; by default that of the builder recipe. Without either, the
            examples run in the folder itself.
        builder: Name or path of the builder recipe with title, license and text; by default the shipped one of the
            recipe's name.
        keep_diverged: Also publish models with weights that are not finite; the column `finite` marks their states.
        progress: Display for the number of states that are written.

    Returns:
        True if the folder was built, False if it already was this dataset.

    Raises:
        FormatError: A folder is not a complete zoo, a state is unreadable or altered, the zoos do not fit together, or
            the Hub would reject the dataset.
        FolderInUseError: `out` already contains other files, or another process is writing it.
        RecipeError: The builder recipe does not exist or is invalid.
        DiskFullError: The disk is full.

    Example:
        >>> build_dataset(zoo_folder, out / "dataset", repo_id="modelzoos/tiny")
        True
        >>> sorted(path.name for path in (out / "dataset").iterdir() if path.is_dir())
        ['assets', 'code', 'seed', 'seed_index']
        >>> sorted(path.name for path in (out / "dataset").glob("*.json"))
        ['footers.json', 'images.json', 'layout.json', 'zoo.json']
    """
    out = Path(out)
    folders = [ZooFolder.open(Path(zoo)) for zoo in ([zoos] if isinstance(zoos, str | Path) else zoos)]
    for folder in folders:
        check_plain_files(folder.path)
        _check_columns(folder)
    _check_compatible(folders)
    metadata = CardMetadata.from_zoos(folders, builder)
    repo_id = repo_id or metadata.repo_id
    infos = {zoo.info.recipe.config: _describe_config(zoo) for zoo in folders}
    diverged = KEPT if keep_diverged else LEFT_OUT
    info = DatasetInfo(repo_id=repo_id, card=metadata, diverged=diverged, configs=infos)
    if _is_built(out, info):
        return False
    with OutputLock(out):
        if _is_built(out, info):
            return False
        _build(folders, metadata, info, out, progress)
    return True


def _build(
    folders: Sequence[ZooFolder], metadata: CardMetadata, info: DatasetInfo, out: Path, progress: Progress
) -> None:
    """Write the dataset folder."""
    keep_diverged, infos = info.diverged == KEPT, info.configs
    rows = [_select_rows(zoo, keep_diverged) for zoo in folders]
    _check_hub_limits(dict(zip(infos, rows, strict=True)), folders[0].layout.size, out)
    with atomic_folder(out) as partial:
        parts = zip(folders, infos.values(), rows, strict=True)
        configs = [_write_config(*part, partial, progress) for part in parts]
        card = render_card(info.repo_id, metadata, configs, keep_diverged=keep_diverged)
        write_bytes(partial / "README.md", card.encode())
        write_json(partial / "layout.json", folders[0].layout.to_json())
        write_json(partial / ZOO_FILE, info.to_json())
        _write_descriptions(folders[0].info, list(infos.values()), partial)
        write_footers(partial)
        write_checksums(partial)
    _warn_of_missing_module(folders[0].info)
    for config in configs:
        _warn_of_missing_states(config)


def _write_descriptions(info: ZooInfo, zoos: Sequence[ZooInfo], out: Path) -> None:
    """Write what people need without this package: how images are prepared and split, and the module's source."""
    for name, content in write_image_files(zoos).items():
        write_bytes(out / name, content)
    architecture, path = info.find_architecture(), find_module_path(info.architecture)
    text = write_module_file(architecture)
    if path is None or text is None:
        return
    write_bytes(out / path, text.encode())
    if (plugin := find_plugin(architecture)) is not None:
        _log.info("%s is published as it is, as %s: it registers %s", plugin, path, info.architecture)


def _check_columns(zoo: ZooFolder) -> None:
    """Raise FormatError if the tables of a zoo lack a column of the dataset."""
    needed = {*TableSchema.from_info(zoo.info).index.names, "index", "diverged"}
    if missing := sorted(needed - {*zoo.models.columns, *zoo.states.columns}):
        raise FormatError(f"the tables of {zoo.path} have no column {missing[0]!r}; run {zoo.maker} again")
    if "model_id" not in zoo.models or "model_id" not in zoo.states:
        raise FormatError(f"a table of {zoo.path} has no column 'model_id'; run {zoo.maker} again")


def _check_compatible(zoos: Sequence[ZooFolder]) -> None:
    """Raise FormatError if zoos cannot be configs of one dataset, or if the Hub does not accept the name of one."""
    first = zoos[0]
    for zoo in zoos[1:]:
        for key in _COMMON:
            expected, value = getattr(first.info, key), getattr(zoo.info, key)
            if value != expected:
                raise FormatError(
                    f"all zoos of a dataset must have the same {key}: {first.path} has {expected}, {zoo.path} has "
                    f"{value}; {_BUILD_SEPARATELY}"
                )
        if zoo.layout != first.layout:
            raise FormatError(
                f"all zoos of a dataset must have the same layout: the tensors of {zoo.path} differ from those of "
                f"{first.path}; {_BUILD_SEPARATELY}"
            )
    names = [zoo.info.recipe.config for zoo in zoos]
    for name, zoo in zip(names, zoos, strict=True):
        check_config_name(name, zoo.path)
        if f"{name}_index" in names:
            raise FormatError(f"'{name}_index' is also the name of the index of config {name!r}; {_BUILD_SEPARATELY}")
    if len(set(names)) < len(names):
        raise FormatError(f"all zoos of a dataset must have different configs, got {', '.join(names)}")


def _check_hub_limits(tables: Mapping[str, pd.DataFrame], num_parameters: int, out: Path) -> None:
    """Raise FormatError if the weights of a dataset are more files than the Hub accepts.

    Args:
        tables: Config -> one row per state to be published, with its split.
        num_parameters: Numbers per state.
        out: The dataset folder, for the message.
    """
    paths: list[str] = []
    for config, rows in tables.items():
        for split, part in rows.groupby("split", sort=False):
            if choose_weights_location(num_parameters) == "files":
                paths += assign_trajectory_files(config, str(split), part["model_id"].unique().tolist()).values()
            else:
                paths += [f"{config}/{number}" for number in range(len(split_into_shards(part, 4 * num_parameters)))]
    check_file_counts(paths, out, "build several datasets")


def _is_built(out: Path, info: DatasetInfo) -> bool:
    """Tell whether a folder is this dataset; raise FolderInUseError if it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    exists = (out / ZOO_FILE).is_file()
    if exists and read_json(out / ZOO_FILE) == info.to_json():
        return True
    advice = "pass a different --out or delete it"
    if exists and (tag := FormatTag.read(out / ZOO_FILE)).is_dataset and tag.format != DATASET_FORMAT:
        raise FolderInUseError(
            f"output folder {out} contains a dataset of format {tag.format!r}, but this release writes "
            f"{DATASET_FORMAT!r}; {advice}"
        )
    raise FolderInUseError(f"output folder {out} already contains other files; {advice}")


def _describe_config(zoo: ZooFolder) -> ZooInfo:
    hashes = hashlib.sha256("".join(zoo.states["sha256"]).encode()).hexdigest()
    return replace(zoo.info, states_sha256=hashes, weights=choose_weights_location(zoo.layout.size))


def _select_rows(zoo: ZooFolder, keep_diverged: bool) -> pd.DataFrame:
    rows = join_rows(zoo.models, zoo.states)
    if keep_diverged:
        return rows
    return rows[~rows["model_id"].isin(zoo.models.loc[zoo.models["diverged"], "model_id"])]


def _write_config(zoo: ZooFolder, info: ZooInfo, rows: pd.DataFrame, out: Path, progress: Progress) -> ConfigSummary:
    """Write tables, weights and figures of one zoo."""
    schema, num_bytes = write_tables(zoo, info.recipe.config, rows, out, progress)
    statistics, pairs = read_statistics(zoo.path) or ({}, pd.DataFrame())
    titles = {}
    try:
        figures = draw_figures(statistics, pairs, rows, tuple(info.recipe.columns))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"the statistics of {zoo.path} are malformed ({error!r}); delete {STATISTICS_FILE} and {PAIRS_FILE} there "
            f"and run {zoo.maker} again"
        ) from error
    for name, (title, png) in figures.items():
        path = f"assets/{info.recipe.config}-{name}.png"
        titles[path] = title
        write_bytes(out / path, png)
    return ConfigSummary(
        info=info,
        rows=rows,
        schema=schema,
        num_diverged=int(zoo.models["diverged"].sum()),
        num_bytes=num_bytes,
        statistics=statistics,
        pairs=pairs,
        figures=titles,
        missing=find_missing_epochs(rows),
    )


def _warn_of_missing_module(info: ZooInfo) -> None:
    """Name the plugin where a zoo was generated with one; imported populations often have no module here."""
    if info.import_info is None and not info.find_architecture().has_module:
        _log.warning(
            "architecture %r is not registered, so that the card has no code of its module; build again with --plugin "
            "FILE to add it",
            info.architecture,
        )


def _warn_of_missing_states(config: ConfigSummary) -> None:
    if config.missing:
        counts = f"{sum(map(len, config.missing.values())):,} states of {len(config.missing):,} models"
        _log.warning("%s: %s are missing at epochs that other models have", config.name, counts)
