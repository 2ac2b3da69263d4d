"""The benchmarks of engines run and print what they promise; rivals compute what they should. No time is asserted."""

import importlib
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers.paths import ROOT

from modelzoo_datasets.engines import ENGINES
from modelzoo_datasets.engines.chain import get_chain

FOLDER = ROOT / "benchmarks"
# The torch engine starts processes of its own, which takes longer than all the rest: one core, and it starts none.
ENGINE = ["--engine", "native"] if "native" in ENGINES else ["--engine", "torch", "--cores", "1"]
TRAINING = {"plain PyTorch loop", "plain loop, channels last", "DataLoader loop", "torch.func vmap(grad)"}
EVALUATING = {f"loop, batches of {batch}" for batch in (10, 100, 500)} | {"loop, channels last, 500"}
FINE_TUNING = {"loop", "loop, channels last"}


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("stacked")


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text: per line of a table its cells by column."""
    found: list[list[dict[str, str]]] = []
    for block in re.findall(r"^\|.*(?:\n\|.*)*", text, re.M):
        names, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found.append([dict(zip(names, cells, strict=True)) for cells in lines])
    return found


def check(table: list[dict[str, str]], rivals: set[str], columns: set[str]) -> None:
    """Every rival has a line, in which all of these columns begin with a positive number."""
    assert {line["rival"] for line in table} == rivals | {"**ours**"}
    for line in table:
        for column in columns:
            assert float(line[column].split()[0].replace(",", "")) > 0, (column, line)


def test_both_commands_print_a_line_of_positive_numbers_for_every_rival() -> None:
    commands = [[sys.executable, str(FOLDER / f"{name}.py"), "--quick", *ENGINE] for name in ("training", "evaluating")]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    said = [process.communicate(timeout=300) for process in running]
    for process, (_, error) in zip(running, said, strict=True):
        assert process.returncode == 0, error
    (training,), (evaluating, fine_tuning) = (tables(out) for out, _ in said)
    everywhere = {"processes", "MB per process"}
    check(training, TRAINING, {*everywhere, "steps/s per core", "x plain (min to max)", "x plain by CPU"})
    measured = {*everywhere, "model-images/s", "x loop (min to max)", "x loop by CPU", "x channels last"}
    check(evaluating, EVALUATING, measured)
    check(fine_tuning, FINE_TUNING, measured)
    for out, _ in said:
        assert "load average at the start" in out and "load average at the end" in out


def test_floating_point_operations_of_an_image(stacked: Any) -> None:
    """Against numbers worked out by hand for both networks."""
    flops = importlib.import_module("machine").flops
    found = flops("cnn-s"), flops("cnn-m")
    assert [(f.dense, f.sparse) for f in found] == [(932_304, 529_104), (6_650_832, 3_408_816)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("architecture", ["cnn-s", "cnn-m"])
def test_stacked_models_compute_what_each_of_them_computes(stacked: Any, architecture: str, shared: bool) -> None:
    modules, x = _modules(stacked, architecture, 8)
    weights = [torch.stack(same) for same in zip(*(list(m.parameters()) for m in modules), strict=True)]
    of_each = x[:1].expand(len(modules), *x.shape[1:]) if shared else x
    stages, channels = get_chain(architecture, "tanh", 0.0), x.shape[2]
    given = x[0] if shared else x.transpose(0, 1).reshape(x.shape[1], len(x) * channels, *x.shape[3:])
    with torch.no_grad():
        expected = torch.stack([module(images) for module, images in zip(modules, of_each, strict=True)])
        torch.testing.assert_close(stacked._stacked_logits(stages, weights, given), expected)


@pytest.mark.parametrize("architecture", ["cnn-s", "cnn-m"])
def test_the_model_in_jax_computes_the_same(stacked: Any, architecture: str) -> None:
    jax = pytest.importorskip("jax")
    (module,), x = _modules(stacked, architecture, 1)
    weights = [stacked._as_jax(parameter.detach().numpy()) for parameter in module.parameters()]
    stages = get_chain(architecture, "tanh", 0.0)
    found = stacked._jax_logits(jax, stages, weights, x[0].permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(torch.tensor(found.tolist()), module(x[0]).detach(), rtol=1e-4, atol=1e-5)


def _modules(stacked: Any, architecture: str, count: int) -> tuple[list[torch.nn.Module], torch.Tensor]:
    """Modules and images (M, B, C, H, W)."""
    modules = [stacked.fresh_module(architecture, seed) for seed in range(count)]
    shape = get_chain(architecture, "tanh", 0.0)[0].input_shape
    return modules, torch.randn(count, 5, *shape, generator=torch.Generator().manual_seed(0))
