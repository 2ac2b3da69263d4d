"""The zoo folder: nothing is lost by a stop, nothing is overwritten, nothing damaged is taken for weights."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.full_disk import files_no_larger_than
from helpers.steps import StepProgress
from safetensors.torch import load_file
from torch import Tensor, nn

from modelzoo_datasets import generate_zoo, read_recipe
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.images import Images
from modelzoo_datasets.zoo import (
    RecipeInfo,
    ZooFolder,
    ZooInfo,
    ZooWriter,
    hash_weights,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_table,
    write_tensors,
)
from modelzoo_datasets.zoo.tables import read_table

TWO = range(1, 3)  # the first two models of the tiny recipe


class Stop(Exception):
    """Stands for a kill: raised where the progress is told, between two models."""


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def zoo(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the tiny zoo that a test may change."""
    return Path(shutil.copytree(tiny_zoo, tmp_path / "zoo"))


def go_on(recipe: Path, folder: Path, engine: Engine, config: str = "seed", **more: object) -> int:
    chosen = read_recipe(str(recipe))
    return generate_zoo(chosen, folder, config=config, engine=engine, images_root=folder, **more)  # type: ignore[arg-type]


def test_a_complete_zoo_holds_exactly_its_files(tiny_zoo: Path) -> None:
    models = [f"seed-{i:05d}" for i in range(1, 21)]
    states = [f"states/{m}/epoch-{e:03d}.safetensors" for m in models for e in range(3)]
    tables = {"zoo.json", "models.parquet", "states.parquet", "statistics.json", "pairs.parquet"}
    assert set(contents(tiny_zoo)) == {*tables, *states}


