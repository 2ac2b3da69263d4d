"""The card of a hyper-representation: rendered from facts, with code that runs, and with what was measured."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hub_commands import Client
from helpers.hub_server import HubServer
from helpers.processes import execute, hashes
from huggingface_hub import ModelCard

from hyperrep import HyperRepresentation, evaluate
from hyperrep.recipe import HyperRecipe
from hyperrep.release.cards import render_card, representation_card
from hyperrep.storage import TrainingInfo
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError

NOT_EVALUATED = "It was not evaluated: accuracy and novelty of sampled networks were not measured."


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "hyperrep"))


@pytest.fixture(scope="module")
def judged(
    tiny_dataset: Path,
    trained: Path,
    tiny_hyper: HyperRecipe,
    engine: TorchEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of an evaluation, as small as one can be."""
    out = tmp_path_factory.mktemp("cards") / "evaluation"
    asked = dataclasses.replace(tiny_hyper.evaluation, samplers=("kde",), num_finetuned=1, noise=(), mixtures=())
    recipe = dataclasses.replace(tiny_hyper, evaluation=asked)
    evaluate(tiny_dataset, trained, recipe, out, engine=engine, images_root=out.parent)
    return out


def table_of(card: str, first: str) -> list[dict[str, str]]:
    """The Markdown table whose first column has this name."""
    lines = card[card.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


def test_training_leaves_a_card_that_says_what_was_learned_from(
    trained: Path, rep: HyperRepresentation, tiny_dataset: Path
) -> None:
    card, zoo = ModelCard.load(trained / "README.md"), json.loads((tiny_dataset / "zoo.json").read_text())
    assert (card.data.library_name, card.data.license) == (
        "modelzoo-datasets",
        zoo["publication"]["license"] or "unknown",
    )
    assert card.data.tags == ["hyper-representation", "neural-network-weights", "weight-space-learning"]
    for said in (
        f"| states of that config, SHA-256 | `{zoo['configs']['seed']['states_sha256']}` |",
        "| dataset | not published under a known name, config `seed` |",
        "| images | `fashion-mnist-5k` |",
        "| networks | `cnn-s`, activation tanh, 2,464 weights |",
        "| training states | 28 |",
        "| epochs | 1 to 2 of the models of split `train` |",
        f"| auto-encoder | {sum(p.numel() for p in rep.parameters()):,} parameters, {rep.latent_dim:,} latent",
    ):
        assert said in card.content
    recipe = json.loads((trained / "training.json").read_text())["recipe"]
    for section in ("data", "model", "learning"):
        (row,) = (line for line in card.content.splitlines() if line.startswith(f"| its [{section}] |"))
        assert all(re.search(rf"\b{key} ", row) for key in recipe[section])
    assert "None" not in card.content and "[More Information Needed]" not in card.content


def test_without_an_evaluation_the_card_has_what_training_measured_and_says_so(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    with (trained / "metrics.csv").open() as file:
        last = [*csv.DictReader(file)][-1]
    assert f"relative to the training mean: **{float(last['validation_r2']):.4f}**." in card
    assert NOT_EVALUATED in card


def test_its_code_gives_the_same_in_the_folder_and_from_the_hub(
    hub: HubServer, ann: Client, anyone: Client, folder: Path, tmp_path: Path
) -> None:
    shape = "network(torch.zeros(1, 1, 28, 28)).shape"
    shown = f"\nimport torch\nprint(weights.shape, z.shape, {shape}, float(weights.sum()))"
    here = ann.run(execute, str(folder), code_of((folder / "README.md").read_text()) + shown)
    told = here.stdout.splitlines()[-1:]  # after what the client says of a local folder
    assert told and told[0].startswith("torch.Size([10, 2464]) torch.Size([10, "), here.stderr
    assert ann.push(folder, "zoos/tiny-hyperrep").returncode == 0
    pushed = hub.content(hub.repos["models", "zoos/tiny-hyperrep"], "README.md").decode()
    there = anyone.run(execute, str(tmp_path), code_of(pushed) + shown)
    assert there.stdout.splitlines()[-1:] == told, there.stderr


def test_a_folder_of_an_earlier_release_gets_a_card_and_one_of_your_own_stays(folder: Path, trained: Path) -> None:
    facts = json.loads((folder / "training.json").read_text())
    del facts["learned_from"]
    (folder / "training.json").write_text(json.dumps(facts))
    (folder / "README.md").unlink()
    card = render_card(folder)
    assert card is not None and NOT_EVALUATED in card
    assert 'from_pretrained(".")' in card and "license: unknown" in card
    assert not (folder / "README.md").exists()
    (folder / "README.md").write_text(card + "\nMine.\n")
    assert render_card(folder) is None


def test_an_evaluation_puts_the_measured_table_on_the_card(
    ann: Client, hub: HubServer, folder: Path, judged: Path
) -> None:
    assert ann.push(folder, "zoos/tiny-hyperrep").returncode == 0
    result = ann.push(folder, "zoos/tiny-hyperrep", "--evaluation", judged)
    assert (result.returncode, result.stderr) == (0, "")
    card = hub.content(hub.repos["models", "zoos/tiny-hyperrep"], "README.md").decode()
    found = json.loads((judged / "evaluation.json").read_text())
    rows = {row["population"]: row for row in table_of(card, "population")}
    shown = [population for population in found["populations"] if not population["mirrors"]]
    assert [*rows] == [population["name"] for population in shown]
    assert [row["samples"] for row in table_of(card, "samples")] == [*found["judgments"]]
    for population in shown:
        row = rows[population["name"]]
        assert row["n"] == str(population["n"])
        tuned = [curve[1] for curve in population["curves"]]
        assert row["zero-shot"].split(" ± ")[0] == f"{100 * np.mean(population['zero_shot']):.1f}"
        assert row["1 epoch"].split(" ± ")[0] == (f"{100 * np.mean(tuned):.1f}" if tuned else "-")
        for column, key in (("distance", "distance"), ("error overlap (IoU)", "error_similarity")):
            expected = f"{np.mean(population[key]):.2f}" if population[key] else "-"
            assert row[column].split(" ± ")[0] == expected
    r2 = {row["reconstructed split"]: row["R²"] for row in table_of(card, "reconstructed split")}
    assert r2 == {split: f"{part['total']:.4f}" for split, part in found["reconstruction"].items()}
    assert NOT_EVALUATED not in card and "- Samples of kde@50 (n=2) are " in card


def _of_another(folder: Path, evaluation: Path) -> str:
    facts = json.loads((evaluation / "facts.json").read_text())
    facts["trained"]["states_sha256"] = "0" * 64
    (evaluation / "facts.json").write_text(json.dumps(facts))
    return f"{evaluation} is the evaluation of another hyper-representation than {folder}"


def _unfinished(folder: Path, evaluation: Path) -> str:
    (evaluation / "evaluation.json").unlink()
    return f"{evaluation} has no evaluation.json, so the evaluation has not finished; run modelzoo-hyperrep evaluate"


def _older(folder: Path, evaluation: Path) -> str:
    found = json.loads((evaluation / "evaluation.json").read_text())
    (evaluation / "evaluation.json").write_text(json.dumps(found | {"format": "modelzoo-evaluation-1"}))
    return (
        f"{evaluation / 'evaluation.json'} has format 'modelzoo-evaluation-1', but this release reads "
        "'modelzoo-evaluation-4'; run the evaluation again"
    )


def _without_metrics(folder: Path, evaluation: Path) -> str:
    (folder / "metrics.csv").unlink()
    (folder / "README.md").unlink()
    return f"{folder} is incomplete: metrics.csv has no validation R²; run modelzoo-hyperrep train again"


@pytest.mark.parametrize("spoil", [_of_another, _unfinished, _older, _without_metrics])
def test_what_no_card_can_be_made_of_is_told_and_the_card_stays(
    spoil: Any, folder: Path, judged: Path, tmp_path: Path
) -> None:
    evaluation = Path(shutil.copytree(judged, tmp_path / "evaluation"))
    told, before = spoil(folder, evaluation), hashes(folder)
    with pytest.raises(FormatError) as caught:
        render_card(folder, None if spoil is _without_metrics else evaluation)
    assert str(caught.value) == told
    assert hashes(folder) == before


def test_an_evaluation_of_what_is_no_hyper_representation_is_refused(
    anyone: Client, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = anyone.push(tiny_dataset, "zoos/tiny", "--dry-run", "--evaluation", tmp_path)
    told = f"--evaluation is for a hyper-representation, but {tiny_dataset} is a dataset; omit it"
    assert (result.returncode, result.stderr) == (2, f"modelzoo-push: {told}\n")


def test_what_is_saved_from_memory_has_a_card_of_the_hub_and_code_that_runs(
    ann: Client, hub: HubServer, rep: HyperRepresentation, tmp_path: Path
) -> None:
    rep.save_pretrained(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert (card.data.library_name, card.data.license) == ("modelzoo-datasets", "unknown")
    assert card.data.tags == ["hyper-representation", "neural-network-weights", "weight-space-learning"]
    assert "[More Information Needed]" not in card.content
    assert "| networks | `cnn-s`, activation tanh, 2,464 weights |" in card.content
    ran = ann.run(execute, str(tmp_path / "saved"), code_of(card.content) + "\nprint(weights.shape)")
    assert ran.stdout.endswith("torch.Size([10, 2464])\n"), ran.stderr


def test_a_dataset_of_the_hub_is_named_with_its_revision(rep: HyperRepresentation, trained: Path) -> None:
    facts = json.loads((trained / "training.json").read_text())
    origin = {"dataset": "zoos/tiny", "revision": "a" * 40, "license": "mit", "images": "mnist"}
    info = TrainingInfo.from_json(facts | {"learned_from": origin})
    card = ModelCard(representation_card(rep, info, "Unknown."))
    assert (card.data.datasets, card.data.license) == (["zoos/tiny"], "mit")
    assert f"| dataset | `zoos/tiny`, config `seed`, revision `{'a' * 40}` |" in card.content
