"""The report: opens offline, says what the numbers say, equal values give equal bytes."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modelzoo_datasets.report import accuracy_table, print_table, probe_table, render_report
from modelzoo_datasets.report.verdicts import verdicts


def population(name: str, start: float, end: float, n: int = 8, distance: float = 0.5) -> dict[str, Any]:
    """n models whose accuracy rises from about `start` to about `end` in two epochs."""
    wiggle = 0.01 * np.sin(np.arange(n))
    curves = np.stack([start + wiggle, (start + end) / 2 + wiggle, end + wiggle], axis=1)
    return {
        "name": name,
        "what": f"what {name} is",
        "n": n,
        "zero_shot": curves[:, 0].tolist(),
        "curves": curves.tolist(),
        "distance": (distance + wiggle).tolist(),
    }


def evaluation(sample: float, noise: float) -> dict[str, Any]:
    """An evaluation in which samples of kde score `sample` zero-shot and noise scores `noise`."""
    reconstruction = {"total": 0.8, "layers": [0.9, 0.7], "n": 4}
    return {
        "populations": [
            population("zoo members", 0.8, 0.8),
            population("reconstructed unseen", 0.4, 0.7),
            population("reconstructed training", 0.7, 0.8),
            population("average of all", 0.6, 0.7, n=1),
            population("kde", sample, 0.75),
            population("noise like kde", noise, 0.7),
            population("scratch", 0.1, 0.5) | {"distance": []},
        ],
        "probes": {"test_acc": {"W": -0.5, "s(W)": 0.98, "z": 0.9}},
        "reconstruction": {"train": reconstruction, "test": reconstruction | {"total": 0.5}},
        "embeddings": {
            "train": {"z": [[0.0, 1.0], [1.0, 0.0]], "test_acc": [0.5, 0.6]},
            "test": {"z": [[0.5, 1.0], [1.0, 0.2]], "test_acc": [0.4, 0.7]},
            "kde": {"z": [[0.1, 0.1]]},
        },
    }


def page(found: dict[str, Any]) -> str:
    table = pd.DataFrame({"model_id": ["a", "a", "b", "b"], "epoch": [0, 1, 0, 1], "test_acc": [0.1, 0.6, 0.1, 0.7]})
    return render_report("A <zoo>", {"seed": table, "hyp": table}, ["8×1", "2×8"], found, {"models": "2"})


def test_the_page_holds_everything_it_shows() -> None:
    text = page(evaluation(0.6, 0.4))
    assert text.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert "A &lt;zoo&gt;" in text


def test_equal_values_give_equal_bytes_and_others_do_not() -> None:
    assert page(evaluation(0.6, 0.4)) == page(evaluation(0.6, 0.4))
    assert page(evaluation(0.6, 0.4)) != page(evaluation(0.6, 0.5))


@pytest.mark.parametrize(("sample", "noise", "word"), [(0.6, 0.4, "beat"), (0.4, 0.6, "lose to"), (0.5, 0.5, "equal")])
def test_the_words_about_noise_follow_the_numbers(sample: float, noise: float, word: str) -> None:
    found = evaluation(sample, noise)
    said = verdicts({p["name"]: p for p in found["populations"]}, found)
    assert any(f"the samples {word} noise at equal novelty" in sentence for sentence in said)


def test_the_words_about_reconstruction_and_scratch_follow_the_numbers() -> None:
    found = evaluation(0.6, 0.4)
    by_name = {p["name"]: p for p in found["populations"]}
    said = verdicts(by_name, found)
    assert said[0].startswith("Reconstructions of unseen models keep 50% of the accuracy")
    assert said[-1] == (
        "Fine-tuned samples of kde beside training from scratch: above it after 1 epoch (67.6 % against 30.1 %) and "
        "above it after 2 epochs (75.1 % against 50.1 %)."
    )
    assert said[-2].startswith("Fine-tuned samples of kde beside noise of that size: above it after 1 epoch")
    worse = verdicts({**by_name, "scratch": population("scratch", 0.9, 0.9)}, found)
    assert "below it after 2 epochs" in worse[-1]


def test_tables_give_mean_and_standard_deviation_in_percent(capsys: pytest.CaptureFixture[str]) -> None:
    table = accuracy_table([population("one", 0.5, 0.7, n=1), population("kde", 0.5, 0.7)]).set_index("population")
    values = 50 + np.sin(np.arange(8))
    assert table.loc["kde", "zero-shot"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert table.loc["one", "zero-shot"] == "50.0"
    assert table.loc["one", "distance"] == "0.50"
    print_table(table.reset_index())
    print_table(probe_table({"epoch": {"W": 0.5}}))
    shown = capsys.readouterr().out
    assert table.loc["kde", "zero-shot"] in shown
    assert "…" not in shown
    assert "0.500" in shown
