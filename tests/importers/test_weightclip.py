"""WeightCLIP's archives: models trained here on four of the embedded classes, written as published, epoch by epoch."""

import dataclasses
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.weightclip_originals import CLASSES, FOLDER, FROM, IMAGES, RECIPE, read_garments, write_archive

from modelzoo_datasets import build_dataset, generate_zoo, load_zoo, read_recipe
from modelzoo_datasets.architectures import get_architecture, registry
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.images import ImageDataset
from modelzoo_datasets.images import registry as images_registry
from modelzoo_datasets.images.registry import register_images
from modelzoo_datasets.importers import Imported, import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder


@pytest.fixture(scope="module", autouse=True)
def own_names() -> Iterator[None]:
    """What this module registers is unknown to the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_registry, "_DATASETS", dict(images_registry._DATASETS))
        patch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
        half = (0.5, 0.5, 0.5)
        register_images(ImageDataset(IMAGES, read_garments, (320, 80, 200), half, half, CLASSES, (32, 32)))
        yield


@pytest.fixture(scope="module")
def trained(own_names: None, tmp_path_factory: pytest.TempPathFactory, engine: TorchEngine) -> Path:
    """A zoo folder of two models of a CNN-M for four classes."""
    root = tmp_path_factory.mktemp("trained")
    get_architecture(f"cnn-m-{CLASSES}")
    (root / "four.toml").write_text(RECIPE)
    generate_zoo(read_recipe(str(root / "four.toml")), root / "seed", config="seed", engine=engine, images_root=root)
    return root / "seed"


@pytest.fixture(scope="module")
def archive(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_archive(trained, tmp_path_factory.mktemp("archives") / "four_garments.tar.gz")


def imported(source: Path, out: Path, claims: Overrides) -> Imported:
    return import_zoo(source, out, format="weightclip", images_root=out.parent / "images", overrides=claims)


def test_epochs_percents_and_classes_become_ours(
    archive: Path, trained: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    found = imported(archive, tmp_path / "zoo", Overrides(images=IMAGES))
    assert (found.name, found.models, found.states, found.lost_states) == ("four-garments-cnn-m/seed", 2, 4, 0)
    assert found.skipped == []
    ours, theirs = ZooFolder.open(trained), ZooFolder.open(tmp_path / "zoo")
    published = ours.states[ours.states["epoch"] > FROM]
    assert theirs.states["epoch"].tolist() == [2, 3, 2, 3]
    assert theirs.states["sha256"].tolist() == published["sha256"].tolist()
    for name in ("train_acc", "val_acc", "test_acc"):
        assert theirs.states[name].tolist() == pytest.approx(published[name].tolist(), abs=1e-12)
    assert theirs.info.architecture == f"cnn-m-{CLASSES}"
    assert set(theirs.models["schedule"]) == {"cosine"}
    checks = verify_folder(tmp_path / "zoo", engine=engine, images_root=tmp_path, states=4)
    assert [problem for check in checks for problem in check.problems] == []
    assert [check.n for check in checks if check.name.startswith("metrics")] == [4]
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    loaded = load_zoo(tmp_path / "dataset")
    assert loaded.model(0)(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)


def test_images_that_are_not_known_leave_accuracies_unmeasured(
    archive: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    found = imported(archive, tmp_path / "zoo", Overrides())
    assert found.name == "weightclip-four-garments-cnn-m/seed"
    checks = verify_folder(tmp_path / "zoo", engine=engine, images_root=tmp_path, states=1)
    assert [problem for check in checks for problem in check.problems] == []
    note = f"{found.name} is not measured again: images 'weightclip-four-garments' are not registered here"
    assert [(check.n, check.notes) for check in checks if check.name == "metrics"] == [(0, [note])]


def test_what_does_not_fit_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="images cifar10 do not fit: the states are of cnn-m-4"):
        imported(archive, tmp_path / "zoo", Overrides(images="cifar10"))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "a", filter="data")
    (tmp_path / "a" / FOLDER).rename(tmp_path / "a" / "mine")
    with pytest.raises(
        FormatError, match="mine is not named tune_zoo_<images>_<network>; say what it is with --images"
    ):
        imported(tmp_path / "a" / "mine", tmp_path / "zoo", Overrides())
    assert not (tmp_path / "zoo").exists()


def test_any_number_of_classes_has_its_variant() -> None:
    assert get_architecture("cnn-m-17").layout.size == 10_853 + 7 * 21
    assert dataclasses.astuple(get_architecture("cnn-m-17"))[1:3] == ((3, 32, 32), 17)
    for wrong in ("cnn-m-1", "cnn-m-10", "cnn-m-x", "cnn-s-7", "cnn-m-100000"):
        with pytest.raises(RecipeError, match=f"unknown architecture '{wrong}'"):
            get_architecture(wrong)


def test_a_trial_of_model_zoos_is_not_taken_for_one(archive: Path, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"images_root": tmp_path, "overrides": Overrides(images=IMAGES)}
    with pytest.raises(FormatError, match="can be imported; is its format model-zoos.* there is no optim::optimizer"):
        import_zoo(archive, tmp_path / "zoo", format="model-zoos", **kwargs)
