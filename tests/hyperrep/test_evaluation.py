"""The protocol: populations are what they are called, judging measures what it says, and `evaluate` resumes."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation, evaluate, load_representation, train
from hyperrep.evaluation import (
    PROBED,
    Population,
    embeddings_2d,
    judge,
    novelty,
    populations,
    probe_all,
    reconstruction,
    scratch,
)
from hyperrep.probes import ridge_r2
from hyperrep.recipe import DataRecipe, EvaluationRecipe, HyperRecipe, LearningRecipe, ModelRecipe
from hyperrep.run import probe
from hyperrep.samplers import SAMPLERS, best_states
from hyperrep.training import reconstruction_r2
from modelzoo_datasets.engines import Network
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import generator
from modelzoo_datasets.symmetry import permute, random_permutations

PROTOCOL = EvaluationRecipe(samples=2, quality=0.5, compared=1, fine_tune_epochs=1)
RECIPE = HyperRecipe(
    name="tiny",
    data=DataRecipe(config="seed", epochs=(1, 2)),
    model=ModelRecipe(width=16, blocks=1, heads=2, feedforward=32, bottleneck="tokens", latent=0.2, projection=8),
    learning=LearningRecipe(epochs=3, batch_size=7, lr=3e-3, weight_decay=1e-2),
    evaluation=PROTOCOL,
)
FIXED = {"zoo members": 3, "reconstructed unseen": 3, "reconstructed training": 14}
BASELINES = FIXED | {"average of pairs": 1, "average of all": 1}


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny hyper-representation."""
    folder = tmp_path_factory.mktemp("evaluation") / "hyperrep"
    train(tiny_dataset, RECIPE, folder)
    return folder


@pytest.fixture(scope="module")
def rep(trained: Path) -> HyperRepresentation:
    """The tiny hyper-representation."""
    return load_representation(trained)


@pytest.fixture(scope="module")
def zoo(tiny_dataset: Path) -> dict[str, Zoo]:
    """The states it was learned from, and those of the other splits."""
    splits = ("train", "validation", "test")
    return {s: load_zoo(tiny_dataset, "seed", split=s, epochs=(1, 2)) for s in splits}


