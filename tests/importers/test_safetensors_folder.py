"""A population of one's own, of any torch module: what its folder holds is what is loaded, what is wrong is told."""

import gzip
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.hub_commands import Client, commands
from helpers.paths import ROOT
from helpers.processes import execute, hashes, run, run_code
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.architectures import Architecture, get_architecture, register_architecture, registry
from modelzoo_datasets.errors import ArgumentError, FormatError, ModelZooError, RecipeError
from modelzoo_datasets.importers import Imported, import_zoo
from modelzoo_datasets.importers.archives import TarSource
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.importers.csv_table import parse_csv
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder, read_json

DOCUMENT = (ROOT / "docs" / "publishing.md").read_text()


class Perceptron(nn.Module):
    """With a normalisation, so that states have buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def blobs(n: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    draws = torch.Generator().manual_seed(n)
    return torch.eye(3, 4)[labels] * 2 + torch.randn(n, 4, generator=draws), labels


def trained(folder: Path) -> pd.DataFrame:
    """Six perceptrons with three states each, by a loop that knows nothing of this package."""
    rows: list[dict[str, Any]] = []
    x, y = blobs(300)
    for number in range(6):
        model, lr, draws = Perceptron(), 0.01 * (1 + number % 2), torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=draws)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for epoch in range(3):
            for batch in torch.arange(300).split(50) if epoch else ():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            file = f"weights/p{number}-{epoch}.safetensors"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), folder / file)
            norm = nn.utils.parameters_to_vector(model.parameters()).norm().item()
            row = {"file": file, "model": f"p{number}", "epoch": epoch, "lr": lr, "test_acc": accuracy(model)}
            rows.append(
                row | {"norm": norm, "width": 8, "even": number % 2 == 0, "note": "first" if number == 0 else None}
            )
    return pd.DataFrame(rows)


def accuracy(model: nn.Module) -> float:
    x, y = blobs(90)
    was = model.training
    with torch.no_grad():
        found = (model.eval()(x).argmax(1) == y).double().mean().item()
    model.train(was)
    return found


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as its owner has it; not to be changed."""
    folder = tmp_path_factory.mktemp("own") / "blobs"
    trained(folder).to_csv(folder / "states.csv", index=False)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(original, tmp_path / "blobs"))


def imported(source: Path, out: Path, **claims: Any) -> Imported:
    return import_zoo(
        source, out, format="safetensors", images_root=out.parent / "images", overrides=Overrides(**claims)
    )


def read_states(folder: Path) -> pd.DataFrame:
    """Return the table of a folder to the last bit, which `pandas.read_csv` alone does not read before pandas 3."""
    content = (folder / "states.csv").read_bytes()
    return parse_csv(content, len(content), "states.csv")


