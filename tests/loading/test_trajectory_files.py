"""Weights in files of their own, as states have them that no cell could hold: the same zoo, by the same calls."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.hub_commands import Client, loads, prints, shown
from helpers.hub_server import HubServer, tiny
from helpers.shards import rewrite

from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.builder import schema
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.loading import stream_zoo
from modelzoo_datasets.zoo import ZooFolder

CHOICES: list[dict[str, Any]] = [
    {},
    {"split": "test"},
    {"epochs": [2], "models": 3},
    {"filters": [("test_acc", ">", 0.2)], "columns": ["test_acc", "activation", "dropout"]},
]


@pytest.fixture(scope="session")
def in_files(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny zoo as a dataset whose states are, by assumption, too big for a cell."""
    out = tmp_path_factory.mktemp("datasets") / "in-files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MAX_INLINE_PARAMETERS", 0)
        build_dataset([tiny_zoo], out)
    return out


@pytest.mark.parametrize("options", CHOICES)
def test_the_zoo_is_the_one_with_weights_in_the_table(
    options: dict[str, Any], in_files: Path, tiny_dataset: Path
) -> None:
    assert list(in_files.glob("weights/seed/train/*.safetensors"))
    expected, found = load_zoo(tiny_dataset, "seed", **options), load_zoo(in_files, "seed", **options)
    assert torch.equal(found.weights, expected.weights)
    assert found.table.equals(expected.table)
    assert (found.layout, found.architecture.name, found.images) == (
        expected.layout,
        expected.architecture.name,
        expected.images,
    )
    assert torch.equal(next(found.model(1).parameters()), next(expected.model(1).parameters()))
    batches = list(stream_zoo(in_files, "seed", batch_size=4, **options))
    assert torch.equal(torch.cat([batch.weights for batch in batches]), expected.weights)
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)


