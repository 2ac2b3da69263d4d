"""A dataset folder is compared, not believed: every change of it is refused in one line by all that read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelzoo_datasets import load_zoo, stream_zoo
from modelzoo_datasets.errors import FormatError

Loader = Callable[..., Any]


def load_all(folder: Path, config: str) -> None:
    load_zoo(folder, config, cache=False)


def stream_all(folder: Path, config: str) -> None:
    for _ in stream_zoo(folder, config, cache=False):
        pass


both = pytest.mark.parametrize("load", [load_all, stream_all], ids=["load", "stream"])


def error_of(load: Loader, folder: Path, config: str = "seed") -> str:
    """Return the message of the error that a loader raises; it must be one line."""
    with pytest.raises(FormatError) as caught:
        load(folder, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@both
def test_exchanged_starts_of_tensors(load: Loader, dataset: Path) -> None:
    path = dataset / "layout.json"
    layout = json.loads(path.read_text())
    layout[0]["start"], layout[2]["start"] = layout[2]["start"], layout[0]["start"]
    path.write_text(json.dumps(layout))
    assert error_of(load, dataset) == (
        f"{path} is no layout of weights ({layout[0]['name']}: expected start 0, where the tensor before it ends, got "
        f"{layout[0]['start']}); build the dataset again"
    )


@both
def test_exchanged_names_of_tensors(load: Loader, dataset: Path) -> None:
    path = dataset / "layout.json"
    layout = json.loads(path.read_text())
    layout[1]["name"], layout[3]["name"] = layout[3]["name"], layout[1]["name"]
    path.write_text(json.dumps(layout))
    assert error_of(load, dataset) == (
        f"{path} is not the layout of config 'seed' in zoo.json; build the dataset again"
    )
