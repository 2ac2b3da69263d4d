"""Datasets are cut into even shards of whole models, read back, and missing states are reported."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import random_zoos
from helpers.logs import logged_lines
from helpers.processes import BIN, hashes, run
from helpers.untrained_originals import checkpoint, imported
from helpers.untrained_originals import write_zoo as write_originals

from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.builder import shard_plan
from modelzoo_datasets.builder.integrity import check_table
from modelzoo_datasets.builder.schema import join_rows
from modelzoo_datasets.builder.shard_plan import split_into_row_groups, split_into_shards
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder

STATE = 4 * 2464
MB = 1_000_000


def rows_with(states: Sequence[int]) -> pd.DataFrame:
    """Rows of models with so many states each."""
    models = [f"m{model:05d}" for model, count in enumerate(states) for _ in range(count)]
    return pd.DataFrame({"model_id": models, "epoch": [e for count in states for e in range(count)]})


def cut(states: Sequence[int], state_bytes: int) -> list[list[int]]:
    """States per model of each shard; whole models in their order, or it fails."""
    rows = rows_with(states)
    parts = split_into_shards(rows, state_bytes)
    assert pd.concat(parts).equals(rows)
    assert sum(part["model_id"].nunique() for part in parts) == len(states), "a model is in two shards"
    return [part.groupby("model_id", sort=False).size().tolist() for part in parts]


# How rows are cut.


@pytest.mark.parametrize(
    ("models", "epochs", "state_bytes", "models_of_shards"),
    [
        (10, 50, 100_000, [10]),  # 50 MB
        (10, 64, 100_000, [2, 3, 2, 3]),  # 64 MB
        (3, 50, 1 * MB, [1, 1, 1]),
        (4, 50, 400_000, [1, 1, 1, 1]),
        (100, 51, 100_000, [25, 25, 25, 25]),  # 510 MB, of which 127.5 MB a shard
        (103, 51, 100_000, [21, 20, 21, 20, 21]),  # 525 MB: no more than 25 models fit
        (2, 200, 1 * MB, [1, 1]),  # a model alone is more than 128 MB
    ],
)
def test_shards_are_even_and_at_least_four_where_it_is_worth_it(
    models: int, epochs: int, state_bytes: int, models_of_shards: list[int]
) -> None:
    assert [len(shard) for shard in cut([epochs] * models, state_bytes)] == models_of_shards


def test_shards_of_uneven_models_are_as_large_as_allowed_at_most() -> None:
    draws = torch.Generator().manual_seed(0)
    for state_bytes in (100_000, 333_333):
        states = torch.randint(1, 120, (70,), generator=draws).tolist()
        sizes = [sum(shard) * state_bytes for shard in cut(states, state_bytes)]
        assert max(sizes) <= 128 * MB
        assert len(sizes) >= 4
        assert len(sizes) <= 1.3 * max(4, sum(sizes) / (128 * MB)) + 1, "many more than needed"


def test_one_model_that_is_too_large_leaves_the_others_together() -> None:
    """With 200 MB in one model and 1 MB in each of 200, wherever the large one is."""
    for place in (0, 70, 200):
        states = [1] * 200
        states.insert(place, 200)
        parts = cut(states, 1 * MB)
        assert len(parts) == 4 and [200] in parts
        assert max(sum(part) for part in parts if part != [200]) <= 128
    assert sorted(map(len, cut([10_000] + [1] * 200, 1 * MB))) == [1, 66, 67, 67]


def test_as_few_shards_as_can_be_and_no_model_in_two() -> None:
    """Against every way to cut, of few models."""
    draws = torch.Generator().manual_seed(0)
    for _ in range(30):
        states = torch.randint(1, 160, (9,), generator=draws).tolist()
        parts = cut(states, 1 * MB)
        assert all(len(part) == 1 or sum(part) <= 128 for part in parts)
        fewest = min(
            number
            for number in range(1, 10)
            for ends in itertools.combinations(range(1, 9), number - 1)
            if all(b - a == 1 or sum(states[a:b]) <= 128 for a, b in itertools.pairwise([0, *ends, 9]))
        )
        assert len(parts) == max(fewest, 4)


def test_shards_of_very_many_models_take_no_time() -> None:
    rows = rows_with([100 if model % 3 == 0 else 1 for model in range(12_000)])
    started = time.perf_counter()
    parts = split_into_shards(rows, 1 * MB)
    assert time.perf_counter() - started < 20
    assert len(parts) == 4000


def test_row_groups_are_of_whole_models_and_about_ten_megabytes() -> None:
    groups = split_into_row_groups(rows_with([51] * 50), STATE)
    assert [len(group) for group in groups] == [20 * 51, 20 * 51, 10 * 51]
    assert pd.concat(groups).equals(rows_with([51] * 50))
    assert [len(group) for group in split_into_row_groups(rows_with([3, 5]), 100 * MB)] == [3, 5]


# What is built.


@pytest.fixture(scope="module")
def sharded(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a zoo whose splits are all worth four shards."""
    out = tmp_path_factory.mktemp("sharded") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_plan, "_MIN_BYTES_TO_SHARD", 1)
        build_dataset([tiny_zoo], out)
    return out


