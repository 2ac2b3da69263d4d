"""Loading: what was asked for, as it was trained."""

import contextlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import FormatError, nearest_hint
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
        training, kinds = zoo.training(i), [type(m).__name__ for m in zoo.model(i).modules()]
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


def test_a_zoo_is_told_in_one_line(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    assert repr(zoo) == f"Zoo(16 states of 8 models, cnn-s: {zoo.weights.shape[1]:,} numbers each)"


def test_the_first_config_is_the_default(tiny_dataset: Path) -> None:
    assert load_zoo(tiny_dataset).table.equals(load_zoo(str(tiny_dataset), "seed").table)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tmp_path)
    assert str(caught.value) == (f"{tmp_path} is no dataset folder: it has no zoo.json; modelzoo-build makes one")


def test_a_zoo_folder_is_no_dataset_folder(tiny_zoo: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_zoo)
    assert str(caught.value) == (
        f"{tiny_zoo} has format 'modelzoo-zoo-2', but load_zoo reads 'modelzoo-dataset-3'; "
        "modelzoo-build makes one from zoo folders"
    )


def test_an_unknown_config_is_answered_with_those_there_are(tiny_dataset: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_dataset, "hyper")
    assert str(caught.value) == f"{tiny_dataset} has no config 'hyper'; it has seed, hyp"


def test_an_unknown_split_is_answered_with_those_there_are(tiny_dataset: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_dataset, "seed", split="val")
    assert str(caught.value) == "split must be one of train, validation, test, got 'val'"


def test_nothing_that_matches_is_an_error(tiny_dataset: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_dataset, "hyp", epochs=[])
    assert str(caught.value) == f"{tiny_dataset}/hyp has no states of the split, epochs, models and filters asked for"


def test_an_index_has_no_weights_to_load(tiny_dataset: Path) -> None:
    with pytest.raises(FormatError) as caught:
        load_zoo(tiny_dataset, "hyp_index")
    assert str(caught.value) == f"{tiny_dataset}: 'hyp_index' is the table of 'hyp' without weights; load 'hyp'"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (1, "it was built by an earlier release: modelzoo-build makes it anew from the zoo folders"),
        (99, "it was built by a later release: update modelzoo-datasets"),
    ],
)
def test_a_dataset_of_another_release_is_told_with_the_remedy(number: int, remedy: str, dataset: Path) -> None:
    facts = json.loads((dataset / "zoo.json").read_text())
    found = f"modelzoo-dataset-{number}"
    (dataset / "zoo.json").write_text(json.dumps(facts | {"format": found}))
    with pytest.raises(FormatError) as caught:
        load_zoo(dataset)
    assert str(caught.value) == f"{dataset} has format {found!r}, but load_zoo reads {DATASET_FORMAT!r}; {remedy}"


def test_weights_that_are_not_those_of_the_layout_are_refused(dataset: Path) -> None:
    (path,) = (dataset / "hyp").glob("test-*.parquet")
    table = pq.read_table(path)
    short = pa.array([row[:7] for row in table["weights"].to_pylist()], pa.list_(pa.float32(), 7))
    pq.write_table(table.set_column(table.num_columns - 1, "weights", short), path)
    with pytest.raises(FormatError) as caught:
        load_zoo(dataset, "hyp")
    assert str(caught.value) == (
        f"{path}: expected weights of 2464 float32 numbers, as layout.json has them, "
        "got fixed_size_list<element: float>[7]; build the dataset again"
    )
    values = [None, *table["weights"].to_pylist()[1:]]
    holed = pa.array(values, pa.list_(pa.float32(), 2464))
    pq.write_table(table.set_column(table.num_columns - 1, "weights", holed), path)
    with pytest.raises(FormatError, match=f"^{path}: some weights are missing; build the dataset again$"):
        load_zoo(dataset, "hyp")
    pq.write_table(table.drop_columns("weights"), path)
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
    told = f"cannot read {path}: "
    assert str(caught.value) == f"{told}{caught.value.__cause__}"
    assert len(load_zoo(folder, "hyp", split="train")) == 8, "the other splits are whole"
    (folder / "layout.json").write_text(json.dumps([])[:1])
    with pytest.raises(FormatError, match=f"^cannot read {folder}/layout.json: "):
        load_zoo(folder, "hyp", split="train")
