"""The referee calls copies, noise and averages by their names, and takes networks in any form."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import run
from helpers.steps import StepProgress
from safetensors.torch import save_file
from torch import Tensor

from hyperrep import judge
from hyperrep.evaluation.result import EvaluationResult
from hyperrep.recipe import EvaluationRecipe
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import ArgumentError, FolderInUseError, FormatError
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.weights import permute_units, sample_permutations

PROTOCOL = EvaluationRecipe(num_samples=2, num_finetuned=0, noise=(), mixtures=())
TOML = "[evaluation]\nsamples = 2\ncompared = 1\nfine_tune = [1]\nnoise = []\nmixtures = []\n"


@pytest.fixture(scope="module")
def zoo(tiny_dataset: Path) -> Zoo:
    return load_zoo(tiny_dataset, "seed")


@pytest.fixture(scope="module")
def train(zoo: Zoo) -> Tensor:
    """The last states of the 14 training models, (14, P)."""
    return zoo[((zoo.table["split"] == "train") & (zoo.table["epoch"] == 2)).to_numpy()].weights


def judged(states: Any, zoo: Zoo | Path, engine: TorchEngine, **options: Any) -> EvaluationResult:
    return judge(states, zoo, protocol=options.pop("protocol", PROTOCOL), engine=engine, **options)


def renumbered(weights: Tensor, zoo: Zoo) -> Tensor:
    """The same networks with their units in another order, the last one first."""
    symmetry = zoo.architecture.symmetry
    return permute_units(weights, symmetry, sample_permutations(symmetry, len(weights), seed=3)).flip(0)


def test_training_states_with_their_units_in_another_order_are_copies(
    zoo: Zoo, train: Tensor, engine: TorchEngine
) -> None:
    result = judged(renumbered(train[:5], zoo), zoo, engine)
    assert result.judgments["samples"].kind == "copies"
    assert result.judgments["samples"].distance < 1e-5
    (samples,) = (p for p in result.populations if p.is_sample)
    assert len({model for model, _ in samples.nearest}) == 5 and {epoch for _, epoch in samples.nearest} == {2}


def test_training_states_with_noise_are_not_new(zoo: Zoo, train: Tensor, engine: TorchEngine) -> None:
    noise = 0.5 * train.std() * torch.randn(train.shape, generator=torch.Generator().manual_seed(0))
    judgment = judged(renumbered((train + noise)[:8], zoo), zoo, engine).judgments["samples"]
    assert judgment.kind in ("noise", "averages")
    assert 0.05 < judgment.distance < 1


def test_means_of_training_states_are_not_new(zoo: Zoo, train: Tensor, engine: TorchEngine) -> None:
    judgment = judged((train[:7] + train[7:]) / 2, zoo, engine).judgments["samples"]
    assert judgment.kind in ("noise", "averages")


def test_models_of_the_test_split_are_no_copies(zoo: Zoo, engine: TorchEngine) -> None:
    states = zoo[((zoo.table["split"] == "test") & (zoo.table["epoch"] > 0)).to_numpy()].weights
    result = judged(states, zoo, engine, name="test models")
    judgment = result.judgments["test models"]
    assert judgment.kind in ("noise", "averages", "new") and judgment.distance > 0.3
    by_name = {population.name: population for population in result.populations}
    assert {*by_name["zoo members"].zero_shot} < {*by_name["test models"].zero_shot}
    assert result.offset == 2 and "scratch" in by_name and not result.probes


@pytest.fixture(scope="module")
def folder(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 6 networks: training states with their units in another order, as other people's code writes them."""
    path = tmp_path_factory.mktemp("samples")
    last = zoo[((zoo.table["split"] == "train") & (zoo.table["epoch"] == 2)).to_numpy()].weights[:6]
    for i, weights in enumerate(renumbered(last, zoo)):
        state = {name: tensor.clone() for name, tensor in zoo.layout.unpack(weights).items()}
        if i % 2:
            torch.save({"state_dict": state}, path / f"{i}.pt")
        else:
            save_file(state, path / f"{i}.safetensors")
    return path