def test_a_dataset_in_shards_holds_what_one_in_single_files_does(
    sharded: Path, tiny_zoo: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {split: len(list(sharded.glob(f"seed/{split}-*"))) for split in ("train", "validation", "test")}
    assert counts == {"train": 4, "validation": 3, "test": 3}, "of 14, 3 and 3 models"
    cut, whole = load_zoo(sharded, "seed"), load_zoo(tiny_dataset, "seed")
    assert cut.weights.equal(whole.weights) and cut.table.equals(whole.table)
    monkeypatch.setattr(shard_plan, "_MIN_BYTES_TO_SHARD", 1)
    build_dataset([tiny_zoo], tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(sharded)


def test_a_dataset_in_shards_passes_every_check(sharded: Path) -> None:
    checks = {
        check.name: check.n for check in verify_folder(sharded, images_root=sharded, states=0) if check.has_passed
    }
    names = ("files", "recipe", "index", "states", "hashes", "finite")
    files = {
        "footers": 13,
        "checksums": len(hashes(sharded)) - 2,
        "viewer": 13,
        "descriptions": 3,
    }  # all but the card and the list; 10 shards and an index
    assert checks == {"layout": 1, "card": 2} | files | {
        f"seed: {name}": n for name, n in zip(names, (10, 20, 60, 60, 60, 60), strict=True)
    }


def test_the_datasets_library_shares_shards_among_processes(sharded: Path, tmp_path: Path) -> None:
    program = """
import sys
from datasets import load_dataset
if __name__ == "__main__":
    data = load_dataset(sys.argv[1], "seed", split="train", num_proc=2)
    print(len(data), load_dataset(sys.argv[1], "seed", split="train", streaming=True).num_shards)
"""
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_CACHE": str(tmp_path / "c"),
    }
    command = [sys.executable, str(tmp_path / "program.py"), str(sharded)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "42 4\n"), result.stderr


def test_pages_are_indexed_and_cut_by_content(tmp_path: Path) -> None:
    """Models that are taken away in front leave most bytes behind them as they were: the Hub has those already."""
    chosen, content = random_zoos.recipe(models=60, epochs=20), {}
    for first in (1, 5):
        zoo = tmp_path / f"zoo-{first}"
        random_zoos.write_zoo(zoo, chosen, "packed", places=range(first, 61))
        build_dataset([zoo], tmp_path / f"{first}")
        (path,) = (tmp_path / f"{first}" / "seed").glob("train-*")
        content[first] = path.read_bytes()
        file = pq.ParquetFile(path)
        column = file.metadata.row_group(0).column(file.schema_arrow.names.index("weights"))
        assert column.has_offset_index and column.has_column_index
    samples = [content[5][i : i + 64] for i in range(0, len(content[5]) - 64, 50_000)]
    known = sum(sample in content[1] for sample in samples) / len(samples)
    assert known > 0.6


def test_a_file_that_holds_other_weights_than_were_written_is_not_published(
    tiny_hyp_zoo: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    zoo = ZooFolder.open(tiny_hyp_zoo)
    rows = join_rows(zoo.models, zoo.states)
    rows = rows[rows["split"] == "train"]
    path = shutil.copy(tiny_dataset / "hyp" / "train-00000-of-00001.parquet", tmp_path / "train.parquet")
    check_table(path, rows, zoo)  # as it was written
    table = pq.read_table(path)
    weights = table["weights"].combine_chunks().flatten().to_numpy().copy()
    weights.view("<u4")[2464 + 7] ^= 1  # the last bit of one number
    kind = table.schema.field("weights").type
    column = pa.FixedSizeListArray.from_arrays(pa.array(weights), type=kind)
    pq.write_table(table.set_column(table.num_columns - 1, table.schema.field("weights"), column), path)
    with pytest.raises(FormatError) as caught:
        check_table(path, rows, zoo)
    assert str(caught.value) == (
        f"state {rows['model_id'].iloc[1]} epoch 1 in train.parquet differs from what was written, which points to "
        "faulty memory or a faulty disk; run the same command again"
    )


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_states_missing_for_some_epochs_are_reported_and_the_others_published(tmp_path: Path, storage: str) -> None:
    originals = write_originals(tmp_path / "tune_zoo_uniform")
    for number, epoch in ((1, 0), (2, 1), (2, 2)):
        checkpoint(originals, number, epoch).unlink()
    imported(originals, tmp_path / "zoo", storage=storage)
    with logged_lines("modelzoo_datasets") as told:
        assert build_dataset([tmp_path / "zoo"], tmp_path / "dataset") is True
    assert told == ["seed: 3 states of 2 models are missing at epochs that other models have"]
    zoo, table = ZooFolder.open(tmp_path / "zoo"), load_zoo(tmp_path / "dataset")
    states = [*zip(table.table["model_id"], table.table["epoch"], strict=True)]
    assert sorted(states) == [
        *(("seed-00001", 1), ("seed-00001", 2), ("seed-00002", 0)),
        *(("seed-00003", epoch) for epoch in range(3)),
    ]
    for weights, (model, epoch) in zip(table.weights, states, strict=True):
        assert weights.equal(zoo.weights(model, epoch))
    assert all(check.has_passed for check in verify_folder(tmp_path / "dataset", images_root=tmp_path, states=0))
    shutil.rmtree(tmp_path / "dataset")
    result = run([BIN / "modelzoo-build", tmp_path / "zoo", "--out", tmp_path / "dataset"])
    *notes, last = result.stderr.splitlines()
    assert (result.returncode, last) == (0, f"modelzoo-build: {told[0]}")
    assert all(note.startswith("pyarrow ") for note in notes), "an old one, which cuts pages by size"


# Reading all states of a model at once.


@pytest.fixture(scope="module", params=["states", "packed"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ZooFolder:
    """Twins, which have more beside their states."""
    out = tmp_path_factory.mktemp("twins") / "zoo"
    random_zoos.write_zoo(out, random_zoos.recipe(models=3, epochs=4), request.param, config="seed-sparse")
    return ZooFolder.open(out)


def read(zoo: ZooFolder, model_id: str, epochs: Sequence[int]) -> torch.Tensor:
    out = torch.full((len(epochs), zoo.layout.size), torch.nan)
    zoo.read_trajectory(model_id, epochs, out)
    return out


@pytest.mark.parametrize("epochs", [range(5), range(1, 4), [0, 2, 4]])
def test_states_read_at_once_are_those_read_one_by_one(twins: ZooFolder, epochs: Sequence[int]) -> None:
    for model_id in twins.models["model_id"]:
        expected = torch.stack([twins.weights(model_id, epoch) for epoch in epochs])
        assert read(twins, model_id, epochs).equal(expected)


def test_states_as_writers_leave_them_are_not_read_one_by_one(
    twins: ZooFolder, tiny_hyp_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ZooFolder, "weights")
    read(twins, "seed-sparse-00001", range(5))
    for model_id in ZooFolder.open(tiny_hyp_zoo).models["model_id"]:  # whose keys are shifted by dropout
        read(ZooFolder.open(tiny_hyp_zoo), model_id, range(2))


def test_what_is_wrong_with_a_state_is_said_as_if_it_were_read_alone(twins: ZooFolder, tmp_path: Path) -> None:
    folder = ZooFolder.open(Path(shutil.copytree(twins.path, tmp_path / "zoo")))
    path = folder._path("seed-sparse-00002", 3)
    content = path.read_bytes()
    cut = [content[:-8], content[:-3], content[: len(content) // 2], content[:5], b""]
    others = [(b'offsets":[0,', b'offsets":[4,'), (b'"F32"', b'"F64"'), (b":{", b":[")]  # in the header
    replaced = [content.replace(part, instead, 1) for part, instead in others]
    for other in (*cut, content + b"12345678", *replaced, None):
        path.unlink()
        if other is not None:
            path.write_bytes(other)
        folder = ZooFolder.open(folder.path)
        with pytest.raises(FormatError) as alone:
            folder.weights("seed-sparse-00002", 3)
        with pytest.raises(FormatError) as together:
            read(ZooFolder.open(folder.path), "seed-sparse-00002", range(5))
        assert str(together.value) == str(alone.value)
