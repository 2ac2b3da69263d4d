"""Networks without images are judged by a function of the user's."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.processes import run
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperrep import judge
from hyperrep.recipe import EvaluationRecipe
from modelzoo_datasets.architectures import Architecture, architecture_from_layout, build_module
from modelzoo_datasets.errors import ArgumentError, PluginError, RecipeError
from modelzoo_datasets.loading import Zoo, load_zoo

PROTOCOL = EvaluationRecipe(num_samples=6, noise=(), mixtures=())
X = torch.linspace(-1, 1, 32).unsqueeze(1)
NET = Architecture(
    "line",
    input_shape=(1, 1, 1),
    classes=1,
    build=lambda activation, dropout: nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)),
)


def fit(module: nn.Module) -> float:
    """Minus the squared error of a network that should compute 2 x."""
    with torch.no_grad():
        return -float((module(X) - 2 * X).square().mean())


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    """10 training and 4 test networks of 19 weights, all near one that computes about 2 x."""
    generator = torch.Generator().manual_seed(0)
    center = torch.cat([torch.full((6,), 0.5), torch.zeros(6), torch.full((6,), 0.7), torch.zeros(1)])
    weights = center + 0.3 * torch.randn(14, 19, generator=generator)
    table = pd.DataFrame({"model_id": [f"m{i}" for i in range(14)], "epoch": 5, "split": ["train"] * 10 + ["test"] * 4})
    return Zoo(weights=weights, table=table, layout=NET.layout, architecture=NET, images="unknown")


def test_scores_stand_in_place_of_accuracy(zoo: Zoo, tmp_path: Path) -> None:
    result = judge(zoo.weights[10:], zoo, score=fit, protocol=PROTOCOL, out=tmp_path / "out")
    assert result.score == "fit" and result.judgments["samples"].kind != "copies"
    by_name = {population.name: population for population in result.populations}
    assert list(by_name["samples"].zero_shot) == pytest.approx(
        [fit(build_module(NET, weights, activation="")) for weights in zoo.weights[10:]]
    )
    kinds = {name.removesuffix(" like samples") for name in by_name if name.endswith(" like samples")}
    assert {"noise", "retrieval"} <= kinds <= {"noise", "average", "PCA Gaussian", "retrieval"}
    assert "scratch" not in by_name
    assert not any(p.curves or p.error_overlap or p.ensembles or "REPAIR" in p.name for p in by_name.values())
    assert result.judgments["samples"].weight_dispersion == pytest.approx(1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Scores by fit, mean" in page and "any real number, higher is better" in page
    assert not re.search(r"they score -?[\d.]+ %", page) and "points" not in page.split("<h2>Findings")[0]
    copies = judge(zoo.weights[:10], zoo, score=fit, protocol=PROTOCOL)
    assert copies.judgments["samples"].kind == "copies"


def test_what_a_score_must_be_is_said_in_one_line(zoo: Zoo) -> None:
    def refused(score: Any, against: Zoo = zoo) -> str:
        with pytest.raises((ArgumentError, PluginError, RecipeError)) as caught:
            judge(zoo.weights[10:], against, score=score, protocol=PROTOCOL)
        return str(caught.value)

    assert refused(lambda module: float("nan")) == (
        "the score of model 0 of zoo members is nan, expected a finite number; return a low one for networks that fail"
    )
    assert refused(lambda module: 1 // 0).startswith(
        "the score of model 0 of zoo members fails: ZeroDivisionError: integer division"
    )
    unknown = architecture_from_layout("line", NET.layout)
    other = Zoo(weights=zoo.weights, table=zoo.table, layout=NET.layout, architecture=unknown, images="unknown")
    assert refused(fit, other).startswith("architecture 'line' is not registered, so that only its tensors are known")


def test_the_command_takes_a_function_of_a_file(tiny_dataset: Path, tmp_path: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed", split="train", epochs=[2])
    weights: Tensor = zoo.weights[:4] + 0.02
    save_file({"weights": weights}, tmp_path / "samples.safetensors")
    (tmp_path / "score.py").write_text(
        "import torch\n\ndef light(module):\n    return -sum(float(p.abs().sum()) for p in module.parameters())\n"
    )
    (tmp_path / "protocol.toml").write_text("[evaluation]\nsamples = 4\nnoise = []\nmixtures = []\n")
    words = ["modelzoo-judge", tmp_path / "samples.safetensors", "--against", tiny_dataset / "seed", "--quiet"]
    words += ["--protocol", tmp_path / "protocol.toml", "--score"]
    result = run([*words, f"{tmp_path / 'score.py'}:light"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("The samples are ")
    assert result.stdout.splitlines()[-1] == (
        "scores know of no images: no error overlap, no fine-tuning, no ensembles, no REPAIR"
    )
    missing = run([*words, f"{tmp_path / 'score.py'}:heavy"])
    assert missing.returncode == 2
    assert missing.stderr == (
        f"modelzoo-judge: plugin {tmp_path / 'score.py'} has no function 'heavy'; define it at the top of the file\n"
    )
    assert "expected FILE:FUNCTION, such as score.py:score; got 'light'" in run([*words, "light"]).stderr