def test_a_complete_zoo_is_left_as_it_is(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    before = {path: path.stat().st_mtime_ns for path in zoo.rglob("*")}
    assert go_on(tiny_recipe, zoo, engine) == 0
    assert {path: path.stat().st_mtime_ns for path in zoo.rglob("*")} == before


def test_tables_that_were_removed_are_written_again(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    before = contents(zoo)
    (zoo / "models.parquet").unlink()
    assert go_on(tiny_recipe, zoo, engine) == 0
    assert contents(zoo) == before


@pytest.mark.parametrize("keep", [None, 0, 5000])
def test_a_model_with_a_missing_or_truncated_state_is_trained_again_to_the_same_bytes(
    tiny_recipe: Path, zoo: Path, engine: Engine, keep: int | None
) -> None:
    before = contents(zoo)
    state = zoo / "states" / "seed-00007" / "epoch-001.safetensors"
    if keep is None:
        state.unlink()
    else:
        state.write_bytes(state.read_bytes()[:keep])
    assert go_on(tiny_recipe, zoo, engine) == 1
    assert contents(zoo) == before


def test_a_stopped_zoo_goes_on_where_it_stopped_to_the_same_bytes(
    tiny_recipe: Path, engine: Engine, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if done == 1:
            raise Stop

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert go_on(tiny_recipe, whole, engine, "hyp", models=TWO) == 2
    with pytest.raises(Stop):
        go_on(tiny_recipe, stopped, engine, "hyp", models=TWO, progress=StepProgress(stop))
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(stopped)
    assert str(caught.value) == (f"{stopped} is not complete; run its modelzoo-generate command again")
    assert go_on(tiny_recipe, stopped, engine, "hyp", models=TWO) == 1
    assert contents(stopped) == contents(whole)


def test_a_model_whose_record_was_not_written_is_trained_again(
    tiny_recipe: Path, engine: Engine, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if done == 1:
            raise Stop

    folder = tmp_path / "zoo"
    with pytest.raises(Stop):
        go_on(tiny_recipe, folder, engine, "hyp", models=TWO, progress=StepProgress(stop))
    (record,) = (folder / "progress").iterdir()
    states = contents(folder / "states")
    record.unlink()
    assert go_on(tiny_recipe, folder, engine, "hyp", models=range(1, 2)) == 1
    assert contents(folder / "states") == states


def test_what_was_left_half_written_by_a_kill_is_written_over(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    before = contents(zoo)
    model = zoo / "states" / "seed-00003"
    (model / "epoch-002.safetensors").rename(model / ".epoch-002.safetensors.partial")
    assert go_on(tiny_recipe, zoo, engine) == 1
    assert contents(zoo) == before


def test_a_zoo_of_another_config_is_not_mixed_in(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    before = contents(zoo)
    with pytest.raises(FolderInUseError) as caught:
        go_on(tiny_recipe, zoo, engine, "hyp")
    assert str(caught.value) == (
        f"{zoo} holds another zoo: its name is 'tiny/seed', not 'tiny/hyp'; choose another --out"
    )
    assert contents(zoo) == before


def test_other_epochs_are_another_zoo(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    before = contents(zoo)
    with pytest.raises(FolderInUseError) as caught:
        go_on(tiny_recipe, zoo, engine, epochs=3)
    assert str(caught.value) == (f"{zoo} holds another zoo: its epochs is [2], not [3]; choose another --out")
    assert contents(zoo) == before


def test_axes_in_another_order_are_another_zoo(tiny_recipe: Path, zoo: Path, engine: Engine, tmp_path: Path) -> None:
    swapped = tmp_path / "tiny.toml"
    text = tiny_recipe.read_text()
    swapped.write_text(text.replace("epochs = 2\n", "").replace("lr = 1e-2\n", "lr = 1e-2\nepochs = 2\n", 1))
    with pytest.raises(FolderInUseError, match="holds another zoo: its order of axes is "):
        go_on(swapped, zoo, engine)


def test_other_versions_are_another_zoo(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    facts = read_json(zoo / "zoo.json")
    write_json(zoo / "zoo.json", facts | {"versions": facts["versions"] | {"torch": "1.0"}})
    with pytest.raises(FolderInUseError) as caught:
        go_on(tiny_recipe, zoo, engine)
    assert str(caught.value) == (
        f"{zoo} holds another zoo: its torch is '1.0', not {facts['versions']['torch']!r}; choose another --out"
    )


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FolderInUseError) as caught:
        ZooWriter(tmp_path, {})
    assert str(caught.value) == f"{tmp_path} is not empty and no zoo; choose another --out"
    assert list(contents(tmp_path)) == ["thesis.tex"]


def test_zoo_json_says_what_the_weights_depend_on(tiny_recipe: Path, tiny_zoo: Path, images: Images) -> None:
    facts = json.loads((tiny_zoo / "zoo.json").read_text())
    assert facts["format"] == "modelzoo-zoo-2"
    assert facts["images_sha256"] == images.fingerprint
    assert facts["recipe"] == RecipeInfo.from_recipe(read_recipe(str(tiny_recipe)), "seed").to_json()
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_the_tables_say_what_the_recipe_and_the_files_say(tiny_recipe: Path, tiny_zoo: Path) -> None:
    zoo = ZooFolder.open(tiny_zoo)
    members = read_recipe(str(tiny_recipe)).members("seed")
    for member, row in zip(members, zoo.models.to_dict("records"), strict=True):
        assert row["model_id"] == member.model_id
        assert (row["index"], row["seed"], row["split"]) == (
            member.index,
            member.seed,
            member.split,
        )
        assert row["lr"] == member.training.lr
    assert list(zoo.states["epoch"]) == [0, 1, 2] * 20
    for row in zoo.states.to_dict("records"):
        weights = zoo.weights(row["model_id"], row["epoch"])
        raw = weights.numpy().tobytes()
        assert row["sha256"] == hashlib.sha256(raw).hexdigest() == hash_weights(weights)
        assert row["finite"]
        if row["epoch"] > 0:
            assert row["ggap"] == row["train_acc"] - row["test_acc"]


class PlainCNN(nn.Module):
    """What a stranger would write to use the state files."""

    def __init__(self) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(
            [
                *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Tanh()),
                *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.Tanh()),
                *(nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten()),
                *(nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 10)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.module_list:
            x = layer(x)
        return x


def test_a_state_file_needs_nothing_but_safetensors_and_a_plain_module(tiny_zoo: Path, images: Images) -> None:
    states = read_table(tiny_zoo / "states.parquet")
    row = states[states["epoch"] == 2].iloc[4]
    module = PlainCNN()
    path = tiny_zoo / "states" / row["model_id"] / "epoch-002.safetensors"
    module.load_state_dict(load_file(path))
    with torch.no_grad():
        guesses = module(images.inputs("test")).argmax(dim=1)
    assert (guesses == images.labels("test")).double().mean().item() == row["test_acc"]


def test_a_state_with_dropout_is_read_although_its_keys_are_numbered_otherwise(
    tiny_hyp_zoo: Path,
) -> None:
    zoo = ZooFolder.open(tiny_hyp_zoo)
    dropped = zoo.models.loc[zoo.models["dropout"] > 0, "model_id"].iloc[0]
    state = load_file(tiny_hyp_zoo / "states" / dropped / "epoch-001.safetensors")
    assert "module_list.14.bias" in state and "module_list.11.weight" in state
    in_order = [state[f"module_list.{n}.{k}"] for n in (0, 4, 8, 11, 14) for k in ("weight", "bias")]
    expected = torch.cat([tensor.flatten() for tensor in in_order])
    assert torch.equal(zoo.weights(dropped, 1), expected)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_a_truncated_state_is_named(zoo: Path, keep: int) -> None:
    path = zoo / "states" / "seed-00001" / "epoch-002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo).weights("seed-00001", 2)
    told, cause = str(caught.value), caught.value.__cause__
    assert cause is not None and told == f"{cause}; run modelzoo-generate again to restore it"
    assert str(cause) == f"cannot read state file {path}: {cause.__cause__}"


def test_a_missing_state_is_named(zoo: Path) -> None:
    path = zoo / "states" / "seed-00001" / "epoch-002.safetensors"
    path.unlink()
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo).weights("seed-00001", 2)
    assert str(caught.value) == (
        f"cannot read state file {path}: [Errno 2] No such file or directory: '{path}'; "
        "run modelzoo-generate again to restore it"
    )


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"weight": torch.zeros(3)}, "{path} holds 1 tensors, a state of {zoo} has 10"),
        (
            {f"layer.{i}": torch.zeros(3) for i in range(10)},
            "{path} is no state of {zoo}: module_list.0.weight: expected shape (8, 1, 5, 5), got (3,)",
        ),
    ],
)
def test_a_state_of_another_network_is_refused(zoo: Path, state: dict[str, Tensor], told: str) -> None:
    path = zoo / "states" / "seed-00001" / "epoch-002.safetensors"
    write_tensors(path, state)
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo).weights("seed-00001", 2)
    assert str(caught.value) == told.format(path=path, zoo=zoo)


def test_a_folder_that_is_no_zoo_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(tmp_path)
    told = "it has no zoo.json; pass a folder from modelzoo-generate or modelzoo-import"
    assert str(caught.value) == f"{tmp_path} is not a zoo folder: {told}"


def test_a_zoo_of_another_format_is_named_with_the_remedy(zoo: Path) -> None:
    write_json(zoo / "zoo.json", read_json(zoo / "zoo.json") | {"format": "modelzoo-zoo-0"})
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo)
    assert str(caught.value) == (
        f"{zoo} has zoo format 'modelzoo-zoo-0', but this release reads 'modelzoo-zoo-2'; "
        "make the zoo again with modelzoo-generate"
    )


