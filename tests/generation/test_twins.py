"""Sparsified twins: whose twins they are, what pruning leaves of their parents, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.processes import hashes, run
from helpers.steps import StepProgress
from torch import Tensor

from modelzoo_datasets import generate_zoo, read_recipe
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import METRICS, Engine, NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.images import Images
from modelzoo_datasets.recipes import Recipe
from modelzoo_datasets.zoo import RecipeInfo, ZooFolder

TWINS = """\
images = "fashion-mnist-5k"
architecture = "cnn-s"

[configs.seed-sparse]
parent = "seed"
epochs = 2

[configs.seed]
epochs = 1
batch_size = 64
activation = "tanh"
init = "kaiming_uniform"
optimizer = "adam"
lr = 4e-2 # log sigma² climbs by about this much per step
dropout = [0.0, 0.1]
seeds = { random = 1, below = 1_000_000 }
"""
MODELS = ("00001", "00002")
EPOCHS = (0, 1, 2)


class Stop(Exception):
    """Stands for a kill."""


def recipe_of(folder: Path, text: str = TWINS) -> Recipe:
    path = folder / "twins.toml"
    path.write_text(text)
    return read_recipe(str(path))


def make(config: str, out: Path, engine: Engine, **options: Any) -> int:
    return generate_zoo(recipe_of(out.parent), out, config=config, engine=engine, images_root=out.parent, **options)


@pytest.fixture(scope="module")
def zoos(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the zoo of the parents, `seed`, and that of their twins, `seed-sparse`."""
    folder = tmp_path_factory.mktemp("twins")
    for config in ("seed", "seed-sparse"):
        assert make(config, folder / config, engine) == 2
    return folder


@pytest.fixture
def twins(zoos: Path) -> ZooFolder:
    return ZooFolder.open(zoos / "seed-sparse")


def row(zoo: ZooFolder, model: str, epoch: int) -> pd.Series:
    (found,) = [r for _, r in zoo.states.iterrows() if (r["model_id"], r["epoch"]) == (model, epoch)]
    return found


def test_twins_are_their_parents_models_with_epochs_of_their_own(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, TWINS.replace("random = 1,", "random = 15,"))
    for parent, twin in zip(recipe.members("seed"), recipe.members("seed-sparse"), strict=True):
        assert (twin.model_id, twin.parent_id) == (f"seed-sparse-{parent.index:05d}", parent.model_id)
        assert (twin.index, twin.seed, twin.split) == (parent.index, parent.seed, parent.split)
        assert (parent.training.epochs, twin.training.epochs) == (1, 2)
        assert twin.training.dropout == parent.training.dropout
    assert RecipeInfo.from_recipe(recipe, "seed-sparse").to_json() == {
        **RecipeInfo.from_recipe(recipe, "seed", epochs=2).to_json(),
        "config": "seed-sparse",
        "parent": "seed",
    }


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('parent = "seed"', 'parent = "sed"', "[configs.seed-sparse] unknown parent 'sed'; did you mean 'seed'?"),
        ('parent = "seed"', "parent = 3", "[configs.seed-sparse] unknown parent '3'; known: seed"),
        (
            'parent = "seed"',
            'parent = "seed-sparse"',
            "[configs.seed-sparse] parent must be a config that is no twin itself, got 'seed-sparse'",
        ),
        (
            "epochs = 2\n",
            "",
            "[configs.seed-sparse] has no epochs of sparsification; say for example epochs = 25",
        ),
        ("epochs = 2\n", "epochs = 2\nlr = 1e-3\n", "[configs.seed-sparse] has no key 'lr'; known: parent, epochs"),
        (
            "epochs = 2\n",
            'epochs = 2\nseeds = "1-3"\n',
            "[configs.seed-sparse] has no key 'seeds'; known: parent, epochs",
        ),
        ("epochs = 2\n", "epochs = 0\n", "epochs must be positive, got 0"),
        ("epochs = 2\n", "epochs = [1, 2]\n", "epochs must be int, got [1, 2]"),
        (
            "[configs.seed]\n",
            '[configs.twice]\nparent = "seed-sparse"\nepochs = 1\n\n[configs.seed]\n',
            "[configs.twice] parent must be a config that is no twin itself, got 'seed-sparse'",
        ),
        ("[configs.seed]\n", '[defaults]\nparent = "seed"\n[configs.seed]\n', "[configs.seed] has no key 'parent'; "),
    ],
)
def test_what_is_wrong_with_twins_is_said(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert TWINS.count(old) == 1
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, TWINS.replace(old, new))
    message = f"recipe twins.toml: {told}"
    assert str(caught.value).startswith(message) if told.endswith("; ") else str(caught.value) == message


