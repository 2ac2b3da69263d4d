"""Checkpoints of another release, or damaged ones: gone on from, or told in a line and begun afresh; no crash."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.logs import logged_lines
from helpers.steps import StepProgress
from helpers.tiny_learning import recipe
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperrep import HyperRepresentation, train
from hyperrep.trainer.checkpoints import CHECKPOINT_FILE, HISTORY_FILE, EpochMetrics
from hyperrep.trainer.initialize import create_representation
from hyperrep.trainer.loop import _CHECKPOINT_EVERY, train_epochs
from modelzoo_datasets.errors import FolderInUseError
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.zoo import working_path

EPOCHS = _CHECKPOINT_EVERY + 1
RECIPE = recipe(epochs=EPOCHS, batch_size=14)
VERSIONS = {"modelzoo-datasets": version("modelzoo-datasets"), "torch": version("torch")}
NOW = f"modelzoo-datasets {VERSIONS['modelzoo-datasets']}, torch {VERSIONS['torch']}"
EARLIER = {"modelzoo-datasets": "0.0.9", "torch": "2.4.0"}


@pytest.fixture(scope="module")
def states(tiny_dataset: Path) -> Zoo:
    """28 training states."""
    return load_zoo(tiny_dataset, "seed", split="train", epochs=(1, 2))


@pytest.fixture(scope="module")
def whole(states: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpochMetrics], dict[str, Tensor]]:
    """A run to the end, with its last checkpoint still there; copy the folder before you change it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    rep, history, told = learned(states, folder)
    assert told == []
    return folder, history, rep.state_dict()


def learned(states: Zoo, folder: Path) -> tuple[HyperRepresentation, list[EpochMetrics], list[str]]:
    """A run in a folder, its metrics, and the warnings that it logged."""
    rep = create_representation(RECIPE, states)
    with logged_lines("hyperrep") as told:
        return rep, list(train_epochs(rep, states.weights, states.weights[:6], RECIPE, folder)), told


