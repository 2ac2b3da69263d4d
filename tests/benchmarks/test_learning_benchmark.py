"""The benchmark of learning runs; what it compares with is of our size and computes the same. No time is asserted."""

import importlib
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hyperrep.trainer.losses import EpochGenerators, Learner, compute_losses, sum_losses
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.symmetry import permute_units, sample_permutations

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("learning")


def test_the_command_prints_a_line_of_positive_numbers_for_all() -> None:
    command = [sys.executable, str(FOLDER / "learning.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (table,) = re.findall(r"^\|.*(?:\n\|.*)*", done.stdout, re.M)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [line[0] for line in lines] == ["as published, written anew", "**ours**", "**ours**, `--precision bfloat16`"]
    assert all(float(cell.split()[0].replace(",", "")) > 0 for line in lines for cell in line[1:])
    assert lines[0][3] == "1.00 (1.00 to 1.00)"
    assert re.search(r"^matrix products: [1-9]\d* GFLOP/s float32$", done.stdout, re.M)


@pytest.mark.skipif(torch.__version__ < "2.9", reason="an older torch counts no attention on the CPU")
@pytest.mark.parametrize("blocks", [1, 2])
def test_floating_point_operations_are_those_that_torch_counts(learning: Any, blocks: int) -> None:
    case = learning.Case(blocks, width=16, latent=8, batch=6)
    rep, states, how = learning.untrained(case), case.states, case.recipe.learning
    learner = Learner(rep, case.recipe, states)
    with FlopCounterMode(display=False) as counter:
        parts = compute_losses(learner, states[: case.batch], how, None, EpochGenerators.from_epoch(0, 1))
        sum_losses(parts, learner.loss_factors).backward()
    tokens = 48
    again = 2 * 2 * 2 * blocks * tokens**2 * case.width  # attention computes its scores anew on the way back
    assert counter.get_total_flops() == case.batch * (learning.flops_of_a_state(case) + again)


def test_both_are_of_the_same_size(learning: Any) -> None:
    case = learning.Case(2, width=16, latent=8)
    rep, other = learning.untrained(case), learning.published_model(case)
    assert sum(p.numel() for p in rep.parameters()) == sum(p.numel() for p in other.parameters())
    head = Learner(rep, case.recipe, case.states).head
    others = learning.published.projection_head(8, learning.PROJECTION)
    last = 2 * learning.PROJECTION  # it ends with a normalisation, ours does not
    assert sum(p.numel() for p in others.parameters()) == sum(p.numel() for p in head.parameters()) + last


def test_without_blocks_both_compute_the_same(learning: Any) -> None:
    """Neuron by neuron and layer by layer: the same tokens, in the same order, back to the same places."""
    case = learning.Case(1, width=16, latent=8)
    rep, other = learning.untrained(case), learning.published_model(case)
    for module in (rep, other):
        module.encoder, module.decoder = nn.Identity(), nn.Identity()
    for mine, its in ((rep.embedders, other.embedders), (rep.debedders, other.debedders)):
        its.load_state_dict(mine.state_dict())
    for name in ("down", "up"):
        getattr(other, name).load_state_dict(getattr(rep.bottleneck, name).state_dict())
    for name in ("encoder_positions", "decoder_positions"):
        getattr(other, name).weight.data.copy_(getattr(rep, name))
    with torch.no_grad():
        x = case.states[:5]
        torch.testing.assert_close(other.encode(x), rep._encode_normalized(x), rtol=1e-4, atol=1e-5)
        z = rep._encode_normalized(x)
        torch.testing.assert_close(other.decode(z), rep._decode_normalized(z), rtol=1e-4, atol=1e-5)


def test_lists_of_indices_permute_as_networks_are_permuted(learning: Any) -> None:
    architecture = learning.get_architecture(learning.ARCHITECTURE)
    symmetry, size = architecture.symmetry, architecture.layout.size
    state = torch.randn(size, generator=keyed_generator(0, "state"))
    lists = learning.published.index_lists(size, symmetry)
    orders = sample_permutations(symmetry, len(lists), torch.Generator().manual_seed(0))
    expected = permute_units(state.repeat(len(lists), 1), symmetry, orders)
    assert torch.equal(torch.stack([state[indices] for indices in lists]), expected)
    assert len(expected.unique(dim=0)) == len(lists) == 10
