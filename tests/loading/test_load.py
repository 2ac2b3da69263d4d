"""Loading: what was asked for, as it was trained."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.shards import rewrite

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import ArgumentError, FormatError, nearest_hint
from modelzoo_datasets.images import Images
from modelzoo_datasets.weights.layout import Layout
from modelzoo_datasets.zoo import DATASET_FORMAT, ZooFolder


def test_every_model_reproduces_its_stored_test_accuracy(tiny_dataset: Path, images: Images) -> None:
    inputs, labels = images.inputs("test"), images.labels("test")
    for config in ("seed", "hyp"):
        zoo = load_zoo(tiny_dataset, config, split=None if config == "hyp" else "test")
        if config == "hyp":
            kinds = set(zip(zoo.table["activation"], zoo.table["dropout"], strict=True))
            assert kinds == {("tanh", 0.0), ("tanh", 0.2), ("relu", 0.0), ("relu", 0.2)}
        for i in range(len(zoo)):
            with torch.no_grad():
                guesses = zoo.model(i)(inputs).argmax(dim=1)
            assert (guesses == labels).double().mean().item() == zoo.table["test_acc"][i]


def test_weights_and_rows_are_those_of_the_zoo_folder(tiny_hyp_zoo: Path, tiny_dataset: Path) -> None:
    zoo, folder = load_zoo(tiny_dataset, "hyp"), ZooFolder.open(tiny_hyp_zoo)
    assert len(zoo) == len(zoo.weights) == len(zoo.table) == 16
    assert zoo.weights.dtype == torch.float32
    for i, (model, epoch) in enumerate(zip(zoo.table["model_id"], zoo.table["epoch"], strict=True)):
        assert torch.equal(zoo.weights[i], folder.weights(model, epoch))
    assert (zoo.architecture.name, zoo.images) == ("cnn-s", "fashion-mnist-5k")
    assert zoo.layout == folder.layout


def test_a_model_can_be_changed_without_changing_the_zoo(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed", split="test")
    before, module = zoo.weights.clone(), zoo.model(0)
    assert not module.training
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(zoo.weights, before)


def test_a_model_of_a_row_is_that_of_its_activation_and_dropout(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    for i in range(len(zoo)):
        training, kinds = zoo.hyperparameters(i), [type(m).__name__ for m in zoo.model(i).modules()]
        assert {"tanh": "Tanh", "relu": "ReLU"}[training.activation] in kinds
        assert ("SeededDropout" in kinds) == (training.dropout > 0)
        assert training.epochs == 1 and type(training.epochs) is int
        assert torch.equal(Layout.from_module(zoo.model(i)).pack(zoo.model(i).state_dict()), zoo.weights[i])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_loaded_alone(split: str, tiny_dataset: Path) -> None:
    everything = load_zoo(tiny_dataset, "seed")
    part, expected = (
        load_zoo(tiny_dataset, "seed", split=split),
        everything.select(everything.table["split"] == split),
    )
    assert set(part.table["split"]) == {split}
    assert torch.equal(part.weights, expected.weights)
    assert part.table.equals(expected.table)


@pytest.mark.parametrize("epochs", [[2], (0, 2), range(1, 3), {1}])
def test_epochs_are_loaded_alone(epochs: "list[int]", tiny_dataset: Path) -> None:
    everything = load_zoo(tiny_dataset, "seed")
    part = load_zoo(tiny_dataset, "seed", epochs=epochs)
    expected = everything.select(everything.table["epoch"].isin(list(epochs)))
    assert len(part) == 20 * len(list(epochs))
    assert torch.equal(part.weights, expected.weights)
    assert part.table.equals(expected.table)


def test_epochs_may_be_an_iterator_that_is_read_once(tiny_dataset: Path) -> None:
    part = load_zoo(tiny_dataset, "seed", epochs=iter([2]))
    assert set(part.table["split"]) == {"train", "validation", "test"}
    assert len(part) == 20


def test_selecting_keeps_weights_and_rows_together(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    chosen = zoo.select(zoo.table["test_acc"] > zoo.table["test_acc"].median())
    assert 0 < len(chosen) < len(zoo)
    where = {digest: i for i, digest in enumerate(zoo.table["sha256"])}
    for i, digest in enumerate(chosen.table["sha256"]):
        assert torch.equal(chosen.weights[i], zoo.weights[where[digest]])


@pytest.mark.parametrize(
    "step", [slice(2, 9), slice(None, None, 5), slice(-3, None), slice(None, None, -1), slice(9, 2)]
)
def test_slices_are_those_of_arrays(step: slice, tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    part, rows = zoo[step], list(range(len(zoo)))[step]
    assert torch.equal(part.weights, zoo.weights[rows])
    assert part.table.equals(zoo.table.iloc[rows].reset_index(drop=True))
    assert (part.layout, part.dataset, part.config) == (zoo.layout, str(tiny_dataset), "hyp")


def test_slices_share_memory_and_other_selections_copy(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    zoo[2:4].weights.zero_()
    assert not zoo.weights[2:4].any() and zoo.weights[4].any()
    zoo[[4, 5]].weights.zero_()
    assert zoo.weights[4].any()


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, pd.Series])
def test_masks_and_indices_of_any_kind_select(make: Callable[[list[Any]], Any], tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    for rows, expected in (([3, 0, -1, 3], [3, 0, 15, 3]), ([i % 3 == 0 for i in range(16)], range(0, 16, 3))):
        part = zoo[make(rows)]
        assert torch.equal(part.weights, zoo.weights[list(expected)])
        assert part.table.equals(zoo.table.iloc[list(expected)].reset_index(drop=True))
        assert zoo.select(make(rows)).table.equals(part.table)
    assert len(zoo[make([])]) == 0


def test_one_integer_gives_the_zoo_of_one_state(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    for i in (0, 5, -1, np.int64(-16)):
        assert torch.equal(zoo[int(i)].weights, zoo.weights[int(i)][None])
        assert zoo[int(i)].table.equals(zoo.table.iloc[[i]].reset_index(drop=True))
    assert [state.table["sha256"][0] for state in zoo] == zoo.table["sha256"].tolist(), "so a zoo can be iterated"
    assert torch.equal(next(zoo[-1].model(0).parameters()), next(zoo.model(15).parameters()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (16, "index 16 is out of range for a zoo of 16 states"),
        (-17, "index -17 is out of range for a zoo of 16 states"),
        ([0, 99, 3], "index 99 is out of range for a zoo of 16 states"),
        ([0, -99, 3], "index -99 is out of range for a zoo of 16 states"),
        ([True, False], "a mask must have one value for each of the 16 states; got 2"),
        ("test", "rows must be an int, a slice, a boolean mask or a sequence of ints; got 'test'"),
        ([0.5], "rows must be an int, a slice, a boolean mask or a sequence of ints; got [0.5]"),
        ([[0]], "rows must be an int, a slice, a boolean mask or a sequence of ints; got [[0]]"),
    ],
)
def test_an_index_that_means_nothing_is_an_error(rows: Any, message: str, tiny_dataset: Path) -> None:
    with pytest.raises(IndexError) as caught:
        load_zoo(tiny_dataset, "hyp")[rows]
    assert str(caught.value) == message


def test_printing_a_zoo_summarizes_it_in_six_lines(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed", columns=["lr", "test_acc"])
    nbytes = 60 * 2464 * 4
    assert str(zoo).splitlines() == [
        "Zoo of 60 states: 20 models x 3 epochs (0 to 2)",
        f"  dataset  {tiny_dataset}, config seed",
        "  images   fashion-mnist-5k; train 42, validation 9, test 9",
        "  network  cnn-s, 2,464 numbers in 10 tensors",
        f"  weights  (60, 2464) float32, {nbytes / 1e3:.1f} kB",
        "  columns  model_id, epoch, lr, test_acc, split",
    ]
    one = zoo[zoo.table["epoch"] == 2][0]
    assert str(one).splitlines()[0] == "Zoo of 1 state: 1 model x 1 epoch (2)"
    assert str(zoo[1:]).splitlines()[0] == "Zoo of 59 states: 20 models x up to 3 epochs (0 to 2)"
    assert str(zoo[[]]).splitlines()[0] == "Zoo of 0 states: no states"
    every = load_zoo(tiny_dataset, "seed")
    lines = str(every).splitlines()
    names, _, more = lines[5].removeprefix("  columns  ").partition(" and ")
    assert len(lines) == 6 and len(names) <= 100
    assert int(more.split()[0]) + len(names.split(", ")) == len(every.table.columns)


def test_notebooks_show_the_summary_with_a_picture_of_accuracy(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    page = ElementTree.fromstring(zoo._repr_html_())
    cells = [(row[0].text, row[1].text) for row in page.iter("tr")]
    assert [f"  {name:7}  {value}" for name, value in cells] == str(zoo).splitlines()[1:]
    (line,) = page.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    median = zoo.table.groupby("epoch")["test_acc"].median()
    low, high = (zoo.table.groupby("epoch")["test_acc"].quantile(q) for q in (0.1, 0.9))
    assert [x for x, _ in points] == [24.0, 130.0, 236.0]
    heights = 86 - 62 * (median - low.min()) / (high.max() - low.min())
    assert [y for _, y in points] == pytest.approx(heights.tolist(), abs=0.06)
    for without in (zoo[zoo.table["epoch"] == 1], load_zoo(tiny_dataset, "seed", columns=["lr"])):
        assert "<svg" not in without._repr_html_()


def test_the_first_config_is_the_default(tiny_dataset: Path) -> None:
    assert load_zoo(tiny_dataset).table.equals(load_zoo(str(tiny_dataset), "seed").table)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not a dataset folder: it has no zoo.json; build one with modelzoo-build"
    )


def test_a_zoo_folder_is_no_dataset_folder(tiny_zoo: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_zoo)
    assert str(caught.value) == (
        f"{tiny_zoo} has format 'modelzoo-zoo-2', but load_zoo reads 'modelzoo-dataset-4'; "
        "modelzoo-build makes one from zoo folders"
    )


def test_an_unknown_config_is_answered_with_those_there_are(tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "hyper")
    assert str(caught.value) == f"{tiny_dataset} has no config 'hyper'; it has seed, hyp"


def test_an_unknown_split_is_answered_with_those_there_are(tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "seed", split="val")
    assert str(caught.value) == "split must be one of train, validation, test; got 'val'"


def test_nothing_that_matches_is_an_error(tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "hyp", epochs=[])
    assert str(caught.value) == (
        f"no state of {tiny_dataset}/hyp matches the given split, epochs, models and filters; loosen one of them"
    )


def test_an_index_has_no_weights_to_load(tiny_dataset: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        load_zoo(tiny_dataset, "hyp_index")
    assert str(caught.value) == f"{tiny_dataset}: config 'hyp_index' is 'hyp' without weights; load 'hyp'"


def test_a_dataset_of_a_later_release_is_told_with_the_remedy(dataset: Path) -> None:
    facts = json.loads((dataset / "zoo.json").read_text())
    (dataset / "zoo.json").write_text(json.dumps(facts | {"format": "modelzoo-dataset-99"}))
    with pytest.raises(FormatError) as caught:
        load_zoo(dataset)
    assert str(caught.value) == (
        f"{dataset} has format 'modelzoo-dataset-99', but load_zoo reads {DATASET_FORMAT!r}; "
        "a later release built it: update modelzoo-datasets"
    )


def test_weights_that_are_not_those_of_the_layout_are_refused(dataset: Path) -> None:
    (path,) = (dataset / "hyp").glob("test-*.parquet")
    table = pq.read_table(path)
    short = pa.array([row[:7] for row in table["weights"].to_pylist()], pa.list_(pa.float32(), 7))
    rewrite(path, table.set_column(table.num_columns - 1, "weights", short))
    with pytest.raises(FormatError) as caught:
        load_zoo(dataset, "hyp")
    assert str(caught.value) == (
        f"{path}: expected weights of 2464 float32 numbers, as layout.json says, "
        "got fixed_size_list<element: float>[7]; build the dataset again"
    )
    values = [None, *table["weights"].to_pylist()[1:]]
    holed = pa.array(values, pa.list_(pa.float32(), 2464))
    rewrite(path, table.set_column(table.num_columns - 1, "weights", holed))
    # pyarrow before 26 cannot read such lists.
    told = f"^{path}: expected weights in every row, got 1 nulls; build the dataset again$"
    with pytest.raises(FormatError, match=f"{told}|^cannot read {path}: .* all lists to be of size=2464"):
        load_zoo(dataset, "hyp")
    rewrite(path, table.drop_columns("weights"))
    with pytest.raises(FormatError, match=f"^{path}: expected weights of 2464 .*, got no weights; build the dataset"):
        load_zoo(dataset, "hyp")


def test_a_bit_that_fell_over_is_found_wherever_it_is(dataset: Path) -> None:
    """Compressed weights have no redundancy: without checksums of pages some of these bits are other numbers."""
    (path,) = (dataset / "seed").glob("test-*.parquet")
    whole, metadata = path.read_bytes(), pq.read_metadata(path)
    group = metadata.row_group(0)
    column = group.column(group.num_columns - 1)
    expected, silently = pq.read_table(path)["weights"], 0
    for place in range(100, column.total_compressed_size, column.total_compressed_size // 20):
        content = bytearray(whole)
        content[column.data_page_offset + place] ^= 4
        path.write_bytes(content)
        with pytest.raises(FormatError, match=f"^cannot read {path}: "):
            load_zoo(dataset, "seed", split="test")
        with contextlib.suppress(OSError):
            silently += not pq.read_table(path)["weights"].equals(expected)
    assert silently, "pyarrow alone finds them all: the checksums are needed no more"


def test_of_very_many_names_the_first_ones_are_told() -> None:
    names = [f"model-{i:03d}" for i in range(100)]
    assert nearest_hint("model-0021", names) == "did you mean 'model-021'?"
    assert nearest_hint("?", names) == f"known: {', '.join(names[:40])} and 60 more"
    assert nearest_hint("?", names[:40]) == f"known: {', '.join(names[:40])}"


def test_damaged_files_are_named(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))
    path = folder / "hyp" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError) as caught:
        load_zoo(folder, "hyp")
    reason = " ".join(str(caught.value.__cause__).split())
    assert str(caught.value) == (
        f"cannot read {path}: expected an intact Parquet file, got {reason!r}; build the dataset again, or copy the "
        "file again"
    )
    assert len(load_zoo(folder, "hyp", split="train")) == 8, "the other splits are whole"
    (folder / "layout.json").write_text(json.dumps([])[:1])
    with pytest.raises(FormatError, match=f"^cannot read {folder}/layout.json: "):
        load_zoo(folder, "hyp", split="train")
