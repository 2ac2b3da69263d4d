"""Originals of every kind are learned from and judged, with their images and without, whatever their tables lack."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import originals, small_cnn_originals, weightclip_originals
from safetensors.torch import save_file

from hyperrep import choose_recipe, evaluate, probe, train
from hyperrep.recipe import HyperRecipe
from hyperrep.release import Measurement, SampleRequest, export_samples
from hyperrep.storage import TrainingInfo
from hyperrep.zoo_values import find_network
from modelzoo_datasets import build_dataset, generate_zoo, load_zoo, read_recipe
from modelzoo_datasets.architectures import get_architecture, registry
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import MissingImagesError
from modelzoo_datasets.images import ImageDataset, Split, load_images
from modelzoo_datasets.images import registry as images_registry
from modelzoo_datasets.images.image_formats import read_fashion_mnist_5k
from modelzoo_datasets.importers import import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.zoo import ZooFolder

FASHION = "fashion-mnist-5k"


@pytest.fixture(scope="module", autouse=True)
def own_names() -> Iterator[None]:
    """What this module registers is unknown to others: four garments, and images whose file may be there or not."""

    def read_if_there(root: Path) -> dict[str, Split]:
        if not (root / "garments").is_file():
            raise MissingImagesError(f"images garments: {root / 'garments'} is missing")
        found = read_fashion_mnist_5k(root).items()
        return {name: Split(split.pixels[:500], split.labels[:500]) for name, split in found}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_registry, "_DATASETS", dict(images_registry._DATASETS))
        patch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
        half = (0.5, 0.5, 0.5)
        four = weightclip_originals.IMAGES, weightclip_originals.read_garments, (320, 80, 200)
        images_registry.register_images(ImageDataset(*four, half, half, weightclip_originals.CLASSES, (32, 32)))
        images_registry.register_images(
            ImageDataset("garments", read_if_there, (400, 100, 500), (0.5,), (0.5,), 10, (28, 28))
        )
        yield


def generated(root: Path, recipe: str, config: str, engine: TorchEngine) -> Path:
    (root / "own.toml").write_text(recipe)
    generate_zoo(read_recipe(str(root / "own.toml")), root / config, config=config, engine=engine, images_root=root)
    return root / config


def write_small_cnns(root: Path, tiny_zoo: Path, engine: TorchEngine) -> tuple[Path, str, Overrides]:
    recipe = small_cnn_originals.RECIPE.replace('"1-3"', '"1-20"').replace('["tanh", "relu"]', '"relu"')
    zoo = generated(root, recipe, "hyp", engine)
    return small_cnn_originals.write_zoo(zoo, root / "mnist"), "small-cnn-zoo", Overrides(images=FASHION)


def write_weightclip(root: Path, tiny_zoo: Path, engine: TorchEngine) -> tuple[Path, str, Overrides]:
    get_architecture("cnn-m-4")
    zoo = generated(root, weightclip_originals.RECIPE.replace('"1-2"', '"1-20"'), "seed", engine)
    archive = weightclip_originals.write_archive(zoo, root / "four.tar.gz")
    return archive, "weightclip", Overrides(images=weightclip_originals.IMAGES)


def write_trials(root: Path, tiny_zoo: Path, engine: TorchEngine) -> tuple[Path, str, Overrides]:
    return originals.write_zoo(tiny_zoo, root / "tune_zoo_f_mnist_uniform"), "model-zoos", Overrides(images=FASHION)


def write_population(
    root: Path, tiny_zoo: Path, columns: tuple[str, ...] = (), architecture: str = "cnn-s", images: str = FASHION
) -> tuple[Path, str, Overrides]:
    """A table that says next to nothing: which file is of which model and epoch, and some columns."""
    zoo, folder, rows = ZooFolder.open(tiny_zoo), root / "population", []
    for model in zoo.models.to_dict("records"):
        states = zoo.states[zoo.states["model_id"] == model["model_id"]]
        for state in states.to_dict("records"):
            file = f"{model['model_id']}-{state['epoch']}.safetensors"
            folder.mkdir(exist_ok=True)
            save_file(zoo.layout.unpack(zoo.weights(model["model_id"], state["epoch"])), folder / file)
            row = {"file": file, "model": model["model_id"], "epoch": state["epoch"], "split": model["split"]}
            rows.append(row | {name: {**model, **state}[name] for name in columns})
    pd.DataFrame(rows).to_csv(folder / "states.csv", index=False)
    return folder, "safetensors", Overrides(architecture=architecture, images=images)


def write_bare(root: Path, tiny_zoo: Path, engine: TorchEngine) -> tuple[Path, str, Overrides]:
    return write_population(root, tiny_zoo, ("activation",))


def built(source: Path, format: str, claims: Overrides, root: Path) -> Path:
    import_zoo(source, root / "zoo", format=format, images_root=root / "images", overrides=claims)
    build_dataset([root / "zoo"], root / "dataset")
    return root / "dataset"


def shorten(recipe: HyperRecipe) -> HyperRecipe:
    """The recipe that is chosen by default, as small as its steps allow."""
    learning = dataclasses.replace(recipe.learning, epochs=1)
    model = dataclasses.replace(recipe.model, width=16, heads=2, feedforward=32)
    small: dict[str, Any] = {"num_samples": 3, "num_finetuned": 1, "finetune_epochs": (1,), "max_ensemble_size": 2}
    evaluation = dataclasses.replace(recipe.evaluation, **small, noise=(), mixtures=(), samplers=("normal", "kde"))
    return dataclasses.replace(recipe, learning=learning, model=model, evaluation=evaluation)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "write",
    [
        *(write_trials, write_bare),
        *(pytest.param(write, marks=pytest.mark.slow) for write in (write_small_cnns, write_weightclip)),
    ],
)
def test_originals_of_every_kind_go_all_the_way_with_the_default_recipe(
    write: Callable[..., tuple[Path, str, Overrides]],
    tiny_zoo: Path,
    engine: TorchEngine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset, images = built(*write(tmp_path, tiny_zoo, engine), tmp_path), tmp_path / "images"
    recipe = shorten(choose_recipe(dataset).recipe)
    assert recipe.learning.functional_weight > 0
    rep = train(dataset, recipe, tmp_path / "hr", engine=engine, images_root=images)
    zoo = load_zoo(dataset, split="train", epochs=range(recipe.data.epochs[0], recipe.data.epochs[1] + 1))
    if write is not write_weightclip:  # which records validation accuracies
        own, networks = load_images(zoo.images, images), [find_network(zoo)] * len(zoo)
        expected = engine.evaluate(zoo.architecture.name, own, zoo.weights, networks, "validation")
        torch.testing.assert_close(rep.accuracy, expected.accuracy.float())
        notes = TrainingInfo.read(tmp_path / "hr").notes
        assert notes[0].startswith(
            f"validation accuracy is not recorded for {len(zoo)} of {len(zoo)} training states: "
        )
        assert notes[0] in messages(caplog)
        assert f"* {notes[0]}" in (tmp_path / "hr" / "README.md").read_text()
    assert rep.config.ranked_by == "validation"
    assert probe(dataset, tmp_path / "hr", recipe)
    line = TrainingInfo.read(tmp_path / "hr").stand_ins
    assert (line is None) == (write is write_trials)  # which record every hyperparameter
    result = evaluate(dataset, tmp_path / "hr", recipe, tmp_path / "ev", engine=engine, images_root=images)
    if line is not None:
        assert line in messages(caplog) and f"* {line}\n" in (tmp_path / "hr" / "README.md").read_text()
    assert {"normal@30", "kde@30", "zoo members", "scratch"} <= {population.name for population in result.populations}
    measurement = Measurement(dataset=dataset, engine=engine, images_root=images)
    request = SampleRequest(n=2, sampler="fresh", top_fraction=0.3, epochs=1)
    export_samples(tmp_path / "hr", tmp_path / "samples", request, measurement)
    export_samples(tmp_path / "hr", tmp_path / "more", SampleRequest(n=2, sampler="normal", top_fraction=0.3))


EVERYTHING = ("activation", "train_acc", "test_acc", "lr", "optimizer", "batch_size", "dropout", "init")


def test_without_images_an_import_goes_on_and_states_are_ranked_by_training_accuracy(
    tiny_zoo: Path, engine: TorchEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_population(tmp_path, tiny_zoo, EVERYTHING, images="garments")
    dataset = built(*source, tmp_path)
    absent = f"images garments: {tmp_path / 'images' / 'garments'} is missing"
    assert messages(caplog) == [
        f"imported without its images, whose hash is not recorded ({absent}); run the command again when they are there"
    ]
    assert ZooFolder.open(tmp_path / "zoo").info.images_sha256 == ""
    caplog.clear()
    recipe = shorten(choose_recipe(dataset).recipe)
    rep = train(dataset, recipe, tmp_path / "hr", engine=engine, images_root=tmp_path / "images")
    notes = (
        f"trained without functional losses, because networks cannot be run: {absent}",
        "no validation accuracy is recorded: the best states are those of the best training accuracy",
    )
    assert tuple(messages(caplog)) == notes == TrainingInfo.read(tmp_path / "hr").notes
    zoo = load_zoo(dataset, split="train", epochs=[1, 2])
    assert rep.accuracy.tolist() == pytest.approx(zoo.table["train_acc"].tolist())
    assert "training accuracy up to" in repr(rep)
    assert probe(dataset, tmp_path / "hr", recipe)
    export_samples(tmp_path / "hr", tmp_path / "samples", SampleRequest(n=2, sampler="normal", top_fraction=0.3))
    with pytest.raises(MissingImagesError, match="garments is missing"):
        evaluate(dataset, tmp_path / "hr", recipe, tmp_path / "ev", engine=engine, images_root=tmp_path / "images")
    # Now the images are there: the import is the same zoo, with their hash.
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "garments").touch()
    states = (tmp_path / "zoo" / "states.parquet").read_bytes()
    again = import_zoo(
        source[0], tmp_path / "zoo", format=source[1], images_root=tmp_path / "images", overrides=source[2]
    )
    assert again.added == 0
    assert (
        ZooFolder.open(tmp_path / "zoo").info.images_sha256 == load_images("garments", tmp_path / "images").fingerprint
    )
    assert (tmp_path / "zoo" / "states.parquet").read_bytes() == states
    result = evaluate(dataset, tmp_path / "hr", recipe, tmp_path / "ev", engine=engine, images_root=tmp_path / "images")
    assert result.populations


def test_a_table_that_records_nothing_is_learned_from_and_sampled(
    tiny_zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = built(*write_population(tmp_path, tiny_zoo, (), "network-of-mine", "pictures"), tmp_path)
    recipe = shorten(choose_recipe(dataset).recipe)
    assert recipe.learning.functional_weight == 0
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:  # a representation of tensors that nobody registered
        patch.setitem(registry._ARCHITECTURES, "network-of-mine", dataclasses.replace(CNN, name="network-of-mine"))
        rep = train(dataset, dataclasses.replace(recipe), tmp_path / "hr")
        assert messages(caplog) == [
            "no accuracy is recorded: samples are drawn from all states, whatever share is asked for"
        ]
        assert rep.accuracy.isnan().all() and rep.config.ranked_by == "nothing"
        assert "accuracy not recorded" in repr(rep)
        assert {row.property for row in probe(dataset, tmp_path / "hr", recipe)} == {"epoch"}
        export_samples(tmp_path / "hr", tmp_path / "samples", SampleRequest(n=2, sampler="normal", top_fraction=0.3))
    info = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert info["lineage"]["quality"] == 1.0


CNN = get_architecture("cnn-s")


@pytest.mark.parametrize("is_absent", [True, False])
def test_columns_may_be_absent_or_empty(
    is_absent: bool, tiny_zoo: Path, engine: TorchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test both ways in which datasets of any version say that nothing was recorded."""
    dataset = built(*write_population(tmp_path, tiny_zoo, ("activation",)), tmp_path)
    recipe = shorten(choose_recipe(dataset).recipe)
    metrics = ["val_acc", "test_acc", "train_acc"]
    change_columns(monkeypatch, [*metrics, "dropout", "schedule", "lr", "init", "optimizer"], is_absent=is_absent)
    train(dataset, recipe, tmp_path / "hr", engine=engine)
    evaluate(dataset, tmp_path / "hr", recipe, tmp_path / "ev", engine=engine)
    points = json.loads((tmp_path / "ev" / "evaluation.json").read_text())["embeddings"]["train"]
    assert "test_acc" not in points and len(points["z"]) > 0
    assert probe(dataset, tmp_path / "hr", recipe)


def change_columns(monkeypatch: pytest.MonkeyPatch, names: list[str], *, is_absent: bool) -> None:
    """Let `load_zoo` give tables without some columns, as datasets of format 4 have them, or with empty ones."""
    for module in ("hyperrep.data", "hyperrep.api", "hyperrep.evaluation.protocol", "hyperrep.release.export"):

        def load_changed(*args: Any, **options: Any) -> Any:
            zoo = load_zoo(*args, **options)
            table = zoo.table.drop(columns=names, errors="ignore")
            return dataclasses.replace(zoo, table=table if is_absent else table.assign(**dict.fromkeys(names)))

        monkeypatch.setattr(f"{module}.load_zoo", load_changed)
