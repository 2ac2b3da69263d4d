"""A dataset folder is compared, not believed: every change of it is refused in one line by all that read it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.memory_limits import run_code_limited, run_limited
from helpers.processes import run
from helpers.resnet_zoos import linked

from modelzoo_datasets import load_zoo, stream_zoo
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.verification.dataset_target import open_dataset as open_verified
from modelzoo_datasets.zoo import ZooFolder, limits, write_footers

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


def shards_of(folder: Path, config: str = "seed", split: str = "train") -> list[Path]:
    return sorted((folder / config).glob(f"{split}-*.parquet"))


@both
def test_a_missing_shard(load: Loader, dataset: Path) -> None:
    (path,) = shards_of(dataset)
    path.rename(path.with_name("train-00000-of-00002.parquet"))
    assert error_of(load, dataset) == (
        f"{path.parent} is incomplete: it has no train-00001-of-00002.parquet; build the dataset again, or copy it "
        "again"
    )


@both
def test_shards_of_two_builds(load: Loader, dataset: Path) -> None:
    (path,) = shards_of(dataset)
    shutil.copy(path, path.with_name("train-00001-of-00002.parquet"))
    assert error_of(load, dataset) == (
        f"{path.parent} has files of two builds, train-00000-of-00001.parquet and others; build the dataset again"
    )


@both
@pytest.mark.parametrize(
    "name", ["train-a.parquet", "train-00001-of-00001.parquet", "train-00000-of-00001-copy.parquet"]
)
def test_a_foreign_shard(load: Loader, name: str, dataset: Path) -> None:
    (path,) = shards_of(dataset)
    shutil.copy(path, path.with_name(name))
    assert error_of(load, dataset) == (
        f"{path.with_name(name)} is no file of a dataset; remove it, or build the dataset again"
    )


@both
def test_swapped_splits(load: Loader, dataset: Path) -> None:
    (train,), (test,) = shards_of(dataset), shards_of(dataset, split="test")
    first, second = train.read_bytes(), test.read_bytes()
    train.write_bytes(second)
    test.write_bytes(first)
    message = error_of(load, dataset)
    assert message.startswith(f"cannot read {train}: ")
    assert "its footer is not the one that footers.json lists" in message


@both
def test_a_missing_split(load: Loader, dataset: Path) -> None:
    (path,) = shards_of(dataset, split="test")
    path.unlink()
    assert error_of(load, dataset) == (
        f"{dataset} is incomplete: it has no seed/test-00000-of-00001.parquet; build the dataset again, or copy it "
        "again"
    )


@both
@pytest.mark.parametrize("kind", ["missing", "pipe"])
def test_a_dataset_without_its_list_of_footers(load: Loader, kind: str, dataset: Path) -> None:
    (dataset / "footers.json").unlink()
    if kind == "pipe":
        os.mkfifo(dataset / "footers.json")
    assert (
        error_of(load, dataset)
        == f"{dataset} is incomplete: it has no footers.json; build the dataset again, or copy it "
        "again"
    )


@both
def test_a_pipe_instead_of_a_shard(load: Loader, dataset: Path) -> None:
    (path,) = shards_of(dataset)
    path.unlink()
    os.mkfifo(path)
    assert error_of(load, dataset) == (
        f"{path} is a named pipe, expected a plain file; remove it, or copy its folder again"
    )


@both
@pytest.mark.parametrize("name", ["zoo.json", "layout.json", "seed/train-00000-of-00001.parquet", "seed"])
def test_a_link_out_of_the_folder_is_not_read(load: Loader, name: str, dataset: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.move(dataset / name, tmp_path / "elsewhere"))
    (dataset / name).symlink_to(elsewhere)
    path = dataset / ("seed/test-00000-of-00001.parquet" if name == "seed" else name)
    message = error_of(load, dataset).replace("train-", "test-") if name == "seed" else error_of(load, dataset)
    assert message == f"{path} is a link that leads out of {dataset}; put the file itself there"


def test_a_snapshot_of_the_hubs_client_is_read(dataset: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "0123", tmp_path / "cache" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in dataset.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(dataset)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert torch.equal(load_zoo(snapshot, "seed").weights, load_zoo(dataset, "seed").weights)


def test_a_table_of_more_rows_than_its_size_allows(dataset: Path) -> None:
    (path,) = shards_of(dataset)
    zeros = pa.FixedSizeListArray.from_arrays(pa.nulls(2464 * 20_000, pa.float32()).fill_null(0), 2464)
    rows = pq.read_table(path).slice(0, 1).take(pa.nulls(20_000, pa.int64()).fill_null(0))
    field = rows.schema.field("weights")
    table = rows.set_column(len(rows.schema) - 1, field, zeros.cast(field.type))
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 1_000_000
    for replica in range(1, 7):  # 200 MB each; together more than a gigabyte
        shutil.copy(path, path.with_name(f"train-{replica:05d}-of-00007.parquet"))
    path.rename(path.with_name("train-00000-of-00007.parquet"))
    write_footers(dataset)
    assert " bytes of memory, more than the limit of 1," in error_of(load_all, dataset)


def repeat_text(folder: Path, column: str, nbytes: int) -> None:
    """Write 2,000 rows with one text of this size, which a dictionary repeats."""
    (path,) = shards_of(folder)
    rows = pq.read_table(path).take(pa.array([0] * 2_000, pa.int64()))
    texts = pa.DictionaryArray.from_arrays(pa.nulls(2_000, pa.int32()).fill_null(0), pa.array(["x" * nbytes]))
    place = rows.schema.get_field_index(column)
    types = {"ARROW:schema": pq.read_metadata(path).metadata[b"ARROW:schema"]}  # of texts, not of dictionaries
    table = rows.set_column(place, column, texts)
    path.unlink()  # of a hard link alone
    with pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(types)
    write_footers(folder)
    assert path.stat().st_size < 1_000_000


@both
def test_a_text_that_a_dictionary_repeats(load: Loader, dataset: Path) -> None:
    repeat_text(dataset, "activation", 1_000_000)
    assert " bytes of memory, more than the limit of 1," in error_of(load, dataset)


def claim_rows(path: Path, before: int, after: int) -> None:
    """Exchange a number in a footer for a smaller one, in numbers of Thrift that have as many bytes."""

    def encode(value: int, length: int) -> bytes:
        digits = [2 * value >> 7 * i & 127 for i in range(length)]
        return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])

    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    length = -(-(2 * before).bit_length() // 7)
    assert encode(before, length) in content[start:]
    content[start:] = content[start:].replace(encode(before, length), encode(after, length))
    path.write_bytes(content)


@both
def test_a_list_of_more_numbers_than_its_footer_says(
    load: Loader, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BASE_BYTES", 10_000_000)
    load(dataset, "seed")
    (path,) = shards_of(dataset)
    rows, count = pq.read_table(path).slice(0, 1), 3_000_000
    kind = rows.schema.field("test_recall").type
    recall = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.nulls(count, pa.float64()).fill_null(0.5))
    place = rows.schema.get_field_index("test_recall")
    pq.write_table(rows.set_column(place, "test_recall", recall.cast(kind)), path, compression="zstd")
    claim_rows(path, count, 10)
    write_footers(dataset)
    assert path.stat().st_size < 100_000
    assert pq.read_table(path)["test_recall"].to_pylist()[0][-1] == 0.5, "PyArrow reads them all"
    assert " bytes of memory, more than the limit of " in error_of(load, dataset)


@both
def test_pages_of_more_bytes_than_the_rows_need(load: Loader, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = shards_of(dataset)
    first, count = pq.read_table(path).slice(0, 1), 1_000_000
    names = [column.name for column in first.schema if column.type == pa.float64()]
    zeros = {name: pa.nulls(count, pa.float64()).fill_null(0.5) for name in names}
    others = first.drop_columns([*names, "weights"]).take(pa.nulls(count, pa.int64()).fill_null(0))
    table = pa.table({**{name: others[name] for name in others.column_names}, **zeros})
    options: dict[str, Any] = {"use_dictionary": others.column_names, "data_page_size": 2**31 - 2}
    options |= {"max_rows_per_page": count} if int(pa.__version__.split(".")[0]) >= 22 else {}
    pq.write_table(table, path, compression="zstd", row_group_size=count, **options)
    claim_rows(path, count, 1)
    write_footers(dataset)
    assert path.stat().st_size < 300_000 and len(names) > 6
    monkeypatch.setattr(limits, "BASE_BYTES", 10_000_000)
    assert " bytes of memory, more than the limit of " in error_of(load, dataset)


def test_verification_reads_no_more_than_loading(dataset: Path) -> None:
    repeat_text(dataset, "activation", 1_000_000)
    end = run_limited(["modelzoo-verify", dataset, "--states", "0"], dataset)
    assert end.status == 1 and end.peak < 300_000_000
    _, (config, *_) = open_verified(dataset)
    (problem,) = config.files.problems
    assert problem.startswith("cannot read ") and " bytes of memory, more than the limit of 1," in problem


def test_the_first_rows_that_the_viewer_shows_take_no_more_either(dataset: Path) -> None:
    repeat_text(dataset, "activation", 100_000_000)
    end = run_code_limited(
        "import sys\nfrom pathlib import Path\nfrom modelzoo_datasets.verification.viewer import check_viewer\n"
        f"print(*check_viewer(Path({str(dataset)!r})).problems, sep='\\n', file=sys.stderr)",
        dataset,
    )
    assert end.status == 0 and end.peak < 600_000_000
    assert any(" bytes of memory, more than the limit of 1," in line for line in end.lines)


def test_the_names_of_weights_files_of_a_push_take_no_more_either(resnet_dataset: Path, tmp_path: Path) -> None:
    folder = linked(resnet_dataset, tmp_path / "dataset")
    repeat_text(folder, "weights_file", 1_000_000)
    end = run_limited(["modelzoo-push", folder, "zoos/tiny", "--dry-run"], folder)
    assert end.status == 2 and end.peak < 300_000_000
    (line,) = end.lines
    assert " bytes of memory, more than the limit of 1," in line


def move_locations(folder: Path, change: Callable[[Any], None]) -> None:
    (path,) = shards_of(folder)
    table = pq.read_table(path)
    rows = table.to_pandas()
    change(rows)
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), path)
    write_footers(folder)


def exchange(rows: Any, column: str) -> None:
    rows.loc[[0, 1], column] = rows.loc[[1, 0], column].to_numpy()


LOCATIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "exchanged": (lambda rows: exchange(rows, "offset"), "epoch 0 is not at byte "),
    "shifted": (lambda rows: rows.__setitem__("offset", rows["offset"] + 4), "epoch 0 is not at byte "),
    "negative": (lambda rows: rows.__setitem__("offset", -rows["offset"]), ": expected states of "),
    "short": (lambda rows: rows.__setitem__("nbytes", rows["nbytes"] - 4), ": expected states of "),
    "another model": (
        lambda rows: rows.__setitem__("model_id", "seed-00009"),
        " is another's; build the dataset again",
    ),
}


@both
@pytest.mark.parametrize("case", LOCATIONS)
def test_places_of_weights_that_do_not_fit(load: Loader, case: str, resnet_dataset: Path, tmp_path: Path) -> None:
    folder = linked(resnet_dataset, tmp_path / "dataset")
    (path,) = shards_of(folder)
    content = path.read_bytes()
    path.unlink()  # of the hard link alone
    path.write_bytes(content)
    change, expected = LOCATIONS[case]
    move_locations(folder, change)
    assert expected in error_of(load, folder)


def test_a_link_to_weights_elsewhere_is_not_followed(resnet_dataset: Path, tmp_path: Path) -> None:
    folder = linked(resnet_dataset, tmp_path / "dataset")
    path = next((folder / "weights").rglob("*.safetensors"))
    elsewhere = Path(shutil.move(path, tmp_path / "elsewhere"))
    path.symlink_to(elsewhere)
    assert error_of(load_all, folder) == f"{path} is a link that leads out of {folder}; put the file itself there"


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_dataset_is_neither_verified_nor_pushed_with_other_files_than_its_own(
    kind: str, dataset: Path, tmp_path: Path
) -> None:
    path, secret = dataset / "assets" / "figure.png", tmp_path / "secret"
    secret.write_text("not to be published")
    if kind == "pipe":
        os.mkfifo(path)
        expected = f"{path} is a named pipe, expected a plain file; remove it, or copy its folder again"
    else:
        path.symlink_to(secret)
        expected = f"{path} is a link that leads out of {dataset}; put the file itself there"
    for command in (["modelzoo-verify", dataset], ["modelzoo-push", dataset, "zoos/tiny", "--dry-run"]):
        end = run(command, env={**os.environ, "HF_TOKEN": "hf_x"}, timeout=60)
        assert (end.returncode, end.stderr.splitlines()) == (2, [f"{command[0]}: {expected}"])


@pytest.mark.parametrize("kind", ["pipe", "link", "link to a folder"])
def test_a_zoo_is_neither_verified_nor_built_with_other_files_than_its_own(
    kind: str, tiny_zoo: Path, tmp_path: Path
) -> None:
    zoo = Path(shutil.copytree(tiny_zoo, tmp_path / "zoo"))
    path = zoo / "states" / "seed-00003"
    path = path if kind == "link to a folder" else path / "epoch-001.safetensors"
    elsewhere = Path(shutil.move(path, tmp_path / "elsewhere"))
    if kind == "pipe":
        os.mkfifo(path)
        expected = f"{path} is a named pipe, expected a plain file; remove it, or copy its folder again"
    else:
        path.symlink_to(elsewhere)
        expected = f"{path} is a link that leads out of {zoo}; put the file itself there"
    for command in (["modelzoo-verify", zoo], ["modelzoo-build", zoo, "--out", tmp_path / "out"]):
        end = run(command, timeout=60)
        assert (end.returncode, end.stderr.splitlines()) == (2, [f"{command[0]}: {expected}"])
    with pytest.raises(FormatError, match="a named pipe" if kind == "pipe" else "a link that leads out of"):
        ZooFolder.open(zoo).weights("seed-00003", 1)


def test_a_model_whose_id_is_a_path_is_refused(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(tiny_zoo, tmp_path / "zoo"))
    table = pd.read_parquet(zoo / "models.parquet")
    table.loc[0, "model_id"] = "../../elsewhere"
    table.to_parquet(zoo / "models.parquet")
    with pytest.raises(FormatError, match=r"models.parquet has a model '../../elsewhere', expected a name of letters"):
        _ = ZooFolder.open(zoo).models
