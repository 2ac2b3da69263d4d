"""Files of trajectories: a state is one stretch of bytes, and `safetensors` reads the file like any other."""

import hashlib
import itertools
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.weights.layout import Layout
from modelzoo_datasets.zoo import hash_weights
from modelzoo_datasets.zoo.trajectory import assign_trajectory_files, read_state, read_states, write_trajectory

# Names whose alphabetical order is not that of the layout, an integer buffer, and a scalar among them.
NETWORK = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
LAYOUT = Layout.from_module(NETWORK)
EPOCHS = (0, 1, 7, 12)


@pytest.fixture
def states() -> Tensor:
    """(4, P); one number is not finite, and the last one is the count of batches."""
    weights = torch.randn(len(EPOCHS), LAYOUT.size, generator=torch.Generator().manual_seed(0))
    weights[:, -1] = torch.tensor(EPOCHS)
    weights[2, 5] = torch.nan
    return weights


def written(folder: Path, states: Tensor) -> tuple[Path, list[tuple[Path, int, int]]]:
    path = folder / "weights" / "a.safetensors"
    places = write_trajectory(path, LAYOUT, EPOCHS, states)
    assert [place.key for place in places] == ["000", "001", "007", "012"]
    return path, [(path, place.offset, place.nbytes) for place in places]


def test_a_state_is_one_stretch_of_bytes_with_the_hash_of_its_vector(states: Tensor, tmp_path: Path) -> None:
    path, places = written(tmp_path, states)
    content = path.read_bytes()
    for state, (_, offset, nbytes) in zip(states, places, strict=True):
        assert content[offset : offset + nbytes] == state.numpy().tobytes()
        assert hashlib.sha256(content[offset : offset + nbytes]).hexdigest() == hash_weights(state)
    assert len(content) == sum(places[-1][1:]), "nothing follows the last state"


def test_safetensors_reads_the_tensors_under_their_names(states: Tensor, tmp_path: Path) -> None:
    path, _ = written(tmp_path, states)
    tensors = load_file(path)
    assert len(tensors) == len(EPOCHS) * len(LAYOUT.slots)
    for epoch, state in zip(EPOCHS, states, strict=True):
        for slot in LAYOUT.slots:
            found = tensors[f"{epoch:03d}/{slot.name}"]
            assert found.dtype is torch.float32 and found.shape == slot.shape
            assert found.flatten().numpy().tobytes() == state[slot.start : slot.stop].numpy().tobytes()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_tensors_of_an_epoch_load_into_the_plain_module(states: Tensor, tmp_path: Path) -> None:
    path, _ = written(tmp_path, states)
    prefix = "007/"
    tensors = {k.removeprefix(prefix): t for k, t in load_file(path).items() if k.startswith(prefix)}
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    module.load_state_dict(tensors)
    assert LAYOUT.pack(module.state_dict()).view(torch.int32).equal(states[2].view(torch.int32))


def test_states_read_and_mapped_are_those_written_to_the_bit(states: Tensor, tmp_path: Path) -> None:
    _, places = written(tmp_path, states)
    mapped = torch.stack([read_state(*place) for place in places])
    read = torch.empty_like(states)
    read_states(places, read)
    assert mapped.view(torch.int32).equal(states.view(torch.int32))
    assert read.view(torch.int32).equal(states.view(torch.int32))


def test_states_of_several_files_are_read_in_the_order_asked_for(states: Tensor, tmp_path: Path) -> None:
    _, one = written(tmp_path / "one", states)
    _, other = written(tmp_path / "other", -states)
    chosen = [(one, 3), (other, 0), (other, 1), (one, 0), (one, 0)]
    read = torch.empty(len(chosen), LAYOUT.size)
    read_states([places[i] for places, i in chosen], read)
    for row, (places, i) in zip(read, chosen, strict=True):
        assert row.equal(states[i] if places is one else -states[i])


def test_what_is_written_to_a_mapped_state_is_not_kept(states: Tensor, tmp_path: Path) -> None:
    path, places = written(tmp_path, states)
    before = path.read_bytes()
    mapped = read_state(*places[1])
    mapped.zero_()
    assert path.read_bytes() == before
    assert read_state(*places[1]).equal(states[1])


def test_equal_states_give_equal_bytes(states: Tensor, tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, states)[0].read_bytes() for name in ("one", "other"))
    assert one == other


def test_states_are_taken_one_by_one(states: Tensor, tmp_path: Path) -> None:
    seen: list[int] = []

    def one_by_one() -> object:
        for state in states:
            (partial,) = tmp_path.iterdir()
            assert re.fullmatch(rf"\.a\.safetensors\.{os.getpid()}-[0-9a-f]{{8}}\.partial", partial.name)
            seen.append(partial.stat().st_size)
            yield state

    write_trajectory(tmp_path / "a.safetensors", LAYOUT, EPOCHS, one_by_one())  # type: ignore[arg-type]
    assert [b - a for a, b in itertools.pairwise(seen)] == [4 * LAYOUT.size] * 3


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_states_than_epochs_leaves_no_file(states: Tensor, count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FormatError) as caught:
        write_trajectory(path, LAYOUT, EPOCHS, [states[0]] * count)
    assert str(caught.value) == f"{path}: expected 4 states, one for each epoch, got {count}"
    assert list(tmp_path.iterdir()) == []


def test_states_of_another_network_are_refused(states: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FormatError) as caught:
        write_trajectory(path, LAYOUT, EPOCHS, states[:, 1:])
    size = LAYOUT.size
    assert str(caught.value) == f"{path}: expected states of {size} numbers, got shape ({size - 1},)"
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_named(states: Tensor, tmp_path: Path) -> None:
    path, places = written(tmp_path, states)
    whole = sum(places[-1][1:])
    path.write_bytes(path.read_bytes()[:-4])
    said = f"{path} is truncated: it has {whole - 4:,} bytes, and a state in it ends after {whole:,} bytes"
    with pytest.raises(FormatError) as mapping:
        read_state(*places[-1])
    with pytest.raises(FormatError) as reading:
        read_states(places, torch.empty_like(states))
    assert str(mapping.value) == str(reading.value) == said
    assert read_state(*places[0]).equal(states[0]), "the others can be read"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for read in (lambda: read_state(path, 8, 4), lambda: read_states([(path, 8, 4)], torch.empty(1, 1))):
        with pytest.raises(FormatError) as caught:
            read()
        assert str(caught.value) == f"cannot read {path}: No such file or directory"


def test_states_of_another_size_than_the_rows_are_refused(states: Tensor, tmp_path: Path) -> None:
    path, places = written(tmp_path, states)
    with pytest.raises(FormatError) as caught:
        read_states(places, torch.empty(4, 3))
    assert str(caught.value) == f"{path}: expected states of 12 bytes, got {4 * LAYOUT.size}"


def test_many_files_are_spread_over_folders() -> None:
    few = assign_trajectory_files("seed", "train", ["a", "b"])
    assert few == {"a": "weights/seed/train/a.safetensors", "b": "weights/seed/train/b.safetensors"}
    many = assign_trajectory_files("seed", "train", [f"m{i}" for i in range(2_001)])
    assert many["m0"] == "weights/seed/train/000/m0.safetensors"
    assert many["m999"] == "weights/seed/train/000/m999.safetensors"
    assert many["m1000"] == "weights/seed/train/001/m1000.safetensors"
    assert many["m2000"] == "weights/seed/train/002/m2000.safetensors"
    assert len(set(many.values())) == 2_001