def test_a_twin_begins_as_its_parent_ended(zoos: Path, twins: ZooFolder) -> None:
    parents = ZooFolder.open(zoos / "seed")
    for model in MODELS:
        start, end = twins.weights(f"seed-sparse-{model}", 0), parents.weights(f"seed-{model}", 1)
        assert start.numpy().tobytes() == end.numpy().tobytes()
        first, last = row(twins, f"seed-sparse-{model}", 0), row(parents, f"seed-{model}", 1)
        for name in ("val_loss", "val_acc", "test_loss", "test_acc", "sha256"):
            assert first[name] == last[name]
        assert first["sparsity"] == 0


def test_sparsity_grows_once_the_penalty_has_a_weight(twins: ZooFolder) -> None:
    for model in MODELS:
        start, free, penalised = (row(twins, f"seed-sparse-{model}", epoch)["sparsity"] for epoch in EPOCHS)
        assert start == 0 <= free < 0.02 < 0.3 < penalised < 1
        weights = twins.weights(f"seed-sparse-{model}", 2)
        assert (weights == 0).double().mean() == pytest.approx(penalised, abs=0.02)  # biases are not counted


def log_alpha(log_sigma2: Tensor, value: Tensor, bound: float) -> Tensor:
    return (log_sigma2 - 2 * torch.log(value.abs() + 1e-15)).clamp(-bound, bound)


def test_what_is_nearly_all_noise_is_zero_and_nothing_else_is_changed(twins: ZooFolder) -> None:
    layout = get_architecture("cnn-s").layout
    for model in MODELS:
        for epoch in EPOCHS[1:]:
            name, pruned, weights = f"seed-sparse-{model}", 0, 0
            whole = twins.read_variational(name, epoch)
            for parameter, kept in layout.unpack(twins.weights(name, epoch)).items():
                layer, _, kind = parameter.rpartition(".")
                convolution = whole[f"{layer}.weight"].dim() == 4
                log_sigma2 = whole.get(f"{layer}.log_sigma2" if kind == "weight" else f"{layer}.log_sigma2_bias")
                noisy = torch.zeros_like(kept, dtype=torch.bool)
                if log_sigma2 is not None:
                    noisy = log_alpha(log_sigma2, whole[parameter], 8 if convolution else 10) >= 3
                assert torch.equal(kept, torch.where(noisy, 0, whole[parameter]))
                if kind == "weight":
                    pruned, weights = pruned + int(noisy.sum()), weights + noisy.numel()
            assert row(twins, name, epoch)["sparsity"] == pruned / weights


def test_metrics_are_those_of_the_weights_that_are_kept(twins: ZooFolder, engine: Engine, images: Images) -> None:
    for model, dropout in zip(MODELS, (0.0, 0.1), strict=True):
        name = f"seed-sparse-{model}"
        weights = torch.stack([twins.weights(name, epoch) for epoch in EPOCHS])
        for split, prefix in (("validation", "val"), ("test", "test")):
            found = engine.evaluate("cnn-s", images, weights, [NetworkSpec("tanh", dropout)] * 3, split)
            for epoch in EPOCHS:
                stored = row(twins, name, epoch)
                assert stored[f"{prefix}_loss"] == found.loss[epoch].item()
                assert stored[f"{prefix}_acc"] == found.accuracy[epoch].item()
    assert not twins.states[list(METRICS)].isna().any(axis=None)


def test_a_stopped_zoo_of_twins_goes_on_to_the_same_bytes(zoos: Path, engine: Engine, tmp_path: Path) -> None:
    out, parent = tmp_path / "elsewhere", zoos / "seed"

    def stop(what: str, done: int, total: int | None) -> None:
        if done:
            raise Stop

    with pytest.raises(Stop):
        make("seed-sparse", out, engine, parent=parent, progress=StepProgress(stop))
    assert make("seed-sparse", out, TorchEngine(num_workers=2), parent=parent) == 1
    assert hashes(out) == hashes(zoos / "seed-sparse")


