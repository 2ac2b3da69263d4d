"""Published originals become zoo folders: same weights, same metrics, whatever the folder or archive looks like."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.originals import Style, trial_name, write_twins, write_zoo
from helpers.processes import hashes, run

from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import ArgumentError, FormatError, MissingImagesError, ModelZooError
from modelzoo_datasets.generation import generate_zoo
from modelzoo_datasets.images import Images
from modelzoo_datasets.importers import Imported, import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.recipes import read_recipe
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder

IMAGES = "fashion-mnist-5k"
NAME = "tune_zoo_f_mnist_uniform"  # what the published zoo is called
METRICS = ["train_loss", "train_acc", "test_loss", "test_acc"]


@pytest.fixture(scope="session")
def originals(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny zoo as it would have been published; not to be changed."""
    return write_zoo(tiny_zoo, tmp_path_factory.mktemp("originals") / NAME)


def imported(source: Path, out: Path, **options: Any) -> Imported:
    claims = options.pop("claims", Overrides(images=IMAGES))
    return import_zoo(source, out, format="model-zoos", images_root=out.parent / "images", overrides=claims, **options)


def problems(folder: Path, engine: TorchEngine, **options: Any) -> list[str]:
    checks = verify_folder(folder, engine=engine, images_root=folder.parent / "images", **options)
    return [problem for check in checks for problem in check.problems]


def measured(folder: Path, engine: TorchEngine, states: int = 12) -> int:
    """How many states were measured again, all of them as recorded."""
    checks = verify_folder(folder, engine=engine, images_root=folder.parent / "images", states=states)
    assert [problem for check in checks for problem in check.problems] == []
    return next(check.n for check in checks if check.name.startswith("metrics"))


def test_a_published_zoo_becomes_the_zoo_that_it_was(
    originals: Path, tiny_zoo: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    found = imported(originals, tmp_path / "zoo")
    assert (found.models, found.states, found.added, found.diverged, found.lost_states) == (20, 60, 20, 0, 0)
    assert (found.name, found.skipped) == ("fashion-mnist-5k-cnn-s/seed", [])
    ours, theirs = ZooFolder.open(tiny_zoo), ZooFolder.open(tmp_path / "zoo")
    assert theirs.states["sha256"].tolist() == ours.states["sha256"].tolist()
    for name in ("seed", "activation", "init", "optimizer", "lr", "weight_decay", "dropout", "epochs", "batch_size"):
        assert theirs.models[name].tolist() == ours.models[name].tolist(), name
    trained = ours.states["epoch"] > 0
    assert theirs.states.loc[trained, METRICS].equals(ours.states.loc[trained, METRICS])
    assert theirs.states.loc[~trained, ["train_loss", "train_acc", "ggap"]].isna().all(axis=None)
    assert theirs.states["val_acc"].isna().all()
    assert measured(tmp_path / "zoo", engine, 20) == 20


def test_a_wrong_metric_in_the_originals_is_found(originals: Path, tmp_path: Path, engine: TorchEngine) -> None:
    shutil.copytree(originals / trial_name(1, 1), tmp_path / NAME / trial_name(1, 1))
    results = tmp_path / NAME / trial_name(1, 1) / "result.json"
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    rows[2]["test_acc"] += 0.01
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    imported(tmp_path / NAME, tmp_path / "zoo")
    wrong = problems(tmp_path / "zoo", engine, states=3)
    assert len(wrong) == 1
    assert "test_acc is" in wrong[0]
    assert "seed-00001 epoch 2" in wrong[0]


def _zip(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder.parent))
    return path