def test_a_zoo_json_that_is_no_json_is_named(zoo: Path) -> None:
    (zoo / "zoo.json").write_text("{")
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo)
    assert str(caught.value) == f"cannot read {zoo / 'zoo.json'}: {caught.value.__cause__}"


def test_a_table_that_is_no_parquet_is_named(zoo: Path) -> None:
    (zoo / "states.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError) as caught:
        _ = ZooFolder.open(zoo).states
    cause = caught.value.__cause__
    assert cause is not None and str(caught.value) == (
        f"{cause}; remove it and run modelzoo-generate again to make it anew"
    )
    assert str(cause) == f"cannot read table {zoo / 'states.parquet'}: {cause.__cause__}"
    with pytest.raises(FormatError) as caught, ZooWriter(zoo, ZooInfo.read(zoo)) as writer:
        writer.find_finished([])
    assert str(caught.value) == f"{cause}; remove it, and its models are trained again"


ABSENT = object()
REMEDY = "make the zoo again with modelzoo-generate"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": ABSENT}, "it has no 'images'"),
        ({"architecture": 7}, "'architecture' must be a text, got 7"),
        ({"recipe": []}, "'recipe' must be an object, got []"),
        ({"recipe": {"recipe": "tiny", "config": "seed"}}, "it has no 'recipe.images'"),
        (
            {"layout": [{"name": "weight"}]},
            "'layout' is no layout of weights (weight: expected a shape of whole numbers, got None)",
        ),
        ({"layout": [3]}, "'layout' is no layout of weights (expected a tensor with a name, got 3)"),
        ({"layout": []}, "'layout' is no layout of weights (expected a list of tensors, got [])"),
        ({"storage": "packed", "models_per_file": 0}, "'models_per_file' must be at least 1, got 0"),
        ({"storage": "packed"}, "it has no 'models_per_file'"),
    ],
)
def test_a_zoo_json_that_lacks_something_is_named_with_what_it_lacks(
    zoo: Path, change: dict[str, object], told: str
) -> None:
    facts = read_json(zoo / "zoo.json") | change
    write_json(zoo / "zoo.json", {key: value for key, value in facts.items() if value is not ABSENT})
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo)
    what = f"{zoo / 'zoo.json'} is not what modelzoo-generate and modelzoo-build write"
    assert str(caught.value) == f"{what}: {told}; make its folder again"