def table_of(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the table of a folder."""
    change(read_states(folder)).to_csv(folder / "states.csv", index=False)


def refused(folder: Path, out: Path, **claims: Any) -> str:
    with pytest.raises(ModelZooError) as caught:
        imported(folder, out, **claims)
    assert not out.exists(), "something was written"
    assert "\n" not in str(caught.value)
    return str(caught.value)


# From the folder to what is loaded.


def test_what_is_loaded_is_what_the_files_hold(original: Path, tmp_path: Path) -> None:
    found = imported(original, tmp_path / "zoo", name="blobs/all")
    assert (found.name, found.models, found.states, found.diverged, found.skipped) == ("blobs/all", 6, 18, 0, [])
    assert build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    zoo, rows = load_zoo(tmp_path / "dataset"), read_states(original)
    assert len(zoo) == 18
    for i, row in enumerate(zoo.table.to_dict("records")):
        (line,) = rows[(rows["model"] == row["origin"]) & (rows["epoch"] == row["epoch"])].to_dict("records")
        state, file = zoo.layout.unpack(zoo.weights[i]), load_file(original / line["file"])
        assert state.keys() == file.keys()
        for name, tensor in file.items():
            assert state[name].dtype is tensor.dtype and state[name].equal(tensor)
        module = Perceptron()
        module.load_state_dict(state)
        assert accuracy(module) == row["test_acc"] == line["test_acc"]
        assert (row["lr"], row["norm"], row["width"], row["even"]) == tuple(
            line[k] for k in ("lr", "norm", "width", "even")
        )
        assert (row["note"] == "first") == (row["origin"] == "p0")
        for name in ("optimizer", "batch_size", "weight_decay", "train_loss", "val_acc"):
            assert name not in row
    assert set(zoo.table["split"]) <= {"train", "validation", "test"}
    assert [slot.name for slot in zoo.layout.slots] == [
        *("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "body.3.weight", "body.3.bias"),
        *("body.1.num_batches_tracked", "body.1.running_mean", "body.1.running_var"),
    ]
    assert [slot.buffer for slot in zoo.layout.slots] == [False] * 6 + [True] * 3


def test_columns_of_its_own_have_types_in_the_dataset(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    kinds = duckdb.sql(f"DESCRIBE SELECT origin, width, even, note, norm FROM '{tmp_path}/dataset/zoo/*.parquet'")
    assert [row[1] for row in kinds.fetchall()] == ["VARCHAR", "BIGINT", "BOOLEAN", "VARCHAR", "DOUBLE"]
    recipe = read_json(tmp_path / "zoo" / "zoo.json")["recipe"]
    assert recipe["columns"] == {"origin": "str", "width": "int", "even": "bool", "note": "str"}
    assert recipe["measured"] == ["norm"]
    card = (tmp_path / "dataset" / "README.md").read_text()
    for name, kind in {
        "origin": "string",
        "width": "int64",
        "even": "bool",
        "note": "string",
        "norm": "float64",
    }.items():
        assert f"| `{name}` | {kind} | - |" in card
    assert "No license is given: ask the publisher of this dataset before you use it." in card
    assert (tmp_path / "dataset" / "assets" / "zoo-hyper-parameters.png").is_file()


def test_truth_values_of_which_some_are_missing_stay_truth_values(folder: Path, tmp_path: Path) -> None:
    table_of(folder, lambda t: t.assign(even=[None if m == "p2" else m in ("p0", "p4") for m in t["model"]]))
    imported(folder, tmp_path / "zoo")
    assert read_json(tmp_path / "zoo" / "zoo.json")["recipe"]["columns"]["even"] == "bool"
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    files = f"'{tmp_path}/dataset/zoo/*.parquet'"
    found = duckdb.sql(f"SELECT DISTINCT origin, even FROM {files} ORDER BY origin").fetchall()
    assert found == [("p0", True), ("p1", False), ("p2", None), ("p3", False), ("p4", True), ("p5", False)]


def test_very_many_values_of_a_setting_of_which_some_are_missing(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    files = [f"{number}.safetensors" for number in range(30)]
    for number, file in enumerate(files):
        save_file({"w": torch.full((2,), float(number))}, tmp_path / "many" / file)
    rates = [None, *(number / 100 for number in range(1, 30))]
    table = pd.DataFrame({"file": files, "lr": rates, "width": [5, None, *range(6, 34)]})
    table.assign(note=[None, *"abcdefghijklmnopqrstuvwxyzABC"]).to_csv(tmp_path / "many" / "states.csv", index=False)
    imported(tmp_path / "many", tmp_path / "zoo")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "varied: lr 0.01 to 0.29 (29 values) / not recorded, " in card
    assert "width 5.0 to 33.0 (29 values) / not recorded, note A to z (29 values) / not recorded" in card


def test_verify_passes_and_tells_that_nothing_is_measured_again(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo", name="blobs/all")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    for path in (tmp_path / "zoo", tmp_path / "dataset"):
        checks = verify_folder(path, images_root=tmp_path, states=5)
        assert [problem for check in checks for problem in check.problems] == []
        (note,) = [note for check in checks for note in check.notes]
        assert note == (
            "blobs/all is not measured again: architecture 'tensors-2b1aaec6' is not registered here; --plugin FILE "
            "names a file that does"
        )
    with pytest.raises(ArgumentError) as caught:
        verify_folder(tmp_path / "zoo", images_root=tmp_path, retrain=1)
    assert str(caught.value) == (
        "retrain must be 0 for blobs/all, whose models were trained elsewhere; leave out --retrain"
    )


def test_verify_finds_an_altered_column_of_its_own(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo", name="blobs/all")
    models = ZooFolder(tmp_path / "zoo").models
    models.loc[2, "width"] = 16
    models.to_parquet(tmp_path / "zoo" / "models.parquet")
    problems = [p for check in verify_folder(tmp_path / "zoo", images_root=tmp_path, states=0) for p in check.problems]
    assert problems == [
        "models.parquet: width of all-00003 is 16, the recipe says 8; run its modelzoo-import command again, which "
        "rewrites the table"
    ]


def test_a_module_that_nobody_registered_is_named_with_the_way_out(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo", architecture="perceptron-of-mine")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    zoo = load_zoo(tmp_path / "dataset")
    with pytest.raises(RecipeError) as caught:
        zoo.model(0)
    assert str(caught.value) == (
        "architecture 'perceptron-of-mine' is not registered, so that only its tensors are known: pass your own "
        "module, zoo.model(i, module), or name a file that registers it, load_zoo(..., plugin=FILE) or --plugin FILE"
    )
    last = zoo.select(zoo.table["epoch"] == 2)
    mine = Perceptron()
    for i, row in enumerate(last.table.to_dict("records")):
        assert last.model(i, mine) is mine
        assert (accuracy(mine), mine.training) == (row["test_acc"], False)
    kept = last.weights.clone()
    torch.nn.init.zeros_(mine.body[0].weight)
    assert torch.equal(last.weights, kept)
    with pytest.raises(ArgumentError) as refused_module:
        last.model(0, nn.Linear(4, 8))
    told = str(refused_module.value)
    assert told.startswith("the module must have the tensors of architecture 'perceptron-of-mine'; Error(s) in load")
    assert "Missing key(s)" in told and "\n" not in told


@pytest.mark.parametrize(("recorded", "words"), [(None, "not recorded"), ("swish", "'swish'")])
def test_an_activation_that_is_not_known_is_told_where_one_is_needed(
    recorded: str | None, words: str, tmp_path: Path
) -> None:
    module = get_architecture("cnn-s").module("tanh")
    nn.init.normal_(module.module_list[0].weight)
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, len(name) / 100)
    (tmp_path / "mine").mkdir()
    save_file(module.state_dict(), tmp_path / "mine" / "a.safetensors")
    pd.DataFrame({"file": ["a.safetensors"], "activation": [recorded]}).to_parquet(tmp_path / "mine" / "states.parquet")
    imported(tmp_path / "mine", tmp_path / "zoo", architecture="cnn-s")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    zoo = load_zoo(tmp_path / "dataset")
    with pytest.raises(ArgumentError) as caught:
        zoo.model(0)
    assert str(caught.value) == (
        f"the activation of state 0 is {words}, but 'cnn-s' needs one of tanh, relu, sigmoid, gelu; "
        "pass your own module: zoo.model(i, module)"
    )
    rebuilt = zoo.model(0, get_architecture("cnn-s").module("gelu"))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(rebuilt(x), module_with(module.state_dict(), "gelu")(x))
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "nn.Sequential" not in card and "zoo.model(0)" not in card, "nobody knows the network"


def module_with(state: dict[str, Tensor], activation: str) -> nn.Module:
    module = get_architecture("cnn-s").module(activation)
    module.load_state_dict(state)
    return module.eval()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The perceptron under a name, until the test ends."""
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    register_architecture(Architecture("perceptron-of-blobs", (1, 2, 2), 3, lambda activation, dropout: Perceptron()))


@pytest.mark.usefixtures("registered")
def test_a_registered_module_is_rebuilt(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo", architecture="perceptron-of-blobs")
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    zoo = load_zoo(tmp_path / "dataset", epochs=[2])
    for i, row in enumerate(zoo.table.to_dict("records")):
        assert accuracy(zoo.model(i)) == row["test_acc"]


def test_one_file_per_model_needs_no_more_than_its_name(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "weights").glob("*-[01].safetensors"):
        path.unlink()
    files = sorted(f"weights/{path.name}" for path in (folder / "weights").iterdir())
    pd.DataFrame({"file": files}).to_csv(folder / "states.csv", index=False)
    found = imported(folder, tmp_path / "zoo")
    assert (found.name, found.models, found.states) == ("blobs/zoo", 6, 6)
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    zoo = load_zoo(tmp_path / "dataset")
    assert set(zoo.table["epoch"]) == {1}
    assert sorted(zoo.table["origin"]) == [name.removesuffix(".safetensors") for name in files]
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "not recorded: `train_loss`, `train_acc`, `val_loss`, `val_acc`, `test_loss`, `test_acc`" in card
    told = "## Population\n\nSimilarity of models and weights by tensor were not measured for `zoo`.\n"
    assert told in card and not list((tmp_path / "dataset").glob("assets/*"))
    assert "FROM 'zoo" in card and "test_acc)" not in card, "SQL of columns that nothing recorded"
    python = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "caches"), "HF_HUB_OFFLINE": "1"}
    check = "print(len(states) == len(trained) == len(zoo) > 0, sorted(state))"
    ran = run_code(f"{python}\n{check}", cwd=tmp_path / "dataset", env=environment)
    assert ran.stdout == f"True {sorted(Perceptron().state_dict())}\n", ran.stderr


