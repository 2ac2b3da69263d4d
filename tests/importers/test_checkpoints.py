"""Checkpoints that look alike are read without unpickling each, and to the same numbers."""

import io
from typing import Any

import pytest
import torch
from helpers.untrained_originals import state_of
from torch import Tensor

from modelzoo_datasets.importers import checkpoint_templates
from modelzoo_datasets.importers.base import Skipped
from modelzoo_datasets.importers.checkpoints import read_checkpoint


def _saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_files_that_look_alike_are_read_without_unpickling_each(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, loads = checkpoint_templates.CheckpointReader(10**6), []
    monkeypatch.setattr(
        checkpoint_templates, "read_checkpoint", lambda content, size: loads.append(1) or read_checkpoint(content, size)
    )
    for seed in range(5):
        state = state_of(seed, 0)
        found = reader.read(_saved(state))
        assert list(found) == list(state)
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert len(loads) == 2  # the first, and its copy with the numbers counted through
    for other in ({**state_of(1, 1), "more": torch.zeros(1)}, state_of(1, 1, "cnn-residual"), {"a": torch.ones(2464)}):
        found = reader.read(_saved(other))
        assert all(torch.equal(found[name], tensor) for name, tensor in other.items())
    assert len(loads) == 5


def test_no_bit_of_a_file_can_change_unnoticed() -> None:
    reader, content = checkpoint_templates.CheckpointReader(10**6), _saved(state_of(1, 1))
    state, refused = reader.read(content), 0
    for byte in range(0, len(content), 97):
        changed = bytearray(content)
        changed[byte] ^= 4
        try:
            found = reader.read(bytes(changed))
        except Skipped:
            refused += 1
            continue
        # Read all the same: of a zip not every bit says something of its content, such as those of a date.
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert refused > 100


@pytest.mark.parametrize(
    "state",
    [
        {"a.weight": torch.randn(3, 4).T, "a.bias": torch.zeros(3)},  # another order in memory
        {"a.weight": (shared := torch.randn(4)), "b.weight": shared},
        {"a.weight": torch.randn(8)[2:5], "b.weight": torch.zeros(2)},
        {"a.weight": torch.randn(3, dtype=torch.float64), "b.weight": torch.tensor(3)},
        {"a.weight": torch.zeros(0), "b.weight": torch.zeros(3)},
    ],
)
def test_states_that_lie_otherwise_in_memory_are_read_too(state: dict[str, Tensor]) -> None:
    reader = checkpoint_templates.CheckpointReader(10**6)
    for factor in (1, 2, 3):
        wanted = {name: tensor * factor for name, tensor in state.items()}
        if state["a.weight"].data_ptr() == state["b.weight" if "b.weight" in state else "a.bias"].data_ptr():
            wanted = dict.fromkeys(state, wanted["a.weight"])
        found = reader.read(_saved(wanted))
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
