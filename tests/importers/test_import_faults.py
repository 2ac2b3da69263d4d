"""Originals that are damaged, hostile, or not what was said: refused in one line, or skipped and counted."""

import json
import os
import pickle  # noqa: TID251 - makes what must be refused
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_zoos
from helpers.originals import trial_name
from helpers.processes import hashes, kill_when
from helpers.untrained_originals import IMAGES, checkpoint, imported, place, sound, state_of, write_zoo

from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError, RecipeError
from modelzoo_datasets.importers import import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.zoo import ZooFolder

OTHER = "checkpoint that is of another architecture"
CODE = "checkpoint that is a pickle that holds more than tensors, which is never executed"
TRUNCATED = "checkpoint that is truncated or damaged, or no checkpoint"


class Hostile:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "tune_zoo_uniform")


def test_a_pickle_with_code_is_never_run(zoo: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"a": Hostile(proof)}, checkpoint(zoo, 1, 1))
    checkpoint(zoo, 1, 2).write_bytes(pickle.dumps(Hostile(proof)))
    for path in (zoo / trial_name(2, 2)).rglob("optimizer"):
        path.write_bytes(pickle.dumps(Hostile(proof)))
    (zoo / "dataset.pt").write_bytes(pickle.dumps(Hostile(proof)))
    found = imported(zoo, tmp_path / "zoo")
    assert not proof.exists()
    assert found.skipped == [f"skipped 2: {CODE} (first: {place(1, 1)})"]
    assert (found.models, found.states, found.lost_states) == (3, 7, 2)
    assert sound(tmp_path / "zoo")
    pickle.loads(checkpoint(zoo, 1, 2).read_bytes())  # that it would have
    assert proof.exists()


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_states_that_cannot_be_read_are_missing_and_the_rest_is_there(zoo: Path, tmp_path: Path, storage: str) -> None:
    cut = checkpoint(zoo, 1, 0)
    cut.write_bytes(cut.read_bytes()[:-100])
    checkpoint(zoo, 2, 1).unlink()
    torch.save(state_of(1, 1, "cnn-residual"), checkpoint(zoo, 2, 2))
    for epoch in range(3):
        checkpoint(zoo, 3, epoch).write_bytes(b"")
    found = imported(zoo, tmp_path / "zoo", storage=storage)
    assert found.skipped == [
        f"skipped 4: {TRUNCATED} (first: {place(1, 0)})",
        f"skipped 1: {OTHER} (first: {place(2, 2)})",
    ]
    assert (found.models, found.states, found.lost_states) == (2, 3, 3)
    folder = ZooFolder.open(tmp_path / "zoo")
    assert list(zip(folder.states["model_id"], folder.states["epoch"], strict=True)) == [
        *(("seed-00001", 1), ("seed-00001", 2), ("seed-00002", 0))
    ]
    for number, epoch in ((1, 1), (1, 2), (2, 0)):
        expected = folder.layout.pack(state_of(number, epoch))
        assert torch.equal(folder.weights(f"seed-0000{number}", epoch), expected)
    assert sound(tmp_path / "zoo")


def test_what_was_repaired_is_read_at_the_next_run(zoo: Path, tmp_path: Path) -> None:
    imported(zoo, tmp_path / "undisturbed")
    whole = checkpoint(zoo, 1, 0).read_bytes()
    checkpoint(zoo, 1, 0).write_bytes(whole[:500])
    assert imported(zoo, tmp_path / "zoo").lost_states == 1
    before = hashes(tmp_path / "zoo")
    assert (imported(zoo, tmp_path / "zoo").added, hashes(tmp_path / "zoo")) == (0, before)
    checkpoint(zoo, 1, 0).write_bytes(whole)
    found = imported(zoo, tmp_path / "zoo")
    assert (found.added, found.lost_states, found.skipped) == (1, 0, [])
    assert hashes(tmp_path / "zoo") == hashes(tmp_path / "undisturbed")