def test_a_damaged_file_is_named(in_files: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(in_files, tmp_path / "copy"))
    path = min(folder.glob("weights/seed/test/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=f"^{path} is truncated: "):
        load_zoo(folder, "seed")
    assert len(load_zoo(folder, "seed", epochs=[0, 1])) == 40, "its other states are whole"
    path.unlink()
    with pytest.raises(FormatError, match=f"^cannot read {path}: "):
        load_zoo(folder, "seed", split="test")
    assert len(load_zoo(folder, "seed", split="train")) == 42


def test_a_file_outside_of_the_dataset_is_not_read(in_files: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(in_files, tmp_path / "copy"))
    (path,) = (folder / "seed").glob("test-*.parquet")
    table = pq.read_table(path)
    names = pa.array([f"../{name}" for name in table["weights_file"].to_pylist()])
    rewrite(path, table.set_column(table.column_names.index("weights_file"), "weights_file", names))
    with pytest.raises(FormatError) as caught:
        load_zoo(folder, "seed", split="test", models=1)
    assert str(caught.value) == (
        f"{folder}/seed names the weights file {names[0].as_py()!r}, but weights files must lie inside the dataset; "
        "do not trust it, or build it again"
    )


def weight_files(hub: HubServer) -> list[str]:
    """Those that were read, whole or in part, once per request."""
    return [r.path.rpartition("/")[2] for r in hub.asked("^GET .*/resolve/.*safetensors")]


def test_of_a_repo_only_the_files_of_the_rows_chosen_are_downloaded(
    hub: HubServer, ann: Client, anyone: Client, in_files: Path
) -> None:
    assert ann.push(in_files, "zoos/tiny").returncode == 0
    models = load_zoo(in_files, "seed", split="train").table["model_id"].unique().tolist()
    hub.requests.clear()
    request: dict[str, Any] = {"config": "seed", "split": "train", "models": [models[3], models[7]]}
    loaded = anyone.run(loads, "zoos/tiny", request)
    assert loaded.stdout == shown(in_files, **request), loaded.stderr
    assert sorted(weight_files(hub)) == [f"{models[3]}.safetensors", f"{models[7]}.safetensors"]
    hub.requests.clear()
    assert anyone.run(loads, "zoos/tiny", request).stdout == loaded.stdout
    fixed = request | {"revision": tiny(hub).branches["main"]}
    assert anyone.run(loads, "zoos/tiny", fixed, HF_HUB_OFFLINE="1").stdout == loaded.stdout
    assert not weight_files(hub), "they are in the cache"


def test_of_a_repo_few_states_are_read_as_ranges_and_streams_store_nothing(
    hub: HubServer, ann: Client, anyone: Client, in_files: Path
) -> None:
    assert ann.push(in_files, "zoos/tiny").returncode == 0
    hub.requests.clear()
    code = """
from hashlib import sha256
from modelzoo_datasets.loading import load_zoo, source, stream_zoo
source._MIN_DOWNLOAD_FRACTION = 0.5  # of three states one is few
last = load_zoo("zoos/tiny", "seed", split="test", epochs=[2])
print(len(last), sha256(last.weights.numpy().tobytes()).hexdigest())
digest = sha256()
for zoo in stream_zoo("zoos/tiny", "seed", batch_size=4, split="validation"):
    digest.update(zoo.weights.numpy().tobytes())
print(digest.hexdigest())
"""
    told = anyone.run(prints, code)
    last, streamed = (
        load_zoo(in_files, "seed", split="test", epochs=[2]),
        load_zoo(in_files, "seed", split="validation"),
    )
    digests = [hashlib.sha256(zoo.weights.numpy().tobytes()).hexdigest() for zoo in (last, streamed)]
    assert told.stdout == f"3 {digests[0]}\n{digests[1]}\n", told.stderr
    assert len(weight_files(hub)) == 3 + 9, "one request for each state"
    assert not list(anyone.home.rglob("*.safetensors"))


def test_trained_resnets_are_loaded_streamed_and_run(resnet_dataset: Path) -> None:
    zoo, folder = load_zoo(resnet_dataset, "seed"), ZooFolder.open(resnet_dataset.parent / "seed")
    assert zoo.weights.shape == (4, 11_183_582)
    assert zoo.table[["split", "epoch"]].to_numpy().tolist() == [
        [s, e] for s in ("train", "validation") for e in (0, 1)
    ]
    for i, (model, epoch) in enumerate(zip(zoo.table["model_id"], zoo.table["epoch"], strict=True)):
        assert torch.equal(zoo.weights[i], folder.weights(model, epoch))
    last = load_zoo(resnet_dataset, "seed", epochs=[1], filters=[("test_acc", ">=", 0.0)])
    assert torch.equal(last.weights, zoo.weights[1::2])
    for i, batch in enumerate(stream_zoo(resnet_dataset, "seed", batch_size=1)):
        assert torch.equal(batch.weights[0], zoo.weights[i])
    x = torch.rand(3, *zoo.architecture.input_shape, generator=torch.Generator().manual_seed(0))
    module = zoo.architecture.module(zoo.table["activation"][0]).eval()
    with torch.no_grad():
        found = torch.vmap(torch.func.functional_call, (None, 0, None))(module, last.parameters(), (x,))
        torch.testing.assert_close(found, torch.stack([last.model(i)(x) for i in range(2)]), rtol=1e-4, atol=1e-4)


def test_of_resnets_on_the_hub_one_trajectory_or_one_state_is_fetched(
    hub: HubServer, ann: Client, anyone: Client, resnet_dataset: Path
) -> None:
    assert ann.push(resnet_dataset, "zoos/tiny").returncode == 0
    hub.requests.clear()
    trajectory = {"config": "seed", "split": "validation"}
    loaded = anyone.run(loads, "zoos/tiny", trajectory)
    assert loaded.stdout == shown(resnet_dataset, **trajectory), loaded.stderr
    assert weight_files(hub) == ["seed-00004.safetensors"]
    hub.requests.clear()
    state = {"config": "seed", "split": "train", "epochs": [1]}
    code = f"""
from helpers.hub_commands import loads
from modelzoo_datasets.loading import source
source._MIN_DOWNLOAD_FRACTION = 0.6  # of two states one is few
loads("zoos/tiny", {state})
"""
    assert anyone.run(prints, code).stdout == shown(resnet_dataset, **state)
    assert weight_files(hub) == ["seed-00003.safetensors"], "one range"
    assert not list(anyone.home.rglob("seed-00003.safetensors"))