@pytest.fixture(scope="module")
def populated(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> dict[str, Population]:
    """All populations by name."""
    found = populations(rep, {s: zoo[s] for s in ("train", "test")}, PROTOCOL)
    assert len({population.name for population in found}) == len(found)
    return {population.name: population for population in found}


@pytest.fixture(scope="module")
def evaluated(
    tiny_dataset: Path, trained: Path, engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of an evaluation and its report."""
    out = tmp_path_factory.mktemp("evaluation") / "evaluation"
    report = evaluate(tiny_dataset, trained, RECIPE, out, engine=engine, images_root=out.parent)
    return out, report


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_the_populations_have_their_names_and_sizes(populated: dict[str, Population]) -> None:
    sampled = [name for sampler in SAMPLERS for name in (sampler, f"noise like {sampler}")]
    assert list(populated) == [*BASELINES, *sampled]
    for name, population in populated.items():
        assert population.weights.shape == (BASELINES.get(name, PROTOCOL.samples), 2464)
        assert population.weights.isfinite().all()
        assert population.what


def test_as_many_models_are_fine_tuned_as_the_protocol_says(populated: dict[str, Population]) -> None:
    for name, population in populated.items():
        assert population.fine_tuned == (PROTOCOL.samples if name in SAMPLERS else PROTOCOL.compared)


def test_zoo_members_and_reconstructions_are_those_of_the_last_epoch(
    rep: HyperRepresentation, zoo: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    last = {s: rep.align(part.select(part.table["epoch"] == 2).weights) for s, part in zoo.items()}
    assert torch.equal(populated["zoo members"].weights, last["test"])
    for name, split in (("unseen", "test"), ("training", "train")):
        found = populated[f"reconstructed {name}"].weights
        torch.testing.assert_close(found, rep.decode(rep.embed(last[split])))


def test_averages_are_means_of_training_states(
    rep: HyperRepresentation, zoo: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    aligned = rep.align(zoo["train"].weights)
    best = aligned[best_states(rep.accuracy, PROTOCOL.quality)]
    pairs = torch.stack([(a + b) / 2 for a, b in itertools.combinations(best, 2)])
    for average in populated["average of pairs"].weights:
        assert float((average - pairs).abs().amax(dim=1).min()) < 1e-6
    mean = torch.stack(list(aligned.double())).sum(dim=0) / 28
    torch.testing.assert_close(populated["average of all"].weights[0], mean.float())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_is_exactly_as_far_from_a_good_training_state_as_its_sample_is_from_all(
    rep: HyperRepresentation, zoo: dict[str, Zoo], populated: dict[str, Population], sampler: str
) -> None:
    aligned = rep.align(zoo["train"].weights)
    best = aligned[best_states(rep.accuracy, PROTOCOL.quality)]
    sampled = populated[sampler].weights
    versions = torch.stack([distances(w, aligned, rep.scale) for w in (sampled, rep.align(sampled))])
    expected = versions.amin(dim=(0, 2))
    moved = distances(populated[f"noise like {sampler}"].weights, best, rep.scale)
    off = (moved - expected.unsqueeze(1)).abs().min(dim=1).values
    assert float((off / expected).max()) < 1e-4
    assert float(expected.min()) > 0.01


def test_populations_repeat_and_follow_the_seed_of_the_protocol(
    rep: HyperRepresentation, zoo: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    for seed in (0, 1):
        protocol = dataclasses.replace(PROTOCOL, seed=seed)
        for again in populations(rep, zoo, protocol):
            same = torch.equal(again.weights, populated[again.name].weights)
            drawn = again.name not in {*FIXED, "average of all"}
            assert same is (seed == 0 or not drawn), again.name


def test_judging_measures_zero_shot_as_the_engine_does_and_fine_tunes_the_first_models(
    rep: HyperRepresentation, zoo: dict[str, Zoo], engine: TorchEngine, few_images: Images
) -> None:
    aligned = rep.align(zoo["train"].weights)
    training = zoo["train"].training(0)
    protocol = dataclasses.replace(PROTOCOL, fine_tune_epochs=2)
    weights = rep.align(zoo["test"].weights)[:3]
    population = Population(name="some", what="three test states", weights=weights, fine_tuned=2)
    found = judge(population, rep, aligned, engine, few_images, training, protocol)
    accuracy = engine.evaluate("cnn-s", few_images, weights, [Network("tanh")] * 3, "test").accuracy
    assert found["zero_shot"] == accuracy.tolist()
    curves = torch.tensor(found["curves"])
    assert curves.shape == (2, 3)
    assert curves[:, 0].tolist() == pytest.approx(found["zero_shot"][:2])
    assert found["distance"] == pytest.approx(distances(weights, aligned, rep.scale).amin(dim=1).tolist(), rel=1e-4)
    assert (found["name"], found["what"], found["n"]) == ("some", "three test states", 3)
    alone = dataclasses.replace(population, weights=weights[:1], fine_tuned=5)
    assert judge(alone, rep, aligned, engine, few_images, training, protocol)["curves"] == found["curves"][:1]


def test_scratch_is_the_zoos_own_table(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    for epochs in (1, 2):
        found = scratch(zoo, epochs)
        curves: dict[str, list[float]] = {}
        for row in zoo.table.sort_values(["model_id", "epoch"]).to_dict("records"):
            if row["epoch"] <= epochs:
                curves.setdefault(row["model_id"], []).append(row["test_acc"])
        assert found["curves"] == list(curves.values())
        assert found["zero_shot"] == [curve[0] for curve in curves.values()]
        assert found["n"] == 20


def test_training_states_and_their_permuted_copies_are_no_new_models(
    rep: HyperRepresentation, zoo: dict[str, Zoo]
) -> None:
    aligned = rep.align(zoo["train"].weights)
    assert novelty(rep, aligned, aligned).tolist() == [0] * len(aligned)
    symmetry = rep.architecture.symmetry
    # Near the reference, where weight matching cannot miss.
    near = rep.reference + 0.2 * (aligned - rep.reference)
    copies = permute(near, symmetry, random_permutations(symmetry, len(near), generator(0, "copies")))
    assert float(distances(copies[:3], near, rep.scale).min()) > 0.1
    assert novelty(rep, copies, near).tolist() == [0] * len(near)


def test_novelty_is_the_distance_to_the_nearest_training_state(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> None:
    aligned = rep.align(zoo["train"].weights)
    moved = aligned[:4] + 0.001 * rep.scale
    assert novelty(rep, moved, aligned).tolist() == pytest.approx([0.001] * 4, rel=1e-2)


def test_probes_are_ridge_regressions_on_three_representations(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> None:
    found = probe_all(rep, zoo)
    assert list(found) == list(PROBED)
    for name, scores in found.items():
        assert list(scores) == ["W", "s(W)", "z"]
        targets = {s: torch.tensor(part.table[name].to_numpy(float)) for s, part in zoo.items()}
        plain = {s: part.weights for s, part in zoo.items()}
        embedded = {s: rep.embed(part.weights) for s, part in zoo.items()}
        assert scores["W"] == pytest.approx(ridge_r2(plain, targets))
        assert scores["z"] == pytest.approx(ridge_r2(embedded, targets))
        assert all(score <= 1 for score in scores.values())


def test_untrained_states_are_not_probed(
    tiny_dataset: Path, trained: Path, rep: HyperRepresentation, zoo: dict[str, Zoo]
) -> None:
    everything = load_zoo(tiny_dataset, "seed")
    assert set(everything.table["epoch"]) == {0, 1, 2}
    assert probe(tiny_dataset, trained, RECIPE) == probe_all(rep, zoo)


def test_reconstruction_is_told_for_every_split(rep: HyperRepresentation, zoo: dict[str, Zoo]) -> None:
    found = reconstruction(rep, zoo)
    assert {split: values["n"] for split, values in found.items()} == {"train": 28, "validation": 6, "test": 6}
    for split, values in found.items():
        measured = reconstruction_r2(rep, rep.align(zoo[split].weights))
        assert (values["total"], values["layers"]) == (measured.total, list(measured.layers))


def test_embeddings_in_the_plane_are_the_widest_uncorrelated_coordinates(
    rep: HyperRepresentation, zoo: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    found = embeddings_2d(rep, zoo, list(populated.values()))
    sizes = {"train": 28, "test": 6} | dict.fromkeys(SAMPLERS, PROTOCOL.samples)
    assert {name: len(part["z"]) for name, part in found.items()} == sizes
    assert all(len(point) == 2 for part in found.values() for point in part["z"])
    for split in ("train", "test"):
        assert found[split]["test_acc"] == zoo[split].table["test_acc"].tolist()
    covariance = torch.tensor(found["train"]["z"]).double().T.cov()
    assert abs(float(covariance[0, 1])) < 1e-4 * float(covariance[0, 0])
    assert covariance[0, 0] > covariance[1, 1]
    widest = torch.linalg.svdvals(rep.embeddings.double() - rep.embeddings.double().mean(dim=0))[:2]
    torch.testing.assert_close(covariance.diagonal(), widest.square() / 27, rtol=1e-3, atol=0)


def test_the_report_holds_every_population_and_scratch(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, report = evaluated
    assert list(report) == ["populations", "probes", "reconstruction", "embeddings"]
    names = [population["name"] for population in report["populations"]]
    files = {path.stem.replace("-", " ") for path in (out / "populations").iterdir()}
    assert files == {name.replace("-", " ") for name in names[:-1]}
    assert names[-1] == "scratch"
    for population in report["populations"][:-1]:
        assert len(population["zero_shot"]) == len(population["distance"]) == population["n"]
        assert all(len(curve) == PROTOCOL.fine_tune_epochs + 1 for curve in population["curves"])
        assert all(0 <= value <= 1 for curve in population["curves"] for value in curve)
    members = report["populations"][0]
    assert members["zero_shot"][0] == members["curves"][0][0]


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_what_is_missing_is_judged_again_and_gives_the_same_bytes(
    evaluated: tuple[Path, dict[str, Any]], tiny_dataset: Path, trained: Path, engine: TorchEngine
) -> None:
    out, report = evaluated
    before = contents(out)
    (out / "populations" / "average-of-all.json").unlink()
    judged: list[str] = []
    again = evaluate(
        tiny_dataset,
        trained,
        RECIPE,
        out,
        engine=engine,
        images_root=out.parent,
        progress=lambda what, done, total: judged.append(what),
    )
    assert set(judged) == {"fine-tuning average of all"}
    assert contents(out) == before
    assert again == report


def test_an_evaluation_of_another_protocol_is_refused(
    evaluated: tuple[Path, dict[str, Any]], tiny_dataset: Path, trained: Path, engine: TorchEngine
) -> None:
    out, _ = evaluated
    before = contents(out)
    other = dataclasses.replace(RECIPE, evaluation=dataclasses.replace(PROTOCOL, samples=3))
    told = f"{out} holds another evaluation; choose another --out"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, out, engine=engine, images_root=out.parent)
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_holds_something_else_is_refused(
    kind: str, tiny_dataset: Path, trained: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    out = tmp_path / "taken"
    note = out / "note.txt" if kind == "folder" else out
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    told = f"{out} holds something else; choose another --out or remove it"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, RECIPE, out, engine=engine, images_root=tmp_path)
    assert contents(tmp_path) == {str(note.relative_to(tmp_path)): b"mine"}


def test_a_recipe_that_it_was_not_learned_with_is_refused(
    tiny_dataset: Path, trained: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    other = dataclasses.replace(RECIPE, data=DataRecipe(config="seed", epochs=(2, 2)))
    told = f"{trained} was not learned by recipe tiny from {tiny_dataset}; evaluate it with what it was learned from"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, tmp_path / "out", engine=engine, images_root=tmp_path)
    assert not (tmp_path / "out").exists()
