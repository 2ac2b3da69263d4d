"""Streams: the states that `load_zoo` loads, in batches, from a folder and over HTTP; left at any time."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hub_commands import Client, prints
from helpers.hub_server import HubServer, tiny
from helpers.paths import ROOT
from helpers.processes import run
from helpers.shards import cut, spoil

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.loading import stream_zoo


@pytest.mark.parametrize("batch", [1, 7, 9, 1000])
@pytest.mark.parametrize("options", [{}, {"split": "train", "epochs": [0, 2]}, {"filters": [("test_acc", ">", 0.2)]}])
def test_batches_one_behind_the_other_are_the_zoo(batch: int, options: dict[str, Any], dataset: Path) -> None:
    cut(dataset, "seed", "train", shards=2, models_per_group=3)
    whole, begin = load_zoo(dataset, "seed", **options), 0
    for zoo in stream_zoo(dataset, "seed", batch_size=batch, **options):
        assert len(zoo) == len(zoo.table) == min(batch, len(whole) - begin)
        rows = slice(begin, begin + len(zoo))
        assert torch.equal(zoo.weights, whole.weights[rows])
        assert zoo.weights.untyped_storage().nbytes() == zoo.weights.nbytes, "it holds nothing but its own states"
        assert zoo.table.equals(whole.table[rows].reset_index(drop=True))
        assert torch.equal(next(zoo.model(0).parameters()), next(whole.model(begin).parameters()))
        begin += len(zoo)
    assert begin == len(whole) > 0


def test_row_groups_are_read_when_their_turn_comes(dataset: Path) -> None:
    (path,) = cut(dataset, "seed", "train", shards=1, models_per_group=2)
    expected = load_zoo(dataset, "seed", split="train")
    spoil(path, [1, 2, 3, 4, 5, 6])
    stream = stream_zoo(dataset, "seed", split="train", batch_size=3)
    assert torch.equal(torch.cat([next(stream).weights, next(stream).weights]), expected.weights[:6])
    with pytest.raises(FormatError, match=f"^cannot read {path}: "):
        next(stream)


def test_what_cannot_be_streamed_is_told_before_the_first_batch(tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        stream_zoo(tiny_dataset, "seed", batch_size=0)
    assert str(caught.value) == "batch_size must be at least 1; got 0"
    with pytest.raises(ArgumentError, match="has no config 'sed'"):
        stream_zoo(tiny_dataset, "sed")
    with pytest.raises(ArgumentError, match="^unknown column 'acc'; did you mean"):
        next(stream_zoo(tiny_dataset, "seed", columns=["acc"]))
    assert list(stream_zoo(tiny_dataset, "seed", filters=[("lr", "<", 0)])) == []


STREAMED = """
import hashlib
from modelzoo_datasets.loading import stream_zoo
digest, states = hashlib.sha256(), 0
for zoo in stream_zoo("zoos/tiny", "seed", batch_size=5, **{options}):
    digest.update(zoo.weights.numpy().tobytes())
    states += len(zoo)
print(states, digest.hexdigest())
"""


def streamed(folder: Path, **options: Any) -> str:
    """What STREAMED prints."""
    zoo = load_zoo(folder, "seed", **options)
    return f"{len(zoo)} {hashlib.sha256(zoo.weights.numpy().tobytes()).hexdigest()}\n"


def test_a_repo_is_streamed_in_ranges_and_nothing_is_stored(
    hub: HubServer, ann: Client, anyone: Client, dataset: Path
) -> None:
    first, second = cut(dataset, "seed", "train", shards=2)
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    hub.requests.clear()
    whole = anyone.run(prints, STREAMED.replace("{options}", "{'split': 'train'}"))
    assert whole.stdout == streamed(dataset, split="train"), whole.stderr
    asked = [r.path.rpartition("/")[2] for r in hub.asked("^GET .*/resolve/.*parquet")]
    # The end of each file, then one request for each of its seven row groups.
    assert asked == [first.name] * 8 + [second.name] * 8
    assert not list(anyone.home.rglob("*.parquet"))
    hub.requests.clear()
    model = load_zoo(dataset, "seed", split="train").table["model_id"].unique()[9]
    options = {"split": "train", "models": [model]}
    one = anyone.run(prints, STREAMED.replace("{options}", repr(options)))
    assert one.stdout == streamed(dataset, **options), one.stderr
    asked = [r.path.rpartition("/")[2] for r in hub.asked("^GET .*/resolve/.*parquet")]
    assert asked == [first.name] + [second.name] * 3, "both ends, then the scalars and the weights of one row group"


def test_files_that_were_downloaded_are_streamed_from_there(
    hub: HubServer, ann: Client, anyone: Client, dataset: Path
) -> None:
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    code = STREAMED.replace("{options}", "{'split': 'test'}")
    loaded = anyone.run(prints, f"from modelzoo_datasets import load_zoo; load_zoo('zoos/tiny', 'seed')\n{code}")
    hub.requests.clear()
    assert anyone.run(prints, code).stdout == loaded.stdout == streamed(dataset, split="test")
    assert not hub.asked("^GET .*/resolve/")
    private = tiny(hub)
    private.private = True
    told = anyone.run(prints, f"try:\n  {code.strip().replace(chr(10), chr(10) + '  ')}\nexcept OSError as e: print(e)")
    assert "zoos/tiny does not exist or is private" in told.stdout


LEFT = """
from modelzoo_datasets.loading import stream_zoo
stream = stream_zoo("zoos/tiny", "seed", batch_size=2, split="train")
print(len(next(stream)))
for zoo in stream_zoo("zoos/tiny", "seed", batch_size=2):
    break
"""


def test_leaving_a_stream_early_does_not_hang_the_interpreter(
    hub: HubServer, ann: Client, anyone: Client, dataset: Path
) -> None:
    """Where pyarrow's own threads read through Python, about every second process hangs or aborts at its end."""
    cut(dataset, "seed", "train", shards=2)
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    anyone.home.mkdir()
    root = str(ROOT)
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **anyone.environment()}
    for _ in range(3):
        done = run(["python", "-c", LEFT], cwd=anyone.home, env=environment, timeout=60)
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
