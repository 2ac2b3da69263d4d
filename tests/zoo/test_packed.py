"""The packed layout: the same states in few files, bit for bit, whichever way they came together."""

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.processes import hashes
from helpers.random_zoos import ARCHITECTURE, add_model, recipe, weights_of, write_zoo, zoo_info
from torch import Tensor

from modelzoo_datasets import build_dataset, generate_zoo, read_recipe
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import Engine, variational_layout
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.zoo import ZooFolder, ZooWriter, backends, paths, read_json
from modelzoo_datasets.zoo.packed import PackedFile, merge_packs, read_pack, read_pack_index
from modelzoo_datasets.zoo.paths import models_per_file
from modelzoo_datasets.zoo.safetensors_io import TensorSpec
from modelzoo_datasets.zoo.tables import read_arrow

KINDS = {
    "weight": TensorSpec(torch.float32, (3, 2)),
    "batches": TensorSpec(torch.int64, ()),
    "half": TensorSpec(torch.bfloat16, (5,)),
    "mask": TensorSpec(torch.bool, (7,)),
    "none": TensorSpec(torch.float32, (0, 4)),
}


def some(states: int) -> dict[str, Tensor]:
    """Tensors (S, ...) of all those kinds."""
    random = torch.Generator().manual_seed(states)
    return {
        name: (10 * torch.randn(states, *kind.shape, generator=random)).to(kind.dtype) for name, kind in KINDS.items()
    }


def pack(path: Path, tensors: dict[str, Tensor], rows: dict[str, tuple[int, int]]) -> Path:
    """Write one row at a time, in the order of the tensors given."""
    file = PackedFile(path, {name: KINDS[name] for name in tensors}, rows)
    for name, tensor in tensors.items():
        for row in range(len(tensor)):
            file.write(name, row, tensor[row : row + 1])
    file.commit()
    return path


