"""A damaged entry of the cache is decoded again, with a line, and never used."""

import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.shards import cut

from modelzoo_datasets import load_zoo
from modelzoo_datasets.loading import block_hashes, cache, cached_tensor, stream_zoo
from modelzoo_datasets.loading.cached_shard import CachedShard, DamagedEntryError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, in which even tiny zoos are kept, in many blocks."""
    monkeypatch.setattr(cache, "_MIN_BYTES", 0)
    monkeypatch.setattr(block_hashes, "BLOCK_BYTES", 3 * 2464 * 4)
    monkeypatch.setenv("MODELZOO_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def flip(path: Path, generator: random.Random) -> None:
    """Change one bit anywhere."""
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return told


@pytest.mark.parametrize("times", [15, pytest.param(600, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_found_and_the_entry_is_made_again(
    times: int, folder: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(dataset, "seed", "train", shards=1)
    expected = load_zoo(dataset, "seed", split="train", cache=False)
    load_zoo(dataset, "seed", split="train")
    (entry,) = folder.iterdir()
    whole, generator = entry.read_bytes(), random.Random(times)
    for _ in range(times):
        flip(entry, generator)
        found = load_zoo(dataset, "seed", split="train")
        assert torch.equal(found.weights, expected.weights) and found.table.equals(expected.table)
        (line,) = lines(caplog)
        assert line.startswith(f"{entry} in the cache is damaged (") and line.endswith("; it is removed and made again")
        assert entry.read_bytes() == whole
    assert torch.equal(load_zoo(dataset, "seed", split="train").weights, expected.weights)
    assert lines(caplog) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    ],
    ids=["shorter", "half", "longer", "empty", "zeros", "half-written"],
)
def test_an_entry_of_another_size_is_made_again(
    spoil: Callable[[bytes], bytes], folder: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(dataset, "seed", "train", shards=1)
    expected = load_zoo(dataset, "seed", split="train")
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(spoil(whole))
    assert torch.equal(load_zoo(dataset, "seed", split="train").weights, expected.weights)
    assert len(lines(caplog)) == 1 and entry.read_bytes() == whole


def test_only_the_blocks_of_rows_that_are_used_are_checked(
    folder: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(dataset, "seed", "train", shards=1)
    whole = load_zoo(dataset, "seed", split="train")
    (entry,) = folder.iterdir()
    shard = CachedShard.open(entry)
    start = entry.read_bytes().index(whole.weights.numpy().tobytes()[:64])
    with entry.open("r+b") as file:
        file.seek(start + 4 * 2464 * 20 + 8)  # in state 20 of 42
        file.write(b"\1\2\3\4")
    models = whole.table["model_id"].unique().tolist()
    for chosen in (models[:2], models[-2:]):
        found = load_zoo(dataset, "seed", split="train", models=chosen)
        assert torch.equal(found.weights, whole.weights[whole.table["model_id"].isin(chosen).tolist()])
    assert lines(caplog) == []
    with pytest.raises(DamagedEntryError, match="^the hash of states 18 to 20 differs$"):
        shard.check()
    batches = list(stream_zoo(dataset, "seed", split="train", batch_size=5))
    assert torch.equal(torch.cat([batch.weights for batch in batches]), whole.weights)
    assert len(lines(caplog)) == 1 and not list(folder.iterdir()), "a stream adds nothing to the cache"


def test_a_cache_that_others_can_write_to_is_not_used_and_it_is_said_once(
    folder: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    folder.chmod(0o707)
    for _ in range(2):
        load_zoo(dataset, "seed", split="train")
    assert lines(caplog) == [
        f"the cache folder {folder} is not used: other users can write to {folder}; run chmod go-w {folder}, or set "
        "another cache folder"
    ]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "tensor", [torch.arange(5), torch.ones(3, 4) > 0, torch.tensor(2.5), torch.empty(0, 3)], ids=str
)
def test_a_cached_tensor_is_itself_or_damaged(tensor: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "entry"
    with pytest.raises(FileNotFoundError):
        cached_tensor.read_cached_tensor(path)
    cached_tensor.write_cached_tensor(path, tensor)
    found = cached_tensor.read_cached_tensor(path)
    assert torch.equal(found, tensor) and found.dtype == tensor.dtype
    whole, size = path.read_bytes(), 8 + tensor.nbytes
    for i in range(len(whole) - size, len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        with pytest.raises(DamagedEntryError):
            cached_tensor.read_cached_tensor(path)