def test_weights_that_are_not_finite_are_imported_and_marked(zoo: Path, tmp_path: Path) -> None:
    state = state_of(2, 2)
    state["module_list.3.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, checkpoint(zoo, 2, 2))
    found = imported(zoo, tmp_path / "zoo")
    assert (found.models, found.states, found.diverged, found.skipped) == (3, 9, 1, [])
    assert ZooFolder.open(tmp_path / "zoo").models["diverged"].tolist() == [False, True, False]
    assert sound(tmp_path / "zoo")


def test_numbers_of_another_kind_and_wrappers(zoo: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state_of(1, 1).items()}, "epoch": 1}, checkpoint(zoo, 1, 1))
    torch.save({name: tensor.half() for name, tensor in state_of(1, 2).items()}, checkpoint(zoo, 1, 2))
    found = imported(zoo, tmp_path / "zoo")
    expected = f"checkpoint that has numbers of torch.float16, expected torch.float32 (first: {place(1, 2)})"
    assert found.skipped == [f"skipped 1: {expected}"]
    folder = ZooFolder.open(tmp_path / "zoo")
    assert torch.equal(folder.weights("seed-00001", 1), folder.layout.pack(state_of(1, 1)))


def test_a_file_larger_than_any_state_is_not_read(zoo: Path, tmp_path: Path) -> None:
    with checkpoint(zoo, 1, 1).open("r+b") as file:
        file.truncate(10**12)  # of holes: reading it would fail
    found = imported(zoo, tmp_path / "zoo")
    assert found.skipped == [f"skipped 1: checkpoint that is larger than any of such a network (first: {place(1, 1)})"]


def test_damaged_descriptions(zoo: Path, tmp_path: Path) -> None:
    results = [zoo / trial_name(number, number) / "result.json" for number in (1, 2, 3)]
    results[0].write_text(results[0].read_text()[:-30])
    results[1].unlink()
    (results[1].parent / "progress.csv").write_text("test_acc,training_iteration,train_acc\n0.25,1,nan\n7.5,2,0.5\n")
    params = json.loads((results[2].parent / "params.json").read_text())
    results[2].write_text("".join(json.dumps({"config": params, "training_iteration": e}) + "\n" for e in range(3)))
    (results[2].parent / "params.json").write_text("{")
    found = imported(zoo, tmp_path / "zoo")
    damaged = f"metrics of a state, since its line in result.json is damaged (first: {trial_name(1, 1)})"
    assert found.skipped == [f"skipped 1: {damaged}"]
    states = ZooFolder.open(tmp_path / "zoo").states.set_index(["model_id", "epoch"])["test_acc"]
    assert states["seed-00001"].tolist()[:2] == [0.4, 0.4]
    assert states["seed-00002"].dropna().to_dict() == {1: 0.25}
    assert states.isna().tolist() == [False, False, True, True, False, True, True, True, True]
    assert sound(tmp_path / "zoo")


def test_models_without_parameters_are_skipped(zoo: Path, tmp_path: Path) -> None:
    (zoo / trial_name(1, 1) / "params.json").unlink()
    shutil.rmtree(checkpoint(zoo, 2, 0).parents[1])
    (zoo / trial_name(2, 2)).mkdir()
    (zoo / trial_name(2, 2) / "params.json").write_text("{}")
    params = zoo / trial_name(3, 3) / "params.json"
    write_zoo(zoo.parent / "more" / zoo.name, models=4)
    shutil.copytree(zoo.parent / "more" / zoo.name / trial_name(4, 4), zoo / trial_name(4, 4))
    params.write_text(json.dumps({k: v for k, v in json.loads(params.read_text()).items() if k != "seed"}))
    found = imported(zoo, tmp_path / "zoo")
    assert found.models == 1
    assert found.skipped == [
        f"skipped 1: model whose params.json is missing or damaged (first: {trial_name(1, 1)})",
        f"skipped 1: model whose checkpoints are missing (first: {trial_name(2, 2)})",
        f"skipped 1: model whose parameters say: there is no seed (first: {trial_name(3, 3)})",
    ]


