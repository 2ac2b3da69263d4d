"""Zoos with states that are too large for a table: two trained ResNet-18 of 45 MB per state, in files beside it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from helpers.hub_commands import Client
from helpers.hub_server import HubServer
from helpers.processes import hashes
from helpers.resnet_zoos import linked, small_cifar10
from helpers.shards import rewrite
from safetensors import safe_open
from safetensors.torch import load_file

from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.builder import schema
from modelzoo_datasets.builder.schema import MAX_INLINE_PARAMETERS, choose_weights_location
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import read_manifest
from modelzoo_datasets.verification import Check, verify_folder
from modelzoo_datasets.zoo import ZooFolder, hash_weights, read_json, write_json
from modelzoo_datasets.zoo.trajectory import read_state, read_states

STATE = 4 * 11_183_582  # bytes of a ResNet-18 with its BatchNorm statistics
FILES = {
    "train": "weights/seed/train/seed-00003.safetensors",
    "validation": "weights/seed/validation/seed-00004.safetensors",
}
AGAIN = "build the dataset again"


def rows_of(dataset: Path, config: str = "seed") -> pd.DataFrame:
    return pd.concat(
        [pq.read_table(dataset / config / f"{s}-00000-of-00001.parquet").to_pandas() for s in FILES], ignore_index=True
    )


@pytest.fixture
def dataset(resnet_dataset: Path, tmp_path: Path) -> Path:
    """A copy of which files may be replaced."""
    return linked(resnet_dataset, tmp_path / "dataset")


def checked(dataset: Path, images: Path, states: int = 0) -> list[Check]:
    with small_cifar10():
        return verify_folder(dataset, engine=TorchEngine(1), images_root=images, states=states)


def wrong(dataset: Path) -> dict[str, list[str]]:
    """What is wrong, by check; that files were changed at all has tests of its own."""
    found = checked(dataset, dataset / "none")
    return {check.name: check.problems for check in found if not check.has_passed and check.name != "checksums"}


def test_weights_are_in_the_table_up_to_a_hundred_thousand_numbers() -> None:
    assert choose_weights_location(MAX_INLINE_PARAMETERS) == "inline"
    assert choose_weights_location(MAX_INLINE_PARAMETERS + 1) == "files"
    sizes = {name: get_architecture(name).layout.size for name in ("cnn-s", "cnn-m", "resnet18")}
    kinds = {name: choose_weights_location(size) for name, size in sizes.items()}
    assert kinds == {"cnn-s": "inline", "cnn-m": "inline", "resnet18": "files"}


def test_rows_say_where_the_weights_lie(resnet_dataset: Path) -> None:
    rows = rows_of(resnet_dataset)
    assert rows.columns[-5:].tolist() == ["sha256", "weights_file", "weights_key", "offset", "nbytes"]
    assert rows["weights_file"].tolist() == [FILES["train"]] * 2 + [FILES["validation"]] * 2
    assert rows["weights_key"].tolist() == ["000", "001"] * 2
    assert rows["nbytes"].tolist() == [STATE] * 4
    assert read_json(resnet_dataset / "zoo.json")["configs"]["seed"]["weights"] == "files"
    assert max(path.stat().st_size for path in resnet_dataset.glob("seed*/*.parquet")) < 50_000


def test_the_bytes_that_a_row_names_are_its_state_file(resnet_dataset: Path) -> None:
    zoo = ZooFolder.open(resnet_dataset.parent / "seed")
    for row in rows_of(resnet_dataset).to_dict("records"):
        with (resnet_dataset / row["weights_file"]).open("rb") as file:
            file.seek(row["offset"])
            raw = file.read(row["nbytes"])
        assert hashlib.sha256(raw).hexdigest() == row["sha256"]
        state = load_file(zoo.path / "states" / row["model_id"] / f"epoch-{row['epoch']:03d}.safetensors")
        assert raw == b"".join(state[slot.name].float().numpy().tobytes() for slot in zoo.layout.slots)


def test_states_are_mapped_and_read_as_they_were_trained(resnet_dataset: Path) -> None:
    zoo, rows = ZooFolder.open(resnet_dataset.parent / "seed"), rows_of(resnet_dataset)
    places = [
        (resnet_dataset / file, offset, nbytes)
        for file, offset, nbytes in zip(rows["weights_file"], rows["offset"], rows["nbytes"], strict=True)
    ]
    read = torch.empty(len(rows), STATE // 4)
    read_states(places, read)
    for state, place, model, epoch in zip(read, places, rows["model_id"], rows["epoch"], strict=True):
        trained = zoo.weights(model, epoch)
        assert state.equal(trained) and read_state(*place).equal(trained)


def test_safetensors_alone_gives_the_plain_module_of_a_row(resnet_dataset: Path) -> None:
    row = rows_of(resnet_dataset).iloc[1]
    prefix = f"{row['weights_key']}/"
    with safe_open(resnet_dataset / row["weights_file"], "pt") as file:
        state = {
            key.removeprefix(prefix): file.get_tensor(key) for key in sorted(file.keys()) if key.startswith(prefix)
        }
    module = get_architecture("resnet18").module("relu", 0.0)
    module.load_state_dict(state)
    assert module.bn1.num_batches_tracked.item() == 1, "one step was taken"
    assert hash_weights(get_architecture("resnet18").layout.pack(module.state_dict())) == row["sha256"]


def test_building_twice_gives_the_same_bytes(resnet_dataset: Path, tmp_path: Path) -> None:
    with small_cifar10():
        assert build_dataset([resnet_dataset.parent / "seed"], tmp_path / "again") is True
    assert hashes(tmp_path / "again") == hashes(resnet_dataset)


def test_the_datasets_library_loads_the_tables(resnet_dataset: Path, tmp_path: Path) -> None:
    program = """
