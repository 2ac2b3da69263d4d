"""The viewer's limits: a dataset as it is built keeps them, and a folder that breaks one of them is told which."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.hub_commands import Client, commands
from helpers.shards import rewrite

from modelzoo_datasets.verification import Check
from modelzoo_datasets.verification.viewer import LIMITS, check_viewer, measure_rows
from modelzoo_datasets.zoo import open_parquet, write_footers

FILE = "seed/train-00000-of-00001.parquet"


def table(rows: int = 20, width: int = 4, **more: Any) -> pa.Table:
    """A small table with weights, random so that they do not compress."""
    weights = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(weights.ravel()), width)
    return pa.table({"model_id": [f"m{i}" for i in range(rows)], **more, "weights": column})


def folder(path: Path, files: Mapping[str, pa.Table], configs: Any = None, **header: Any) -> Path:
    """A dataset folder of these files, with a config `seed` whose split `train` they are."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, path / name, write_page_index=True)
    write_footers(path)
    if configs is None:
        configs = [{"config_name": "seed", "data_files": [{"split": "train", "path": "seed/train-*.parquet"}]}]
    (path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs, **header})}---\n\n# A dataset\n")
    return path


def config(name: str, *splits: str, path: str = FILE) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": split, "path": path} for split in splits or ("train",)]}


def said(path: Path, **options: Any) -> list[str]:
    return check_viewer(path, **options).problems


def test_a_dataset_as_it_is_built_keeps_every_limit(tiny_dataset: Path) -> None:
    found = check_viewer(tiny_dataset)
    assert (found.name, found.n, found.problems) == ("viewer", 12, [])
    sizes = measure_rows(open_parquet(tiny_dataset / FILE, None), 10)
    rows = int(1_000_000 / (sum(sizes) / 10))
    assert found.notes[0] == f"{FILE}: the first page shows about {rows} rows"
    assert len(found.notes) == 2  # of the configs with weights; the others are shown whole


def test_a_folder_that_breaks_nothing_is_told_nothing(tmp_path: Path) -> None:
    assert check_viewer(folder(tmp_path, {FILE: table()})) == Check("viewer", 1, [])


# What the viewer reads, as it reads it.


def test_the_first_page_is_decoded_as_first_rows_does(tiny_dataset: Path) -> None:
    """100 rows to Python and JSON, then as many of them as a megabyte holds."""
    with pq.ParquetFile(tiny_dataset / FILE) as file:
        rows = next(file.iter_batches(batch_size=100)).to_pylist()
    sizes = [len(json.dumps({"row_idx": i, "row": row, "truncated_cells": []})) for i, row in enumerate(rows)]
    fit = int(np.searchsorted(np.cumsum(sizes), 1_000_000))
    assert fit >= 10, "cells would be truncated"
    told = int(check_viewer(tiny_dataset).notes[0].split()[-2])
    assert abs(told - fit) <= 1
    assert len(rows[0]["weights"]) == 2464 and rows[0]["weights"][0] == float(np.float32(rows[0]["weights"][0]))


def test_duckdb_reads_every_config_by_its_glob(tiny_dataset: Path) -> None:
    header = yaml.safe_load((tiny_dataset / "README.md").read_text().split("---\n")[1])
    infos = {info["config_name"]: info for info in header["dataset_info"]}
    for entry in header["configs"]:
        features = [feature["name"] for feature in infos[entry["config_name"]]["features"]]
        for part, split in zip(entry["data_files"], infos[entry["config_name"]]["splits"], strict=True):
            found = duckdb.sql(f"SELECT * FROM '{tiny_dataset / part['path']}'")
            assert found.columns == features
            assert len(found) == split["num_examples"]


# Row groups.


def test_a_page_of_rows_has_its_share_of_a_row_group_with_a_page_index(tmp_path: Path) -> None:
    folder(tmp_path, {})
    (tmp_path / "seed").mkdir()
    rewrite(tmp_path / FILE, table(600, 50), write_page_index=True)
    group = pq.read_metadata(tmp_path / FILE).row_group(0)
    whole = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    for rows, share in ((150, whole / 4), (600, whole), (1000, whole)):
        assert said(tmp_path, limits=replace(LIMITS, scan=int(share) + 1, page_rows=rows)) == []
        assert said(tmp_path, limits=replace(LIMITS, scan=int(share) - 1, page_rows=rows)) == [
            f"{FILE}: {rows} rows of row group 0 take {share:,.0f} bytes (on average), the viewer reads "
            f"{int(share) - 1:,} at most; write smaller row groups"
        ]


