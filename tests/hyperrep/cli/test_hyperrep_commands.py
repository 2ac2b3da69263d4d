"""modelzoo-hyperrep as users meet it: what it prints and writes, and failures as one line with exit status 2."""

import csv
import json
from pathlib import Path

import pytest

from hyperrep.cli import hyperrep_command
from hyperrep.cli.hyperrep_command import sample_command
from hyperrep.data import drop_untrained, parse_source
from hyperrep.evaluation.baselines import BASELINES
from hyperrep.model.samplers import SAMPLERS
from hyperrep.probe_step import probe
from hyperrep.recipe import HyperRecipe
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.loading import load_zoo


def test_probes_are_written_as_json_and_csv(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, tmp_path: Path
) -> None:
    rows = probe(tiny_dataset, trained, tiny_hyper, out=tmp_path / "probes")
    written = json.loads((tmp_path / "probes" / "probes.json").read_text())
    assert written["probes"] == [vars(row) for row in rows]
    assert (written["config"], written["test_on"]) == ("seed", None)
    with (tmp_path / "probes" / "probes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["representation"] for row in table] == [row.representation for row in rows]
    assert [float(row["r2"]) for row in table] == [row.r2 for row in rows]
    assert probe(tiny_dataset, trained, tiny_hyper, out=tmp_path / "probes") == rows
    with pytest.raises(FolderInUseError) as caught:
        probe(tiny_dataset, trained, tiny_hyper, test_on=f"{tiny_dataset}/hyp", out=tmp_path / "probes")
    assert str(caught.value) == (
        f"output folder {tmp_path / 'probes'} already contains other files; pass a different --out or delete it"
    )


def test_another_config_is_tested_on(tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe) -> None:
    here = probe(tiny_dataset, trained, tiny_hyper)
    there = probe(tiny_dataset, trained, tiny_hyper, test_on=f"{tiny_dataset}/hyp")
    assert [(row.property, row.representation) for row in there] == [(r.property, r.representation) for r in here]
    assert {row.models for row in here} == {3} and {row.models for row in there} == {2}


def test_probes_need_no_hyper_representation(
    tiny_dataset: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"{tiny_dataset}/seed", "--out", str(tmp_path / "probes"), "--quiet", "--threads", "1"]
    hyperrep_command.app(["probe", *arguments], standalone_mode=False)
    shown = capsys.readouterr().out
    assert (
        "R² in an epoch" in shown and "- R² in an epoch: around the mean of each epoch, mean over epochs 1, 2" in shown
    )
    rows = probe(tiny_dataset, config="seed", out=tmp_path / "probes")
    assert {"W", "s(W)", "answers"} < {row.representation for row in rows} and "z" not in {
        r.representation for r in rows
    }
    written = json.loads((tmp_path / "probes" / "probes.json").read_text())
    assert (written["config"], written["hyperrep_sha256"], written["max_weight"]) == ("seed", None, 5.0)
    with pytest.raises(FolderInUseError):
        probe(tiny_dataset, config="seed", max_weight=4.0, out=tmp_path / "probes")
    with pytest.raises(FormatError) as refused:
        probe(f"{tiny_dataset}/hyp", trained)
    assert str(refused.value) == (
        "the hyper-representation was trained on config 'seed', got 'hyp'; name no config, or probe it without the "
        "hyper-representation"
    )


def test_untrained_states_are_not_probed_and_where_all_are_it_is_said(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe
) -> None:
    assert {row.states for row in probe(tiny_dataset, trained, tiny_hyper)} == {6}  # epochs 1 and 2 of 3 models
    with pytest.raises(FormatError) as caught:
        drop_untrained(load_zoo(tiny_dataset, "seed", split="test", epochs=[0]))
    assert str(caught.value) == "all 3 states are of epoch 0, untrained: probes need states of trained models"


def test_a_source_is_a_dataset_or_a_config_of_one(tiny_dataset: Path) -> None:
    assert parse_source(str(tiny_dataset)) == (str(tiny_dataset), None)
    assert parse_source(f"{tiny_dataset}/hyp") == (str(tiny_dataset), "hyp")
    assert parse_source("zoos/tiny") == ("zoos/tiny", None)
    assert parse_source("zoos/tiny/hyp") == ("zoos/tiny", "hyp")
    for text in ("tiny", "/nowhere/at/all"):
        with pytest.raises(FormatError) as caught:
            parse_source(text)
        assert str(caught.value) == (
            f"{text} is not a dataset folder, a repo, or a config of one; write DATASET or DATASET/CONFIG"
        )


def test_the_help_names_every_sampler_and_baseline() -> None:
    words = (sample_command.__doc__ or "").replace(",", " ").replace(";", " ").replace(".", " ").split()
    assert {*SAMPLERS, *BASELINES} <= {*words}