import json, sys
from datasets import load_dataset
folder = sys.argv[1]
print(json.dumps([load_dataset(folder, name, split="train")[:] for name in ("seed", "seed_index")]))
"""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", program, str(resnet_dataset)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows, index = json.loads(result.stdout)
    assert rows["weights_file"] == [FILES["train"]] * 2 and rows["weights_key"] == ["000", "001"]
    pointers = ("weights_file", "weights_key", "offset", "nbytes")
    assert index == {name: values for name, values in rows.items() if name not in pointers}


def test_an_altered_state_is_not_published(resnet_dataset: Path, tmp_path: Path) -> None:
    zoo = linked(resnet_dataset.parent / "seed", tmp_path / "zoo")
    path = zoo / "states" / "seed-00004" / "epoch-000.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        build_dataset([zoo], tmp_path / "out")
    assert str(caught.value) == (
        f"state seed-00004 epoch 0 of {zoo} differs from the state that was trained; "
        f"delete {path.parent} and run modelzoo-generate again"
    )
    assert not (tmp_path / "out").exists()


def test_load_zoo_gives_the_states_as_of_any_other_zoo(resnet_dataset: Path) -> None:
    trained = ZooFolder.open(resnet_dataset.parent / "seed")
    zoo = load_zoo(resnet_dataset, "seed", epochs=[1])
    assert zoo.table["model_id"].tolist() == ["seed-00003", "seed-00004"]
    for weights, model_id in zip(zoo.weights, zoo.table["model_id"], strict=True):
        assert weights.equal(trained.weights(model_id, 1))


# Verifying.


def test_an_intact_dataset_passes_with_its_metrics_measured_again(resnet_dataset: Path) -> None:
    assert checked(resnet_dataset, resnet_dataset.parent / "images", states=2) == [
        *(
            Check("footers", 4, []),
            Check("layout", 1, []),
            Check("card", 2, []),
            Check("checksums", _data_files(resnet_dataset), []),
        ),
        *(Check("viewer", 4, []), Check("descriptions", 3, []), Check("images", 1, [])),
        *(Check("seed: files", 4, []), Check("seed: recipe", 2, []), Check("seed: index", 4, [])),
        *(Check(f"seed: {name}", 4, []) for name in ("states", "hashes", "finite")),
        Check("seed: metrics, equal", 2, []),
    ]


def _data_files(dataset: Path) -> int:
    return sum(path.is_file() for path in dataset.rglob("*")) - 2  # the card, and the list itself


def _missing(dataset: Path) -> str:
    (dataset / FILES["train"]).unlink()
    return f"cannot read {dataset / FILES['train']}: No such file or directory; {AGAIN}"


def _truncated(dataset: Path) -> str:
    path = dataset / FILES["train"]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1000])
    return f"{path} must have {len(content):,} bytes, it has {len(content) - 1000:,}; {AGAIN}"


def _of_other_tensors(dataset: Path) -> str:
    path = dataset / FILES["train"]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b"000/conv1", b"000/conv9", 1))
    return f"{path} does not hold the tensors of its model, epoch by epoch as its rows say; {AGAIN}"


def _one_too_many(dataset: Path) -> str:
    path = dataset / "weights" / "seed" / "train" / "seed-00009.safetensors"
    path.write_bytes(b"")
    return f"{path} belongs to no model of seed; {AGAIN}"


@pytest.mark.parametrize("spoil", [_missing, _truncated, _of_other_tensors, _one_too_many])
def test_a_file_that_is_not_the_one_is_named_once(spoil: Callable[[Path], str], dataset: Path) -> None:
    told = spoil(dataset)
    assert wrong(dataset) == {"seed: files": [told]}


def test_the_weights_of_another_model_are_recognised(dataset: Path) -> None:
    one, other = (dataset / path for path in FILES.values())
    content = one.read_bytes()
    other.unlink()
    other.write_bytes(content)
    rows = rows_of(dataset)["sha256"]
    assert wrong(dataset) == {
        "seed: hashes": [
            f"seed-00004 epoch {epoch} ({other}) is not the state that was trained: it is seed-00003 epoch {epoch} "
            f"(sha256 {rows[epoch][:12]}…, recorded {rows[2 + epoch][:12]}…); {AGAIN}"
            for epoch in (0, 1)
        ]
    }


def test_rows_that_point_elsewhere_are_named(dataset: Path) -> None:
    path = dataset / "seed" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    offsets = table["offset"].to_pylist()
    moved = table.set_column(table.schema.get_field_index("offset"), table.schema.field("offset"), [[8, offsets[1]]])
    path.unlink()
    rewrite(path, moved)
    assert wrong(dataset) == {"seed: files": [f"offset of seed-00003 epoch 0 must be {offsets[0]}, got 8; {AGAIN}"]}


def test_facts_that_do_not_say_where_weights_are_are_refused(dataset: Path) -> None:
    facts = read_json(dataset / "zoo.json")
    del facts["configs"]["seed"]["weights"]
    (dataset / "zoo.json").unlink()
    write_json(dataset / "zoo.json", facts)
    with pytest.raises(FormatError) as caught:
        wrong(dataset)
    assert str(caught.value) == (
        f"{dataset / 'zoo.json'} is not what modelzoo-build writes: 'weights' of seed must be inline or files, "
        f"got None; {AGAIN}"
    )


# Pushing.


def test_a_dry_run_lists_the_files_of_weights(resnet_dataset: Path, anyone: Client) -> None:
    result = anyone.push(resnet_dataset, "zoos/resnets", "--dry-run")
    assert result.returncode == 0, result.stderr
    for file in FILES.values():
        assert file in result.stdout


def test_a_missing_file_of_weights_is_not_pushed(dataset: Path) -> None:
    (dataset / FILES["validation"]).unlink()
    with pytest.raises(FormatError) as caught:
        read_manifest(dataset, "zoos/resnets")
    assert str(caught.value) == (
        f"{dataset} is incomplete: it has no {FILES['validation']}; build it again with modelzoo-build"
    )


def test_weights_of_models_that_are_gone_are_taken_from_the_repo(resnet_dataset: Path) -> None:
    manifest = read_manifest(resnet_dataset, "zoos/resnets")
    gone = ["weights/seed/train/seed-00001.safetensors", "weights/seed/train/000/seed-00003.safetensors"]
    others = ["weights/hyp/train/hyp-00001.safetensors", "assets/seed-accuracy.png", "README.md"]
    assert manifest.find_stale([*gone, *others, *FILES.values()]) == gone
    assert manifest.find_hidden_configs([*gone, *others]) == ["hyp"]


def test_another_zoo_in_files_is_built_verified_and_pushed(
    tiny_hyp_zoo: Path, hub: HubServer, ann: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small networks as if they were beyond the limit: all splits, and dropout that shifts the names of layers."""
    monkeypatch.setattr(schema, "MAX_INLINE_PARAMETERS", 1000)
    build_dataset([tiny_hyp_zoo], tmp_path / "dataset")
    zoo = ZooFolder.open(tiny_hyp_zoo)
    splits = zoo.models.set_index("model_id")["split"].to_dict()
    weights = (tmp_path / "dataset" / "weights").rglob("*.safetensors")
    files = {path.relative_to(tmp_path / "dataset").as_posix() for path in weights}
    assert files == {f"weights/hyp/{split}/{model}.safetensors" for model, split in splits.items()}
    assert all(check.has_passed for check in verify_folder(tmp_path / "dataset", images_root=tmp_path, states=0))
    assert ann.push(tmp_path / "dataset", "zoos/small").returncode == 0
    commit = hub.repos["datasets", "zoos/small"].commit("main")
    assert commit is not None
    for path in files:
        assert commit.files[path].sha256 == hashlib.sha256((tmp_path / "dataset" / path).read_bytes()).hexdigest()
    shutil.rmtree(tmp_path / "dataset" / "weights" / "hyp" / "test")
    problems = {c.name: len(c.problems) for c in verify_folder(tmp_path / "dataset", images_root=tmp_path, states=0)}
    assert problems["hyp: files"] == sum(split == "test" for split in splits.values()) > 0
