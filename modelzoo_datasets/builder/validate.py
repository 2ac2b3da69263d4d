"""What cannot become one dataset, said before anything is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..errors import FormatError
from ..hub import beyond_the_hub, refuse_config_name
from ..zoo import ZooFolder, trajectory_files
from .schema import weights_kind
from .sharding import shards_of


def refuse_mixture(folders: Sequence[ZooFolder]) -> None:
    """Raise FormatError where zoos do not go together, or the Hub would refuse one's name."""
    first = folders[0]
    for folder in folders[1:]:
        for key in ("architecture", "images", "images_sha256", "engine", "versions"):
            theirs, ours = getattr(first.info, key), getattr(folder.info, key)
            if theirs != ours:
                raise FormatError(
                    f"one dataset is of one {key}: {first.path} has {theirs}, "
                    f"{folder.path} has {ours}; build them apart"
                )
        if folder.layout != first.layout:
            raise FormatError(
                f"one dataset is of one layout: the tensors of {folder.path} are not those of {first.path}; "
                "build them apart"
            )
    names = [folder.info.recipe.config for folder in folders]
    for name, folder in zip(names, folders, strict=True):
        refuse_config_name(name, folder.path)
        if f"{name}_index" in names:
            raise FormatError(f"'{name}_index' is what the index of {name!r} is called; build them apart")
    if len(set(names)) < len(names):
        raise FormatError(f"each zoo must be another config, got {', '.join(names)}")


def refuse_too_many_files(tables: Mapping[str, pd.DataFrame], parameters: int, out: Path) -> None:
    """Raise FormatError where the weights alone would be more files than the Hub takes.

    Args:
        tables: by config the rows to be published, with split.
        parameters: numbers of a state.
    """
    paths: list[str] = []
    for name, rows in tables.items():
        for split, part in rows.groupby("split", sort=False):
            if weights_kind(parameters) == "files":
                paths += trajectory_files(name, str(split), part["model_id"].unique().tolist()).values()
            else:
                paths += [f"{name}/{number}" for number in range(len(shards_of(part, 4 * parameters)))]
    if paths and (problem := beyond_the_hub(paths, out, "would have")):
        raise FormatError(f"{problem}; build it as several datasets")
