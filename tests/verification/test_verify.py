"""Verifying: an intact folder passes, and whatever is done to it is found and named."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.processes import hashes, run
from helpers.shards import rewrite
from helpers.steps import StepProgress

from modelzoo_datasets import build_dataset, generate_zoo, read_recipe
from modelzoo_datasets.cli.verify_command import main
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.verification import Check, verify_folder
from modelzoo_datasets.zoo import (
    ZooFolder,
    hash_weights,
    read_json,
    read_table,
    read_tensors,
    write_footers,
    write_json,
    write_tensors,
)

_OF_FILES = ("checksums", "viewer", "descriptions")  # these have tests of their own
AGAIN = "run its modelzoo-generate command again"
ANEW = f"{AGAIN}, which rewrites the table"


@pytest.fixture(scope="session")
def twin_recipe(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with sparsified twins of its config `hyp`."""
    path = tmp_path_factory.mktemp("twin-recipe") / tiny_recipe.name
    path.write_text(tiny_recipe.read_text() + '\n[configs.hyp-sparse]\nparent = "hyp"\nepochs = 1\n')
    return path


def _made(config: str, recipe: Path, out: Path, engine: Engine, **options: Any) -> Path:
    images_root = out.parent / "images"
    generate_zoo(read_recipe(str(recipe)), out, config=config, engine=engine, images_root=images_root, **options)
    return out