def test_a_row_group_of_more_than_300_mb_breaks_the_viewer_unless_it_has_a_page_index(tmp_path: Path) -> None:
    weights = np.zeros((310, 250_000), dtype=np.float32)
    content = pa.table({"weights": pa.FixedSizeListArray.from_arrays(pa.array(weights.ravel()), 250_000)})
    folder(tmp_path, {})
    (tmp_path / "seed").mkdir()
    options: dict[str, Any] = {"use_dictionary": False, "compression": "none"}
    rewrite(tmp_path / FILE, content, **options)
    small = replace(LIMITS, row=10**9)
    size = pq.ParquetFile(tmp_path / FILE).metadata.row_group(0).column(0).total_compressed_size
    assert size > 310_000_000
    assert said(tmp_path, limits=small) == [
        f"{FILE}: 100 rows of row group 0 take {size:,} bytes (there is no page index), the viewer reads "
        "300,000,000 at most; write smaller row groups"
    ]
    rewrite(tmp_path / FILE, content, write_page_index=True, write_batch_size=1, **options)
    assert said(tmp_path, limits=small) == []
    (tmp_path / "footers.json").unlink()
    size = pq.ParquetFile(tmp_path / FILE).metadata.row_group(0).total_byte_size
    assert said(tmp_path, limits=small) == [
        f"{FILE}: 100 rows of row group 0 take {size:,} bytes (decoded, because the dataset lists no checksum of its "
        "footer), the viewer reads 300,000,000 at most; write smaller row groups"
    ]


# Rows.


def test_rows_of_which_ten_fill_more_than_a_megabyte_are_truncated(tmp_path: Path) -> None:
    found = check_viewer(folder(tmp_path, {FILE: table(12, 6000)}))
    size = sum(measure_rows(open_parquet(tmp_path / FILE, None), 10))
    assert found.problems == []
    assert found.notes == [f"{FILE}: cells will be truncated: 10 rows have {size:,} bytes as JSON"]


def test_a_row_of_more_than_two_megabytes_breaks_the_viewer(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table(2, 110_000)})
    largest = max(measure_rows(open_parquet(tmp_path / FILE, None), 10))
    assert said(tmp_path) == [
        f"{FILE}: a row has {largest:,} bytes as JSON, the viewer shows 2,000,000 at most; keep weights of this size "
        "in files"
    ]


# Columns and schemas.


def test_more_than_a_thousand_columns_break_the_viewer(tmp_path: Path) -> None:
    columns = {f"c{i}": [i] for i in range(1001)}
    assert said(folder(tmp_path, {FILE: pa.table(columns)})) == [
        f"{FILE} has 1,001 columns, the viewer shows 1,000 at most; leave some out"
    ]


def test_a_column_name_of_more_than_500_characters_breaks_the_viewer(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: pa.table({"x" * 500: [1], "y" * 501: [2]})})) == [
        f"{FILE}: the name of column yyyyyyyyyyyyyyyyyyyy… has 501 characters, the viewer takes 500 at most; shorten it"
    ]


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (table().drop_columns("model_id"), "it has no column 'model_id'"),
        (
            table(width=5),
            "column 'weights' must be fixed_size_list<element: float>[4], it is fixed_size_list<element: float>[5]",
        ),
        (table(more=[0] * 20), "column 'more' is unexpected"),
    ],
)
def test_shards_of_different_schemas_break_the_viewer(second: pa.Table, what: str, tmp_path: Path) -> None:
    names = [f"seed/train-{i:05d}-of-00002.parquet" for i in range(2)]
    assert said(folder(tmp_path, {names[0]: table(), names[1]: second})) == [
        f"{names[1]} is not like {names[0]}: {what}; give all files one schema"
    ]


# Configs and splits.


@pytest.mark.parametrize("name", ["data", "a/b", "what?", "a|b"])
def test_a_config_name_that_the_hub_refuses(name: str, tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: table()}, [config(name)])) == [
        f"the Hub refuses the config name {name!r}: it must contain none of < > : / \\ | ? * and must not be 'data'; "
        "rename the config"
    ]


def test_a_split_name_that_datasets_refuses(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: table()}, [config("seed", "train", "hold-out")])) == [
        "config 'seed': the split name 'hold-out' must consist of letters, digits and _, with dots between them; "
        "rename the split"
    ]


def test_a_config_named_twice_and_two_defaults(tmp_path: Path) -> None:
    twice = [{**config("seed"), "default": True}, {**config("seed"), "default": True}]
    assert said(folder(tmp_path, {FILE: table()}, twice)) == [
        "config 'seed' is listed 2 times; list it once",
        "2 configs are marked `default: true`; mark one",
    ]


def test_more_than_30_splits(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: table()}, [config("seed", *(f"s{i}" for i in range(31)))])) == [
        "config 'seed' has 31 splits, the viewer takes 30; merge some"
    ]


def test_too_many_configs(tmp_path: Path) -> None:
    configs = [config(f"c{i}") for i in range(4)]
    assert LIMITS.configs == 4000
    assert said(folder(tmp_path, {FILE: table()}, configs), limits=replace(LIMITS, configs=3)) == [
        "there are 4 configs, the viewer takes 3; publish them as several repos"
    ]