def _tar(folder: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, f"./{folder.name}")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_archives_give_the_very_same_folder(kind: str, originals: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.{kind}"
    made = _zip(originals, path) if kind == "zip" else _tar(originals, path, f"w:{kind.removeprefix('tar').strip('.')}")
    imported(originals, tmp_path / "from-folder")
    found = imported(made, tmp_path / "from-archive")
    assert (found.states, found.skipped) == (60, [])
    assert hashes(tmp_path / "from-archive") == hashes(tmp_path / "from-folder")


def test_older_names_and_missing_optimizers_make_no_difference(originals: Path, tiny_zoo: Path, tmp_path: Path) -> None:
    write_zoo(tiny_zoo, tmp_path / NAME, Style(padded=False, optimizer=False))
    imported(originals, tmp_path / "newer")
    imported(tmp_path / NAME, tmp_path / "older")
    assert hashes(tmp_path / "older") == hashes(tmp_path / "newer")


def test_a_state_that_is_there_under_both_names_is_one_state(originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals, tmp_path / NAME)
    trial = tmp_path / NAME / trial_name(1, 1)
    shutil.copytree(trial / "checkpoint_000000", trial / "checkpoint_0")
    found = imported(tmp_path / NAME, tmp_path / "zoo")
    assert (found.models, found.states) == (20, 60)


def test_names_that_shift_with_dropout_are_matched_in_order(
    tiny_hyp_zoo: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    write_zoo(tiny_hyp_zoo, tmp_path / "tune_zoo_f_mnist_hyperparameter_10_random_seeds")
    found = imported(tmp_path / "tune_zoo_f_mnist_hyperparameter_10_random_seeds", tmp_path / "zoo")
    assert found.name == "fashion-mnist-5k-cnn-s/hyp-10-rand"
    ours, theirs = ZooFolder.open(tiny_hyp_zoo), ZooFolder.open(tmp_path / "zoo")
    assert set(theirs.models["dropout"]) == {0.0, 0.2}
    assert sorted(theirs.states["sha256"]) == sorted(ours.states["sha256"])
    for theirs_seed, activation, dropout in theirs.models[["seed", "activation", "dropout"]].itertuples(index=False):
        same = ours.models[ours.models["seed"] == theirs_seed].iloc[0]
        assert (same["activation"], same["dropout"]) == (activation, dropout)
    assert measured(tmp_path / "zoo", engine) == 12


def test_a_squeezed_zoo_has_the_epochs_that_were_published(tiny_zoo: Path, tmp_path: Path, engine: TorchEngine) -> None:
    write_zoo(tiny_zoo, tmp_path / NAME, Style(every=2, filler=False))
    found = imported(tmp_path / NAME, tmp_path / "zoo", storage="packed")
    assert (found.states, found.lost_states) == (40, 0)
    assert sorted(set(ZooFolder.open(tmp_path / "zoo").states["epoch"])) == [0, 2]
    assert measured(tmp_path / "zoo", engine) == 12
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    last = load_zoo(tmp_path / "dataset", epochs=[2])
    hashed = dict(zip(last.table["model_id"], last.table["sha256"], strict=True))
    ours = ZooFolder.open(tiny_zoo).states
    assert hashed == {m: h for m, e, h in ours[["model_id", "epoch", "sha256"]].itertuples(index=False) if e == 2}


def test_what_is_imported_can_be_built_loaded_and_verified(
    originals: Path, tmp_path: Path, engine: TorchEngine, images: Images
) -> None:
    imported(originals, tmp_path / "zoo")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    assert problems(tmp_path / "dataset", engine, states=8) == []
    zoo = load_zoo(tmp_path / "dataset", split="test", epochs=[2])
    with torch.no_grad():
        right = zoo.model(0)(images.inputs("test")).argmax(dim=1) == images.labels("test")
    assert right.double().mean().item() == pytest.approx(zoo.table["test_acc"][0], abs=0.0031)
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert f"imported from the published originals (`{NAME}`, format `model-zoos`)" in card
    assert "Engine `" not in card


def test_twins_are_linked_to_their_parents(
    tiny_recipe: Path, tmp_path: Path, engine: TorchEngine, images: Images
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe.read_text() + '\n[configs.seed-sparse]\nparent = "seed"\nepochs = 2\n')
    recipe, root = read_recipe(str(path)), tmp_path / "images"
    for config, epochs in (("seed", 1), ("seed-sparse", 2)):
        out = tmp_path / config
        generate_zoo(recipe, out, config=config, engine=engine, images_root=root, models=range(1, 4), epochs=epochs)
    parents = write_zoo(tmp_path / "seed", tmp_path / "o" / NAME)
    twins = write_twins(tmp_path / "seed-sparse", tmp_path / "seed", tmp_path / "o" / "cnn_ard", images, engine)
    out = tmp_path / "imported"
    with pytest.raises(FormatError, match="import their parents to .*seed first"):
        imported(twins, out / "seed-sparse")
    shutil.rmtree(next(parents.glob("NN_*_00002_*")))  # then one twin has no parent
    imported(parents, out / "seed")
    found = imported(twins, out / "seed-sparse")
    assert (found.models, found.states, found.name) == (2, 6, "fashion-mnist-5k-cnn-s/seed-sparse")
    assert found.skipped == [f"skipped 1: twin whose parent is not in {out / 'seed'} (first: {_twin(twins, 2)})"]
    ours, theirs = ZooFolder.open(tmp_path / "seed-sparse"), ZooFolder.open(out / "seed-sparse")
    assert theirs.models["parent_id"].tolist() == ["seed-00001", "seed-00002"]
    trained = ours.states[ours.states["epoch"] > 0].iloc[:4]
    assert theirs.states.loc[theirs.states["epoch"] > 0, "sha256"].tolist() == trained["sha256"].tolist()
    assert measured(out / "seed-sparse", engine) == 6
    build_dataset([out / "seed", out / "seed-sparse"], tmp_path / "dataset")
    assert problems(tmp_path / "dataset", engine, states=8) == []


def _twin(twins: Path, number: int) -> str:
    return next(path.name for path in twins.glob(f"NN_*_{number:05d}_*"))


def test_models_are_in_the_order_of_their_numbers(originals: Path, tmp_path: Path) -> None:
    imported(originals, tmp_path / "zoo")
    facts = ZooFolder.open(tmp_path / "zoo").info.to_json()
    assert facts["recipe"]["models"]["origin"] == [trial_name(i, i) for i in range(1, 21)]
    assert facts["imported"] == {"format": "model-zoos", "source": NAME, "measured_otherwise": []}


def test_published_names_say_which_zoo_it_is(originals: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without anything claimed: the images of the published zoo are not at hand here, and it says which are needed."""
    (tmp_path / "images").write_text("no folder, so that nothing is downloaded")
    found = imported(originals, tmp_path / "zoo", claims=Overrides())
    assert (found.name, found.models) == ("fashion-mnist-cnn-s/seed", 20)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("imported without its images, whose hash is not recorded (FashionMNIST is not in ")
    info = ZooFolder.open(tmp_path / "zoo").info
    assert (info.images, info.images_sha256) == ("fashion-mnist", "")


def test_an_imported_zoo_cannot_be_trained_again_or_added_to(
    originals: Path, tmp_path: Path, engine: TorchEngine, tiny_recipe: Path
) -> None:
    imported(originals, tmp_path / "zoo")
    with pytest.raises(ArgumentError, match="^retrain must be 0 for fashion-mnist-5k-cnn-s/seed, .* --retrain$"):
        problems(tmp_path / "zoo", engine, retrain=1)
    with pytest.raises(ModelZooError, match="holds another zoo"):
        generate_zoo(
            read_recipe(str(tiny_recipe)), tmp_path / "zoo", config="seed", engine=engine, images_root=tmp_path
        )


def test_the_command(originals: Path, tmp_path: Path) -> None:
    words = ["modelzoo-import", originals, "--format", "model-zoos", "--images", IMAGES, "--out", tmp_path / "zoo"]
    name = f"{tmp_path / 'zoo'}: fashion-mnist-5k-cnn-s/seed, 20 models, 60 states"
    assert run(words).stdout == f"{name}; 20 added\n"
    assert len(pd.read_parquet(tmp_path / "zoo" / "states.parquet")) == 60


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_what_the_originals_did_not_record_is_measured(
    storage: str, originals: Path, tiny_zoo: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    imported(originals, tmp_path / "zoo", storage=storage)
    assert ZooFolder.open(tmp_path / "zoo").states["val_acc"].isna().all()
    found = imported(originals, tmp_path / "zoo", storage=storage, measure=True)
    assert found.added == 0, "the states were there"
    ours, theirs = ZooFolder.open(tiny_zoo), ZooFolder.open(tmp_path / "zoo")
    for name in ("val_acc", "train_acc", "test_acc"):
        assert theirs.states[name].tolist() == pytest.approx(ours.states[name].tolist(), abs=3e-3), name
    for name in ("val_loss", "train_loss"):
        assert theirs.states[name].tolist() == pytest.approx(ours.states[name].tolist(), rel=1e-3), name
    trained = ours.states["epoch"] > 0
    assert theirs.states.loc[trained, METRICS].equals(ours.states.loc[trained, METRICS]), "what is recorded stays"
    assert theirs.states["ggap"].tolist() == pytest.approx(ours.states["ggap"].tolist(), abs=6e-3)
    names = theirs.info.import_info.measured_here if theirs.info.import_info is not None else ()
    assert names == ("train_loss", "train_acc", "val_loss", "val_acc")
    assert measured(tmp_path / "zoo", engine, 20) == 20
    before = hashes(tmp_path / "zoo")
    for measure in (True, False):  # again nothing is missing, and an import without it keeps what was measured
        imported(originals, tmp_path / "zoo", storage=storage, measure=measure)
        assert hashes(tmp_path / "zoo") == before
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert (
        f"not recorded by the original, but measured on {IMAGES} when it was imported: "
        "`train_loss`, `train_acc`, `val_loss`, `val_acc`" in card
    )


def test_what_cannot_be_measured_is_a_line_and_the_import_stands(
    originals: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claims = Overrides(images=IMAGES)
    with pytest.MonkeyPatch.context() as patch:

        def missing(name: str, root: Path) -> Images:
            raise MissingImagesError(f"images {name} are not there")

        patch.setattr("modelzoo_datasets.importers.convert.load_images", missing)
        patch.setattr("modelzoo_datasets.importers.measure.load_images", missing)
        imported(originals, tmp_path / "zoo", claims=claims, measure=True)
    told = [record.getMessage() for record in caplog.records]
    assert told[-1] == f"nothing was measured: images {IMAGES} are not there"
    assert ZooFolder.open(tmp_path / "zoo").states["val_acc"].isna().all()
