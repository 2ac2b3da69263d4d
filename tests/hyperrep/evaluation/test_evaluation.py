"""The protocol: every question is in the report, tests are what they are called, and `evaluate` resumes."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.steps import StepProgress

from hyperrep import HyperRepresentation, evaluate
from hyperrep.evaluation.baselines import initialize_models
from hyperrep.evaluation.metrics import Evaluator
from hyperrep.evaluation.population import Population
from hyperrep.evaluation.protocol import INFO_FILE, _describe, claim_folder, project_embeddings
from hyperrep.evaluation.result import EvaluationResult
from hyperrep.evaluation.significance import compare_populations
from hyperrep.evaluation.transfer import (
    _list_target_rows,
    _make_stem,
    _name_folder,
    check_transfer,
    evaluate_transfer,
    hash_targets,
    load_targets,
)
from hyperrep.recipe import DataRecipe, EvaluationRecipe, HyperRecipe
from hyperrep.storage import TrainingInfo
from hyperrep.trainer.loop import measure_reconstruction
from modelzoo_datasets.analysis import compare_means, fine_tune
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS
from modelzoo_datasets.recipes import read_recipe
from modelzoo_datasets.seeds import derive_seed


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
    return out, report.to_json()


def test_reconstruction_is_told_for_every_split(
    evaluated: tuple[Path, dict[str, Any]], rep: HyperRepresentation, learned: dict[str, Zoo]
) -> None:
    found = evaluated[1]["reconstruction"]
    assert {split: values["n"] for split, values in found.items()} == {"train": 28, "validation": 6, "test": 6}
    for split, values in found.items():
        assert values == measure_reconstruction(rep, rep.align(learned[split].weights)).to_json()


def test_embeddings_in_the_plane_are_the_widest_uncorrelated_coordinates(
    rep: HyperRepresentation, learned: dict[str, Zoo], populated: dict[str, Population]
) -> None:
    points = project_embeddings(rep, learned, list(populated.values()))
    found = {name: part.to_json() for name, part in points.items()}
    samples = ("kde@50", "kde-shared@50", "kde@100", "kde-shared@100", "move 0.3@50")
    sizes = {"train": 28, "test": 6, **dict.fromkeys(samples, 2)}
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
    files = {path.stem for path in (out / "populations").iterdir()}
    assert files == {name.replace(" ", "-").replace("@", "-") for name in names[:-1]}
    assert names[-1] == "scratch"
    for population in report["populations"][:-1]:
        assert len(population["zero_shot"]) == len(population["distance"]) == population["n"]
        assert all(len(curve) == 2 for curve in population["curves"])
        assert population["cpu_seconds"] > 0
    assert {*report["judgments"]} == {"kde@50", "kde-shared@50", "move 0.3@50"}
    tuned = {population["name"] for population in report["populations"] if population["curves"]}
    assert {"kde@50", "zoo members", "noise + REPAIR like kde@50"} < tuned
    assert not tuned & {"kde@100", "noise 0.2", "noise like kde@50", "move 0.3@50", "retrieval like kde@50"}
    assert {*report["transfer"]["fashion-mnist-5k"]} == {"kde@50", "kde-shared@50", "zoo members", "scratch"}
    assert {*report["changed"]["res-cnn"]} == {"kde@50", "kde-shared@50", "zoo members", "random init"}
    questions = {row["question"] for row in report["comparisons"]}
    assert questions == {"zero-shot", "fine-tuning", "transfer", "changed", "ensembles"}
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    assert (out / "report.html").is_file()
    assert {"test_acc", "test_loss"} < {*report["control"]} and "<h2>Control" in (out / "report.html").read_text()
    assert report["equal_work"] is None, "this recipe has no functional loss, so learning spent no image gradients"


def test_transfer_fine_tunes_the_same_weights_on_other_images(
    evaluated: tuple[Path, dict[str, Any]],
    populated: dict[str, Population],
    learned: dict[str, Zoo],
    images: Images,
    engine: TorchEngine,
) -> None:
    _, report = evaluated
    found = report["transfer"]["fashion-mnist-5k"]
    # The shipped recipe of these images: another learning rate, batch size and initialization than those of the zoo.
    training = dataclasses.replace(read_recipe("fashion-mnist-5k-cnn-s").members("seed")[0].training, epochs=1)
    own = learned["train"].hyperparameters(0)
    assert (training.batch_size, training.lr, training.init) != (own.batch_size, own.lr, own.init)
    for result in found.values():
        assert result["source"] == "the recipe fashion-mnist-5k-cnn-s/seed"
        assert result["hyperparameters"] == {k: v for k, v in vars(training).items() if k != "epochs"}
    seeds = [derive_seed(0, "fine-tuning", i) for i in range(2)]
    begin = populated["kde@50"].weights
    assert found["kde@50"]["curves"] == fine_tune(engine, "cnn-s", images, begin, training, seeds)[0].tolist()
    fresh = initialize_models("cnn-s", "tanh", training.init, [derive_seed(0, "scratch", i) for i in range(2)])
    assert found["scratch"]["curves"] == fine_tune(engine, "cnn-s", images, fresh, training, seeds)[0].tolist()


def test_transfer_to_a_zoo_trains_by_its_hyperparameters_beside_its_own_members(
    tiny_dataset: Path, bench: Evaluator, images: Images, populated: dict[str, Population], tmp_path: Path
) -> None:
    name, zoo = f"{tiny_dataset}/hyp", load_zoo(tiny_dataset, "hyp")
    recipe = dataclasses.replace(bench.recipe, transfer=(name,), changed=(), finetune_epochs=(1,))
    evaluator = dataclasses.replace(bench, recipe=recipe)
    (target,) = load_targets(evaluator, tmp_path)
    assert (target.source, target.training.optimizer) == (f"the zoo {tiny_dataset.name}/hyp", "adam")
    target = dataclasses.replace(
        target, images=bench.images, training=dataclasses.replace(target.training, activation="relu", dropout=0.2)
    )
    places, _ = evaluate_transfer(tmp_path, [populated["kde@50"]], [target], evaluator, NO_PROGRESS)
    found = places[name]
    assert [*found] == ["kde@50", "scratch", "target members", "target zoo"]
    assert {n: (r.hyperparameters["activation"], r.hyperparameters["dropout"]) for n, r in found.items()} == {
        "kde@50": ("tanh", 0.2),
        "scratch": ("tanh", 0.2),
        "target members": ("relu", 0.2),
        "target zoo": ("relu", 0.2),
    }
    members = zoo.select((zoo.table["split"] == "test") & (zoo.table["epoch"] == 1)).weights[:2]
    training = dataclasses.replace(target.training, epochs=1)
    seeds = [derive_seed(0, "fine-tuning", i) for i in range(2)]
    curves, _ = fine_tune(bench.engine, "cnn-s", bench.images, members, training, seeds)
    assert found["target members"].curves == curves.tolist()
    recorded = zoo.table[zoo.table["epoch"] == 1].sort_values("model_id")["test_acc"]
    assert [curve[1] for curve in found["target zoo"].curves] == recorded.tolist()
    assert {path.name for path in tmp_path.rglob("*.json")} == {
        *(f"{n}.json" for n in ("kde-50", "scratch", "target-members", "target-zoo"))
    }


def test_a_target_zoo_has_only_the_rows_that_it_can_fill(tiny_dataset: Path) -> None:
    zoo = load_zoo(tiny_dataset, "hyp")
    twins = dataclasses.replace(zoo, table=zoo.table.assign(parent_id="hyp-00001"))
    trained = zoo.select(zoo.table["split"] == "train")
    found = [_list_target_rows(part) for part in (None, zoo, twins, trained)]
    assert found == [[], ["target members", "target zoo"], ["target members"], ["target zoo"]]


def test_images_without_a_recipe_are_told_and_names_stay_in_their_folder(
    bench: Evaluator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("hyperrep.evaluation.transfer.recipe_names", lambda kind: ["cifar10-cnn-s"])
    recipe = dataclasses.replace(bench.recipe, transfer=("fashion-mnist-5k",), changed=())
    (target,) = load_targets(dataclasses.replace(bench, recipe=recipe), tmp_path)
    assert (target.training, target.source) == (bench.training, "the zoo of the samples")
    assert caplog.messages == [
        "no recipe ships for cnn-s of fashion-mnist-5k: models are fine-tuned there with the hyper-parameters of their "
        "own zoo"
    ]
    assert [_make_stem(name) for name in ("..", "../zoo/seed", "kde@30/20", "mnist")] == [
        "-.",
        "-.-zoo-seed",
        "kde-30-20",
        "mnist",
    ]


def test_a_changed_architecture_holds_the_sample_and_begins_elsewhere_as_without_it(
    evaluated: tuple[Path, dict[str, Any]],
    populated: dict[str, Population],
    learned: dict[str, Zoo],
    images: Images,
    engine: TorchEngine,
) -> None:
    _, report = evaluated
    found = report["changed"]["res-cnn"]
    training = learned["train"].hyperparameters(0)
    weights = initialize_models("res-cnn", "tanh", training.init, [derive_seed(0, "changed", i) for i in range(2)])
    networks = [NetworkSpec("tanh")] * 2
    measured = engine.evaluate("res-cnn", images, weights, networks, "test").accuracy.tolist()
    assert [curve[0] for curve in found["random init"]["curves"]] == measured
    loaded = torch.cat([populated["kde@50"].weights, weights[:, 2464:]], dim=1)
    measured = engine.evaluate("res-cnn", images, loaded, networks, "test").accuracy.tolist()
    assert [curve[0] for curve in found["kde@50"]["curves"]] == measured


def test_comparisons_are_the_tests_that_they_are_called(
    evaluated: tuple[Path, dict[str, Any]], protocol: HyperRecipe
) -> None:
    out, report = evaluated
    found = {(r["question"], r["where"], r["one"], r["other"], r["epoch"]): r for r in report["comparisons"]}
    assert len(found) == len(report["comparisons"])
    by_name = {population["name"]: population for population in report["populations"]}
    mine, noise, from_scratch = (by_name[name] for name in ("kde@50", "noise like kde@50", "scratch"))
    paired = compare_means(mine["zero_shot"], noise["zero_shot"], paired=True)
    row = found["zero-shot", "", "kde@50", "noise like kde@50", 0]
    assert (row["difference"], row["p"], row["test"]) == (paired.difference, paired.p, "paired")
    tuned = compare_means([c[1] for c in mine["curves"]], [c[1] for c in from_scratch["curves"]])
    row = found["fine-tuning", "", "kde@50", "scratch", 1]
    assert (row["difference"], row["low"], row["n"], row["m"]) == (tuned.difference, tuned.low, 2, 20)
    # The zoo has 2 epochs and was learned from up to the second: there is none 2 epochs behind the first.
    assert ("fine-tuning", "+2", "kde@50", "scratch", 1) not in found
    judged = dataclasses.replace(protocol.evaluation, finetune_epochs=(1,))
    result = EvaluationResult.read(out)
    shifted = compare_populations(result.populations, {}, {}, judged, offset=1)
    row = next(r.to_json() for r in shifted if r.where == "+1")
    later = compare_means([c[1] for c in mine["curves"]], [c[2] for c in from_scratch["curves"]])
    assert (row["difference"], row["other_mean"]) == (later.difference, row["mean"] - later.difference)
    row = found["ensembles", "zero-shot, 2 and 3 models", "kde@50", "zoo members", 0]
    assert row["test"] == "paired" and row["n"] == 1000
    assert row["mean"] == pytest.approx(mine["ensembles"]["zero-shot"]["mean"][-1])


def contents(folder: Path) -> dict[str, str]:
    """Path -> content of every file, hidden ones too, without the seconds that it took."""
    texts = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    seconds = re.compile(r'"cpu_seconds": [\d.e-]+|\([\d.]+ CPU seconds\)')
    return {path: seconds.sub("", text) for path, text in texts.items()}


def test_only_what_is_missing_is_judged_again_and_gives_the_same_bytes(
    evaluated: tuple[Path, dict[str, Any]],
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
) -> None:
    out, report = evaluated
    before = contents(out)
    (out / "evaluation.json").unlink()
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
        progress=StepProgress(lambda what, done, total: judged.append(what)),
    )
    assert {*judged} == {"fine-tuning average of all", "scratch on fashion-mnist-5k", "probing"}
    assert contents(out) == before
    assert [row.to_json() for row in again.tests] == json.loads(json.dumps(report))["comparisons"]


def test_an_evaluation_of_another_protocol_is_refused(
    evaluated: tuple[Path, dict[str, Any]],
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
) -> None:
    out, _ = evaluated
    before = contents(out)
    other = dataclasses.replace(protocol, evaluation=dataclasses.replace(protocol.evaluation, num_samples=3))
    told = f"output folder {out} holds another evaluation; pass a different --out"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, out, engine=engine, images_root=out.parent)
    assert contents(out) == before


def test_an_evaluation_of_a_release_that_did_not_ask_a_question_is_gone_on_with(
    trained: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    """A key that was added since means what its default means."""
    asked, info = EvaluationRecipe(num_samples=3), TrainingInfo.read(trained)
    claim_folder(tmp_path, _describe(info, asked, engine))
    stored = json.loads((tmp_path / INFO_FILE).read_text())
    del stored["protocol"]["moves"]
    (tmp_path / INFO_FILE).write_text(json.dumps(stored))
    claim_folder(tmp_path, _describe(info, asked, engine))
    with pytest.raises(FolderInUseError):
        claim_folder(tmp_path, _describe(info, dataclasses.replace(asked, moves=(0.1,)), engine))


def test_an_evaluation_of_an_earlier_release_is_read_and_not_mixed_with_a_new_one(
    evaluated: tuple[Path, dict[str, Any]],
    tiny_dataset: Path,
    trained: Path,
    protocol: HyperRecipe,
    engine: TorchEngine,
    tmp_path: Path,
) -> None:
    """Formats 2 and 3 have neither judgments nor the seconds that a population took."""
    out = Path(shutil.copytree(evaluated[0], tmp_path / "evaluation"))
    for path in (out / "facts.json", out / "evaluation.json"):
        values = json.loads(path.read_text()) | {"format": "modelzoo-evaluation-3"}
        values.pop("judgments", None)
        for population in values.get("populations", []):
            population.pop("cpu_seconds", None)
        path.write_text(json.dumps(values))
    before = contents(out)
    read = EvaluationResult.read(out)
    assert read.populations and not read.judgments
    with pytest.raises(FolderInUseError, match="holds another evaluation; pass a different --out"):
        evaluate(tiny_dataset, trained, protocol, out, engine=engine, images_root=out.parent)
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_holds_something_else_is_refused(
    kind: str, tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path
) -> None:
    out = tmp_path / "taken"
    note = out / "note.txt" if kind == "folder" else out
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    told = f"output folder {out} already contains other files; pass a different --out or delete it"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, tiny_hyper, out, engine=engine, images_root=tmp_path)
    assert contents(tmp_path) == {str(note.relative_to(tmp_path)): "mine"}


def test_a_recipe_that_it_was_not_learned_with_is_refused(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path
) -> None:
    other = dataclasses.replace(tiny_hyper, data=DataRecipe(config="seed", epochs=(2, 2)))
    told = (
        f"{trained} was not trained by recipe tiny on {tiny_dataset}; "
        "its recipe is tiny, which it stores: leave out --recipe"
    )
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        evaluate(tiny_dataset, trained, other, tmp_path / "out", engine=engine, images_root=tmp_path)
    named = dataclasses.replace(tiny_hyper, name="other")
    told = f"{trained} was not trained by recipe other on {tiny_dataset}; its recipe is tiny, which "
    with pytest.raises(FormatError, match=f"^{re.escape(told)}it stores: leave out --recipe$"):
        evaluate(tiny_dataset, trained, named, tmp_path / "out", engine=engine, images_root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_the_protocol_cannot_ask_of_this_zoo_is_told_before_anything_is_judged(
    tiny_dataset: Path, trained: Path, tiny_hyper: HyperRecipe, engine: TorchEngine, tmp_path: Path, bench: Evaluator
) -> None:
    def refused(**asked: Any) -> str:
        other = dataclasses.replace(tiny_hyper, evaluation=dataclasses.replace(tiny_hyper.evaluation, **asked))
        with pytest.raises(ModelZooError) as caught:
            evaluate(tiny_dataset, trained, other, tmp_path / "out", engine=engine, images_root=tmp_path)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert refused(samplers=("kdee",)) == "unknown sampler 'kdee'; did you mean 'kde'?"
    assert refused(samplers=("kde@all",)) == (
        "'kde@all': expected a percentage of the training states behind @, from 1 to 100"
    )
    assert refused(changed=("cnn-m",)) == (
        "[evaluation] changed: cnn-m is for 3×32×32 images of 10 classes and has 10,853 weights; samples of cnn-s are "
        "for 1×28×28 images of 10 classes and have 2,464"
    )
    with pytest.raises(ModelZooError) as caught:
        check_transfer([dataclasses.replace(bench.images, name="letters", classes=26)], bench)
    assert str(caught.value) == (
        "[evaluation] transfer: letters has 1×28×28 images of 26 classes, cnn-s is for 1×28×28 images of 10 classes"
    )
    names = ("res-cnn", "cnn-more-layers", "cnn-more-layers-residual", "cnn-residual")
    check_transfer([], dataclasses.replace(bench, recipe=dataclasses.replace(bench.recipe, changed=names)))


def test_targets_never_share_a_folder_and_a_zoo_among_them_is_known_by_its_states(tiny_dataset: Path) -> None:
    names = ["a/b", "a-b", "a b", "mnist"]
    assert len({_name_folder(name) for name in names}) == 4 and _name_folder("mnist") == "mnist"
    configs = json.loads((tiny_dataset / "zoo.json").read_text())["configs"]
    target = f"{tiny_dataset}/seed"
    assert hash_targets(("mnist", target)) == {target: [configs["seed"]["states_sha256"]]}