def test_nothing_is_overwritten(zoo: Path, tmp_path: Path) -> None:
    random_zoos.write_zoo(tmp_path / "other", random_zoos.recipe(models=2, epochs=1), "states")
    before = hashes(tmp_path / "other")
    with pytest.raises(FolderInUseError, match="holds another zoo: its .*; choose another --out"):
        imported(zoo, tmp_path / "other")
    assert hashes(tmp_path / "other") == before
    imported(zoo, tmp_path / "zoo")
    with pytest.raises(FolderInUseError, match="holds another zoo"):
        imported(write_zoo(tmp_path / "b" / zoo.name, lr=1e-3), tmp_path / "zoo")


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        (Overrides(), "tune_zoo_uniform does not name the images it was trained on; name them with --images: .*mnist"),
        (
            Overrides(images="cifar10"),
            "images cifar10 do not fit: the states are of cnn-s, .* name others with --images",
        ),
        (Overrides(images="mnits"), "unknown images 'mnits'; did you mean 'mnist'?"),
        (Overrides(images=IMAGES, architecture="cnn-m"), "the states of tune_zoo_uniform are not of cnn-m: they hold"),
        (Overrides(images=IMAGES, architecture="cnn"), "unknown architecture 'cnn'"),
        (Overrides(images=IMAGES, name="seed"), "--name must look like mnist-cnn-s/seed, got 'seed'"),
        (Overrides(images=IMAGES, inside="x"), "tune_zoo_uniform has no trial folders in 'x'"),
    ],
)
def test_claims_that_do_not_fit(zoo: Path, tmp_path: Path, claims: Overrides, told: str) -> None:
    with pytest.raises(ModelZooError, match=told):
        imported(zoo, tmp_path / "zoo", claims=claims)
    assert not (tmp_path / "zoo").exists()


def test_what_is_no_such_original(zoo: Path, tmp_path: Path) -> None:
    def fails(source: Path, told: str) -> None:
        with pytest.raises(FormatError, match=told):
            imported(source, tmp_path / "zoo")

    (tmp_path / "note.txt").write_text("no archive")
    fails(
        tmp_path / "nothing",
        "there is no folder or archive .*/nothing; pass a folder, zip or tar archive of a published zoo$",
    )
    fails(tmp_path / "note.txt", "is no folder, zip or tar archive that can be read: .*; download it again$")
    fails(checkpoint(zoo, 1, 1).parents[1], "it is a single trial; name the folder above it")
    fails(checkpoint(zoo, 1, 1).parent, "holds no trial folders: no checkpoint_.*; is --format right")
    shutil.copytree(zoo, tmp_path / "two" / "a")
    shutil.copytree(zoo, tmp_path / "two" / "b")
    fails(tmp_path / "two", "two holds 2 zoos; name one with --inside: a, b")
    assert imported(tmp_path / "two", tmp_path / "of-two", claims=Overrides(images=IMAGES, inside="b")).states == 9
    with pytest.raises(RecipeError, match="unknown format 'model-zoo'; did you mean 'model-zoos'?"):
        import_zoo(zoo, tmp_path / "zoo", format="model-zoo", images_root=tmp_path)
    for path in zoo.rglob("checkpoints"):
        path.write_bytes(b"x")
    fails(zoo, "no checkpoint of tune_zoo_uniform can be read: each of the first 9 is truncated")
    assert not (tmp_path / "zoo").exists()


def test_mixed_and_unknown_architectures(zoo: Path, tmp_path: Path) -> None:
    params = zoo / trial_name(2, 2) / "params.json"
    original = params.read_text()
    params.write_text(original.replace('"CNN"', '"CNN3"'))
    with pytest.raises(FormatError, match="has CNN of 1 channels .*, CNN3 of 1 channels .*; import each by itself"):
        imported(zoo, tmp_path / "zoo")
    params.write_text(original)
    for path in zoo.rglob("checkpoints"):
        torch.save({"0.weight": torch.zeros(3, 7), "0.bias": torch.zeros(3)}, path)
    with pytest.raises(
        FormatError, match="no architecture is known .* 0.weight 3×7, 0.bias 3; register it with --plug"
    ):
        imported(zoo, tmp_path / "zoo")


def test_killed_and_run_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "tune_zoo_uniform", models=60)
    imported(zoo, tmp_path / "undisturbed")
    out = tmp_path / "zoo"
    words = ["modelzoo-import", zoo, "--format", "model-zoos", "--images", IMAGES, "--out", out]
    kill_when(words, lambda: len(list(out.glob("progress/*.json"))) >= 5)
    left = len(list(out.glob("progress/*.json")))
    assert 5 <= left < 60
    found = imported(zoo, out)
    assert 60 - left - 2 <= found.added <= 60 - left + 2
    assert hashes(out) == hashes(tmp_path / "undisturbed")
