"""The protocol: populations are what they are called, judging measures what it says, and `evaluate` resumes."""

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperrep import HyperRepresentation, evaluate
from hyperrep.baselines import Source, fresh_weights
from hyperrep.comparisons import comparisons
from hyperrep.evaluation import embeddings_2d, reconstruction
from hyperrep.judging import Bench, judge, scratch
from hyperrep.novelty import novelty
from hyperrep.populations import Population, populations
from hyperrep.questions import require_images, require_room
from hyperrep.recipe import DataRecipe, HyperRecipe
from hyperrep.samplers import best_states
from hyperrep.training import reconstruction_r2
from modelzoo_datasets.engines import Network
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.population import compare, fine_tune
from modelzoo_datasets.seeds import derive, generator
from modelzoo_datasets.symmetry import permute, random_permutations

# Of the barely trained representation of these tests: no average is as far from training states as samples of kde.
SAMPLED = ["kde", "noise like kde", "kde-shared", "noise like kde-shared", "average like kde-shared"]
FIXED = {"zoo members": 3, "training members": 14, "reconstructed unseen": 3, "reconstructed training": 14}


@pytest.fixture(scope="module")
def protocol(tiny_hyper: HyperRecipe) -> HyperRecipe:
    """All questions, small."""
    asked = dataclasses.replace(
        tiny_hyper.evaluation,
        noise=(0.2,),
        mixtures=(0.1,),
        ensemble=3,
        transfer=("fashion-mnist-5k",),
        changed=("res-cnn",),
    )
    return dataclasses.replace(tiny_hyper, evaluation=asked)


@pytest.fixture(scope="module")
def populated(rep: HyperRepresentation, learned: dict[str, Zoo], protocol: HyperRecipe) -> dict[str, Population]:
    """All populations by name."""
    splits = {s: learned[s] for s in ("train", "test")}
    found = populations(Source(rep=rep, zoo=learned["train"]), splits, protocol.evaluation)
    assert len({population.name for population in found}) == len(found)
    return {population.name: population for population in found}


@pytest.fixture(scope="module")
def best(rep: HyperRepresentation, learned: dict[str, Zoo]) -> Tensor:
    """The aligned training states that are drawn from."""
    return rep.align(learned["train"].weights)[best_states(rep.accuracy, 0.5)]


@pytest.fixture(scope="module")
def bench(
    rep: HyperRepresentation, learned: dict[str, Zoo], engine: TorchEngine, few_images: Images, protocol: HyperRecipe
) -> Bench:
    """What populations are judged with, on few images."""
    return Bench(
        rep=rep,
        train=learned["train"],
        aligned=rep.align(learned["train"].weights),
        engine=engine,
        images=few_images,
        training=learned["train"].training(0),
        recipe=dataclasses.replace(protocol.evaluation, fine_tune=(2,)),
    )