def test_the_command_judges_a_folder_of_files_and_resumes(folder: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "protocol.toml").write_text(TOML)
    out = tmp_path / "out"
    words: list[Any] = ["modelzoo-judge", folder, "--against", tiny_dataset / "seed", "--out", out, "--quiet"]
    words += ["--protocol", tmp_path / "protocol.toml", "--engine", "torch", "--threads", "1"]
    first = run(words)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    sentence = "The samples are copies: they are 0.000 layer standard deviations from the nearest training state."
    assert lines[0] == sentence and lines[-1] == f"open {out / 'report.html'}"
    assert (out / "summary.md").read_text().startswith(f"{sentence}\n\n| samples | they are | zero-shot |")
    page = (out / "report.html").read_text()
    assert page.index("data:image/png") < page.index(sentence) < page.index("<h2>Findings")
    for heading in ("Reconstruction", "Property", "The latent", "Transfer", "Ensembles"):
        assert f"<h2>{heading}" not in page
    before = (out / "evaluation.json").read_text()
    (out / "evaluation.json").unlink()
    (out / "populations" / "samples.json").unlink()
    assert run(words).returncode == 0
    cut = [re.sub(r'"cpu_seconds": [\d.e-]+', "", text) for text in (before, (out / "evaluation.json").read_text())]
    assert cut[0] == cut[1]


def test_what_is_finished_is_read_and_another_judgment_is_refused(
    zoo: Zoo, train: Tensor, engine: TorchEngine, tmp_path: Path
) -> None:
    first = judged(train[:3], zoo, engine, out=tmp_path / "out")
    steps: list[str] = []
    progress = StepProgress(lambda what, done, total: steps.append(what))
    assert judged(train[:3], zoo, engine, out=tmp_path / "out", progress=progress) == first
    assert json.loads((tmp_path / "out" / "facts.json").read_text())["samples"] == "samples" and not steps
    told = f"output folder {tmp_path / 'out'} holds another evaluation; pass a different --out"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        judged(train[1:4], zoo, engine, out=tmp_path / "out")


def test_what_cannot_be_judged_is_refused_in_one_line(
    zoo: Zoo, train: Tensor, engine: TorchEngine, tmp_path: Path
) -> None:
    def refused(states: Any, against: Any = zoo, **options: Any) -> str:
        with pytest.raises((FormatError, ArgumentError)) as caught:
            judged(states, against, engine, out=tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    broken = train.clone()
    broken[3, 5] = torch.nan
    assert refused(broken) == (
        "1 of 14 samples have weights that are not finite, the first is number 3 from 0; leave them out, and say so in "
        "the name of the samples"
    )
    expected = "samples must be models of cnn-s, which has 2,464 weights; one "
    assert refused(torch.zeros(5, 7)) == f"{expected}is a tensor of shape (5, 7), expected (n, 2464)"
    assert refused([{"a": torch.zeros(1), "b": torch.zeros(1)}]) == f"{expected}has 2 tensors, expected 10"
    assert refused(train[:1]) == "a judgment compares populations: expected 2 or more samples, got 1"
    assert refused(train, name="noise 3") == (
        "'noise 3' is the name of another population of the judgment; choose another name"
    )
    test = zoo[(zoo.table["split"] == "test").to_numpy()]
    assert refused(train, test) == "the zoo has no states of the split 'train', which samples are compared with"
    without = dataclasses.replace(zoo, table=zoo.table.drop(columns="split"))
    assert refused(train, without) == "the zoo was loaded without the columns split; load it with all columns"


def test_equal_work_is_amortized_over_the_samples_that_are_judged(zoo: Zoo, train: Tensor, engine: TorchEngine) -> None:
    protocol = dataclasses.replace(PROTOCOL, num_finetuned=1, finetune_epochs=(1,), max_equal_epochs=1)
    result = judged(train[:3], zoo, engine, protocol=protocol, gradients=9000)
    assert result.equal_work is not None
    assert (result.equal_work.gradients, result.equal_work.num_samples) == (9000, 3)
    assert [row.population for row in result.tests if row.question == "equal work"] == ["samples"] * 2
    assert judged(train[:3], zoo, engine).equal_work is None
