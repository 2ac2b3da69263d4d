"""Build the dataset folder of one or more zoos, whole or not at all."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..analysis import read_statistics
from ..errors import FolderInUseError
from ..progress import NO_PROGRESS, Progress
from ..zoo import (
    DATASET_FORMAT,
    KEPT,
    LEFT_OUT,
    ZOO_FILE,
    DatasetInfo,
    FormatTag,
    ZooFolder,
    ZooInfo,
    partial_beside,
    read_json,
    write_bytes,
    write_json,
)
from .card.figures import pictures
from .card.render import ConfigFacts, render_card
from .card_metadata import CardMetadata
from .checksums import write_checksums
from .config_writer import write_tables
from .schema import missing_epochs, rows_of, weights_kind
from .validate import refuse_mixture, refuse_too_many_files

_log = logging.getLogger(__name__)


def build_dataset(
    zoos: Sequence[Path | str],
    out: Path | str,
    *,
    repo_id: str | None = None,
    builder: str | None = None,
    keep_diverged: bool = False,
    progress: Progress = NO_PROGRESS,
) -> bool:
    """Build one dataset folder from zoo folders of the same architecture and images.

    Every file is read back after it is written, and each state in it is compared with the hash recorded in training.

    Args:
        zoos: The zoo folders, one per config of the dataset.
        out: The dataset folder to write. It appears once it is complete.
        repo_id: Repo that the examples in the card name; by default they load the folder itself.
        builder: Name or path of the TOML file with title, license and text of the card; by default the one in
            `builders/` for these images and this architecture.
        keep_diverged: Include models that have weights which are not finite. The column `finite` marks their states.
        progress: Display of the number of written states.

    Returns:
        True if the folder was written, False if it already was the dataset of these zoos.

    Raises:
        FormatError: A folder is not a complete zoo, a state is unreadable or altered, the zoos do not fit together,
            or the Hub would not accept the dataset.
        FolderInUseError: `out` contains other files.
        RecipeError: The builder file does not exist or is invalid.
        DiskFullError: The disk is full.
    """
    out, folders = Path(out), [ZooFolder.open(Path(path)) for path in zoos]
    refuse_mixture(folders)
    publication = CardMetadata.of(folders, builder)
    repo_id = repo_id or publication.repo_id
    info = DatasetInfo(
        repo_id=repo_id,
        card=publication,
        diverged=KEPT if keep_diverged else LEFT_OUT,
        configs={_config_name(folder): _config_info(folder) for folder in folders},
    )
    if _is_there(out, info):
        return False
    rows = {_config_name(folder): _published_rows(folder, keep_diverged) for folder in folders}
    refuse_too_many_files(rows, folders[0].layout.size, out)
    partial = partial_beside(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        configs = [_write_config(folder, rows[_config_name(folder)], partial, progress) for folder in folders]
        card = render_card(repo_id or ".", publication, configs, kept_diverged=keep_diverged)
        write_bytes(partial / "README.md", card.encode())
        write_json(partial / "layout.json", folders[0].layout.to_json())
        write_json(partial / ZOO_FILE, info.to_json())
        write_checksums(partial)
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for config in configs:
        _warn_of_missing_states(config)
    return True


def _is_there(out: Path, info: DatasetInfo) -> bool:
    """Whether a folder is this dataset; raises FolderInUseError where it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    there = (out / ZOO_FILE).is_file()
    if there and read_json(out / ZOO_FILE) == info.to_json():
        return True
    if there and (tag := FormatTag.read(out / ZOO_FILE)).is_dataset and tag.format != DATASET_FORMAT:
        raise FolderInUseError(
            f"{out} holds a dataset of format {tag.format!r}, and {DATASET_FORMAT!r} is written today; "
            "choose another --out or remove it"
        )
    raise FolderInUseError(f"{out} holds something else; choose another --out or remove it")


def _config_name(folder: ZooFolder) -> str:
    return folder.info.recipe.config


def _config_info(folder: ZooFolder) -> ZooInfo:
    hashes = hashlib.sha256("".join(folder.states["sha256"]).encode()).hexdigest()
    return replace(folder.info, states_sha256=hashes, weights=weights_kind(folder.layout.size))


def _published_rows(folder: ZooFolder, keep_diverged: bool) -> pd.DataFrame:
    rows = rows_of(folder.models, folder.states)
    if keep_diverged:
        return rows
    return rows[~rows["model_id"].isin(folder.models.loc[folder.models["diverged"], "model_id"])]


def _write_config(folder: ZooFolder, rows: pd.DataFrame, out: Path, progress: Progress) -> ConfigFacts:
    """Write the files of one zoo: tables with and without weights, weights too big for them, pictures."""
    name = _config_name(folder)
    columns, num_bytes = write_tables(folder, name, rows, out, progress)
    statistics, titles = _describe(folder, name, rows, out)
    return ConfigFacts(
        name=name,
        zoo=_config_info(folder),
        rows=rows,
        columns=columns,
        diverged=int(folder.models["diverged"].sum()),
        num_bytes=num_bytes,
        statistics=statistics,
        pictures=titles,
        missing=missing_epochs(rows),
    )


def _warn_of_missing_states(config: ConfigFacts) -> None:
    if config.missing:
        states, models = sum(map(len, config.missing.values())), len(config.missing)
        counts = f"{states:,} states of {models:,} models"
        _log.warning("%s: %s are missing for some epochs, here too", config.name, counts)


def _describe(
    folder: ZooFolder, name: str, rows: pd.DataFrame, out: Path
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What the zoo folder says of its population, and its pictures: path in the dataset folder -> title."""
    found, titles = read_statistics(folder.path), {}
    for kind, (title, picture) in pictures(found, rows, tuple(folder.info.recipe.columns)).items():
        titles[f"assets/{name}-{kind}.png"] = title
        write_bytes(out / "assets" / f"{name}-{kind}.png", picture)
    return found[0] if found else None, titles
