"""Modules are filled with stored weights by name, or refused: whoever registers a name may mean another network."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.tiny_learning import recipe as tiny_recipe
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperrep import HyperRepresentation
from hyperrep.trainer.initialize import create_representation
from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.architectures import (
    Architecture,
    find_architecture,
    get_architecture,
    register_architecture,
    registry,
)
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.importers import import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.loading import Zoo
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.weights import Layout, permute_units, sample_permutations

NAME = "gru-of-mine"
SIGNS = torch.randint(2, (5, 6, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1


class Reader(nn.Module):
    """Two matrices of a GRU have the same shape, so that weights in a wrong order fit; files list them by name."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, hidden, batch_first=True), nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(x)[0][:, -1])
        return logits


@pytest.fixture(scope="module")
def readers() -> list[Reader]:
    found = [Reader().eval() for _ in range(10)]
    for number, module in enumerate(found):
        draws = torch.Generator().manual_seed(number)
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=draws)
    return found


@pytest.fixture(scope="module")
def dataset(readers: list[Reader], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population that was imported and built before anybody registered its module."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "mine").mkdir()
    for number, module in enumerate(readers):
        save_file(module.state_dict(), folder / "mine" / f"{number}.safetensors")
    files = [f"{number}.safetensors" for number in range(len(readers))]
    table = pd.DataFrame({"file": files, "activation": "tanh", "dropout": 0.0, "val_acc": 0.5, "lr": 0.1})
    table.to_csv(folder / "mine" / "states.csv", index=False)
    claims = Overrides(architecture=NAME)
    import_zoo(folder / "mine", folder / "zoo", format="safetensors", images_root=folder, overrides=claims)
    build_dataset([folder / "zoo"], folder / "dataset")
    return folder / "dataset"


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is unknown to others."""
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))


def register(hidden: int = 8) -> Architecture:
    return register_architecture(Architecture(NAME, (1, 6, 8), 2, lambda activation, dropout: Reader(hidden)))


def number_of(zoo: Zoo, i: int) -> int:
    return int(zoo.table["origin"].iloc[i].removesuffix(".safetensors"))


def test_a_module_that_is_registered_later_is_filled_by_name(dataset: Path, readers: list[Reader]) -> None:
    register()
    zoo = load_zoo(dataset)
    assert [slot.name for slot in zoo.layout.slots][:2] == ["gru.weight_hh_l0", "gru.weight_ih_l0"]
    assert [name for name, _ in Reader().named_parameters()][:2] == ["gru.weight_ih_l0", "gru.weight_hh_l0"]
    for i in range(len(zoo)):
        assert torch.equal(zoo.model(i)(SIGNS), readers[number_of(zoo, i)](SIGNS))
    assert repr(zoo.architecture).startswith(f"Architecture('{NAME}', 1×6×8 images of 2 classes, ")
    with pytest.raises(RecipeError, match="another order than its registered module, so that no engine can run them"):
        zoo.architecture.check_runnable()


def test_a_module_with_other_tensors_is_refused_where_it_is_asked_for(dataset: Path, readers: list[Reader]) -> None:
    register(hidden=9)
    zoo = load_zoo(dataset)
    assert zoo.weights.shape == (len(readers), zoo.layout.size)
    with pytest.raises(RecipeError) as caught:
        zoo.model(0)
    assert str(caught.value) == (
        f"the registered architecture {NAME!r} is not that of the stored weights: gru.weight_ih_l0 is float32 (27, 8) "
        "in the module, float32 (24, 8) as stored; pass your own module, zoo.model(i, module), or register the module "
        "that was trained"
    )
    assert torch.equal(zoo.model(0, Reader())(SIGNS), readers[number_of(zoo, 0)](SIGNS))
    with pytest.raises(RecipeError, match="is not that of the stored weights"):
        zoo.architecture.check_runnable()


def test_verify_compares_with_the_registered_module_and_not_with_the_layout_itself(dataset: Path) -> None:
    register()
    checks = {check.name: check for check in verify_folder(dataset)}
    assert checks["layout"].has_passed
    assert checks["metrics"].notes == [
        "mine/zoo is not measured again: its tensors are stored in another order than those of the registered module"
    ]


def test_verify_finds_the_module_of_another_network(dataset: Path) -> None:
    register(hidden=9)
    checks = {check.name: check for check in verify_folder(dataset)}
    assert checks["layout"].problems[0].startswith(f"zoo.json: layout of zoo is not that of architecture {NAME}; ")


def test_layouts_of_unregistered_architectures_can_be_compared(dataset: Path) -> None:
    first, second = (load_zoo(dataset).architecture for _ in range(2))
    assert first == second


def test_a_hyper_representation_is_trained_on_tensors_in_their_stored_order(
    dataset: Path, readers: list[Reader], tmp_path: Path
) -> None:
    recipe = tiny_recipe(data={"config": "zoo"}, model={"statistics": False})
    zoo = load_zoo(dataset)
    create_representation(recipe, zoo).save_pretrained(tmp_path / "unregistered")
    register()
    zoo = load_zoo(dataset)
    create_representation(recipe, zoo).save_pretrained(tmp_path / "registered")
    for name in ("unregistered", "registered"):
        rep = HyperRepresentation.from_pretrained(tmp_path / name)
        rep.check_architecture(zoo.architecture, "the zoo")
        assert [slot.name for slot in rep.layout.slots][:2] == ["gru.weight_hh_l0", "gru.weight_ih_l0"]
        for i in range(len(zoo)):
            assert torch.equal(rep.model(zoo.weights[i])(SIGNS), readers[number_of(zoo, i)](SIGNS))


def test_a_dataset_of_what_nobody_registered_has_no_source_and_says_so(dataset: Path) -> None:
    assert not (dataset / "code").exists()
    assert "\nThe source of the module is not part of this dataset.\n" in (dataset / "README.md").read_text()
    assert all(check.has_passed for check in verify_folder(dataset, states=0))
    register()
    (check,) = [check for check in verify_folder(dataset, states=0) if check.name == "descriptions"]
    assert (check.problems, check.notes) == ([], [f"{dataset / 'code' / NAME}.py is missing or cannot be read"])


def test_another_order_under_the_same_name_is_refused(dataset: Path) -> None:
    zoo = load_zoo(dataset)
    rep = create_representation(tiny_recipe(data={"config": "zoo"}), zoo)
    with pytest.raises(FormatError) as caught:
        rep.check_architecture(register(), "the zoo")
    assert str(caught.value) == (
        f"this hyper-representation is of {NAME}, but the models of the zoo have other tensors, or in another "
        "order, under that name; import and build them as those were that it learned from"
    )


@pytest.mark.parametrize("name", ["cnn-m-17", "cnn-s", "resnet18"])
def test_a_network_of_this_package_is_the_registered_one_in_its_own_layout(name: str) -> None:
    architecture = get_architecture(name)
    assert find_architecture(name, architecture.layout) is architecture
    assert not find_architecture(name, Layout.from_module(nn.Linear(2, 3))).has_module


def test_a_variant_for_other_classes_is_built_by_its_name() -> None:
    assert "cnn-m-23" not in registry._ARCHITECTURES
    layout = Layout.from_module(get_architecture("cnn-m-22").module("relu"))
    found = find_architecture("cnn-m-23", layout)
    assert (found.classes, found.has_module) == (23, False), "its last layer is another one"


def test_names_of_the_variant_with_dropout_are_the_same_weights() -> None:
    architecture = get_architecture("cnn-s")
    with_dropout = architecture.layout_with(0.2)
    assert with_dropout != architecture.layout
    assert find_architecture("cnn-s", with_dropout) is architecture


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("named_with", [0.0, 0.3])
def test_another_order_is_filled_by_name_with_and_without_dropout(dropout: float, named_with: float) -> None:
    architecture = get_architecture("cnn-s")
    stored = reverse(architecture.layout_with(named_with))
    found = find_architecture("cnn-s", stored)
    assert found.has_module
    assert found.layout == stored
    source = architecture.module("tanh", dropout)
    for parameter in source.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    state = dict(
        zip([slot.name for slot in architecture.layout_with(named_with).slots], source.parameters(), strict=True)
    )
    target = architecture.module("tanh", dropout)
    found.fill_module(target, stored.pack(state))
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target.eval()(images), source.eval()(images))


def test_units_are_permuted_where_the_stored_layout_has_them() -> None:
    architecture = get_architecture("cnn-s")
    found = find_architecture("cnn-s", reverse(architecture.layout))
    draws = torch.Generator().manual_seed(0)
    weights = torch.randn(3, found.layout.size, generator=draws)
    orders = sample_permutations(found.symmetry, 3, draws)
    permuted = permute_units(weights, found.symmetry, orders)
    images = torch.randn(4, 1, 28, 28, generator=draws)
    for before, after in zip(weights, permuted, strict=True):
        modules = [architecture.module("tanh") for _ in range(2)]
        for module, vector in zip(modules, (before, after), strict=True):
            found.fill_module(module.eval(), vector)
        assert not torch.equal(before, after)
        torch.testing.assert_close(modules[0](images), modules[1](images), rtol=1e-4, atol=1e-4)


def reverse(layout: Layout) -> Layout:
    """The same tensors, last one first."""
    slots, start = [], 0
    for slot in reversed(layout.slots):
        slots.append(type(slot)(slot.name, slot.shape, start, slot.buffer, slot.dtype))
        start += slot.size
    return Layout(tuple(slots))