def test_a_zoo_json_of_something_else_is_named(zoo: Path) -> None:
    write_json(zoo / "zoo.json", ["mine"])
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(zoo)
    assert str(caught.value) == f"{zoo / 'zoo.json'} is not what modelzoo-generate writes; {REMEDY}"


def test_another_format_is_told_before_all_that_follows_from_it(tiny_recipe: Path, zoo: Path, engine: Engine) -> None:
    facts = read_json(zoo / "zoo.json")
    write_json(zoo / "zoo.json", {"format": "modelzoo-zoo-1", "name": facts["name"]})
    with pytest.raises(FolderInUseError) as caught:
        go_on(tiny_recipe, zoo, engine)
    assert str(caught.value) == (
        f"{zoo} holds another zoo: its format is 'modelzoo-zoo-1', not 'modelzoo-zoo-2'; choose another --out"
    )


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with files_no_larger_than(1000), pytest.raises(OSError, match="File too large"):
        write_bytes(path, bytes(5000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_the_folders_above_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_tensors_json_and_tables_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4).T, "a": torch.tensor(float("nan")), "c": torch.zeros(0)}
    write_tensors(tmp_path / "t", tensors)
    for back in (read_tensors(tmp_path / "t"), load_file(tmp_path / "t")):
        assert set(back) == set(tensors)
        for name, tensor in tensors.items():
            torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)
    value = {"x": [1, 2.5, "ä", None, True]}
    write_json(tmp_path / "j", value)
    assert read_json(tmp_path / "j") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "no json", {"x": float("-inf")})
    table = pd.DataFrame({"x": [1.5, float("nan")], "y": ["a", "b"]})
    write_table(tmp_path / "p", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "p"), table)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    write_tensors(tmp_path / "1", tensors)
    write_tensors(tmp_path / "2", {"b": tensors["b"], "a": tensors["a"].T.contiguous().T})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