@pytest.fixture(scope="module")
def evaluated(
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """The folder of an evaluation and its report."""
    out = tmp_path_factory.mktemp("evaluation") / "evaluation"
    report = evaluate(tiny_dataset, trained, protocol, out, engine=engine, images_root=out.parent)
    return out, report


def distances(weights: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """(n, m): root mean square of the differences in layer standard deviations, one pair at a time."""
    rows = [[((a - b) / scale).double().square().mean().sqrt() for b in others] for a in weights]
    return torch.tensor(rows)


def test_the_populations_have_their_names_and_sizes(populated: dict[str, Population]) -> None:
    curves = ["average of pairs", "mixture 0.1", "average of all", "noise 0.2"]
    assert list(populated) == [*FIXED, *curves, *SAMPLED]
    for name, population in populated.items():
        assert population.weights.shape == (FIXED.get(name, 1 if name == "average of all" else 2), 2464)
        assert population.weights.isfinite().all()
        assert population.what
        assert population.sampled == (name in ("kde", "kde-shared"))
        assert population.fine_tuned == (0 if name in ("mixture 0.1", "noise 0.2") else 2)


def test_zoo_members_and_reconstructions_are_those_of_the_last_epoch(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    last = {s: rep.align(part.select(part.table["epoch"] == 2).weights) for s, part in learned.items()}
    for name, split in (("zoo members", "test"), ("training members", "train")):
        assert torch.equal(populated[name].weights, last[split])
    for name, split in (("unseen", "test"), ("training", "train")):
        found = populated[f"reconstructed {name}"].weights
        torch.testing.assert_close(found, rep.decode(rep.embed(last[split])))


def test_averages_and_mixtures_are_between_training_states(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population], best: Tensor
) -> None:
    for name, share in (("average of pairs", 0.5), ("mixture 0.1", 0.1)):
        between = torch.stack([a + share * (b - a) for a, b in itertools.permutations(best, 2)])
        for model in populated[name].weights:
            assert float((model - between).abs().amax(dim=1).min()) < 1e-6
    mean = torch.stack(list(rep.align(learned["train"].weights).double())).sum(dim=0) / 28
    torch.testing.assert_close(populated["average of all"].weights[0], mean.float())


@pytest.mark.parametrize("sampler", ["kde", "kde-shared"])
def test_noise_and_averages_are_exactly_as_far_from_a_good_training_state_as_their_sample_is_from_all(
    rep: HyperRepresentation,
    learned: dict[str, Zoo],
    populated: dict[str, Population],
    best: Tensor,
    sampler: str,
) -> None:
    aligned = rep.align(learned["train"].weights)
    sampled = populated[sampler].weights
    versions = torch.stack([distances(w, aligned, rep.scale) for w in (sampled, rep.align(sampled))])
    expected = versions.amin(dim=(0, 2))
    assert float(expected.min()) > 0.01
    for kind in ("noise", "average"):
        if (made := populated.get(f"{kind} like {sampler}")) is None:
            assert f"{kind} like {sampler}" not in SAMPLED
            continue
        wanted = expected[list(made.partners)]
        moved = distances(made.weights, best, rep.scale)
        assert float(((moved - wanted.unsqueeze(1)).abs().min(dim=1).values / wanted).max()) < 1e-4
        assert made.mirrors == sampler


def test_populations_repeat_and_follow_the_seed_of_the_protocol(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population], protocol: HyperRecipe
) -> None:
    for seed in (0, 1):
        asked = dataclasses.replace(protocol.evaluation, seed=seed)
        source = Source(rep=rep, zoo=learned["train"])
        for again in populations(source, {s: learned[s] for s in ("train", "test")}, asked):
            before = populated[again.name].weights
            same = before.shape == again.weights.shape and torch.equal(again.weights, before)
            drawn = again.name not in {*FIXED, "average of all"}
            assert same is (seed == 0 or not drawn), again.name


def test_samplers_may_be_drawn_from_another_share(
    rep: HyperRepresentation, learned: dict[str, Zoo], protocol: HyperRecipe
) -> None:
    asked = dataclasses.replace(protocol.evaluation, samplers=("kde-shared@100", "reconstruction", "fresh"), samples=60)
    found = populations(Source(rep=rep, zoo=learned["train"]), {s: learned[s] for s in ("train", "test")}, asked)
    by_name = {population.name: population for population in found}
    assert by_name["kde-shared@100"].what.endswith("; from all of the training states")
    assert (
        by_name["reconstruction"].what == "training states, encoded and decoded; from best 50% of the training states"
    )
    nearest = distances(rep.embed(by_name["kde-shared@100"].weights[:40]), rep.embeddings, torch.ones(rep.latent))
    chosen = {*nearest.argmin(dim=1).tolist()} - {*best_states(rep.accuracy, 0.5).tolist()}
    assert chosen, "none of 40 samples is of the worse half"
    assert "noise like fresh" not in by_name


def test_judging_measures_what_it_says(bench: Bench, rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    weights = rep.align(learned["test"].weights)[:3]
    found = judge(Population(name="some", what="three test states", weights=weights, fine_tuned=2), bench)
    accuracy = bench.engine.evaluate("cnn-s", bench.images, weights, [Network("tanh")] * 3, "test").accuracy
    assert found["zero_shot"] == accuracy.tolist()
    told = dataclasses.replace(bench.training, epochs=2)
    seeds = [derive(0, "fine-tuning", i) for i in range(2)]
    assert found["curves"] == fine_tune(bench.engine, "cnn-s", bench.images, weights[:2], told, seeds).tolist()
    far = distances(weights, bench.aligned, rep.scale)
    assert found["distance"] == pytest.approx(far.amin(dim=1).tolist(), rel=1e-4)
    rows = learned["train"].table.iloc[far.argmin(dim=1).tolist()]
    assert found["nearest"] == [[m, e] for m, e in zip(rows["model_id"], rows["epoch"], strict=True)]
    assert (found["name"], found["what"], found["n"]) == ("some", "three test states", 3)
    networks = [Network("tanh")] * 31
    outputs = dict(bench.engine.outputs("cnn-s", bench.images, torch.cat([weights, bench.aligned]), networks, "test"))
    labels = bench.images.labels("test")
    wrong = [{*(outputs[i].argmax(1) != labels).nonzero().flatten().tolist()} for i in range(31)]
    overlap = [max(len(mine & other) / len(mine | other) for other in wrong[3:]) for mine in wrong[:3]]
    assert found["error_similarity"] == pytest.approx(overlap)
    between = distances(weights, weights, rep.scale)
    pairs = [(i, j) for i in range(3) for j in range(i)]
    assert found["pairs"]["distance"]["mean"] == pytest.approx(sum(float(between[p]) for p in pairs) / 3, rel=1e-5)
    same = [(outputs[i].argmax(1) == outputs[j].argmax(1)).double().mean() for i, j in pairs]
    assert found["pairs"]["agreement"]["mean"] == pytest.approx(float(sum(same)) / 3)


def test_ensembles_of_a_population_begin_with_its_mean_and_end_with_all_of_it(
    bench: Bench, rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    weights = rep.align(learned["test"].weights)[:3]
    found = judge(Population(name="some", what="", weights=weights, fine_tuned=2), bench)
    logits = dict(bench.engine.outputs("cnn-s", bench.images, weights, [Network("tanh")] * 3, "test"))
    right = (sum(logits.values()).argmax(1) == bench.images.labels("test")).double()
    zero_shot = found["ensembles"]["zero-shot"]
    assert zero_shot["mean"][-1] == pytest.approx(float(right.mean())) and zero_shot["std"][-1] < 1e-12
    assert min(found["zero_shot"]) <= zero_shot["mean"][0] <= max(found["zero_shot"])
    assert zero_shot["missed"] == (right == 0).nonzero().flatten().tolist()
    assert len(found["ensembles"]["tuned"]["mean"]) == 2
    alone = dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, ensemble=1))
    assert judge(Population(name="some", what="", weights=weights, fine_tuned=0), alone)["ensembles"] == {}


def test_scratch_is_the_zoos_own_table(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "seed")
    found = scratch(zoo)
    curves: dict[str, list[float]] = {}
    for row in zoo.table.sort_values(["model_id", "epoch"]).to_dict("records"):
        curves.setdefault(row["model_id"], []).append(row["test_acc"])
    assert found["curves"] == list(curves.values())
    assert found["zero_shot"] == [curve[0] for curve in curves.values()]
    assert found["n"] == 20
    thinned = scratch(zoo.select(zoo.table["epoch"] != 1))
    assert thinned["curves"] == [[curve[0], None, curve[2]] for curve in curves.values()]


def test_training_states_and_their_permuted_copies_are_no_new_models(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    distance, nearest = novelty(rep, aligned, aligned)
    assert distance.tolist() == [0] * len(aligned) and nearest.tolist() == list(range(len(aligned)))
    symmetry = rep.architecture.symmetry
    # Near the reference, where weight matching cannot miss.
    near = rep.reference + 0.2 * (aligned - rep.reference)
    copies = permute(near, symmetry, random_permutations(symmetry, len(near), generator(0, "copies")))
    assert float(distances(copies[:3], near, rep.scale).min()) > 0.1
    distance, nearest = novelty(rep, copies, near)
    assert distance.tolist() == [0] * len(near) and nearest.tolist() == list(range(len(near)))


def test_novelty_is_the_distance_to_the_nearest_training_state(
    rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    aligned = rep.align(learned["train"].weights)
    moved = aligned[:4] + 0.001 * rep.scale
    assert novelty(rep, moved, aligned)[0].tolist() == pytest.approx([0.001] * 4, rel=1e-2)


def test_reconstruction_is_told_for_every_split(rep: HyperRepresentation, learned: dict[str, Zoo]) -> None:
    found = reconstruction(rep, learned)
    assert {split: values["n"] for split, values in found.items()} == {"train": 28, "validation": 6, "test": 6}
    for split, values in found.items():
        measured = reconstruction_r2(rep, rep.align(learned[split].weights))
        assert (values["total"], values["layers"]) == (measured.total, list(measured.layers))


def test_embeddings_in_the_plane_are_the_widest_uncorrelated_coordinates(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    found = embeddings_2d(rep, learned, list(populated.values()))
    sizes = {"train": 28, "test": 6, "kde": 2, "kde-shared": 2}
    assert {name: len(part["z"]) for name, part in found.items()} == sizes
    assert all(len(point) == 2 for part in found.values() for point in part["z"])
    for split in ("train", "test"):
        assert found[split]["test_acc"] == learned[split].table["test_acc"].tolist()
    covariance = torch.tensor(found["train"]["z"]).double().T.cov()
    assert abs(float(covariance[0, 1])) < 1e-4 * float(covariance[0, 0])
    assert covariance[0, 0] > covariance[1, 1]
    widest = torch.linalg.svdvals(rep.embeddings.double() - rep.embeddings.double().mean(dim=0))[:2]
    torch.testing.assert_close(covariance.diagonal(), widest.square() / 27, rtol=1e-3, atol=0)


def test_the_report_holds_every_population_and_every_question(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, report = evaluated
    names = [population["name"] for population in report["populations"]]
    files = {path.stem.replace("-", " ") for path in (out / "populations").iterdir()}
    assert files == {name.replace("-", " ") for name in names[:-1]}
    assert names[-1] == "scratch"
    for population in report["populations"][:-1]:
        assert len(population["zero_shot"]) == len(population["distance"]) == population["n"]
        assert all(len(curve) == 2 for curve in population["curves"])
        assert population["curves"] or population["name"] in ("mixture 0.1", "noise 0.2")
    assert {*report["transfer"]["fashion-mnist-5k"]} == {"kde", "kde-shared", "zoo members", "scratch"}
    assert {*report["changed"]["res-cnn"]} == {"kde", "kde-shared", "zoo members", "random init"}
    questions = {row["question"] for row in report["comparisons"]}
    assert questions == {"zero-shot", "fine-tuning", "transfer", "changed", "ensembles"}
    assert json.loads((out / "evaluation.json").read_text()) == report
    assert (out / "report.html").is_file()


def test_transfer_fine_tunes_the_same_weights_on_other_images(
    evaluated: tuple[Path, dict[str, Any]],
    populated: dict[str, Population],
    learned: dict[str, Zoo],
    images: Images,
    engine: TorchEngine,
) -> None:
    _, report = evaluated
    found = report["transfer"]["fashion-mnist-5k"]
    training = dataclasses.replace(learned["train"].training(0), epochs=1)
    seeds = [derive(0, "fine-tuning", i) for i in range(2)]
    begin = populated["kde"].weights
    assert found["kde"]["curves"] == fine_tune(engine, "cnn-s", images, begin, training, seeds).tolist()
    fresh = fresh_weights("cnn-s", "tanh", training.init, [derive(0, "scratch", i) for i in range(2)])
    assert found["scratch"]["curves"] == fine_tune(engine, "cnn-s", images, fresh, training, seeds).tolist()


def test_a_changed_architecture_holds_the_sample_and_begins_elsewhere_as_without_it(
    evaluated: tuple[Path, dict[str, Any]],
    populated: dict[str, Population],
    learned: dict[str, Zoo],
    images: Images,
    engine: TorchEngine,
) -> None:
    _, report = evaluated
    found = report["changed"]["res-cnn"]
    training = learned["train"].training(0)
    weights = fresh_weights("res-cnn", "tanh", training.init, [derive(0, "changed", i) for i in range(2)])
    networks = [Network("tanh")] * 2
    measured = engine.evaluate("res-cnn", images, weights, networks, "test").accuracy.tolist()
    assert [curve[0] for curve in found["random init"]["curves"]] == measured
    loaded = torch.cat([populated["kde"].weights, weights[:, 2464:]], dim=1)
    measured = engine.evaluate("res-cnn", images, loaded, networks, "test").accuracy.tolist()
    assert [curve[0] for curve in found["kde"]["curves"]] == measured


def test_comparisons_are_the_tests_that_they_are_called(
    evaluated: tuple[Path, dict[str, Any]], protocol: HyperRecipe
) -> None:
    _, report = evaluated
    found = {(r["question"], r["where"], r["one"], r["other"], r["epoch"]): r for r in report["comparisons"]}
    assert len(found) == len(report["comparisons"])
    by_name = {population["name"]: population for population in report["populations"]}
    mine, noise, from_scratch = (by_name[name] for name in ("kde", "noise like kde", "scratch"))
    paired = compare(mine["zero_shot"], noise["zero_shot"], paired=True)
    row = found["zero-shot", "", "kde", "noise like kde", 0]
    assert (row["difference"], row["p"], row["test"]) == (paired.difference, paired.p, "paired")
    tuned = compare([c[1] for c in mine["curves"]], [c[1] for c in from_scratch["curves"]])
    row = found["fine-tuning", "", "kde", "scratch", 1]
    assert (row["difference"], row["low"], row["n"], row["m"]) == (tuned.difference, tuned.low, 2, 20)
    # The zoo has 2 epochs and was learned from up to the second: there is none 2 epochs behind the first.
    assert ("fine-tuning", "+2", "kde", "scratch", 1) not in found
    judged = dataclasses.replace(protocol.evaluation, fine_tune=(1,))
    shifted = comparisons(by_name, {}, {}, judged, offset=1)
    row = next(r for r in shifted if r["where"] == "+1")
    later = compare([c[1] for c in mine["curves"]], [c[2] for c in from_scratch["curves"]])
    assert (row["difference"], row["other_mean"]) == (later.difference, row["mean"] - later.difference)
    row = found["ensembles", "zero-shot, 2 of 3 models", "kde", "training members", 0]
    assert row["test"] == "paired" and row["n"] == 1000
    assert row["mean"] == pytest.approx(mine["ensembles"]["zero-shot"]["mean"][-1])


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_what_is_missing_is_judged_again_and_gives_the_same_bytes(
    evaluated: tuple[Path, dict[str, Any]],
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
) -> None:
    out, report = evaluated
    before = contents(out)
    (out / "populations" / "average-of-all.json").unlink()
    (out / "transfer" / "fashion-mnist-5k" / "scratch.json").unlink()
    judged: list[str] = []
    again = evaluate(
        tiny_dataset,
        trained,
        protocol,
        out,
        engine=engine,
        images_root=out.parent,
        progress=lambda what, done, total: judged.append(what),
    )
    assert {*judged} == {"fine-tuning average of all", "scratch on fashion-mnist-5k", "probing"}
    assert contents(out) == before
    assert again == report


def test_an_evaluation_of_another_protocol_is_refused(
    evaluated: tuple[Path, dict[str, Any]],
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
) -> None:
    out, _ = evaluated
    before = contents(out)
    other = dataclasses.replace(protocol, evaluation=dataclasses.replace(protocol.evaluation, samples=3))
    told = f"{out} holds another evaluation; choose another --out"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, out, engine=engine, images_root=out.parent)
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_holds_something_else_is_refused(
    kind: str, tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path
) -> None:
    out = tmp_path / "taken"
    note = out / "note.txt" if kind == "folder" else out
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    told = f"{out} holds something else; choose another --out or remove it"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, tiny_hyper, out, engine=engine, images_root=tmp_path)
    assert contents(tmp_path) == {str(note.relative_to(tmp_path)): b"mine"}


def test_a_recipe_that_it_was_not_learned_with_is_refused(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path
) -> None:
    other = dataclasses.replace(tiny_hyper, data=DataRecipe(config="seed", epochs=(2, 2)))
    told = f"{trained} was not learned by recipe tiny from {tiny_dataset}; evaluate it with what it was learned from"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, tmp_path / "out", engine=engine, images_root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_the_protocol_cannot_ask_of_this_zoo_is_told_before_anything_is_judged(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path, bench: Bench
) -> None:
    def refused(**asked: Any) -> str:
        other = dataclasses.replace(tiny_hyper, evaluation=dataclasses.replace(tiny_hyper.evaluation, **asked))
        with pytest.raises(ModelZooError) as caught:
            evaluate(tiny_dataset, trained, other, tmp_path / "out", engine=engine, images_root=tmp_path)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert refused(samplers=("kdee",)) == "unknown sampler 'kdee'; did you mean 'kde'?"
    assert refused(samplers=("kde@all",)) == (
        "'kde@all': behind @ is the percentage of training states drawn from, 1 to 100"
    )
    assert refused(changed=("cnn-m",)) == (
        "[evaluation] changed: cnn-m is for 3×32×32 images of 10 classes and has 10,853 weights; samples of cnn-s are "
        "for 1×28×28 images of 10 classes and have 2,464"
    )
    with pytest.raises(ModelZooError) as caught:
        require_images(dataclasses.replace(bench.images, name="letters", classes=26), bench)
    assert str(caught.value) == (
        "[evaluation] transfer: letters has 1×28×28 images of 26 classes, cnn-s is for 1×28×28 images of 10 classes"
    )
    for name in ("res-cnn", "cnn-more-layers", "cnn-more-layers-residual", "cnn-residual"):
        assert require_room(name, bench).name == name
