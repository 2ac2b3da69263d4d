"""What is chosen when loading, against plain pandas; and that nothing else is read."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import run
from helpers.shards import cut, rewrite, spoil

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.loading.query import Query
from modelzoo_datasets.zoo import write_footers


def same(found: Zoo, expected: Zoo) -> bool:
    return torch.equal(found.weights, expected.weights) and found.table.equals(expected.table)


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        ([("activation", "==", "tanh")], "activation == 'tanh'"),
        ([("activation", "=", "relu"), ("dropout", ">", 0)], "activation == 'relu' and dropout > 0"),
        ([("activation", "!=", "tanh"), ("epoch", "<", 1)], "activation != 'tanh' and epoch < 1"),
        ([("test_acc", ">=", 0.2)], "test_acc >= 0.2"),
        ([("test_acc", "<=", 0.2), ["epoch", "in", [1, 2.5, 10**30]]], "test_acc <= 0.2 and epoch == 1"),
        ([("dropout", "in", {0.2, 0.7})], "dropout == 0.2"),
        ([("activation", "not in", ("tanh",))], "activation != 'tanh'"),
        ([("finite", "==", True), ("epoch", "==", 1.0)], "epoch == 1"),
        ([("epoch", "<", 10**30)], "epoch >= 0"),
    ],
)
def test_filters_choose_what_pandas_chooses(filters: list[Any], query: str, tiny_dataset: Path) -> None:
    everything = load_zoo(tiny_dataset, "hyp")
    expected = everything.select(everything.table.eval(query))
    assert 0 < len(expected) <= len(everything)
    assert same(load_zoo(tiny_dataset, "hyp", filters=filters), expected)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_rows_of_many_files_and_row_groups_are_those_of_one(shards: int, tiny_dataset: Path, dataset: Path) -> None:
    cut(dataset, "seed", "train", shards=shards, models_per_group=2)
    everything = load_zoo(tiny_dataset, "seed")
    assert same(load_zoo(dataset, "seed"), everything)
    some = everything.table["model_id"].unique()[[0, 3, 4, 12, 18]].tolist()
    expected = everything.select(everything.table["model_id"].isin(some) & everything.table["epoch"].isin([0, 2]))
    assert len(expected) == 10
    assert same(load_zoo(dataset, "seed", models=some, epochs=(2, 0)), expected)
    assert same(load_zoo(dataset, "seed", models=iter(some), filters=[("epoch", "!=", 1)]), expected)


def test_row_groups_without_wanted_rows_are_not_read(tiny_dataset: Path, dataset: Path) -> None:
    """Everything but the row groups of two models is destroyed on disk."""
    first, second = cut(dataset, "seed", "train", shards=2)
    everything = load_zoo(tiny_dataset, "seed", split="train")
    models = everything.table["model_id"].unique().tolist()
    spoil(first, [0, 1, 3, 4, 5, 6])
    spoil(second, [0, 1, 2, 3, 4, 6])
    expected = everything.select(everything.table["model_id"].isin([models[2], models[12]]))
    assert same(load_zoo(dataset, "seed", split="train", models=[models[12], models[2]]), expected)
    seed = int(expected.table["seed"][0])
    assert same(
        load_zoo(dataset, "seed", split="train", filters=[("seed", ">=", seed), ("seed", "<=", seed)]),
        expected.select(expected.table["seed"] == seed),
    )
    with pytest.raises(FormatError, match=f"^cannot read {first}: "):
        load_zoo(dataset, "seed", split="train")


def test_models_can_be_the_first_few(tiny_dataset: Path) -> None:
    everything = load_zoo(tiny_dataset, "seed")
    first = everything.table["model_id"].unique()[:16]
    assert same(load_zoo(tiny_dataset, "seed", models=16), everything.select(everything.table["model_id"].isin(first)))
    good = everything.table["test_acc"] > everything.table["test_acc"].median()
    expected = everything.select(good)
    two = expected.table["model_id"].unique()[:2]
    found = load_zoo(tiny_dataset, "seed", models=2, filters=[("test_acc", ">", everything.table["test_acc"].median())])
    assert same(found, expected.select(expected.table["model_id"].isin(two)))
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "seed", models=0)
    assert str(caught.value) == "models must be a number of models >= 1, or names of models; got 0"


def test_columns_are_those_asked_for_and_the_keys(tiny_dataset: Path, dataset: Path) -> None:
    found = load_zoo(tiny_dataset, "hyp", columns=["test_acc", "lr"], filters=[("activation", "==", "tanh")])
    everything = load_zoo(tiny_dataset, "hyp")
    expected = everything.select(everything.table["activation"] == "tanh")
    assert found.table.columns.tolist() == ["model_id", "epoch", "lr", "test_acc", "split"]
    assert found.table.equals(expected.table[found.table.columns])
    assert torch.equal(found.weights, expected.weights)
    with pytest.raises(ArgumentError) as caught:
        found.model(0)
    told = (
        "zoo.model(i) needs the columns activation, dropout, which were not loaded; add them to load_zoo(columns=...)"
    )
    assert str(caught.value) == told
    with pytest.raises(
        ArgumentError, match=r"^zoo.hyperparameters\(i\) needs the columns epochs, batch_size, activation, "
    ):
        found.hyperparameters(0)
    named = load_zoo(tiny_dataset, "hyp", columns=["activation", "dropout"])
    assert torch.equal(next(named.model(3).parameters()), next(everything.model(3).parameters()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"filters": [("actvation", "==", "tanh")]}, "unknown column 'actvation'; did you mean 'activation'?"),
        ({"columns": ["test_ac"]}, "unknown column 'test_ac'; did you mean 'test_acc'?"),
        (
            {"filters": [("lr", "~", 1)]},
            "unknown operator '~' in filter ('lr', '~', 1); known: ==, !=, <, <=, >, >=, in, not in",
        ),
        (
            {"filters": ["lr < 1"]},
            "a filter must be (column, operator, value), e.g. ('lr', '<', 1e-3); got 'lr < 1'",
        ),
        ({"filters": [("lr", "<", "1")]}, "cannot compare column 'lr' with '1': it holds numbers"),
        ({"filters": [("lr", "<", True)]}, "cannot compare column 'lr' with True: it holds numbers"),
        ({"filters": [("activation", "in", [1])]}, "cannot compare column 'activation' with 1: it holds strings"),
        (
            {"filters": [("finite", "==", None)]},
            "cannot compare column 'finite' with None: it holds booleans",
        ),
        (
            {"filters": [("activation", "in", "tanh")]},
            "filter ('activation', 'in', 'tanh'): 'in' needs a sequence of values, got 'tanh'",
        ),
        (
            {"filters": [("test_recall", "==", 1)]},
            "cannot filter by column 'test_recall': it holds list<element: double>, and filters need single values",
        ),
        (
            {"filters": [("lr", "<", 0)]},
            "no state of {where} matches the given split, epochs, models and filters; loosen one of them",
        ),
        ({"columns": "test_acc"}, "columns must be a sequence of names, e.g. ['test_acc']; got 'test_acc'"),
        ({"epochs": 1}, "epochs must be a sequence of ints, e.g. [1] or range(21, 26); got 1"),
        ({"epochs": [0, 7, 9]}, "{where} has no state of epoch 7, 9; its epochs are 0 to 1"),
        (
            {"epochs": range(1, 100)},
            "{where} has no state of epoch 2, 3, 4, 5, 6 and 93 more; its epochs are 0 to 1",
        ),
        ({"models": ["hyp-1"]}, "{where} has no model hyp-1 in the requested split; did you mean '{first}'?"),
        ({"models": []}, "no state of {where} matches the given split, epochs, models and filters; loosen one of them"),
    ],
)
def test_what_cannot_be_asked_for_is_told(options: dict[str, Any], told: str, tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "hyp", **options)
    found = re.sub(r"did you mean 'hyp-\S+'\?", "did you mean '{first}'?", str(caught.value))
    assert found.replace(f"{tiny_dataset}/hyp", "{where}") == told


def test_a_split_that_is_not_there_is_answered_with_those_that_are(dataset: Path) -> None:
    for path in (dataset / "hyp").glob("validation-*"):
        path.unlink()
    write_footers(dataset)
    with pytest.raises(ArgumentError) as caught:
        load_zoo(dataset, "hyp", split="validation")
    assert str(caught.value) == f"{dataset}/hyp has no split validation; it has train, test"
    assert set(load_zoo(dataset, "hyp").table["split"]) == {"train", "test"}


def test_an_epoch_that_only_some_models_have_is_no_error(tiny_dataset: Path, dataset: Path) -> None:
    (path,) = (dataset / "seed").glob("test-*.parquet")
    table = pq.read_table(path)
    rewrite(path, table.filter(pq.filters_to_expression([("epoch", "!=", 2)])))
    assert set(load_zoo(dataset, "seed", epochs=[2]).table["split"]) == {"train", "validation"}
    with pytest.raises(ArgumentError) as caught:
        load_zoo(dataset, "seed", split="test", epochs=[2])
    assert str(caught.value) == f"{dataset}/seed has no state of epoch 2; its epochs are 0 to 1"


PEAK = """
import re, sys
from pathlib import Path
from modelzoo_datasets import load_zoo
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000
load_zoo(sys.argv[1], "seed", split="test", cache=False)  # libraries and pools of threads are there from now on
before = peak()
zoo = load_zoo(sys.argv[1], "seed", split="train", columns=["test_acc"], cache=False)
print(peak() - before, zoo.weights.nbytes / 1e6)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's own measure of memory")
def test_memory_peaks_at_the_weights_and_a_few_row_groups(dataset: Path) -> None:
    """166 MB of weights in row groups of 4 MB; a second copy of them, as putting parts together needs, would show."""
    (path,) = (dataset / "seed").glob("train-*.parquet")
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=["model_id"]) as writer:
        for _ in range(40):
            writer.write_table(pa.concat_tables([table] * 10).combine_chunks())
    write_footers(dataset)
    words = ["python", "-c", PEAK, dataset]
    done = run(words, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    more, weights = map(float, done.stdout.split())
    assert weights > 165
    assert weights < more < 1.6 * weights


def test_large_integers_are_compared_with_fractions_as_pandas_compares_them() -> None:
    numbers = [2**53 + 1, 2**31 - 1, 5, -(2**62), None]
    for kind, values in ((pa.int64(), numbers), (pa.int32(), [7, 2**31 - 1, 5, -3, None])):
        table, column = pa.table({"seed": pa.array(values, kind)}), pd.Series(values[:-1])
        for value in (2.5, 2.0**31 - 1, np.float32(5), -3.0):
            for how in ("==", "!=", "<", "<=", ">", ">="):
                found = Query.from_arguments(filters=[("seed", how, value)]).select(table)[0].tolist()
                expected = pd.eval(f"column {how} {float(value)!r}", local_dict={"column": column})
                assert found == np.flatnonzero(expected).tolist(), (kind, how, value)
