"""A sample of a stranger ends in one line, before memory is taken for what its config asks for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.memory_limits import run_code_limited
from safetensors.torch import load_file, save_file

from hyperrep import load_sample
from hyperrep.release import SampleRequest, export_samples
from modelzoo_datasets.errors import FormatError

# An architecture of 16 GB, as a plugin registers it, and loading the sample of one folder.
_CODE = """
import sys
from torch import nn
from hyperrep import load_sample
from modelzoo_datasets.architectures import Architecture, register_architecture
from modelzoo_datasets.errors import ModelZooError

def build(activation, dropout):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2**31), nn.Linear(2**31, 2))

register_architecture(Architecture("huge", (1, 2, 2), classes=2, build=build))
try:
    load_sample({folder!r})
except ModelZooError as error:
    print(error, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def sample(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sample, whose config.json each test writes anew."""
    out = tmp_path_factory.mktemp("samples") / "samples"
    export_samples(trained, out, SampleRequest(n=1, sampler="normal"))
    return out / "normal-0000"


@pytest.fixture(scope="module")
def config(sample: Path) -> dict[str, Any]:
    """The intact config.json."""
    values: dict[str, Any] = json.loads((sample / "config.json").read_text())
    return values


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architecture": "huge"}, "the weights have no tensor 1.weight, which config.json asks for"),
        (
            {"architecture": "cnn-m-10000"},
            "asks for module_list.0.weight of shape (16, 3, 3, 3), but the weights have",
        ),
        ({"architecture": "cnn-m-" + "9" * 5000}, "is not registered, so that only its tensors are known"),
        (
            {"architecture": "cnn-s-rgb"},
            "asks for module_list.0.weight of shape (8, 3, 5, 5), but the weights have (8, 1",
        ),
        ({"architecture": ["cnn-s"]}, "config.json: architecture must be a name, got ['cnn-s']"),
        ({"architecture": None}, "config.json: architecture must be a name, got None"),
        ({"activation": 3}, "config.json: activation must be a name and dropout a number from 0 to 1, got 3"),
        ({"dropout": 10**9}, "dropout a number from 0 to 1, got 'tanh' and 1000000000"),
        ({"dropout": float("nan")}, "dropout a number from 0 to 1, got 'tanh' and nan"),
        ({"dropout": "a"}, "dropout a number from 0 to 1, got 'tanh' and 'a'"),
        ({"lineage": 3}, "config.json is malformed (expected a table for Lineage, got 3); draw the sample again"),
        ({"measured": [1]}, "config.json is malformed (expected a table for SampleMetrics, got [1])"),
    ],
)
def test_a_config_is_compared_with_the_weights_before_memory_is_taken(
    sample: Path, config: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    (sample / "config.json").write_text(json.dumps(config | change))
    end = run_code_limited(_CODE.format(folder=str(sample)), sample)
    assert end.status == 0
    (line,) = end.lines
    assert expected in line
    assert end.peak < 300_000_000


def test_a_tensor_too_many_in_the_weights_is_refused(sample: Path, config: dict[str, Any]) -> None:
    (sample / "config.json").write_text(json.dumps(config))
    path = sample / "model.safetensors"
    whole = path.read_bytes()
    save_file({**load_file(path), "other": torch.zeros(3)}, path)
    with pytest.raises(FormatError) as caught:
        load_sample(sample)
    path.write_bytes(whole)
    assert str(caught.value) == (
        f"cannot load sampled model {sample}: the weights have a tensor other, which config.json does not ask for"
    )