@pytest.fixture(scope="module")
def packed_zoo(tiny_recipe: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny zoo `hyp`, packed."""
    out = tmp_path_factory.mktemp("packed") / "hyp"
    generate_zoo(read_recipe(str(tiny_recipe)), out, config="hyp", engine=engine, images_root=out, storage="packed")
    return out


@pytest.fixture
def packed(packed_zoo: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(packed_zoo, tmp_path / "zoo"))


def test_a_packed_file_is_what_the_library_writes_but_for_the_order_of_its_metadata(tmp_path: Path) -> None:
    tensors, metadata = some(4), {"format": "pt", "models": '{"a": [0, 4]}'}
    found = pack(tmp_path / "pack", tensors, {"a": (0, 4)}).read_bytes()
    expected = safetensors.torch.save(tensors, metadata=metadata)
    size = int.from_bytes(expected[:8], "little")
    assert found[:8] == expected[:8]
    assert json.loads(found[8 : 8 + size]) == json.loads(expected[8 : 8 + size])
    assert found[8 + size :] == expected[8 + size :]
    for name, tensor in safetensors.torch.load(found).items():
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, tensors[name])


def test_equal_states_give_equal_bytes_in_whatever_order_they_are_written(tmp_path: Path) -> None:
    tensors, rows = some(3), {"b": (0, 2), "a": (2, 1)}
    one = pack(tmp_path / "one", tensors, rows)
    two = pack(tmp_path / "two", dict(reversed(tensors.items())), rows)
    assert one.read_bytes() == two.read_bytes()
    assert read_pack_index(one) == rows


def test_any_rows_are_read_alone(tmp_path: Path) -> None:
    tensors = some(5)
    path = pack(tmp_path / "pack", tensors, {"a": (0, 5)})
    for first, count in ((0, 5), (2, 2), (4, 1), (1, 0)):
        found = read_pack(path, first, count)
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor[first : first + count])


def test_merged_files_are_the_file_that_was_written_at_once(tmp_path: Path) -> None:
    tensors = some(6)
    parts = {"a": (0, 2), "b": (2, 1), "c": (3, 3)}
    sources = {}
    for name, (first, count) in parts.items():
        rows = {key: tensor[first : first + count] for key, tensor in tensors.items()}
        sources[name] = pack(tmp_path / name, rows, {name: (0, count)})
    whole = pack(tmp_path / "whole", tensors, parts).read_bytes()
    merge_packs(tmp_path / "merged", KINDS, sources)
    assert (tmp_path / "merged").read_bytes() == whole
    # Again, from a file that holds two of them in another order, and into that file itself.
    merge_packs(tmp_path / "c", KINDS, {"c": sources["c"], "a": sources["a"]})
    merge_packs(tmp_path / "c", KINDS, {"a": tmp_path / "c", "b": sources["b"], "c": tmp_path / "c"})
    assert (tmp_path / "c").read_bytes() == whole


def test_rows_of_another_kind_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = pack(tmp_path / "source", some(2), {"a": (0, 2)})
    kinds = KINDS | {"weight": TensorSpec(torch.float32, (2, 3))}
    with pytest.raises(FormatError) as caught:
        merge_packs(tmp_path / "target", kinds, {"a": source})
    assert str(caught.value) == f"weight: expected rows of {kinds['weight']}, got {KINDS['weight']}"
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = pack(tmp_path / "pack", some(2), {"a": (0, 2)})
    path.write_bytes(path.read_bytes()[:keep])
    for read in (lambda: read_pack_index(path), lambda: read_pack(path, 0, 1)):
        with pytest.raises(FormatError) as caught:
            read()
        assert str(caught.value) == f"cannot read packed states {path}: {caught.value.__cause__}"


@pytest.mark.parametrize("rows", ['{"a": 3}', "[]", "{", '{"a": ["x", 1]}'])
def test_a_safetensors_file_of_something_else_is_no_packed_file(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "pack"
    path.write_bytes(safetensors.torch.save(some(1), metadata={"models": rows}))
    with pytest.raises(FormatError, match=f"^cannot read packed states {path}: "):
        read_pack_index(path)


def test_a_file_is_for_100_models_or_for_as_many_as_fit_a_gigabyte() -> None:
    sizes = [*(get_architecture(name).layout.size for name in ("cnn-s", "cnn-m")), 11_000_000]  # as a ResNet-18
    assert [models_per_file(size, 50) for size in sizes] == [100, 100, 1]
    for size in (1, 10_000, 100_000, 500_000, 10**6, 10**9):
        n, model = models_per_file(size, 60), 4 * size * 61
        assert n == 1 or (n <= 100 and n * model <= 1e9)
        assert n == 100 or (n + 1) * model > 1e9


def test_both_layouts_hold_the_same_weights_and_tables(packed_zoo: Path, tiny_hyp_zoo: Path) -> None:
    one, two = ZooFolder.open(tiny_hyp_zoo), ZooFolder.open(packed_zoo)
    assert (one.is_packed, two.is_packed) == (False, True)
    for name in ("models.parquet", "states.parquet", "statistics.json", "pairs.parquet"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
    assert two.info == replace(one.info, storage="packed", models_per_file=100)
    assert set(one.models["dropout"]) == {0.0, 0.2}, "whose state files differ in their keys"
    for model, epoch in zip(one.states["model_id"], one.states["epoch"], strict=True):
        assert torch.equal(one.weights(model, epoch), two.weights(model, epoch))


def test_a_packed_zoo_holds_exactly_its_files(packed_zoo: Path) -> None:
    tables = {"zoo.json", "models.parquet", "states.parquet", "statistics.json", "pairs.parquet"}
    assert set(hashes(packed_zoo)) == {*tables, "packed/models-00001-00100.safetensors"}


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_twins_keep_what_they_were_pruned_from(storage: str, tmp_path: Path) -> None:
    chosen = recipe(models=2, epochs=1)
    write_zoo(tmp_path / "zoo", chosen, storage, config="seed-sparse")
    zoo, layout = ZooFolder.open(tmp_path / "zoo"), variational_layout(ARCHITECTURE)
    size = zoo.layout.size
    for member in chosen.members("seed-sparse"):
        for epoch in range(2):
            assert torch.equal(zoo.weights(member.model_id, epoch), weights_of(member, epoch, size))
            more = weights_of(member, epoch, size + layout.size)[size:]
            assert torch.equal(layout.pack(zoo.read_variational(member.model_id, epoch)), more)


def test_a_zoo_without_twins_says_so(packed_zoo: Path) -> None:
    with pytest.raises(FormatError) as caught:
        ZooFolder.open(packed_zoo).read_variational("hyp-00001", 0)
    assert str(caught.value) == f"{packed_zoo} holds no sparsified twins"


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_a_zoo_written_in_parts_in_any_order_is_the_zoo_written_at_once(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MAX_MODELS_PER_FILE", 3)
    chosen = recipe(models=8, epochs=1)
    write_zoo(tmp_path / "at once", chosen, storage)
    order = list(range(8, 0, -1))
    assert write_zoo(tmp_path / "backwards", chosen, storage, order) == [f"seed-{i:05d}" for i in order]
    for part in ([7, 5], [8], [2, 5, 1], [3], range(1, 9)):
        write_zoo(tmp_path / "in parts", chosen, storage, part)
        zoo = ZooFolder.open(tmp_path / "in parts")  # complete after every part
        for model, epoch in zip(zoo.states["model_id"], zoo.states["epoch"], strict=True):
            member = chosen.members("seed")[int(model[-5:]) - 1]
            assert torch.equal(zoo.weights(model, epoch), weights_of(member, epoch, zoo.layout.size))
    assert hashes(tmp_path / "in parts") == hashes(tmp_path / "backwards") == hashes(tmp_path / "at once")
    packs = {f"packed/models-{i:05d}-{i + 2:05d}.safetensors" for i in (1, 4, 7)}
    assert {name for name in hashes(tmp_path / "at once") if name.startswith("packed/")} == (
        packs if storage == "packed" else set()
    )


def test_every_packed_file_is_looked_into_once_however_many_models_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MAX_MODELS_PER_FILE", 5)
    chosen, out, looked = recipe(models=10, epochs=1), tmp_path / "zoo", list[Path]()
    write_zoo(out, chosen, "packed")
    monkeypatch.setattr(backends, "read_pack_index", lambda path: looked.append(path) or read_pack_index(path))
    with ZooWriter(out, zoo_info(chosen, "packed")) as writer:
        assert len(writer.find_finished(chosen.members("seed"))) == 10
    assert sorted(looked) == sorted((out / "packed").iterdir())


def test_what_a_merged_file_replaces_is_removed_before_the_next_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MAX_MODELS_PER_FILE", 3)
    chosen, out, left = recipe(models=9, epochs=1), tmp_path / "zoo", list[int]()

    def counted(*arguments: Any) -> None:
        left.append(len(list(out.glob("progress/*.safetensors"))))
        merge_packs(*arguments)

    monkeypatch.setattr(backends, "merge_packs", counted)
    write_zoo(out, chosen, "packed")
    assert left == [9, 6, 3], "the disk needs room for one file more, not for the zoo twice"


def test_a_file_for_one_big_model_is_moved_into_place_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MAX_PACK_BYTES", 1)
    chosen, out = recipe(models=2, epochs=1), tmp_path / "zoo"
    with ZooWriter(out, zoo_info(chosen, "packed")) as writer:
        for member in chosen.members("seed"):
            add_model(writer, member)
        writer.pool.flush()
        inodes = [path.stat().st_ino for path in sorted(out.glob("progress/*.safetensors"))]
        writer.complete(chosen.members("seed"))
    found = sorted((out / "packed").iterdir())
    assert [path.name for path in found] == ["models-00001-00001.safetensors", "models-00002-00002.safetensors"]
    assert [path.stat().st_ino for path in found] == inodes


def test_states_of_an_unfinished_model_are_on_disk_not_in_memory(tmp_path: Path) -> None:
    chosen, out = recipe(models=1, epochs=3), tmp_path / "zoo"
    (member,), metrics = chosen.members("seed"), {"train_acc": 0.5, "test_acc": 0.5}
    with ZooWriter(out, zoo_info(chosen, "packed")) as writer:
        for epoch in range(3):
            weights = weights_of(member, epoch, 2464)
            kept = weakref.ref(weights)
            writer.add(member, epoch, weights, metrics, torch.ones(10))
            del weights
            writer.pool.flush()
            assert kept() is None
        (partial,) = (out / "progress").iterdir()
        assert partial.name.startswith(".seed-00001.safetensors.") and partial.name.endswith(".partial")
        assert partial.stat().st_size > 3 * 2464 * 4
    assert list((out / "progress").iterdir()) == [], "what is not finished is not left behind"


def test_folders_of_one_layout_refuse_the_other(
    tiny_recipe: Path, packed: Path, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path
) -> None:
    plain = Path(shutil.copytree(tiny_hyp_zoo, tmp_path / "plain"))
    for out, ours, theirs in ((packed, "states", "packed"), (plain, "packed", "states")):
        before = hashes(out)
        with pytest.raises(FolderInUseError) as caught:
            generate_zoo(read_recipe(str(tiny_recipe)), out, config="hyp", engine=engine, images_root=out, storage=ours)
        assert str(caught.value) == (
            f"{out} stores its states as {theirs!r}, not {ours!r}; choose another --out, or --storage {theirs}"
        )
        assert hashes(out) == before


def test_what_else_differs_is_told_before_the_layout(tiny_recipe: Path, packed: Path, engine: Engine) -> None:
    with pytest.raises(FolderInUseError) as caught:
        generate_zoo(read_recipe(str(tiny_recipe)), packed, config="hyp", engine=engine, images_root=packed, epochs=2)
    assert str(caught.value) == f"{packed} holds another zoo: its epochs is [1], not [2]; choose another --out"


def test_a_flipped_byte_is_found_by_build_and_mended_by_generate(
    tiny_recipe: Path, packed: Path, engine: Engine, tmp_path: Path
) -> None:
    path = packed / "packed" / "models-00001-00100.safetensors"
    before, content = hashes(packed), bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last tensor of the last state
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        build_dataset([packed], tmp_path / "dataset")
    assert str(caught.value) == (
        f"state hyp-00008 epoch 1 of {packed} differs from the state that was trained; "
        f"delete {path} and run modelzoo-generate again"
    )
    path.unlink()
    recipe_read = read_recipe(str(tiny_recipe))
    assert generate_zoo(recipe_read, packed, config="hyp", engine=engine, images_root=packed, storage="packed") == 8
    assert hashes(packed) == before


def test_a_truncated_packed_file_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_MAX_MODELS_PER_FILE", 3)
    chosen, out = recipe(models=8, epochs=1), tmp_path / "zoo"
    write_zoo(out, chosen, "packed")
    before, path = hashes(out), out / "packed" / "models-00004-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert write_zoo(out, chosen, "packed") == ["seed-00004", "seed-00005", "seed-00006"]
    assert hashes(out) == before


def test_states_that_are_not_there_are_named(tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    write_zoo(out, recipe(models=2, epochs=1), "packed", [1])
    zoo, path = ZooFolder.open(out), out / "packed" / "models-00001-00100.safetensors"
    with pytest.raises(FormatError) as caught:
        zoo.weights("seed-00002", 0)
    assert str(caught.value) == f"{out} has no model 'seed-00002'"
    with pytest.raises(FormatError) as caught:
        zoo.weights("seed-00001", 2)
    assert str(caught.value) == (
        f"cannot read packed states {path}: it has no epoch 2 of seed-00001; run modelzoo-generate again to restore it"
    )
    assert (zoo.states_path("seed-00001"), read_json(out / "zoo.json")["models_per_file"]) == (path, 100)


def test_missing_metrics_are_missing_in_the_table_whatever_the_rows_were_read_from(tmp_path: Path) -> None:
    chosen = recipe(models=2, epochs=1)
    first, second = chosen.members("seed")
    nothing = torch.full((10,), float("nan"))
    for out, parts in ((tmp_path / "one", [[first, second]]), (tmp_path / "two", [[second], [first]])):
        for part in parts:
            with ZooWriter(out, zoo_info(chosen, "packed")) as writer:
                for member in part:
                    for epoch in range(2):
                        lost = {"train_acc": 0.5, "test_acc": 0.25, "val_acc": float("nan"), "test_loss": float("inf")}
                        writer.add(member, epoch, torch.zeros(2464), lost, nothing)
                writer.complete(chosen.members("seed"))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    table = read_arrow(tmp_path / "one" / "states.parquet")
    assert {str(table.schema.field(name).type) for name in ("val_acc", "test_loss", "ggap")} == {"double"}
    for name in ("val_acc", "test_loss", "test_recall"):
        assert table[name].null_count == 4
    assert table["ggap"].to_pylist() == [0.25] * 4
