"""Decoded weights that are kept: the same numbers, never stale, whole or not at all, within bounds."""

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.shards import cut, rewrite, spoil
from safetensors.torch import load_file

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.loading import cache, stream_zoo
from modelzoo_datasets.zoo import write_footers

SPLIT = 14 * 3 * 2464 * 4  # bytes of the weights of the training models


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which even tiny zoos are kept."""
    monkeypatch.setattr(cache, "_MIN_BYTES", 0)
    monkeypatch.setenv("MODELZOO_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def place(path: Path) -> Path:
    """Where in the cache a file has its place, as it is now."""
    entry = cache.CacheEntry.from_file(path)
    assert entry is not None
    return entry.path


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_was_decoded_once_is_read_from_the_cache(kept: Path, dataset: Path) -> None:
    """All weights in the file itself are destroyed, so that only the cache can give them."""
    (path,) = cut(dataset, "seed", "train", shards=1)
    whole = load_zoo(dataset, "seed", split="train")
    (entry,) = files(kept)
    assert torch.equal(load_file(entry)["weights"], whole.weights), "it is a plain safetensors file"
    times = path.stat()
    spoil(path, [*range(pq.read_metadata(path).num_row_groups)])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(FormatError):
        load_zoo(dataset, "seed", split="train")  # the time of the change tells
    entry.rename(place(path))
    models, table = whole.table["model_id"].unique().tolist(), whole.table
    for options, rows in (
        ({}, table["epoch"] >= 0),
        ({"epochs": [2]}, table["epoch"] == 2),
        ({"models": models[2:5]}, table["model_id"].isin(models[2:5])),
        ({"epochs": [0, 2], "models": models[7:8]}, (table["model_id"] == models[7]) & (table["epoch"] != 1)),
        ({"filters": [("test_acc", ">", 0.15)]}, table["test_acc"] > 0.15),
        ({"models": 3, "columns": ["lr"]}, table["model_id"].isin(models[:3])),
    ):
        found, expected = load_zoo(dataset, "seed", split="train", **options), whole.select(rows)  # type: ignore[arg-type]
        assert len(found) > 0 and torch.equal(found.weights, expected.weights)
        assert found.table.equals(expected.table[found.table.columns])
        parts = list(stream_zoo(dataset, "seed", split="train", batch_size=4, **options))  # type: ignore[arg-type]
        assert torch.equal(torch.cat([part.weights for part in parts]), expected.weights)
        assert pd.concat([part.table for part in parts], ignore_index=True).equals(found.table)
    with pytest.raises(FormatError):
        load_zoo(dataset, "seed", split="train", cache=False)


def test_tables_from_the_cache_have_the_types_and_the_missing_values_of_those_that_are_read(
    kept: Path, dataset: Path
) -> None:
    (path,) = cut(dataset, "seed", "train", shards=1)
    table, times = pq.read_table(path), 0
    table = table.set_column(table.column_names.index("lr"), "lr", pa.array([None, 0.5, *[math.nan] * 40]))
    table = table.add_column(0, "kind", pa.array([None, "a"] * 21))
    rewrite(path, table, row_group_size=3)
    for options in ({}, {"epochs": [0, 1]}, {"filters": [("kind", "not in", ["b"])]}, {"filters": [("lr", "<", 1)]}):
        read = load_zoo(dataset, "seed", split="train", cache=False, **options)  # type: ignore[arg-type]
        for _ in range(2):
            found = load_zoo(dataset, "seed", split="train", **options)  # type: ignore[arg-type]
            assert torch.equal(found.weights, read.weights) and not found.weights.eq(0).all()
            pd.testing.assert_frame_equal(found.table, read.table)
            found.table.loc[0, "kind"] = "b"  # it is not the cache's
            found.weights.zero_()
            times += 1
    assert times == 8 and len(files(kept)) == 1


def test_a_dataset_that_was_built_anew_is_decoded_anew(kept: Path, dataset: Path, tiny_hyp_zoo: Path) -> None:
    before = load_zoo(dataset, "hyp", split="test")
    (path,) = (dataset / "hyp").glob("test-*.parquet")
    table, times = pq.read_table(path), path.stat()
    other = before.weights.flip(0).numpy().reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(other), type=table.schema.field("weights").type)
    with path.open("wb") as file:
        pq.write_table(table.set_column(table.num_columns - 1, table.schema.field("weights"), column), file)
    write_footers(dataset)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert torch.equal(load_zoo(dataset, "hyp", split="test").weights, before.weights.flip(0))
    assert len(files(kept)) == 2


def test_files_of_which_only_some_row_groups_were_read_are_not_kept(kept: Path, dataset: Path) -> None:
    first, second = cut(dataset, "seed", "train", shards=2)
    spoil(second, [1])
    model = load_zoo(dataset, "seed", split="train", models=1)
    assert files(kept) == []
    load_zoo(dataset, "seed", split="train", models=7, epochs=[1])
    (entry,) = files(kept)
    assert f"{first.resolve()} " in entry.read_bytes()[:1000].decode(errors="replace"), "all of its row groups"
    with pytest.raises(FormatError):
        load_zoo(dataset, "seed", split="train")
    assert files(kept) == [entry], "nothing is left of what failed"
    assert torch.equal(load_zoo(dataset, "seed", split="train", models=1).weights, model.weights)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"cut",
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: b"\xff" * 1000,
        lambda content: content[:8] + b"[1]" + content[11:],
        lambda content: content[:1000] + bytes(2000) + content[3000:],  # where the table begins
    ],
)
def test_an_entry_that_is_not_whole_is_not_used(damage: Callable[[bytes], bytes], kept: Path, dataset: Path) -> None:
    whole = load_zoo(dataset, "seed", split="train")
    (entry,) = files(kept)
    entry.write_bytes(damage(entry.read_bytes()))
    assert torch.equal(load_zoo(dataset, "seed", split="train").weights, whole.weights)
    assert torch.equal(load_file(entry)["weights"], whole.weights), "it is made again"


def test_an_entry_that_goes_meanwhile_is_still_read(kept: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read = load_zoo(dataset, "seed", split="train"), cache.CacheEntry.read

    def then_gone(entry: cache.CacheEntry) -> cache.CachedShard | None:
        found = read(entry)
        entry.path.unlink()
        return found

    monkeypatch.setattr(cache.CacheEntry, "read", then_gone)
    again = load_zoo(dataset, "seed", split="train", epochs=[1])
    expected = whole.select(whole.table["epoch"] == 1)
    assert torch.equal(again.weights, expected.weights) and again.table.equals(expected.table)
    assert files(kept) == []


def test_several_that_keep_the_same_at_once_leave_one_whole_entry(kept: Path, dataset: Path) -> None:
    expected = load_zoo(dataset, "seed", cache=False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_zoo(dataset, "seed"), range(8)))
    assert all(torch.equal(zoo.weights, expected.weights) and zoo.table.equals(expected.table) for zoo in found)
    assert len(files(kept)) == 3 and all(path.suffix == ".safetensors" for path in files(kept)), "one of each split"
    assert {len(load_file(path)["weights"]) for path in files(kept)} == {42, 9}


def test_nothing_is_kept_if_so_asked_or_if_it_is_small(
    kept: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_zoo(dataset, "seed", cache=False)
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", "0")
    load_zoo(dataset, "seed")
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", str(SPLIT))
    load_zoo(dataset, "seed", split="train")
    assert files(kept) == [], "with its header it is larger"
    monkeypatch.delenv("MODELZOO_CACHE_BYTES")
    monkeypatch.setattr(cache, "_MIN_BYTES", SPLIT + 1)
    load_zoo(dataset, "seed")
    assert files(kept) == []
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", "20 GB")
    with pytest.raises(ArgumentError) as caught:
        load_zoo(dataset, "seed")
    assert str(caught.value) == "MODELZOO_CACHE_BYTES must be a number of bytes, e.g. 20000000000; got '20 GB'"


def test_what_was_used_longest_ago_goes_first(kept: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        before = files(kept)
        load_zoo(dataset, "seed", split=split)
        (new,) = set(files(kept)) - set(before)
        os.utime(new, (number + 1, number + 1))
    sizes = {path: path.stat().st_size for path in files(kept)}
    train = max(sizes, key=lambda path: sizes[path])
    load_zoo(dataset, "seed", split="train")  # used again, so that validation is the oldest
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", str(sum(sizes.values())))
    load_zoo(dataset, "hyp", split="validation")
    left = files(kept)
    assert train in left and len(left) == 3
    assert json.loads(left[0].read_bytes()[8:].split(b"}}")[0] + b"}}")["weights"]["dtype"] == "F32"


def test_a_cache_that_cannot_be_written_fails_no_load(
    kept: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_zoo(dataset, "seed", cache=False)
    kept.write_bytes(b"a file where the folder should be")
    assert torch.equal(load_zoo(dataset, "seed").weights, expected.weights)
    kept.unlink()
    monkeypatch.setattr(cache, "_RESERVED_BYTES", 10**18)
    assert torch.equal(load_zoo(dataset, "seed").weights, expected.weights)
    assert files(kept) == [], "the disk has other uses for its last room"


def test_what_others_put_into_the_folder_stays(kept: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old it is and however full the cache; what a killed process of ours left goes."""
    kept.mkdir()
    names = ["thesis.csv", "run1", "best.safetensors", ".hidden.partial", f"{'0' * 32}.csv"]
    abandoned = {f".{'0' * 32}-{'1' * 32}.partial", f".{'0' * 32}.safetensors.123-{'1' * 8}.partial"}
    for name in (*names, *abandoned):
        (kept / name).write_bytes(b"mine")
        os.utime(kept / name, (1, 1))
    load_zoo(dataset, "seed", split="train")
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", "1")
    load_zoo(dataset, "seed", split="test")
    monkeypatch.setenv("MODELZOO_CACHE_BYTES", str(SPLIT))
    load_zoo(dataset, "seed", split="test")
    left = {path.name for path in files(kept)}
    assert {*names} < left and not abandoned & left
