"""Checks that zoos can become one dataset, before anything is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..errors import FormatError
from ..hub import check_config_name, check_file_counts
from ..zoo import ZooFolder, assign_trajectory_files
from .schema import choose_weights_location
from .shard_plan import split_into_shards

_COMMON = ("architecture", "images", "images_sha256", "engine", "versions")
_BUILD_SEPARATELY = "build them separately"


def check_compatible(zoos: Sequence[ZooFolder]) -> None:
    """Check that zoos can be the configs of one dataset.

    Raises:
        FormatError: They differ in something that all configs share, or the Hub does not accept the name of one.
    """
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


def check_hub_limits(tables: Mapping[str, pd.DataFrame], num_parameters: int, out: Path) -> None:
    """Check that the weights of a dataset are not more files than the Hub accepts.

    Args:
        tables: Config -> one row per state to be published, with its split.
        num_parameters: Numbers per state.
        out: The dataset folder, for the message.

    Raises:
        FormatError: They are too many files.
    """
    paths: list[str] = []
    for config, rows in tables.items():
        for split, part in rows.groupby("split", sort=False):
            if choose_weights_location(num_parameters) == "files":
                paths += assign_trajectory_files(config, str(split), part["model_id"].unique().tolist()).values()
            else:
                paths += [f"{config}/{number}" for number in range(len(split_into_shards(part, 4 * num_parameters)))]
    check_file_counts(paths, out, "build several datasets")