def test_a_first_config_that_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    configs = [config("notes", path="notes.csv"), config("seed")]
    assert said(folder(tmp_path, {FILE: table()}, configs)) == [
        "the first config 'notes' must consist of Parquet files, it has notes.csv; convert them"
    ]


def test_a_config_without_files(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: table()}, [config("seed"), config("hyp", path="hyp/*.parquet")])) == [
        "config 'hyp': no file matches hyp/*.parquet; build the dataset again"
    ]


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("/data/x/*.parquet", "/data/x/*.parquet leads out of the folder"),
        ("../other/*.parquet", "../other/*.parquet leads out of the folder"),
        ("seed/../../x.parquet", "seed/../../x.parquet leads out of the folder"),
        (
            "data/**.parquet",
            "data/**.parquet is no pattern of files (Invalid pattern: '**' can only be an entire path component)",
        ),
    ],
)
def test_a_pattern_that_means_no_files_of_the_folder(pattern: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pq.write_table(table(), tmp_path / "other" / "x.parquet")
    configs = [config("seed"), config("hyp", path=pattern)]
    found = check_viewer(folder(tmp_path / "dataset", {FILE: table()}, configs))
    assert (found.n, found.problems) == (1, [f"config 'hyp': {what}; build the dataset again"])


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()})
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-20])
    (problem,) = said(tmp_path)
    assert problem.startswith(f"cannot read {FILE}: its footer is not the one that footers.json lists")
    assert problem.endswith("; build the dataset again") and "\n" not in problem


# The card.


def test_a_card_that_turns_the_viewer_off(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {FILE: table()}, viewer=False)) == [
        "README.md says `viewer: false`, which turns the viewer off; remove it"
    ]


def test_a_card_without_configs(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()}, [])
    header = "no YAML header with `configs` and their `data_files`"
    assert said(tmp_path) == [f"{tmp_path}/README.md has {header}; build it again with modelzoo-build"]


def test_a_card_of_broken_yaml(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()})
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    (problem,) = said(tmp_path)
    assert problem.startswith(f"{tmp_path}/README.md has no YAML header that can be read (while parsing a flow node")
    assert problem.endswith("); build it again with modelzoo-build") and "\n" not in problem


# Files and folders.


def test_a_script_in_the_root(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()})
    (tmp_path / "mnist-cnn-s.py").write_text("")
    assert said(tmp_path) == [
        "mnist-cnn-s.py lies in the root: `datasets` refuses a repo with a loading script of its name; remove the file"
    ]


def test_a_folder_of_more_than_10_000_entries(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()})
    (tmp_path / "weights").mkdir()
    for i in range(10_001):
        (tmp_path / "weights" / str(i)).touch()
    assert said(tmp_path) == ["weights has 10,001 entries, the Hub takes 10,000 in a folder; write fewer"]


def test_too_many_files(tmp_path: Path) -> None:
    assert LIMITS.files == 100_000
    assert said(folder(tmp_path, {FILE: table()}), limits=replace(LIMITS, files=1)) == [
        "there are 3 files, a repo has 1 at most; write larger ones"
    ]


def test_a_shard_of_more_than_is_recommended_is_noted(tmp_path: Path) -> None:
    folder(tmp_path, {FILE: table()})
    size = (tmp_path / FILE).stat().st_size
    assert LIMITS.shard == 500_000_000
    assert check_viewer(tmp_path, limits=replace(LIMITS, shard=size - 1)) == Check(
        "viewer", 1, [], [f"{FILE} has {size:,} bytes, {size - 1:,} at most are recommended"]
    )


def test_a_local_folder_that_hides_the_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "dataset", {FILE: table()})
    monkeypatch.chdir(tmp_path)
    assert said(tmp_path / "dataset", repo_id="zoos/tiny") == []
    (tmp_path / "zoos" / "tiny").mkdir(parents=True)
    assert said(tmp_path / "dataset", repo_id="zoos/tiny") == [
        "the folder zoos/tiny hides the repo of that name from `datasets` in the current folder; rename it, or load "
        "hf://datasets/zoos/tiny"
    ]


# As a command.


def test_the_command_tells_notes_and_what_breaks(dataset: Path, tmp_path: Path) -> None:
    shutil.copy(dataset / "layout.json", dataset / "tiny.py")
    machine = Client(tmp_path / "machine", "http://127.0.0.1:9")
    result = machine.run(commands, str(tmp_path), [f"modelzoo-verify {dataset} --states 0"])
    assert result.returncode == 1
    assert f"\nviewer: {FILE}: the first page shows about " in result.stdout
    assert result.stderr.splitlines() == [
        f"modelzoo-verify: checksums: {dataset}/tiny.py is not listed in checksums.sha256; build the dataset again",
        "modelzoo-verify: viewer: tiny.py lies in the root: `datasets` refuses a repo with a loading script of its "
        "name; remove the file",
    ]
