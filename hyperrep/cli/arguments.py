"""Checks of the arguments of commands that need no tensor, so that they answer before torch is imported."""

from pathlib import Path

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import parse_repo_id


def check_dataset(source: str) -> None:
    """Check that a dataset is a folder with a zoo.json or looks like a repo.

    Raises:
        FormatError: It is neither.
    """
    if not (Path(source) / "zoo.json").is_file() and parse_repo_id(source) is None:
        raise FormatError(f"{source} is not a dataset folder; build one with modelzoo-build")


def check_representation(source: str) -> None:
    """Check that a hyper-representation is a folder with a training.json or looks like a repo.

    Raises:
        FormatError: It is neither.
    """
    if not (Path(source) / "training.json").is_file() and parse_repo_id(source) is None:
        raise FormatError(f"there is no folder {source}; expected a folder of modelzoo-hyperrep train, or ORG/NAME")
