"""The folder of a hyper-representation: it appears whole, is made once, and says in one line what is wrong with it."""

import csv
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.memory_limits import run_code_limited
from helpers.steps import StepProgress
from helpers.tiny_learning import recipe
from safetensors.torch import load_file

from hyperrep import HyperRepresentation, train
from hyperrep.recipe import DataRecipe, EvaluationRecipe
from hyperrep.storage import TrainingInfo
from hyperrep.trainer.checkpoints import EVENTS
from hyperrep.trainer.loop import _CHECKPOINT_EVERY
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import ArgumentError, FolderInUseError, FormatError, RecipeError
from modelzoo_datasets.hub.manifest import read_manifest
from modelzoo_datasets.weights import permute_units, sample_permutations, symmetry_from_json
from modelzoo_datasets.zoo import working_path

COLUMNS = ("reconstruction", "contrast", "behaviour", "mixed", "statistics")
EPOCHS = _CHECKPOINT_EVERY + 2
RECIPE = recipe(epochs=EPOCHS, batch_size=14, layer_weights=(1, 1, 1, 1, 2))
AXIS = {"start": 0, "before": 1, "after": 25}  # an axis of the first convolution, which has eight units
HUGE = [{"name": "weight", "shape": [10**6, 10**6], "start": 0, "buffer": False}]
FILES = {"config.json", "model.safetensors", "training.json", "metrics.csv", "metrics.jsonl", "README.md"}


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder, shared: copy it before you change it."""
    folder = tmp_path_factory.mktemp("storage") / "hyperrep"
    train(tiny_dataset, RECIPE, folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "hyperrep"))


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file that must be there; events come with TensorBoard alone."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(EVENTS)}


def test_a_finished_folder_holds_everything_and_nothing_partial(finished: Path) -> None:
    assert set(contents(finished)) == FILES
    assert [path.name for path in finished.parent.iterdir()] == ["hyperrep"]


def test_it_says_what_it_was_learned_from(finished: Path, tiny_dataset: Path) -> None:
    told = json.loads((finished / "training.json").read_text())
    dataset = json.loads((tiny_dataset / "zoo.json").read_text())["configs"]["seed"]
    assert told["states_sha256"] == dataset["states_sha256"]
    assert told["recipe"]["learning"]["layer_weights"] == [1, 1, 1, 1, 2]
    assert told["recipe"]["evaluation"] is None
    config = json.loads((finished / "config.json").read_text())
    assert (config["architecture"], config["activation"], config["states"]) == ("cnn-s", "tanh", 28)


def test_metrics_have_one_row_per_epoch(finished: Path) -> None:
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", *COLUMNS, "validation_r2"]
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert float(rows[-1]["reconstruction"]) < float(rows[0]["reconstruction"])


def test_the_weights_are_plain_safetensors(finished: Path) -> None:
    tensors = load_file(finished / "model.safetensors")
    state = HyperRepresentation.from_pretrained(finished).state_dict()
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    assert tensors["embeddings"].any()


def test_a_second_call_loads_what_is_there(finished: Path, tiny_dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    epochs: list[int] = []
    rep = train(tiny_dataset, RECIPE, finished, progress=StepProgress(lambda what, done, total: epochs.append(done)))
    assert epochs == []
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    assert torch.equal(rep.embeddings, HyperRepresentation.from_pretrained(finished).embeddings)
    assert not rep.training


def test_another_protocol_is_the_same_hyper_representation(finished: Path, tiny_dataset: Path) -> None:
    other = dataclasses.replace(RECIPE, evaluation=EvaluationRecipe(num_samples=7))
    assert isinstance(train(tiny_dataset, other, finished), HyperRepresentation)


@pytest.mark.parametrize("killed_at", [3, EPOCHS - 1])
def test_a_killed_training_leaves_no_folder_and_goes_on_to_the_same_bytes(
    finished: Path, tiny_dataset: Path, tmp_path: Path, killed_at: int
) -> None:
    out = tmp_path / "hyperrep"

    def kill(what: str, done: int, total: int | None) -> None:
        assert (what, total) == ("training a hyper-representation", EPOCHS)
        if done == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, RECIPE, out, progress=StepProgress(kill))
    assert not out.exists()
    assert working_path(out).is_dir()
    train(tiny_dataset, RECIPE, out)
    assert contents(out) == contents(finished)
    assert not working_path(out).exists()


def test_what_another_recipe_left_unfinished_is_neither_gone_on_with_nor_removed(
    finished: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hyperrep"
    other = dataclasses.replace(RECIPE, learning=dataclasses.replace(RECIPE.learning, seed=1))

    def kill(what: str, done: int, total: int | None) -> None:
        if done > _CHECKPOINT_EVERY:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, other, out, progress=StepProgress(kill))
    work = working_path(out)
    assert (work / "checkpoint.safetensors").is_file()
    before = contents(work)
    with pytest.raises(FolderInUseError) as caught:
        train(tiny_dataset, RECIPE, out)
    assert str(caught.value) == (
        f"{work} holds a stopped training of another recipe or dataset; resume that one, pass a different --out, or "
        f"delete {work}"
    )
    assert contents(work) == before
    train(tiny_dataset, other, out)
    shutil.rmtree(out)
    train(tiny_dataset, RECIPE, out)
    assert contents(out) == contents(finished)


def test_an_empty_folder_is_filled(tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "hyperrep"
    out.mkdir()
    short = dataclasses.replace(RECIPE, learning=dataclasses.replace(RECIPE.learning, epochs=1))
    train(tiny_dataset, short, out)
    assert set(contents(out)) == FILES


def test_a_folder_of_another_recipe_is_refused(finished: Path, tiny_dataset: Path) -> None:
    before = contents(finished)
    other = dataclasses.replace(RECIPE, learning=dataclasses.replace(RECIPE.learning, lr=1e-3))
    told = f"{finished} holds a hyper-representation of another recipe or dataset; pass a different --out"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        train(tiny_dataset, other, finished)
    assert contents(finished) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_holds_something_else_is_refused(kind: str, tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "taken"
    note = out / "note.txt" if kind == "folder" else out
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    told = f"output folder {out} already contains other files; pass a different --out or delete it"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        train(tiny_dataset, RECIPE, out)
    assert note.read_text() == "mine"


def test_a_config_that_the_dataset_has_not_is_answered_with_those_it_has(tiny_dataset: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(RECIPE, data=DataRecipe(config="sed", epochs=(1, 2)))
    told = f"{tiny_dataset} has no config 'sed', which recipe tiny trains on; it has seed, hyp"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        train(tiny_dataset, other, tmp_path / "out")
    told = f"{tmp_path} is not a dataset folder: it has no zoo.json; build one with modelzoo-build"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        train(tmp_path, RECIPE, tmp_path / "out")


def refusal(folder: Path) -> str:
    """What loading a damaged folder says."""
    with pytest.raises(FormatError) as caught:
        HyperRepresentation.from_pretrained(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_a_missing_or_truncated_file_is_told_in_one_line(copied: Path, name: str, share: float | None) -> None:
    path = copied / name
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(share * len(content))])
    told = refusal(copied)
    told = refusal(copied)
    assert told.startswith(f"cannot read hyper-representation {copied}: ")
    assert "\n" not in told


def test_tensors_of_another_representation_are_told_in_one_line(copied: Path) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"width": 32}))
    told = refusal(copied)
    told = refusal(copied)
    assert told.startswith(f"cannot read hyper-representation {copied}: ")
    assert "config.json asks for encoder_positions of shape (" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"blocks": 10**9}, "config.json says 1,000,000,000 blocks, but the weights have 1"),
        ({"blocks": 2}, "config.json says 2 blocks, but the weights have 1"),
        ({"width": 20_000, "heads": 1}, "config.json asks for encoder_positions of shape (48, 20000), but"),
        ({"width": 2**31 - 2, "heads": 1}, ""),
        ({"feedforward": 2**31 - 2}, "config.json asks for encoder.layers.0.linear1.weight of shape (2147483646, "),
        ({"latent": 10**9}, ""),
        ({"latent": float("inf")}, "config.json: latent must be a number above 0, got inf"),
        ({"latent": float("nan")}, "config.json: latent must be a number above 0, got nan"),
        ({"states": 10**9}, "config.json asks for embeddings of shape (1000000000, "),
        ({"states": -1}, "config.json: num_states must be a whole number from 1, got -1"),
        ({"heads": 0}, "config.json: heads must be a whole number from 1, got 0"),
        ({"heads": 10**6}, "must be a multiple of heads 1000000"),
        ({"pooled": 10**6}, ""),
        ({"statistics": True}, "config.json asks for embeddings of shape (28, 550), but the weights have (28, 480)"),
        ({"width": "16"}, "config.json: width must be a whole number from 1, got '16'"),
        ({"activation": 3}, "config.json: activation must be a name and dropout a number from 0 to 1, got 3"),
        ({"architecture": ["cnn-s"]}, "config.json: architecture must be a name, got ['cnn-s']"),
        (
            {"format": "modelzoo-hyperrep-3"},
            "config.json: expected format 'modelzoo-hyperrep-2', got 'modelzoo-",
        ),
        ({"format": None}, "config.json: expected format 'modelzoo-hyperrep-2', got 'None'"),
        ({"layout": None}, "expected a list of tensors, got None"),
        (
            {"layout": HUGE, "symmetry": []},
            "config.json has a layout of 1,000,000,000,000 weights, but their mean has the shape",
        ),
        ({"symmetry": None}, "symmetry: expected a list of groups, got None"),
        (
            {"symmetry": [{"units": 10**9, "signed": False, "axes": [AXIS]}]},
            "an axis names 1 x 1000000000 x 25",
        ),
        ({"symmetry": [{"units": 8, "signed": 1, "axes": [AXIS]}]}, "expected units from 1 and signed true or false"),
        ({"symmetry": [{"units": 8, "signed": True, "axes": []}]}, "symmetry: expected a group with a list of axes"),
    ],
)
def test_sizes_are_compared_with_the_weights_before_memory_is_taken(
    copied: Path, change: dict[str, Any], expected: str
) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code = (
        "from hyperrep import HyperRepresentation\nfrom modelzoo_datasets.errors import FormatError\nimport sys\n"
        f"try: HyperRepresentation.from_pretrained({str(copied)!r})\n"
        "except FormatError as error: print(error, file=sys.stderr)\n"
    )
    end = run_code_limited(code, copied)
    assert end.status == 0
    (line,) = end.lines
    assert line.startswith(f"cannot read hyper-representation {copied}: ")
    assert expected in line
    assert end.peak < 600_000_000


def test_a_new_folder_carries_layout_and_symmetry(finished: Path) -> None:
    told = json.loads((finished / "config.json").read_text())
    architecture = get_architecture("cnn-s")
    assert (told["format"], told["layout"]) == ("modelzoo-hyperrep-2", architecture.layout.to_json())
    assert symmetry_from_json(told["symmetry"], architecture.layout) == architecture.symmetry
    assert json.loads((finished / "training.json").read_text())["format"] == "modelzoo-hyperrep-2"


def test_no_registry_is_needed(finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "of-nobody"}))
    known, rep = HyperRepresentation.from_pretrained(finished), HyperRepresentation.from_pretrained(copied)
    moved = permute_units(known.sample(4), known.symmetry, sample_permutations(known.symmetry, 4))
    assert not torch.equal(rep.align(moved), moved)
    assert torch.equal(rep.align(moved), known.align(moved))
    assert torch.equal(rep.encode(moved), known.encode(moved))
    assert torch.equal(rep.decode(rep.embeddings), known.decode(known.embeddings))
    assert torch.equal(rep.sample(3), known.sample(3))
    module, images = get_architecture("cnn-s").module("tanh"), torch.rand(2, 1, 28, 28)
    assert torch.equal(rep.model(moved[0], module)(images), known.model(moved[0])(images))
    with pytest.raises(RecipeError) as caught:
        rep.model(moved[0])
    assert str(caught.value) == (
        "architecture 'of-nobody' is not registered with the tensors of this hyper-representation: pass your own "
        "module, rep.model(weights, module), or register it, in a file that --plugin FILE names"
    )
    with pytest.raises(ArgumentError, match="^the module must have the tensors of 'of-nobody'; "):
        rep.model(moved[0], torch.nn.Linear(2, 3))


def test_a_folder_of_the_format_before_is_read(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "fixtures" / "old-formats" / "hyperrep-1"
    rep = HyperRepresentation.from_pretrained(old)
    weights = rep.sample(2, top_fraction=1.0)
    assert weights.shape == (2, 2464)
    assert rep.decode(rep.encode(weights)).shape == (2, 2464)
    assert rep.model(weights[0])(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert TrainingInfo.read(old).recipe.name == "tinyrep"
    assert read_manifest(old, "me/rep").format == "modelzoo-hyperrep-1"
    rep.save_pretrained(tmp_path / "new")
    new = HyperRepresentation.from_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["format"] == "modelzoo-hyperrep-2"
    assert torch.equal(new.encode(weights), rep.encode(weights))


def test_a_pipe_in_a_folder_is_refused(copied: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        assert f"{copied / name} is a named pipe" in refusal(copied)


def test_a_folder_of_a_model_alone_is_a_hyper_representation_too(finished: Path, copied: Path) -> None:
    for path in copied.iterdir():
        if path.is_file() and path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    alone, whole = (HyperRepresentation.from_pretrained(folder) for folder in (copied, finished))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in alone.state_dict().items())
    assert not alone.training


def test_a_source_that_is_no_folder_or_has_no_revisions_is_refused(copied: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    message = f"there is no folder {nowhere}; expected a folder of modelzoo-hyperrep train, or ORG/NAME"
    assert refusal(nowhere) == message
    with pytest.raises(FormatError, match="has no revision 'main'; leave out `revision`$"):
        HyperRepresentation.from_pretrained(copied, revision="main")