def test_a_zip_and_a_parquet_table_give_the_same_zoo(original: Path, folder: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo")
    read_states(folder).to_parquet(folder / "states.parquet")
    (folder / "states.csv").unlink()
    archived(folder, tmp_path / "blobs.zip", folder)
    imported(tmp_path / "blobs.zip", tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(tmp_path / "zoo")


def archived(folder: Path, path: Path, root: Path) -> Path:
    """An archive of a folder, with names from `root` on."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(root))
        return path
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            tar.add(file, file.relative_to(root))
    return path


@pytest.mark.parametrize(("name", "table"), [("blobs.zip", "csv"), ("blobs.tgz", "csv"), ("blobs.tar.gz", "parquet")])
def test_an_archive_of_the_folder_itself_with_what_macos_leaves_in_it(
    name: str, table: str, original: Path, folder: Path, tmp_path: Path
) -> None:
    imported(original, tmp_path / "zoo")
    if table == "parquet":
        read_states(folder).to_parquet(folder / "states.parquet")
        (folder / "states.csv").unlink()
    upper = tmp_path / "upper" / "population"
    shutil.move(folder, upper / "blobs")
    (upper / "__MACOSX" / "blobs").mkdir(parents=True)
    for left in ("blobs/._states.csv", "blobs/weights/._p0-0.safetensors", ".DS_Store", "__MACOSX/blobs/._states.csv"):
        (upper / left).write_bytes(b"\0\5\x16\7")
    path = archived(upper, tmp_path / name, upper.parent)
    found = imported(path, tmp_path / "again")
    assert (found.states, found.skipped) == (18, [])
    assert hashes(tmp_path / "again") == hashes(tmp_path / "zoo")


def test_a_compressed_archive_is_decompressed_beside_the_folder_and_nothing_of_it_stays(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = archived(original, tmp_path / "blobs.tgz", original), []
    locate = TarSource.stream
    monkeypatch.setattr(TarSource, "stream", lambda self, name: seen.append(self._path) or locate(self, name))  # type: ignore[func-returns-value]
    assert imported(path, tmp_path / "zoo").states == 18
    (temporary,) = {*seen}
    assert temporary.parent == tmp_path and temporary.name.startswith(f".zoo.{os.getpid()}-")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blobs.tgz", "zoo"]


def test_an_archive_that_decompresses_to_far_more_than_any_zoo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes(100_000_000))
    with pytest.raises(FormatError, match=r"decompresses to more than [\d,]+ bytes, the limit of 200 times"):
        imported(path, tmp_path / "zoo")
    assert [p.name for p in tmp_path.iterdir()] == ["bomb.tar.gz"]


def test_run_again_it_is_the_same_folder_and_goes_on_where_it_stopped(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo")
    before = hashes(tmp_path / "zoo")
    shutil.rmtree(tmp_path / "zoo" / "states" / "zoo-00002")
    assert imported(original, tmp_path / "zoo").added == 1
    assert hashes(tmp_path / "zoo") == before
    assert imported(original, tmp_path / "zoo").added == 0


def test_packed_folders_hold_the_same_states(original: Path, tmp_path: Path) -> None:
    imported(original, tmp_path / "zoo")
    import_zoo(original, tmp_path / "packed", format="safetensors", images_root=tmp_path, storage="packed")
    one, other = ZooFolder.open(tmp_path / "zoo"), ZooFolder.open(tmp_path / "packed")
    assert one.states.equals(other.states)
    assert one.weights("zoo-00003", 2).equal(other.weights("zoo-00003", 2))


def test_splits_and_seeds_of_the_table_are_kept(folder: Path, tmp_path: Path) -> None:
    names = ["test", "train", "validation"]
    table_of(
        folder,
        lambda t: t.assign(split=[names[int(m[1]) % 3] for m in t["model"]], seed=[int(m[1]) for m in t["model"]]),
    )
    imported(folder, tmp_path / "zoo")
    models = ZooFolder.open(tmp_path / "zoo").models
    assert models["split"].tolist() == names * 2
    assert models["seed"].tolist() == list(range(6))


def test_states_that_are_not_finite_are_marked_and_their_models_left_out(folder: Path, tmp_path: Path) -> None:
    path = folder / "weights" / "p3-2.safetensors"
    state = load_file(path)
    state["body.0.bias"][2] = np.nan
    save_file(state, path)
    found = imported(folder, tmp_path / "zoo")
    assert (found.models, found.diverged) == (6, 1)
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    assert "p3" not in set(load_zoo(tmp_path / "dataset").table["origin"])
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "`zoo`: 1 model diverged (some weights are not finite): not included" in card
    build_dataset([tmp_path / "zoo"], tmp_path / "all", keep_diverged=True)
    kept = load_zoo(tmp_path / "all").table
    assert kept.loc[~kept["finite"], ["origin", "epoch"]].values.tolist() == [["p3", 2]]


# What is wrong is told in one line, before anything is written.


def test_files_and_rows_must_go_together(folder: Path, tmp_path: Path) -> None:
    (folder / "weights" / "p1-0.safetensors").unlink()
    (folder / "weights" / "p4-1.safetensors").unlink()
    assert refused(folder, tmp_path / "zoo") == (
        "states.csv of blobs names 2 files that are not there, the first is weights/p1-0.safetensors; add them, or "
        "remove their rows"
    )
    table_of(folder, lambda t: t[~t["file"].isin(["weights/p1-0.safetensors", "weights/p4-1.safetensors"])][1:])
    assert refused(folder, tmp_path / "zoo") == (
        "states.csv of blobs has no row for 1 files, the first is weights/p0-0.safetensors; add their rows, or move "
        "them elsewhere"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: pd.concat([t, t[4:5]]),
            "states.csv of blobs has weights/p1-1.safetensors in more than one row; leave one",
        ),
        (
            lambda t: t.assign(epoch=[0, 1, 1, *t["epoch"][3:]]),
            "states.csv of blobs: model p0 has more than one row of epoch 1; leave one",
        ),
        (
            lambda t: t.drop(columns="epoch"),
            "states.csv of blobs: model p0 has 3 states; say the epoch of each in a column 'epoch'",
        ),
        (
            lambda t: t.rename(columns={"file": "path"}),
            "states.csv of blobs must have a column 'file' and a row for each state; it has 18 rows of path, model, "
            "epoch, lr, test_acc, norm, width, even, note",
        ),
        (
            lambda t: t.assign(test_acc=t["test_acc"] * 100),
            None,
        ),
        (
            lambda t: t.assign(epoch=t["epoch"] + 0.5),
            "states.csv of blobs: epoch of weights/p0-0.safetensors must be a whole number, got 0.5",
        ),
        (
            lambda t: t.assign(epoch=t["epoch"] - 1),
            "states.csv of blobs: epoch of weights/p0-0.safetensors must be 0 or more, or there must be no such column",
        ),
        (
            lambda t: t.assign(model=[*t["model"][:4], None, *t["model"][5:]]),
            "states.csv of blobs: model of weights/p1-1.safetensors must be a name, or there must be no such column",
        ),
        (
            lambda t: t.assign(lr=["fast", *t["lr"][1:]]),
            "states.csv of blobs: lr of weights/p0-0.safetensors must be a number, got 'fast'",
        ),
        (
            lambda t: t.assign(lr=t["epoch"] + 1.0),
            "states.csv of blobs: lr differs between the states of model p0; it must be one",
        ),
        (
            lambda t: t.assign(lr=-0.1),
            "states.csv of blobs: model p0: lr must be positive, got -0.1",
        ),
        (
            lambda t: t.assign(split="dev"),
            "states.csv of blobs: split of weights/p0-0.safetensors must be train, validation or test, got 'dev'",
        ),
        (
            lambda t: t.assign(phase=["a", "b", "c"] * 6),
            "states.csv of blobs: 'phase' differs between the states of a model, so it must have numbers; make it "
            "numbers, or leave it out",
        ),
        (
            lambda t: t.assign(sha256="0"),
            "states.csv of blobs: column 'sha256' is written by modelzoo-build itself; rename it",
        ),
    ],
)
def test_a_table_that_does_not_say_what_it_must_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str | None, folder: Path, tmp_path: Path
) -> None:
    percent = 100 * read_states(folder)["test_acc"][0]
    table_of(folder, change)
    assert refused(folder, tmp_path / "zoo") == (
        message
        or f"states.csv of blobs: test_acc of weights/p0-0.safetensors is {percent:g}, accuracies are fractions; "
        "divide percents by 100"
    )


def test_there_must_be_one_table(folder: Path, tmp_path: Path) -> None:
    what = "blobs must have one table of its states, a .csv or .parquet with a column 'file' beside them, but has"
    shutil.copy(folder / "states.csv", folder / "more.csv")
    assert refused(folder, tmp_path / "zoo") == f"{what} 2: more.csv, states.csv"
    (folder / "states.csv").unlink()
    (folder / "weights" / "states.csv").write_text("file\n")
    (folder / "more.csv").rename(folder / "notes.txt")
    assert refused(folder, tmp_path / "zoo") == (
        f"{what} none; if it is in a folder below, name that with --inside: weights"
    )
    (folder / "weights" / "states.csv").unlink()
    assert refused(folder, tmp_path / "zoo") == f"{what} none; write one"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda s: s | {"body.0.weight": torch.zeros(8, 5)},
            "weights/p2-1.safetensors has body.0.weight of float32 (8, 5), not float32 (8, 4) as",
        ),
        (lambda s: s | {"body.4.weight": torch.zeros(2)}, "weights/p2-1.safetensors has body.4.weight, unlike"),
        (
            lambda s: {name: tensor for name, tensor in s.items() if name != "body.3.bias"},
            "weights/p2-1.safetensors has no body.3.bias, unlike",
        ),
        (
            lambda s: s | {"body.1.num_batches_tracked": torch.tensor(3.0)},
            "weights/p2-1.safetensors has body.1.num_batches_tracked of float32 (), not int64 () as",
        ),
    ],
)
def test_mixed_architectures_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], what: str, folder: Path, tmp_path: Path
) -> None:
    path = folder / "weights" / "p2-1.safetensors"
    save_file(change(load_file(path)), path)
    assert refused(folder, tmp_path / "zoo") == (
        f"blobs mixes architectures: {what} weights/p0-0.safetensors; import each architecture from a folder and table "
        "of its own"
    )


@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "F64"), (torch.bfloat16, "BF16"), (torch.bool, "BOOL")])
def test_types_that_states_are_not_kept_in_are_refused(
    dtype: torch.dtype, name: str, folder: Path, tmp_path: Path
) -> None:
    path = folder / "weights" / "p0-0.safetensors"
    save_file(load_file(path) | {"body.0.bias": torch.zeros(8, dtype=dtype)}, path)
    assert refused(folder, tmp_path / "zoo") == (
        f"weights/p0-0.safetensors of blobs: body.0.bias is {name}, but states must be F32 and whole numbers I64; "
        "convert it, for example with tensor.float()"
    )


def test_files_that_are_no_safetensors_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "weights" / "p0-0.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"\x80\x02}q\x00." * 20)
    assert refused(folder, tmp_path / "zoo") == (
        "weights/p0-0.safetensors of blobs is not a safetensors file (its header is too long); write it again"
    )
    path.write_bytes(whole[:-10])
    found = imported(folder, tmp_path / "zoo")
    assert (found.states, found.lost_states, len(found.skipped)) == (17, 1, 1)
    assert found.skipped[0].startswith("skipped 1: state that is damaged: ")
    assert found.skipped[0].endswith("(first: weights/p0-0.safetensors)")


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("local header", "Bad magic number for file header"),
        ("encrypted", "it is encrypted"),
        ("deflated", "Error -3 while decompressing data: invalid block type"),
    ],
)
def test_a_damaged_zip_is_told_in_one_line(broken: str, what: str, original: Path, tmp_path: Path) -> None:
    path = archived(original, tmp_path / "blobs.zip", original)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("weights/p0-0.safetensors")
    content, start = bytearray(path.read_bytes()), member.header_offset
    if broken == "local header":
        content[start] ^= 1
    elif broken == "encrypted":
        content[start + 6] |= 1  # in its flags, here and in the list of members
        listed = content.rindex(b"PK\1\2", 0, content.rindex(member.filename.encode()))
        content[listed + 8] |= 1
    else:
        content[start + 30 + len(member.filename)] |= 0b110
    path.write_bytes(content)
    assert refused(path, tmp_path / "zoo") == (
        f"weights/p0-0.safetensors of blobs cannot be read: {what}; write it again"
    )


def test_a_file_that_a_folder_does_not_give_is_told(folder: Path, tmp_path: Path) -> None:
    path = folder / "weights" / "p0-0.safetensors"
    path.write_bytes(b"")
    assert refused(folder, tmp_path / "zoo") == (
        "weights/p0-0.safetensors of blobs is not a safetensors file (a safetensors file begins with 8 bytes, got 0); "
        "write it again"
    )


def test_an_architecture_that_the_files_are_not_of_is_refused(original: Path, tmp_path: Path) -> None:
    assert refused(original, tmp_path / "zoo", architecture="cnn-s") == (
        "the files are not of architecture cnn-s: the files have body.0.bias of shape (8,), it has none; omit "
        "--architecture"
    )


@pytest.mark.usefixtures("registered")
def test_images_that_a_registered_architecture_is_not_made_for_are_refused(original: Path, tmp_path: Path) -> None:
    assert refused(original, tmp_path / "zoo", architecture="perceptron-of-blobs", images="mnist") == (
        "images mnist do not fit: the states are of perceptron-of-blobs, which is made for 1×2×2 images of 3 classes; "
        "name others with --images, or another variant with --architecture"
    )


def test_a_config_name_that_is_none_is_refused(original: Path, tmp_path: Path) -> None:
    assert refused(original, tmp_path / "zoo", name="blobs") == "--name must look like mnist-cnn-s/seed, got 'blobs'"


# The document.


def test_the_document_is_true(tmp_path: Path) -> None:
    train, use = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    (shell,) = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.S)
    (builder,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.S)
    for block in (train, builder):
        name = re.match(r"# (\S+)\n", block)
        assert name is not None, "a file that has no name"
        (tmp_path / name[1]).write_text(block)
    assert run(["python", "train.py"], cwd=tmp_path).returncode == 0
    lines = shell.replace("\\\n", " ").splitlines()
    machine = Client(tmp_path / "machine", "http://127.0.0.1:9")
    done = machine.run(commands, str(tmp_path), lines)
    told = [line for line in done.stderr.splitlines() if not line.startswith("pyarrow ")]  # before release 21
    assert (done.returncode, told) == (0, []), done.stdout
    assert "zoo: majority-gru/all, 12 models, 48 states; 12 added" in done.stdout
    files = [path for path in (tmp_path / "dataset").rglob("*") if path.is_file()]
    assert f"nothing was sent: {len(files)} files" in done.stdout
    program = f"import sys\nsys.path.insert(0, '')\n{use}\nprint(len(states), tuple(zoo.weights.shape))"
    used = machine.run(execute, str(tmp_path), program, HF_HUB_OFFLINE="1")
    assert used.returncode == 0, used.stderr
    size = int(re.findall(r"float32 \(N, (\d+)\)", use)[0])
    zoo = load_zoo(tmp_path / "dataset")
    counts = zoo.table["split"].value_counts()
    assert used.stdout == f"{counts['train']} ({counts['test'] // 4}, {size})\n"
    assert ZooFolder.open(tmp_path / "zoo").architecture.name == "majority-gru"