def edited_rows(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every row of the metrics of a checkpoint."""
    rows = json.loads((folder / HISTORY_FILE).read_text())
    for row in rows:
        change(row)
    (folder / HISTORY_FILE).write_text(json.dumps(rows))


def edited_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a checkpoint."""
    tensors = load_file(folder / CHECKPOINT_FILE)
    change(tensors)
    save_file(tensors, folder / CHECKPOINT_FILE)


def test_a_checkpoint_without_a_loss_of_today_and_with_another_is_gone_on_from(
    states: Zoo, whole: tuple[Path, list[EpochMetrics], dict[str, Tensor]], tmp_path: Path
) -> None:
    before, history, expected = whole
    folder = Path(shutil.copytree(before, tmp_path / "run"))
    edited_rows(folder, lambda row: row.pop("contrast"))
    edited_rows(folder, lambda row: row.update(sharpness=1.0))
    rep, found, told = learned(states, folder)
    assert told == []
    assert found[:-1] == [dataclasses.replace(row, contrastive=0.0) for row in history[:-1]]
    assert found[-1] == history[-1]
    assert all(torch.equal(rep.state_dict()[name], tensor) for name, tensor in expected.items())


POSITIONS = "model.rep.encoder_positions"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "other shape": (
        lambda f: edited_tensors(f, lambda t: t.update({POSITIONS: torch.zeros(47, 16)})),
        f"tensor {POSITIONS}: expected shape (48, 16), got shape (47, 16)",
    ),
    "a tensor that is no longer there": (
        lambda f: edited_tensors(f, lambda t: t.update({"model.rep.token": torch.zeros(3)})),
        "tensor model.rep.token: expected none, got shape (3,)",
    ),
    "a new tensor": (
        lambda f: edited_tensors(f, lambda t: t.pop(POSITIONS)),
        f"tensor {POSITIONS}: expected shape (48, 16), got none",
    ),
    "half of what the optimizer kept": (
        lambda f: edited_tensors(f, lambda t: t.pop("optimizer.0.exp_avg_sq")),
        "tensor optimizer.0.exp_avg_sq: expected shape (48, 16), got none",
    ),
    "no number of epochs": (
        lambda f: edited_tensors(f, lambda t: t.pop("epoch")),
        "tensor epoch: expected shape (), got none",
    ),
    "a truncated file": (
        lambda f: (f / CHECKPOINT_FILE).write_bytes((f / CHECKPOINT_FILE).read_bytes()[:999]),
        "cannot read state",
    ),
    "no metrics": (lambda f: (f / HISTORY_FILE).unlink(), "cannot read "),
    "too few metrics": (
        lambda f: (f / HISTORY_FILE).write_text("[]"),
        "checkpoint.json does not hold the metrics of 10 epochs",
    ),
    "metrics of no rows": (
        lambda f: (f / HISTORY_FILE).write_text(json.dumps([7] * 10)),
        "checkpoint.json has a row that cannot be read: ",
    ),
    "rows without an epoch": (
        lambda f: edited_rows(f, lambda row: row.pop("epoch")),
        "checkpoint.json has a row that cannot be read: ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_gone_on_from_is_told_in_a_line_and_nothing_of_it_is_used(
    states: Zoo, whole: tuple[Path, list[EpochMetrics], dict[str, Tensor]], tmp_path: Path, damage: str
) -> None:
    before, history, expected = whole
    folder = Path(shutil.copytree(before, tmp_path / "run"))
    harm, why = DAMAGE[damage]
    harm(folder)
    rep, found, (told,) = learned(states, folder)
    assert told.startswith(f"cannot resume from {folder / CHECKPOINT_FILE}: {why}")
    assert told.endswith("; training starts again from the first epoch") and "\n" not in told
    assert found == history
    assert all(torch.equal(rep.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def stopped(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a run that was killed behind its checkpoint; copy it before you change it."""
    out = tmp_path_factory.mktemp("stopped") / "hyperrep"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, RECIPE, out, progress=StepProgress(kill_at_last))
    return working_path(out)


def kill_at_last(what: str, done: int, total: int | None) -> None:
    """What a user does in the last epoch."""
    if done == total:
        raise KeyboardInterrupt


def went_on(dataset: Path, stopped: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> tuple[bool, str]:
    """Whether a run goes on from a stopped one with other facts, and what it tells; ends in `out`."""
    work = Path(shutil.copytree(stopped, working_path(out)))
    facts = json.loads((work / "training.json").read_text())
    change(facts)
    (work / "training.json").write_text(json.dumps(facts))
    edited_rows(work, lambda row: row.update(behaviour=row["epoch"] / 2))  # is told again by a run that goes on
    with logged_lines("hyperrep") as told:
        train(dataset, RECIPE, out)
    lines = [json.loads(line)["behaviour"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == EPOCHS
    return lines[:-1] == [epoch / 2 for epoch in range(1, EPOCHS)], "; ".join(told)


def test_another_release_goes_on_and_says_so(tiny_dataset: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "hyperrep"
    told = f"{out} was begun with modelzoo-datasets 0.0.9, torch 2.4.0 and is resumed with {NOW}: bits may differ"
    assert went_on(tiny_dataset, stopped, out, lambda facts: facts.update(versions=EARLIER)) == (True, told)
    facts = json.loads((out / "training.json").read_text())
    assert (facts["versions"], facts["begun_with"]) == (VERSIONS, EARLIER)
    train(tiny_dataset, RECIPE, out)  # is there already


def test_keys_that_an_earlier_release_had_not_are_their_defaults(
    tiny_dataset: Path, stopped: Path, tmp_path: Path
) -> None:
    def earlier(facts: dict[str, Any]) -> None:
        del facts["recipe"]["learning"]["statistics"], facts["recipe"]["learning"]["layer_weights"]
        del facts["recipe"]["model"]["pooled"]

    out = tmp_path / "hyperrep"
    assert went_on(tiny_dataset, stopped, out, earlier) == (True, "")
    assert "begun_with" not in json.loads((out / "training.json").read_text())


@pytest.mark.parametrize("change", ["a key of a later release", "another default", "another dataset"])
def test_a_stopped_training_of_something_else_is_not_removed(
    tiny_dataset: Path, stopped: Path, tmp_path: Path, change: str
) -> None:
    def other(facts: dict[str, Any]) -> None:
        if change == "a key of a later release":
            facts["recipe"]["learning"]["sharpness"] = 1.0
        elif change == "another default":
            facts["recipe"]["learning"]["statistics"] = 1.0
        else:
            facts["states_sha256"] = "0" * 64

    work = working_path(tmp_path / "hyperrep")
    with pytest.raises(FolderInUseError) as caught:
        went_on(tiny_dataset, stopped, tmp_path / "hyperrep", other)
    assert str(caught.value) == (
        f"{work} holds a stopped training of another recipe or dataset; resume that one, pass a different --out, or "
        f"delete {work}"
    )
    assert (work / CHECKPOINT_FILE).read_bytes() == (stopped / CHECKPOINT_FILE).read_bytes()


@pytest.mark.parametrize("content", ["", "7", "{}", '{"recipe": 7}', '{"recipe": {"learning": []}}'])
def test_a_stopped_training_that_cannot_be_read_is_not_removed(
    tiny_dataset: Path, stopped: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "hyperrep"
    work = Path(shutil.copytree(stopped, working_path(out)))
    (work / "training.json").write_text(content)
    with pytest.raises(FolderInUseError, match="holds a stopped training of another recipe or dataset"):
        train(tiny_dataset, RECIPE, out)
    assert (work / "training.json").read_text() == content and not out.exists()


def test_a_finished_folder_of_another_release_is_taken_as_it_is(
    tiny_dataset: Path, stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hyperrep"
    assert went_on(tiny_dataset, stopped, out, lambda facts: None) == (True, "")
    path = out / "training.json"
    path.write_text(re.sub(r'"torch": "[^"]*"', '"torch": "2.4.0"', path.read_text()))
    before = path.read_bytes()
    with logged_lines("hyperrep") as told:
        assert isinstance(train(tiny_dataset, RECIPE, out), HyperRepresentation)
    assert (path.read_bytes(), told) == (before, [])
