"""Reliability ceilings of populations whose noise is known, and against loops."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from hyperrep.probes.bootstrap import Resampling, resample_r2, resample_r2_within
from hyperrep.probes.ceilings import compute_ceiling, compute_ceilings, measure_noise_share
from modelzoo_datasets.seeds import keyed_generator

MODELS, IMAGES, EPOCHS = 120, 600, 3


def population(name: str, *, shared: bool) -> tuple[Tensor, Tensor]:
    """True accuracies (N,), and which images each state gets right (N, B); shared images are easy or hard for all.

    The accuracy of a state is measured on B images of its own, or on the B images of all.
    """
    draws = keyed_generator(0, name)
    epochs = torch.arange(EPOCHS).repeat(MODELS)
    skill = 0.3 * epochs + torch.tensor([0.1, 0.2, 0.3]).repeat(MODELS) * torch.randn(len(epochs), generator=draws)
    difficulty = 2 * torch.randn(100_000, generator=draws)  # of all images there are
    true = torch.stack([torch.sigmoid(2 * (s - difficulty)).double().mean() for s in skill])
    rows = 1 if shared else len(skill)
    chosen = torch.randint(len(difficulty), (rows, IMAGES), generator=draws)
    chances = torch.sigmoid(2 * (skill.unsqueeze(1) - difficulty[chosen]))
    return true, torch.rand(len(skill), IMAGES, generator=draws) < chances


def make_table(hits: Tensor) -> pd.DataFrame:
    epochs = torch.arange(EPOCHS).repeat(MODELS)
    return pd.DataFrame({"epoch": epochs.numpy(), "test_acc": hits.double().mean(dim=1).numpy()})


@pytest.mark.parametrize("shared", [False, True])
def test_the_ceiling_is_what_a_predictor_scores_that_knows_the_true_accuracies(shared: bool) -> None:
    true, hits = population("ceiling", shared=shared)
    table = make_table(hits)
    measured, epochs = torch.tensor(table["test_acc"].to_numpy()), torch.tensor(table["epoch"].to_numpy())
    sample = Resampling.from_models([f"m{i // EPOCHS}" for i in range(len(true))], keyed_generator(0, "bootstrap"))
    predicted = true + (measured - true).mean()  # what the images do to all models is known from the training models
    pooled = float(resample_r2(predicted, measured, sample)[0])
    within = float(resample_r2_within(predicted, measured, epochs, sample)[0])
    found = compute_ceilings("test_acc", table, {"test": IMAGES}, hits)
    assert found["ceiling"] == pytest.approx(pooled, abs=0.03)
    assert found["ceiling_within"] == pytest.approx(within, abs=0.06)
    by_size = compute_ceilings("test_acc", table, {"test": IMAGES})
    assert (found["ceiling_from"], by_size["ceiling_from"]) == ("errors", "size")
    share = measure_noise_share(hits)
    if shared:
        assert share < 0.7 and float(by_size["ceiling_within"]) < within - 0.06, "the size alone says too little"
    else:
        assert share == pytest.approx(1, abs=0.02) and by_size["ceiling"] == pytest.approx(found["ceiling"], abs=0.01)


def test_ceilings_are_one_minus_mean_noise_over_variance_epoch_by_epoch() -> None:
    draws, expected = keyed_generator(1, "ceiling"), []
    table = pd.DataFrame({"epoch": [1, 2, 7, 1, 2, 1, 2, 7, 9, 1, 2, 1]})
    for name in ("test_acc", "train_acc"):
        table[name] = torch.rand(12, generator=draws, dtype=torch.float64).numpy()
    table["ggap"] = table["train_acc"] - table["test_acc"]
    for epochs in ([1], [2], [7], [1, 2, 7, 9]):
        own = table[table["epoch"].isin(epochs)].to_dict("records")
        mean = sum(row["ggap"] for row in own) / len(own)
        spread = sum((row["ggap"] - mean) ** 2 for row in own)
        p, q = ([row[name] for row in own] for name in ("test_acc", "train_acc"))
        noise = sum(a * (1 - a) / 20 + b * (1 - b) / 50 for a, b in zip(p, q, strict=True))
        expected.append(max(0, 1 - noise / spread))
    found = compute_ceilings("ggap", table, {"test": 20, "train": 50})
    assert found["ceiling"] == pytest.approx(expected[-1])
    assert found["ceiling_within"] == pytest.approx(sum(expected[:3]) / 3)  # epoch 9 has one state


def test_the_share_of_the_noise_is_that_of_the_loops() -> None:
    hits = torch.rand(5, 40, generator=keyed_generator(2, "ceiling")) < torch.linspace(0.1, 0.9, 40)
    rows = hits.double().tolist()
    means = [sum(row[b] for row in rows) / 5 for b in range(40)]
    own = binomial = 0.0
    for row in rows:
        less = [value - mean for value, mean in zip(row, means, strict=True)]
        own += sum((value - sum(less) / 40) ** 2 for value in less) / 40 / 4  # n - 1 of n: the mean is of 5 states
        binomial += sum(row) / 40 * (1 - sum(row) / 40) / 5
    assert measure_noise_share(hits) == pytest.approx(own / binomial, rel=1e-4)
    assert measure_noise_share(hits[:1]) == 1 and measure_noise_share(torch.ones(3, 4, dtype=torch.bool)) == 1


def test_there_is_no_ceiling_below_zero_nor_of_what_is_not_known() -> None:
    target = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert compute_ceiling(target, torch.full((3,), 0.1)) == 0
    assert math.isnan(compute_ceiling(torch.ones(3), torch.ones(3)))
    table = pd.DataFrame({"epoch": [1, 1, 1], "test_acc": [0.1, 0.2, 0.3], "ggap": [0.0, 0.1, 0.1]})
    assert compute_ceilings("test_acc", table, {}) == {}
    assert compute_ceilings("epoch", table, {"test": 10, "train": 10}) == {}
    assert compute_ceilings("ggap", table, {"test": 10, "train": 10}) == {}, "the training accuracy is not recorded"