@pytest.fixture(scope="session")
def packed_zoo(tiny_recipe: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of `hyp` in a packed file."""
    out = tmp_path_factory.mktemp("packed") / "hyp"
    return _made("hyp", tiny_recipe, out, engine, models=range(1, 3), storage="packed")


@pytest.fixture(scope="session")
def twin_zoo(twin_recipe: Path, tiny_hyp_zoo: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twins of two models of `hyp`, their parents' zoo not beside them."""
    out = tmp_path_factory.mktemp("twins") / "hyp-sparse"
    return _made("hyp-sparse", twin_recipe, out, engine, models=range(1, 3), parent=tiny_hyp_zoo)


@pytest.fixture
def zoo(tiny_hyp_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the zoo of 8 models, epochs 0 and 1, that a test may change."""
    return Path(shutil.copytree(tiny_hyp_zoo, tmp_path / "zoo"))


@pytest.fixture(scope="session")
def hyp_dataset(tiny_hyp_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the zoo of 8 models alone."""
    out = tmp_path_factory.mktemp("hyp-dataset") / "hyp"
    build_dataset([tiny_hyp_zoo], out)
    return out


@pytest.fixture
def dataset(hyp_dataset: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(hyp_dataset, tmp_path / "dataset"))


def checked(path: Path, states: int = 0, **options: Any) -> list[Check]:
    return verify_folder(path, engine=TorchEngine(1), images_root=path / "no-images", states=states, **options)


def wrong(path: Path, states: int = 0, **options: Any) -> dict[str, list[str]]:
    """What is wrong, by check; not that files of a dataset were changed at all, or would be shown badly."""
    found = checked(path, states, **options)
    return {check.name: check.problems for check in found if not check.has_passed and check.name not in _OF_FILES}


def change_table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = change(read_table(path))
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path)


def setting(row: int, **values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            table.loc[row, name] = value
        return table

    return change


def state_file(zoo: Path, model: str, epoch: int, kind: str = "states") -> Path:
    return zoo / kind / model / f"epoch-{epoch:03d}.safetensors"


def flip(path: Path, byte: int = -4) -> None:
    """Change one byte; the default is a last digit of the last weight."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def altered(where: str, found: str, recorded: str, remedy: str, what: str = "it was altered") -> str:
    hashes = f"sha256 {found[:12]}…, recorded {recorded[:12]}…"
    return f"{where} is not the state that was trained: {what} ({hashes}); {remedy}"


# What is intact passes.


def test_an_intact_zoo_passes_every_check(tiny_hyp_zoo: Path) -> None:
    before = hashes(tiny_hyp_zoo)
    assert checked(tiny_hyp_zoo, states=4, retrain=1) == [
        Check("complete", 16, []),
        Check("recipe", 8, []),
        Check("layout", 1, []),
        Check("states", 16, []),
        Check("hashes", 16, []),
        Check("finite", 16, []),
        Check("images", 1, []),
        Check("metrics, equal", 4, []),
        Check("retrained, bit for bit", 1, []),
        Check("statistics", 2, []),
    ]
    assert hashes(tiny_hyp_zoo) == before


def test_an_intact_packed_zoo_passes(packed_zoo: Path) -> None:
    found = {check.name: check.n for check in checked(packed_zoo, states=4, retrain=1) if check.has_passed}
    assert found == {
        **{"complete": 4, "recipe": 2, "layout": 1, "states": 4, "hashes": 4, "finite": 4, "images": 1},
        **{"metrics, equal": 4, "retrained, bit for bit": 1, "statistics": 2},
    }


def test_intact_twins_pass_with_and_without_their_parents(twin_zoo: Path, tiny_hyp_zoo: Path) -> None:
    read = {"complete": 4, "recipe": 2, "layout": 2, "states": 4, "hashes": 4, "finite": 4, "twins": 4}
    retrained = {"images": 1, "retrained, bit for bit": 1, "statistics": 2}
    for parent, states, measured in ((None, 0, {}), (tiny_hyp_zoo, 4, {"metrics, equal": 4})):
        checks = checked(twin_zoo, states, retrain=1, parent=parent)
        assert {check.name: check.n for check in checks if check.has_passed} == {**read, **retrained, **measured}


def test_an_intact_dataset_passes_every_check(tiny_dataset: Path) -> None:
    found = checked(tiny_dataset, states=3, retrain=1)
    names = ["files", "recipe", "index", "states", "hashes", "finite", "metrics, equal", "retrained, bit for bit"]
    assert [replace(check, notes=[]) for check in found] == [
        *(Check("footers", 12, []), Check("layout", 2, []), Check("card", 4, []), Check("checksums", 25, [])),
        *(Check("viewer", 12, []), Check("descriptions", 3, []), Check("images", 1, [])),
        *(Check(f"seed: {name}", n, []) for name, n in zip(names, (3, 20, 60, 60, 60, 60, 3, 1), strict=True)),
        *(Check(f"hyp: {name}", n, []) for name, n in zip(names, (3, 8, 16, 16, 16, 16, 3, 1), strict=True)),
    ]


def test_twins_in_a_dataset_are_held_against_their_parents_in_it(
    twin_zoo: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    build_dataset([tiny_hyp_zoo, twin_zoo], tmp_path / "dataset")
    checks = checked(tmp_path / "dataset", retrain=1)
    assert all(check.has_passed for check in checks)
    assert Check("hyp-sparse: twins", 4, []) in checks


def test_progress_counts_states_and_models(tiny_hyp_zoo: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    checked(tiny_hyp_zoo, 2, retrain=1, progress=StepProgress(lambda *step: told.append(step)))
    reading = [("reading tiny/hyp", done, 16) for done in range(0, 17, 2)]
    assert told[: len(reading)] == reading
    assert told[len(reading) :] == [
        *(("measuring tiny/hyp", 0, 2), ("measuring tiny/hyp", 2, 2)),
        *(("training tiny/hyp again", 0, 1), ("training tiny/hyp again", 0, 1), ("training tiny/hyp again", 1, 1)),
        *(("comparing models", done, 8) for done in range(9)),
    ]


# States.


def test_a_flipped_byte_is_found_and_the_remedy_named_helps(zoo: Path, tiny_recipe: Path, engine: Engine) -> None:
    path, whole = state_file(zoo, "hyp-00002", 1), hashes(zoo)
    recorded = hash_weights(ZooFolder(zoo).weights("hyp-00002", 1))
    flip(path)
    found = hash_weights(ZooFolder(zoo).weights("hyp-00002", 1))
    remedy = f"remove {path.parent} and run modelzoo-generate again"
    assert wrong(zoo) == {"hashes": [altered(f"hyp-00002 epoch 1 ({path})", found, recorded, remedy)]}
    shutil.rmtree(path.parent)
    _made("hyp", tiny_recipe, zoo, engine)
    assert hashes(zoo) == whole


def test_swapped_states_of_two_models_are_recognised(zoo: Path) -> None:
    first, second = (state_file(zoo, f"hyp-0000{i}", 1) for i in (1, 2))
    sha256 = {i: hash_weights(ZooFolder(zoo).weights(f"hyp-0000{i}", 1)) for i in (1, 2)}
    first.rename(zoo / "kept")
    second.rename(first)
    (zoo / "kept").rename(second)
    assert wrong(zoo) == {
        "hashes": [
            altered(
                f"hyp-0000{i} epoch 1 ({path})",
                sha256[j],
                sha256[i],
                f"remove {path.parent} and run modelzoo-generate again",
                f"it is hyp-0000{j} epoch 1",
            )
            for i, j, path in ((1, 2, first), (2, 1, second))
        ]
    }


def test_a_truncated_state_is_named(zoo: Path) -> None:
    path = state_file(zoo, "hyp-00003", 0)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FormatError) as caught:
        read_tensors(path)
    assert wrong(zoo) == {"states": [f"{caught.value}; remove {path.parent} and run modelzoo-generate again"]}
    assert str(caught.value).startswith(f"cannot read state file {path}: ")


def test_a_state_of_other_tensors_is_named(zoo: Path) -> None:
    path = state_file(zoo, "hyp-00001", 1)
    state = read_tensors(path)
    name, tensor = next((name, tensor) for name, tensor in state.items() if tensor.ndim == 1)
    remedy = f"remove {path.parent} and run modelzoo-generate again"
    for changed, told in (
        ({**state, name: tensor[:-1]}, f"{name}: expected shape {tuple(tensor.shape)}, got {(len(tensor) - 1,)}"),
        ({**state, name: tensor.double()}, f"{name}: expected torch.float32, got torch.float64"),
        ({**state, "more": tensor.clone()}, "unexpected tensors more"),
    ):
        write_tensors(path, changed)
        assert wrong(zoo) == {"states": [f"{path} holds no state of this zoo: {told}; {remedy}"]}


def test_missing_states_are_named(zoo: Path) -> None:
    one, all_of_a_model = state_file(zoo, "hyp-00004", 1), zoo / "states" / "hyp-00006"
    one.unlink()
    shutil.rmtree(all_of_a_model)
    assert wrong(zoo) == {
        "complete": [
            f"{path} is missing; {AGAIN} to restore it"
            for path in (one, state_file(zoo, "hyp-00006", 0), state_file(zoo, "hyp-00006", 1))
        ]
    }


def test_files_of_models_that_are_not_in_the_tables_are_named(zoo: Path) -> None:
    shutil.copytree(zoo / "states" / "hyp-00001", zoo / "states" / "hyp-00009")
    write_json(zoo / "progress" / "hyp-00010.json", [])
    assert wrong(zoo) == {
        "complete": [
            f"{zoo / folder} holds {model}, which is not in models.parquet; {AGAIN} to complete the zoo"
            for folder, model in (("progress", "hyp-00010"), ("states", "hyp-00009"))
        ]
    }


def _put_nan(zoo: Path, model: str, epoch: int, row: int, **values: object) -> Path:
    """A state with a NaN, and its hash in the table."""
    path = state_file(zoo, model, epoch)
    state = read_tensors(path)
    next(iter(state.values())).view(-1)[3] = float("nan")
    write_tensors(path, state)
    sha256 = hash_weights(ZooFolder(zoo).weights(model, epoch))
    change_table(zoo / "states.parquet", setting(row, sha256=sha256, **values))
    return path


def test_weights_that_are_not_finite_and_not_marked_are_found(zoo: Path) -> None:
    path = _put_nan(zoo, "hyp-00001", 1, row=1)
    assert wrong(zoo) == {
        "finite": [
            f"hyp-00001 epoch 1 ({path}) has weights that are not finite, but column finite says True; "
            f"remove {path.parent} and run modelzoo-generate again"
        ]
    }


def test_a_diverged_model_must_be_marked(zoo: Path) -> None:
    _put_nan(zoo, "hyp-00001", 1, row=1, finite=False)
    assert wrong(zoo) == {
        "finite": [
            f"models.parquet: diverged of hyp-00001 is False, but by column finite of states.parquet it is True; {ANEW}"
        ]
    }
    change_table(zoo / "models.parquet", setting(0, diverged=True))
    assert [*wrong(zoo)] == ["statistics"], "they are those of the zoo before"
    (zoo / "statistics.json").unlink()
    assert wrong(zoo) == {}
    assert {check.name: check.n for check in checked(zoo, states=16)}["metrics, equal"] == 15


def change_statistics(zoo: Path, key: str, value: object) -> None:
    statistics = read_json(zoo / "statistics.json")
    write_json(zoo / "statistics.json", {**statistics, key: value})


def test_altered_statistics_are_found(zoo: Path) -> None:
    intact = {name: (zoo / name).read_bytes() for name in ("statistics.json", "pairs.parquet")}
    repair = "delete statistics.json and pairs.parquet there and run its modelzoo-generate command again"
    epochs, layers, pairs = (read_json(zoo / "statistics.json")[key] for key in ("epochs", "layers", "pairs"))
    alterations: dict[str, tuple[Callable[[], None], bool]] = {  # what is named, and whether the tables alone tell it
        "statistics.json: epochs": (
            lambda: change_statistics(zoo, "epochs", [epochs[0], epochs[1] | {"mean": 0.9}]),
            True,
        ),
        "statistics.json: models": (lambda: change_statistics(zoo, "models", 9), True),
        "statistics.json: states_sha256": (lambda: change_statistics(zoo, "states_sha256", "0"), True),
        "statistics.json: layers": (
            lambda: change_statistics(zoo, "layers", [layers[0] | {"std": 1.0}, *layers[1:]]),
            False,
        ),
        "statistics.json: pairs": (lambda: change_statistics(zoo, "pairs", pairs | {"l2": {}}), False),
        "statistics.json: more": (lambda: change_statistics(zoo, "more", 1), False),
        "pairs.parquet: cka": (lambda: change_table(zoo / "pairs.parquet", setting(3, cka=0.5)), False),
        "pairs.parquet: agreement": (lambda: change_table(zoo / "pairs.parquet", setting(0, agreement=1.0)), False),
        "pairs.parquet: model_a": (lambda: change_table(zoo / "pairs.parquet", setting(0, model_a="hyp-00009")), False),
    }
    for name, (alter, is_in_tables) in alterations.items():
        alter()
        expected = {"statistics": [f"{zoo / name} is not what the states give; {repair}"]}
        assert wrong(zoo, states=1) == expected
        assert wrong(zoo) == (expected if is_in_tables else {})
        for file, content in intact.items():
            (zoo / file).write_bytes(content)
    (zoo / "statistics.json").write_text("[")
    (problem,) = wrong(zoo)["statistics"]
    assert problem.startswith(f"{zoo}: statistics cannot be compared: cannot read {zoo / 'statistics.json'}: ")


def test_a_damaged_packed_file_is_named(packed_zoo: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(packed_zoo, tmp_path / "zoo"))
    path = zoo / "packed" / "models-00001-00100.safetensors"
    remedy = f"remove {path} and run modelzoo-generate again"
    recorded = {key: hash_weights(ZooFolder.open(zoo).weights(*key)) for key in (("hyp-00002", 1),)}
    flip(path)
    found = hash_weights(ZooFolder.open(zoo).weights("hyp-00002", 1))
    told = altered(f"hyp-00002 epoch 1 ({path})", found, recorded["hyp-00002", 1], remedy)
    assert wrong(zoo, states=4) == {"hashes": [told]}
    path.write_bytes(path.read_bytes()[:-7])
    problems = wrong(zoo)
    assert list(problems) == ["states"]
    assert len(problems["states"]) == 2
    assert all(p.startswith(f"cannot read packed states {path}: ") and p.endswith(remedy) for p in problems["states"])
    path.unlink()
    assert wrong(zoo) == {
        "complete": [f"{path} holds 0 of the 2 states of hyp-0000{i}; {AGAIN} to restore it" for i in (1, 2)]
    }


# Tables.


def test_a_wrong_seed_and_a_wrong_split_in_the_table_are_named(zoo: Path) -> None:
    models = ZooFolder(zoo).models
    seed, split = models["seed"][2], models["split"][3]
    other = next(name for name in ("train", "test") if name != split)
    change_table(zoo / "models.parquet", setting(2, seed=seed + 1))
    change_table(zoo / "models.parquet", setting(3, split=other))
    assert wrong(zoo) == {
        "recipe": [
            f"models.parquet: seed of hyp-00003 is {seed + 1}, the recipe says {seed}; {ANEW}",
            f"models.parquet: split of hyp-00004 is {other!r}, the recipe says {split!r}; {ANEW}",
        ]
    }


def test_models_that_the_recipe_does_not_know_are_named(zoo: Path) -> None:
    change_table(zoo / "models.parquet", setting(7, model_id="hyp-00099"))
    assert wrong(zoo)["recipe"] == [
        f"models.parquet: the recipe has no model 'hyp-00099'; {ANEW}",
        f"states.parquet: hyp-00008 is not in the table of models; {AGAIN}",
    ]


def test_epochs_that_are_missing_or_there_twice_are_named(zoo: Path) -> None:
    change_table(zoo / "states.parquet", lambda table: table.drop(index=5))
    change_table(zoo / "states.parquet", setting(0, epoch=1))
    assert wrong(zoo)["recipe"] == [
        f"states.parquet: {model} must have the epochs 0 to 1 once each; it lacks epoch {epoch}; {AGAIN}"
        for model, epoch in (("hyp-00001", 0), ("hyp-00003", 1))
    ]


def test_an_altered_metric_is_found_by_measuring(zoo: Path) -> None:
    row = ZooFolder(zoo).states.iloc[5]
    loss, accuracy, gap = row["test_loss"] + 0.25, row["test_acc"] - 0.125, row["ggap"] + 0.125
    change_table(zoo / "states.parquet", setting(5, test_loss=loss, test_acc=accuracy, ggap=gap))
    folder = zoo / "states" / "hyp-00003"
    assert wrong(zoo, states=16) == {
        "metrics, equal": [
            f"hyp-00003 epoch 1 ({folder / 'epoch-001.safetensors'}): "
            f"test_acc is {row['test_acc']:.6g}, recorded {accuracy:.6g}, "
            f"test_loss is {row['test_loss']:.6g}, recorded {loss:.6g}; remove {folder} and run modelzoo-generate again"
        ]
    }
    assert [*wrong(zoo)] == ["statistics"], "nothing was measured, but their spread over the models is stored"


def test_train_metrics_are_measured_at_epoch_0_and_trained_again_later(packed_zoo: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(packed_zoo, tmp_path / "zoo"))
    path, recorded = zoo / "packed" / "models-00001-00100.safetensors", ZooFolder(zoo).states["train_loss"]
    remedy = f"remove {path} and run modelzoo-generate again"
    change_table(zoo / "states.parquet", setting(0, train_loss=1.0))
    assert wrong(zoo, states=4) == {
        "metrics, equal": [f"hyp-00001 epoch 0 ({path}): train_loss is {recorded[0]:.6g}, recorded 1; {remedy}"]
    }
    change_table(zoo / "states.parquet", setting(0, train_loss=recorded[0]))
    change_table(zoo / "states.parquet", setting(3, train_loss=1.0))
    assert wrong(zoo, states=4) == {}
    assert wrong(zoo, retrain=2) == {
        "retrained, bit for bit": [
            f"hyp-00002 epoch 1 ({path}) trained again: train_loss is {recorded[3]:.6g}, recorded 1; {remedy}"
        ]
    }


def test_states_that_their_rows_do_not_give_are_found_by_training_again(packed_zoo: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(packed_zoo, tmp_path / "zoo"))
    path, recorded = zoo / "packed" / "models-00001-00100.safetensors", ZooFolder(zoo).states["sha256"][3]
    flip(path)
    found = hash_weights(ZooFolder(zoo).weights("hyp-00002", 1))
    change_table(zoo / "states.parquet", setting(3, sha256=found))
    assert [*wrong(zoo)] == ["statistics"], "the table says so itself, and the statistics are of others"
    assert wrong(zoo, retrain=2) == {
        "retrained, bit for bit": [
            f"hyp-00002 epoch 1 ({path}) trained again: other weights (sha256 {recorded[:12]}…, recorded "
            f"{found[:12]}…); remove {path} and run modelzoo-generate again"
        ]
    }


def test_other_versions_are_allowed_to_round_in_other_ways(packed_zoo: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(packed_zoo, tmp_path / "zoo"))
    facts, rows = read_json(zoo / "zoo.json"), ZooFolder(zoo).states
    write_json(zoo / "zoo.json", {**facts, "versions": {**facts["versions"], "torch": "1.0"}})
    images = 1000  # of the test split

    def off_by(wrong_images: int) -> None:
        accuracy = rows["test_acc"][3] - wrong_images / images
        change_table(zoo / "states.parquet", setting(3, test_acc=accuracy, ggap=rows["train_acc"][3] - accuracy))

    off_by(3)
    checks = {check.name: check.has_passed for check in checked(zoo, states=4, retrain=2)}
    assert (checks["metrics, to 3 images"], checks["retrained, to 5 points"]) == (True, True)
    off_by(4)
    assert list(wrong(zoo, states=4)) == ["metrics, to 3 images"]
    off_by(51)
    path = zoo / "packed" / "models-00001-00100.safetensors"
    assert wrong(zoo, retrain=2) == {
        "retrained, to 5 points": [
            f"hyp-00002 epoch 1 ({path}) trained again: test_acc is {rows['test_acc'][3]:.4f}, recorded "
            f"{rows['test_acc'][3] - 51 / images:.4f}; remove {path} and run modelzoo-generate again"
        ]
    }


def test_a_metric_that_contradicts_another_is_found_without_measuring(zoo: Path) -> None:
    folder = zoo / "states" / "hyp-00001"
    change_table(zoo / "states.parquet", setting(1, val_acc=1.5, ggap=0.75))
    assert wrong(zoo) == {
        "recipe": [
            f"states.parquet: {what}; remove {folder} and run modelzoo-generate again"
            for what in (
                "val_acc of hyp-00001 epoch 1 must be in [0, 1], got 1.5",
                "ggap of hyp-00001 epoch 1 must be train_acc - test_acc, got 0.75",
            )
        ]
    }


# What zoo.json says.


def _changed_facts(zoo: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = read_json(zoo / "zoo.json")
    change(facts)
    write_json(zoo / "zoo.json", facts)


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        for key in keys[:-1]:
            facts = facts[key]
        del facts[keys[-1]]

    return change


def _with(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        for key in keys[:-1]:
            facts = facts[key]
        facts[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without("recipe", "seeds"), "it has no 'recipe.seeds'"),
        (_without("recipe", "seed"), "it has no 'recipe.seed'"),
        (_with(7, "recipe", "architecture"), "'recipe.architecture' must be a text, got 7"),
        (_with("tanh", "recipe", "axes", "activation"), "'recipe.axes.activation' must be a list, got 'tanh'"),
        (_with([-1.0], "recipe", "axes", "lr"), "'recipe' cannot be trained (lr must be positive, got -1.0)"),
        (_with("zip", "storage"), "'storage' must be states or packed, got 'zip'"),
        (_with("seed", "recipe", "parent"), "it has no 'parent'"),
    ],
)
def test_malformed_facts_are_an_error_that_says_what_is_missing(
    change: Callable[[dict[str, Any]], None], told: str, zoo: Path
) -> None:
    _changed_facts(zoo, change)
    with pytest.raises(FormatError) as caught:
        checked(zoo)
    path = zoo / "zoo.json"
    message = f"{path} is not what modelzoo-generate and modelzoo-build write: {told}; make its folder again"
    assert str(caught.value) == message


def test_facts_that_contradict_the_recipe_or_the_architecture_are_named(zoo: Path) -> None:
    _changed_facts(zoo, _with("tiny/other", "name"))
    _changed_facts(zoo, _with("cnn-m", "recipe", "architecture"))
    assert wrong(zoo) == {
        "recipe": [
            f"zoo.json: {what}; restore it, or make the zoo again"
            for what in (
                "name is 'tiny/other', the recipe says 'tiny/hyp'",
                "architecture is 'cnn-s', the recipe says 'cnn-m'",
            )
        ]
    }
    _changed_facts(zoo, lambda facts: facts["layout"][0].update(name="another"))
    assert wrong(zoo)["layout"] == [
        "zoo.json: layout is not that of architecture cnn-s; restore it, or make the zoo again with this release"
    ]


def test_other_images_are_named_and_nothing_is_measured_on_them(zoo: Path, images: Any) -> None:
    _changed_facts(zoo, _with("0" * 64, "images_sha256"))
    assert [check.name for check in checked(zoo, states=4, retrain=1)][-1] == "images"
    assert wrong(zoo, states=4) == {
        "images": [
            f"images fashion-mnist-5k in {zoo / 'no-images'} are not the images of tiny/hyp: sha256 "
            f"{images.fingerprint[:12]}…, recorded 000000000000…; pass their folder by --images-root"
        ]
    }


def test_a_table_without_a_column_is_an_error(zoo: Path) -> None:
    change_table(zoo / "states.parquet", lambda table: table.drop(columns="sha256"))
    with pytest.raises(FormatError) as caught:
        checked(zoo)
    assert str(caught.value) == (
        f"table {zoo / 'states.parquet'} has no column 'sha256', which modelzoo-generate writes; restore it, or make "
        "the zoo again"
    )


@pytest.mark.parametrize(("states", "retrain"), [(-1, 0), (0, -2)])
def test_negative_numbers_are_refused(states: int, retrain: int, tiny_hyp_zoo: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        checked(tiny_hyp_zoo, states, retrain=retrain)
    assert str(caught.value) == f"states and retrain must not be negative, got {states} and {retrain}"


# Twins.


@pytest.fixture
def twins(twin_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the zoo of two twins, epochs 0 and 1, that a test may change."""
    return Path(shutil.copytree(twin_zoo, tmp_path / "twins"))


def _change_twin(zoo: Path, epoch: int, change: Callable[[torch.Tensor], None], kinds: Sequence[str]) -> Path:
    """Change the first weights of the first twin's state, and have the table say so."""
    for kind in kinds:
        path = state_file(zoo, "hyp-sparse-00001", epoch, kind)
        state = read_tensors(path)
        change(state[ZooFolder(zoo).layout.slots[0].name].view(-1))
        write_tensors(path, state)
    sha256 = hash_weights(ZooFolder(zoo).weights("hyp-sparse-00001", epoch))
    change_table(zoo / "states.parquet", setting(epoch, sha256=sha256))
    return state_file(zoo, "hyp-sparse-00001", epoch)


def _double_the_first_kept(weights: torch.Tensor) -> None:
    weights[int(weights.nonzero()[0])] *= 2


def test_a_twin_that_does_not_start_from_its_parent_is_found(twins: Path, tiny_hyp_zoo: Path) -> None:
    path = _change_twin(twins, 0, _double_the_first_kept, ("states", "variational"))
    assert [*wrong(twins)] == ["statistics"], "without the parents there is nothing else to hold it against"
    beside = Path(shutil.copytree(tiny_hyp_zoo, twins.parent / "hyp"))
    for options, parent in (({"parent": tiny_hyp_zoo}, tiny_hyp_zoo), ({}, beside)):
        assert wrong(twins, **options) == {
            "twins": [
                f"hyp-sparse-00001 epoch 0 ({path}): it is not the last state of its parent, hyp-00001 epoch 1 "
                f"({state_file(parent, 'hyp-00001', 1)}); remove {path.parent} and run modelzoo-generate again"
            ]
        }


def test_pruned_weights_that_do_not_follow_from_log_alpha_are_found(twins: Path) -> None:
    path = _change_twin(twins, 1, _double_the_first_kept, ("states",))
    assert wrong(twins) == {
        "twins": [
            f"hyp-sparse-00001 epoch 1 ({path}): 1 of its numbers do not follow from its variational parameters; "
            f"remove {path.parent} and run modelzoo-generate again"
        ]
    }


def test_a_wrong_sparsity_is_found(twins: Path) -> None:
    recorded, path = ZooFolder(twins).states["sparsity"][1], state_file(twins, "hyp-sparse-00001", 1)
    change_table(twins / "states.parquet", setting(1, sparsity=recorded + 0.125))
    assert wrong(twins) == {
        "twins": [
            f"hyp-sparse-00001 epoch 1 ({path}): {recorded:.6f} of its weights are pruned, recorded sparsity "
            f"{recorded + 0.125:.6f}; remove {path.parent} and run modelzoo-generate again"
        ]
    }


def test_a_missing_variational_file_is_named(twins: Path) -> None:
    path = state_file(twins, "hyp-sparse-00002", 1, "variational")
    path.unlink()
    assert wrong(twins) == {"complete": [f"{path} is missing; {AGAIN} to restore it"]}


def test_folders_that_are_no_parents_are_refused(tiny_zoo: Path, tiny_hyp_zoo: Path, twin_zoo: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        checked(twin_zoo, parent=tiny_zoo)
    problem = "is not the zoo of the parents of tiny/hyp-sparse; pass its folder by --parent"
    assert str(caught.value) == f"{tiny_zoo} {problem}"
    with pytest.raises(ArgumentError) as refused:
        checked(tiny_hyp_zoo, parent=tiny_zoo)
    assert str(refused.value) == (
        f"parent must be None for {tiny_hyp_zoo}, which has no sparsified twins; got {tiny_zoo}"
    )


# Dataset folders.


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    rewrite(path, change(pq.read_table(path)))


def _row(table: pa.Table, row: int, **values: object) -> pa.Table:
    """The table with other values in one row."""
    for name, value in values.items():
        column = table[name].to_pylist()
        column[row] = value
        field = table.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(column, field.type))
    return table


def test_an_altered_row_of_weights_is_named(dataset: Path) -> None:
    path = dataset / "hyp" / "test-00000-of-00001.parquet"
    row = pq.read_table(path).slice(1, 1).to_pylist()[0]
    weights = [*row["weights"][:-1], 0.5]
    found = hashlib.sha256(torch.tensor(weights).numpy().tobytes()).hexdigest()
    _rewrite(path, lambda table: _row(table, 1, weights=weights))
    where = f"{row['model_id']} epoch {row['epoch']} ({path})"
    assert wrong(dataset) == {"hyp: hashes": [altered(where, found, row["sha256"], "build the dataset again")]}


def test_an_altered_row_of_metrics_differs_from_the_index_and_from_what_is_measured(dataset: Path) -> None:
    path = dataset / "hyp" / "test-00000-of-00001.parquet"
    row = pq.read_table(path).slice(0, 1).to_pylist()[0]
    _rewrite(path, lambda table: _row(table, 0, val_loss=1.0))
    index, state = dataset / "hyp_index" / path.name, f"{row['model_id']} epoch {row['epoch']}"
    assert wrong(dataset, states=100) == {
        "hyp: index": [
            f"{index}: val_loss of {state} is {row['val_loss']!r}, the file with weights has 1.0; "
            "build the dataset again"
        ],
        "hyp: metrics, equal": [
            f"{state} ({path}): val_loss is {row['val_loss']:.6g}, recorded 1; build the dataset again"
        ],
    }


def test_models_in_the_split_of_others_are_named(dataset: Path) -> None:
    for folder in ("hyp", "hyp_index"):
        validation, test = (dataset / folder / f"{split}-00000-of-00001.parquet" for split in ("validation", "test"))
        validation.rename(dataset / "kept")
        test.rename(validation)
        (dataset / "kept").rename(test)
    write_footers(dataset)
    files = {split: dataset / "hyp" / f"{split}-00000-of-00001.parquet" for split in ("validation", "test")}
    found = {split: pq.read_table(path)["model_id"].unique().to_pylist() for split, path in files.items()}
    assert wrong(dataset) == {
        "hyp: recipe": [
            f"config hyp: split of {model} is {split!r}, the recipe says {other!r}; build the dataset again"
            for split, other in (("validation", "test"), ("test", "validation"))
            for model in found[split]
        ]
    }


def test_damaged_and_missing_files_are_named(dataset: Path) -> None:
    train, validation = (dataset / "hyp" / f"{split}-00000-of-00001.parquet" for split in ("train", "validation"))
    _rewrite(validation, lambda table: table.drop_columns("lr"))
    train.write_bytes(train.read_bytes()[:-7])
    found = wrong(dataset)
    assert set(found) == {"footers", "card", "hyp: files", "hyp: index"}
    assert (
        found["hyp: files"][0]
        == f"cannot read {train}: its footer is not the one that footers.json lists; build the dataset again"
    )
    assert found["hyp: files"][1] == f"{validation}: it has no column 'lr'; build the dataset again"
    train.unlink()
    validation.rename(validation.with_name("validation-00001-of-00002.parquet"))
    assert wrong(dataset)["hyp: files"][0] == (
        f"{dataset / 'hyp'}: validation-00001-of-00002.parquet are not all the files of validation; "
        "build the dataset again"
    )


def test_another_layout_and_another_card_are_named(dataset: Path) -> None:
    layout, card = read_json(dataset / "layout.json"), (dataset / "README.md").read_text()
    write_json(dataset / "layout.json", layout[::-1])
    (dataset / "README.md").write_text(
        card.replace("hyp_index/test-*.parquet", "hyp_index/tests-*.parquet").replace("dtype: int64", "dtype: int32", 1)
    )
    again = "build the dataset again"
    assert wrong(dataset) == {
        "layout": [f"{dataset / 'layout.json'} is not the layout of hyp in zoo.json; {again}"],
        "card": [
            f"{dataset / 'README.md'}: the {what} are not those of its files; {again}"
            for what in ("features of hyp", "files of hyp_index")
        ],
    }
    (dataset / "README.md").unlink()
    assert wrong(dataset)["card"][0].startswith(f"{dataset / 'README.md'} has no configs and dataset_info that can be ")


def test_a_malformed_dataset_is_an_error(dataset: Path) -> None:
    facts = read_json(dataset / "zoo.json")
    write_json(dataset / "zoo.json", {**facts, "configs": {"seed": facts["configs"]["hyp"]}})
    with pytest.raises(FormatError) as caught:
        checked(dataset)
    assert str(caught.value) == (
        f"{dataset / 'zoo.json'} is not what modelzoo-build writes: config 'seed' holds the values of 'hyp'; "
        "build the dataset again"
    )
    _changed_facts(dataset, _with({"hyp": {}}, "configs"))
    with pytest.raises(FormatError, match="it has no 'configs.hyp.name'; make its folder again$"):
        checked(dataset)


# The command.


def _status(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Exit status of the command, run in this process: its own takes seconds to start."""
    monkeypatch.setattr("sys.argv", ["modelzoo-verify", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_the_command_prints_a_table_and_succeeds(
    tiny_hyp_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status(monkeypatch, tiny_hyp_zoo, "--states", "2", "--threads", "1") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if "│" in line]
    assert cells == [
        *(["complete", "16", "passed"], ["recipe", "8", "passed"], ["layout", "1", "passed"]),
        *(["states", "16", "passed"], ["hashes", "16", "passed"], ["finite", "16", "passed"]),
        *(["images", "1", "passed"], ["metrics, equal", "2", "passed"], ["statistics", "2", "passed"]),
    ]


def test_a_folder_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status(monkeypatch, tmp_path) == 2
    printed = capsys.readouterr()
    told = (
        f"{tmp_path} is not a zoo folder or dataset folder: it has no zoo.json; pass a folder from modelzoo-generate, "
        "modelzoo-import or modelzoo-build"
    )
    assert (printed.out, printed.err) == ("", f"modelzoo-verify: {told}\n")


def test_the_command_names_the_first_failures_and_fails(zoo: Path) -> None:
    for number in range(1, 6):
        flip(state_file(zoo, f"hyp-0000{number}", 1))
    problems = wrong(zoo)["hashes"]
    result = run(["modelzoo-verify", zoo, "--states", "0"])
    assert result.returncode == 1
    lines = [f"modelzoo-verify: hashes: {problem}\n" for problem in problems[:3]]
    assert result.stderr == "".join([*lines, "modelzoo-verify: hashes: and 2 more\n"])
    assert "FAILED (5)" in result.stdout