def test_twins_of_the_models_that_are_there_are_trained_and_more_later(
    zoos: Path, engine: Engine, tmp_path: Path
) -> None:
    make("seed", tmp_path / "seed", engine, models=range(1, 2))
    out = tmp_path / "seed-sparse"
    with pytest.raises(RecipeError) as caught:
        make("seed-sparse", out, engine, models=range(1, 3))
    assert str(caught.value) == f"{tmp_path / 'seed'} has no model seed-00002, the parent of seed-sparse-00002"
    assert not out.exists()
    assert make("seed-sparse", out, engine) == 1
    assert list(ZooFolder.open(out).models["model_id"]) == ["seed-sparse-00001"]
    make("seed", tmp_path / "seed", engine)
    assert make("seed-sparse", out, engine) == 1
    assert hashes(out) == hashes(zoos / "seed-sparse")


def test_twins_need_the_zoo_of_their_parents(engine: Engine, tmp_path: Path) -> None:
    for options in ({}, {"parent": tmp_path / "seed"}):
        with pytest.raises(RecipeError) as caught:
            make("seed-sparse", tmp_path / "out", engine, **options)
        assert str(caught.value) == (
            f"twins/seed-sparse are twins of twins/seed, whose zoo folder is not at {tmp_path / 'seed'}; "
            "generate it first, or name it with --parent"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tanh"', '"relu"'),
        ("random = 1,", "random = 2,"),
        ("lr = 4e-2", "weight_decay = 0.0\nlr = 4e-2"),  # the same models, but a zoo of another grid
    ],
)
def test_another_zoo_is_not_taken_for_the_parents(
    old: str, new: str, zoos: Path, engine: Engine, tmp_path: Path
) -> None:
    recipe, other = recipe_of(tmp_path, TWINS.replace(old, new)), zoos / "seed"
    with pytest.raises(FormatError) as caught:
        generate_zoo(recipe, tmp_path / "out", config="seed-sparse", engine=engine, images_root=tmp_path, parent=other)
    assert str(caught.value) == (
        f"{other} is not the zoo twins/seed whose twins seed-sparse are; name its folder with --parent"
    )


def test_twins_are_not_taken_for_parents(zoos: Path, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="^.*/seed-sparse is not the zoo twins/seed whose twins seed-sparse are; "):
        make("seed-sparse", tmp_path / "out", engine, parent=zoos / "seed-sparse")


def test_places_in_another_order_are_other_models(zoos: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(zoos / "seed", tmp_path / "seed")
    path = tmp_path / "seed" / "zoo.json"
    facts = json.loads(path.read_text())
    facts["recipe"]["axes"] = dict(reversed(facts["recipe"]["axes"].items()))
    path.write_text(json.dumps(facts))
    with pytest.raises(FormatError, match="^.*/seed is not the zoo twins/seed whose twins seed-sparse are; "):
        make("seed-sparse", tmp_path / "out", engine)


def test_parents_that_are_not_complete_are_refused(zoos: Path, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(zoos / "seed", tmp_path / "seed")
    (tmp_path / "seed" / "states.parquet").unlink()
    with pytest.raises(FormatError) as caught:
        make("seed-sparse", tmp_path / "out", engine)
    assert str(caught.value) == f"{tmp_path / 'seed'} is not complete; run its modelzoo-generate command again"


def test_a_parent_means_nothing_to_models_that_have_none(zoos: Path, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        make("seed", tmp_path / "out", engine, parent=zoos / "seed")
    assert str(caught.value) == "recipe twins: seed has no parent; leave --parent out"


def test_the_folder_of_twins_says_whose_they_are(zoos: Path, twins: ZooFolder) -> None:
    parents = ZooFolder.open(zoos / "seed")
    assert twins.info.parent == parents.info.to_parent()
    assert list(twins.models["parent_id"]) == [f"seed-{model}" for model in MODELS]


def test_the_command_trains_parents_before_their_twins(tmp_path: Path) -> None:
    recipe_of(tmp_path)  # in the file the twins come first
    words = ["modelzoo-generate", tmp_path / "twins.toml", "--models", "2", "--epochs", "1", "--out", tmp_path / "zoo"]
    result = run([*words, "--threads", "1", "--quiet"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'zoo' / config}: twins/{config}, 1 models trained" for config in ("seed", "seed-sparse")
    ]
    parents, twins = (ZooFolder.open(tmp_path / "zoo" / config) for config in ("seed", "seed-sparse"))
    assert torch.equal(twins.weights("seed-sparse-00002", 0), parents.weights("seed-00002", 1))
