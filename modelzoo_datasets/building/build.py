"""Build the dataset folder of one or more zoos, whole or not at all."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ..errors import FolderInUseError, FormatError
from ..population import read_statistics
from ..progress import Progress, silent
from ..states import DATASET_FORMAT, ZooFolder, partial_beside, read_json, weights_sha256, write_bytes, write_json
from .card import SPLITS, ConfigFacts, Publication, render_card
from .checksums import write_checksums
from .parquet import write_index, write_split
from .pictures import pictures
from .schema import Columns, rows_of


def build(
    zoos: Sequence[Path],
    out: Path,
    *,
    repo_id: str | None = None,
    builder: str | None = None,
    keep_diverged: bool = False,
    progress: Progress = silent,
) -> bool:
    """Make sure that `out` is the dataset of these zoo folders; False if it already was.

    The weights written are compared with the hash that was recorded when each state was trained.

    Args:
        keep_diverged: publish models with weights that are not finite too; their column `finite` says where.
        repo_id: named in the examples of the card; if nobody says it, they run in the folder itself.
        builder: name or path of the recipe with title, licence and text; the one in `builders/` if not given.

    Raises:
        FormatError: a folder is no complete zoo, a state is unreadable or altered, or the zoos do not go together.
        FolderInUseError: `out` holds something else.
        RecipeError: there is no such builder recipe, or it is none.
    """
    folders = [ZooFolder.open(path) for path in zoos]
    _refuse_mixture(folders)
    publication = Publication.of(folders, builder)
    repo_id = repo_id or publication.repo_id
    facts = {
        "format": DATASET_FORMAT,
        "repo_id": repo_id,
        "publication": publication.to_json(),
        "diverged": "kept" if keep_diverged else "left out",
        "configs": {_config_name(f): _facts(f) for f in folders},
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if (out / "zoo.json").is_file() and read_json(out / "zoo.json") == facts:
            return False
        raise FolderInUseError(f"{out} holds something else; choose another --out or remove it")
    partial = partial_beside(out)
    shutil.rmtree(partial, ignore_errors=True)
    configs = [_write_config(folder, partial, keep_diverged, progress) for folder in folders]
    card = render_card(repo_id or ".", publication, configs, kept_diverged=keep_diverged)
    write_bytes(partial / "README.md", card.encode())
    write_json(partial / "layout.json", folders[0].facts["layout"])
    write_json(partial / "zoo.json", facts)
    write_checksums(partial)
    if out.is_dir():
        out.rmdir()
    partial.replace(out)
    return True


def _config_name(folder: ZooFolder) -> str:
    return str(folder.facts["recipe"]["config"])


def _facts(folder: ZooFolder) -> dict[str, Any]:
    hashes = hashlib.sha256("".join(folder.states["sha256"]).encode()).hexdigest()
    return {**folder.facts, "states_sha256": hashes}


def _refuse_mixture(folders: Sequence[ZooFolder]) -> None:
    first = folders[0]
    for folder in folders[1:]:
        for key in ("architecture", "images", "images_sha256", "engine", "versions"):
            if folder.facts[key] != first.facts[key]:
                raise FormatError(
                    f"one dataset is of one {key}: {first.path} has {first.facts[key]}, "
                    f"{folder.path} has {folder.facts[key]}; build them apart"
                )
    names = [_config_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise FormatError(f"each zoo must be another config, got {', '.join(names)}")


def _write_config(folder: ZooFolder, out: Path, keep_diverged: bool, progress: Progress) -> ConfigFacts:
    """Write the Parquet files of one zoo, with and without weights."""
    rows = rows_of(folder.models, folder.states)
    diverged = folder.models.loc[folder.models["diverged"], "model_id"]
    if not keep_diverged:
        rows = rows[~rows["model_id"].isin(diverged)]
    columns = Columns(folder.layout.size, folder.facts["classes"], twins="parent_id" in rows)
    expected = rows.set_index(["model_id", "epoch"])["sha256"]
    name, done = _config_name(folder), 0

    def weights_of(model_id: str, epoch: int) -> Tensor:
        nonlocal done
        weights = folder.weights(model_id, epoch)
        if weights_sha256(weights) != expected[model_id, epoch]:
            raise FormatError(
                f"state {model_id} epoch {epoch} of {folder.path} is not the one that was trained; "
                f"remove {folder.place(model_id)} and run {folder.maker} again"
            )
        done += 1
        progress(f"building {name}", done, len(rows))
        return weights

    num_bytes = {}
    for split in SPLITS:
        part: pd.DataFrame = rows[rows["split"] == split]
        if len(part):
            for target in (out / name, out / f"{name}_index"):
                target.mkdir(parents=True, exist_ok=True)
            size = write_split(out / name, split, part, columns, weights_of)
            num_bytes[f"{name}/{split}"] = size
            num_bytes[f"{name}_index/{split}"] = write_index(out / f"{name}_index", split, part, columns)
    statistics, titles = _describe(folder, name, rows, out)
    return ConfigFacts(
        name=name,
        zoo=folder.facts,
        rows=rows,
        columns=columns,
        diverged=len(diverged),
        num_bytes=num_bytes,
        statistics=statistics,
        pictures=titles,
    )


def _describe(
    folder: ZooFolder, name: str, rows: pd.DataFrame, out: Path
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What the zoo folder says of its population, and its pictures: path in the dataset folder -> title."""
    found, titles = read_statistics(folder.path), {}
    for kind, (title, picture) in pictures(found, rows).items():
        titles[f"assets/{name}-{kind}.png"] = title
        write_bytes(out / "assets" / f"{name}-{kind}.png", picture)
    return found[0] if found else None, titles
