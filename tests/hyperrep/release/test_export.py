"""Embeddings and samples as files that need no code of ours."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from hyperrep import HyperRepresentation, load_sample
from hyperrep.evaluation.baselines import SamplingContext, draw_weights
from hyperrep.evaluation.training_states import TrainingStates, measure_novelty
from hyperrep.release.cards import sample_card
from hyperrep.release.export import Measurement, SampleRequest, export_embeddings, export_samples
from hyperrep.release.sampled_model import SampleInfo, read_sample_info
from modelzoo_datasets import plugins
from modelzoo_datasets.analysis import find_nearest, fine_tune
from modelzoo_datasets.architectures import registry
from modelzoo_datasets.engines import NetworkSpec
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError, RecipeError
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.seeds import derive_seed, keyed_generator


def config_json(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


class PlainNetwork(nn.Module):
    """The small CNN written down anew, so that nothing of this package is needed to run a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.module_list = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Tanh()),
            *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.Tanh()),
            *(nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten()),
            *(nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) -> logits (B, 10)."""
        logits: torch.Tensor = self.module_list(x)
        return logits


@pytest.mark.parametrize("sampler", ["uniform", "kde", "kde-shared", "kde-principal", "reconstruction"])
def test_samples_are_networks_that_plain_torch_runs(
    trained: Path, rep: HyperRepresentation, tmp_path: Path, sampler: str
) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, SampleRequest(n=3, sampler=sampler, top_fraction=0.5, seed=4))
    expected = draw_weights(
        sampler, 3, SamplingContext(rep=rep, top_fraction=0.5), keyed_generator(4, "samples", sampler)
    )
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == [f"{sampler}-{number:04d}" for number in range(3)]
    for number, folder in enumerate(folders):
        network = PlainNetwork()
        network.load_state_dict(load_file(out / folder / "model.safetensors"))
        vector = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        assert torch.equal(vector, expected[number])
        loaded = load_sample(out / folder)
        info = read_sample_info(out / folder)
        assert info.to_json() == json.loads((out / folder / "config.json").read_text())
        images = torch.rand(2, 1, 28, 28, generator=keyed_generator(0, "images"))
        assert type(loaded).__module__ == "modelzoo_datasets.architectures.modules" and not loaded.training
        torch.testing.assert_close(loaded(images), network(images))


def test_every_sample_says_what_it_is(trained: Path, rep: HyperRepresentation, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, SampleRequest(n=2, sampler="kde", top_fraction=0.5, seed=4))
    facts = json.loads((trained / "training.json").read_text())
    weights = rep.sample(2, sampler="kde", top_fraction=0.5, generator=keyed_generator(4, "samples", "kde"))
    distance, index = measure_novelty(rep.alignment, weights, rep.decode(rep.embeddings))
    for number in range(2):
        told = config_json(out / f"kde-{number:04d}")
        lineage = told.pop("lineage")
        assert told == {
            "format": "modelzoo-sample-1",
            "architecture": "cnn-s",
            "activation": "tanh",
            "dropout": 0.0,
            "number": number,
            "nearest": {
                "distance": float(distance[number]),
                "index": int(index[number]),
                "model_id": None,
                "epoch": None,
                "measured_on_weights": False,
            },
            "measured": {},
        }
        assert (lineage["sampler"], lineage["quality"], lineage["seed"]) == ("kde", 0.5, 4)
        assert (lineage["zoo_config"], lineage["states_sha256"]) == ("seed", facts["states_sha256"])
        digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
        assert lineage["hyperrep_sha256"] == digest
        assert lineage["zoo"] is lineage["hyperrep"] is lineage["zoo_revision"] is None


@pytest.fixture(scope="module")
def measured(
    trained: Path, tiny_dataset: Path, engine: TorchEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Measurement]:
    """Three samples that were run and fine-tuned."""
    out = tmp_path_factory.mktemp("export") / "samples"
    where = Measurement(dataset=tiny_dataset, engine=engine, images_root=out.parent)
    export_samples(
        trained, out, SampleRequest(n=3, sampler="noise", sigma=0.1, top_fraction=0.5, seed=4, epochs=1), where
    )
    return out, where


def test_with_the_dataset_a_sample_knows_its_nearest_row_and_what_it_is_worth(
    measured: tuple[Path, Measurement],
    rep: HyperRepresentation,
    learned: dict[str, Zoo],
    images: Images,
    engine: TorchEngine,
) -> None:
    out, _ = measured
    train = learned["train"]
    weights = torch.stack([rep.layout.pack(load_file(p)) for p in sorted(out.glob("*/model.safetensors"))])
    distance, index = find_nearest(weights, rep.align(train.weights), rep.scale)
    accuracy = engine.evaluate("cnn-s", images, weights, [NetworkSpec("tanh")] * 3, "test").accuracy.tolist()
    training = dataclasses.replace(train.hyperparameters(0), epochs=1)
    seeds = [derive_seed(4, "fine-tuning", i) for i in range(3)]
    tuned = fine_tune(engine, "cnn-s", images, weights, training, seeds)[0][:, 1].tolist()
    table = pq.read_table(out / "samples.parquet").to_pandas()
    for number in range(3):
        told = config_json(out / f"noise-{number:04d}")
        row = train.table.iloc[int(index[number])]
        assert (told["nearest"]["model_id"], told["nearest"]["epoch"]) == (row["model_id"], row["epoch"])
        assert (
            told["nearest"]["distance"]
            == pytest.approx(float(distance[number]), rel=1e-4)
            == pytest.approx(0.1, rel=1e-3)
        )
        assert told["measured"]["zero_shot"] == accuracy[number]
        assert told["measured"]["tuned"] == {"1": tuned[number]}
        assert 0 < told["measured"]["error_similarity"] <= 1
        card = (out / f"noise-{number:04d}" / "README.md").read_text()
        assert (
            f"| nearest training state | model `{row['model_id']}`, epoch {row['epoch']}, of the parent zoo |" in card
        )
        assert f"| zero-shot test accuracy | {100 * accuracy[number]:.2f} % on fashion-mnist-5k |" in card
        assert (
            f"| after 1 epochs of fine-tuning | {100 * tuned[number]:.2f} % "
            "(this folder holds the weights before fine-tuning) |" in card
        )
        assert table["nearest_model_id"][number] == row["model_id"] and table["test_acc"][number] == accuracy[number]
        assert table["tuned_test_acc"][number] == tuned[number]
        np.testing.assert_array_equal(table["weights"][number], weights[number].numpy())


def test_the_card_of_a_sample_is_a_card_of_the_hub(measured: tuple[Path, Measurement], tmp_path: Path) -> None:
    out, _ = measured
    card = ModelCard.load(out / "noise-0001" / "README.md")
    told = config_json(out / "noise-0001")
    assert card.data.library_name == "modelzoo-datasets"
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {
        "Zero-shot accuracy": told["measured"]["zero_shot"],
        "Accuracy after 1 epochs of fine-tuning": told["measured"]["tuned"]["1"],
    }
    lineage = told["lineage"] | {"zoo": "zoos/tiny", "zoo_revision": "abc", "hyperrep": "zoos/tiny-hyperrep"}
    folder = tmp_path / "noise-0001"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(told | {"lineage": lineage}))
    known = ModelCard(sample_card(SampleInfo.read(folder, folder), None))
    assert (known.data.datasets, known.data.base_model) == (["zoos/tiny"], "zoos/tiny-hyperrep")
    assert "| parent zoo | `zoos/tiny`, config `seed`, revision `abc` |" in known.text


def test_the_table_of_a_draw_loads_as_a_dataset(measured: tuple[Path, Measurement], tmp_path: Path) -> None:
    out, _ = measured
    rows = load_dataset(str(out), "noise", split="train", cache_dir=str(tmp_path))
    assert rows["sample"] == ["noise-0000", "noise-0001", "noise-0002"]
    header = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    described = {f["name"]: f for f in header["dataset_info"][0]["features"]}
    assert described["weights"] == {"name": "weights", "list": "float32", "length": 2464}
    assert [*described] == rows.column_names
    assert header["dataset_info"][0]["splits"][0]["num_examples"] == len(rows) == 3


def test_the_table_has_a_row_per_sample_with_its_distance_and_embedding(
    trained: Path, rep: HyperRepresentation, tmp_path: Path
) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, SampleRequest(n=3, sampler="kde-shared", seed=4))
    table = pq.read_table(out / "samples.parquet").to_pandas()
    assert table["sample"].tolist() == [f"kde-shared-{number:04d}" for number in range(3)]
    assert {*table["sampler"]} == {"kde-shared"} and {*table["seed"]} == {4}
    draws = keyed_generator(4, "samples", "kde-shared")
    weights = rep.sample(3, sampler="kde-shared", generator=draws)
    np.testing.assert_array_equal(np.stack(table["z"].tolist()), rep.encode(weights).numpy())
    decoded = rep.decode(rep.embeddings)
    as_it_is = find_nearest(weights, decoded, rep.scale)[0].numpy()
    assert (table["distance"].to_numpy() <= as_it_is + 1e-6).all()
    assert (table["distance"] > 0).all()
    assert table[["nearest_model_id", "test_acc", "tuned_test_acc"]].isna().all().all()


def test_what_cannot_be_sampled_is_told_in_one_line_and_leaves_nothing(
    trained: Path, tiny_dataset: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    out = tmp_path / "samples"
    other = Path(shutil.copytree(tiny_dataset, tmp_path / "other"))
    facts = json.loads((other / "zoo.json").read_text())
    facts["configs"]["seed"]["states_sha256"] = "0" * 64
    (other / "zoo.json").write_text(json.dumps(facts))
    where = Measurement(dataset=other, engine=engine, images_root=tmp_path)
    for asked, measuring, told in (
        (SampleRequest(n=1, sampler="kd"), None, "unknown sampler 'kd'; did you mean 'kde'?"),
        (
            SampleRequest(n=1, top_fraction=2.0),
            None,
            "n must be at least 1 and top_fraction in (0, 1]; got n 1, top_fraction 2.0",
        ),
        (
            SampleRequest(n=1, epochs=5),
            None,
            "fine-tuning needs images; name the dataset that the representation learned from",
        ),
        (
            SampleRequest(n=1, sampler="average"),
            None,
            "sampler average draws from training weights, which a hyper-representation does not carry; name the "
            "dataset that it was learned from",
        ),
        (
            SampleRequest(n=1),
            where,
            f"{trained} was not trained by recipe tiny on {other}; name the dataset that it was trained on",
        ),
    ):
        with pytest.raises(ModelZooError) as caught:
            export_samples(trained, out, asked, measuring)
        assert str(caught.value) == told
        assert not out.exists()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"bandwidth": float("nan")}, "bandwidth must be a finite number >= 0; got nan"),
        ({"sigma": -0.2}, "sigma must be a finite number >= 0; got -0.2"),
        ({"share": float("inf")}, "share must be a finite number >= 0; got inf"),
        ({"epochs": -1}, "epochs of fine-tuning must be >= 0; got -1"),
    ],
)
def test_numbers_that_no_draw_can_have_are_refused(numbers: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelZooError, match=f"^{re.escape(told)}$"):
        SampleRequest(n=1, **numbers)


def test_the_share_of_a_move_is_drawn_with_and_told(
    measured: tuple[Path, Measurement], trained: Path, rep: HyperRepresentation, learned: dict[str, Zoo], tmp_path: Path
) -> None:
    asked = SampleRequest(n=2, sampler="move", share=0.25, top_fraction=0.5, seed=4)
    export_samples(trained, tmp_path / "samples", asked, measured[1])
    training = TrainingStates.from_representation(rep, learned["train"])
    source = SamplingContext(rep=rep, training=training, top_fraction=0.5, share=0.25)
    expected = draw_weights("move", 2, source, keyed_generator(4, "samples", "move"))
    for number, weights in enumerate(expected):
        folder = tmp_path / "samples" / f"move-{number:04d}"
        assert torch.equal(rep.layout.pack(load_file(folder / "model.safetensors")), weights)
        assert config_json(folder)["lineage"]["share"] == 0.25
        assert "| sampler | `move` with share 0.25, best 50% of the training states, seed 4," in (
            (folder / "README.md").read_text()
        )


def test_a_folder_that_is_no_sample_or_another_network_is_refused(
    measured: tuple[Path, Measurement], trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(measured[0] / "noise-0000", tmp_path / "noise-0000"))
    with pytest.raises(FormatError) as caught:
        load_sample(trained)
    assert str(caught.value) == (
        f"{trained} is not a sampled model of format 'modelzoo-sample-1'; modelzoo-hyperrep sample writes them"
    )
    with pytest.raises(FormatError) as caught:
        load_sample(folder, revision="main")
    assert str(caught.value) == f"{folder} is a folder and has no revision 'main'; leave out `revision`"
    tensors = load_file(folder / "model.safetensors")
    del tensors["module_list.0.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FormatError) as caught:
        load_sample(folder)
    assert str(caught.value) == (
        f"cannot load sampled model {folder}: the weights have no tensor module_list.0.bias, which config.json asks for"
    )


def test_a_sample_that_nobody_registered_takes_a_module_or_a_plugin(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    monkeypatch.setattr(plugins, "_loaded", set(plugins._loaded))
    monkeypatch.setenv(plugins.VARIABLE, "")
    export_samples(trained, tmp_path / "samples", SampleRequest(n=1, sampler="normal"))
    folder = tmp_path / "samples" / "normal-0000"
    images = torch.rand(2, 1, 28, 28, generator=keyed_generator(0, "images"))
    expected = load_sample(folder)(images)
    (folder / "config.json").write_text(json.dumps({**config_json(folder), "architecture": "mine"}))
    with pytest.raises(RecipeError) as caught:
        load_sample(folder)
    assert str(caught.value) == (
        "architecture 'mine' is not registered, so that only its tensors are known: pass your own module, "
        "load_sample(source, module), or name a file that registers it, load_sample(source, plugin=FILE); "
        "safetensors.torch.load_file reads the tensors of model.safetensors"
    )
    own = load_sample(folder, PlainNetwork())
    assert isinstance(own, PlainNetwork) and not own.training and own(images).equal(expected)
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from modelzoo_datasets.architectures import get_architecture, register_architecture\n"
        'register_architecture(dataclasses.replace(get_architecture("cnn-s"), name="mine", family="mine"))\n'
    )
    assert load_sample(folder, plugin=tmp_path / "mine.py")(images).equal(expected)
    info = read_sample_info(folder)
    card = sample_card(info, None)
    assert 'load_sample(".", module)' in card and "network = load_sample" not in card
    (folder / "config.json").write_text(json.dumps({**info.to_json(), "activation": ""}))
    with pytest.raises(RecipeError, match="the activation of the models is not recorded"):
        load_sample(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_seeds_give_equal_files_and_others_other_models(trained: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        export_samples(trained, tmp_path / name, SampleRequest(n=2, sampler="kde", top_fraction=0.5, seed=seed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    weights = "kde-0000/model.safetensors"
    assert contents(tmp_path / "a")[weights] != contents(tmp_path / "c")[weights]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_is_taken_is_refused(trained: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "taken"
    note = out / "note.txt" if kind == "folder" else out
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    told = f"output folder {out} already contains other files; pass a different --out or delete it"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(told)}$"):
        export_samples(trained, out, SampleRequest(n=1))
    assert note.read_text() == "mine"


def test_an_empty_folder_is_filled_and_a_refused_call_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    out.mkdir()
    with pytest.raises(
        ModelZooError, match=r"^n must be at least 1 and top_fraction in \(0, 1\]; got n 1, top_fraction 2\.0$"
    ):
        export_samples(trained, out, SampleRequest(n=1, top_fraction=2.0))
    assert list(tmp_path.rglob("*")) == [out]
    export_samples(trained, out, SampleRequest(n=1))
    of_one = ["normal-0000/README.md", "normal-0000/config.json", "normal-0000/model.safetensors"]
    assert sorted(contents(out)) == ["README.md", *of_one, "samples.json", "samples.parquet"]


@pytest.mark.parametrize("config", ["seed", "hyp", None])
def test_embeddings_stand_beside_the_datasets_own_columns(
    tiny_dataset: Path, rep: HyperRepresentation, tmp_path: Path, config: str | None
) -> None:
    out = tmp_path / "z.parquet"
    zoo = load_zoo(tiny_dataset, config)
    assert export_embeddings(tiny_dataset, config, rep, out) == len(zoo)
    table = pq.read_table(out).to_pandas()
    assert list(table.columns) == [*zoo.table.columns, "z"]
    assert table.drop(columns="z").equals(zoo.table)
    np.testing.assert_array_equal(np.stack(table["z"].tolist()), rep.encode(zoo.weights).numpy())


def test_a_dataset_of_another_architecture_is_refused(trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    rep = HyperRepresentation.from_pretrained(trained)
    rep.architecture = dataclasses.replace(rep.architecture, name="mlp")
    told = f"this hyper-representation is of mlp, {tiny_dataset} holds models of cnn-s"
    with pytest.raises(FormatError, match=f"^{re.escape(told)}$"):
        export_embeddings(tiny_dataset, "seed", rep, tmp_path / "z.parquet")
    assert not (tmp_path / "z.parquet").exists()


def test_embeddings_overwrite_nothing(tiny_dataset: Path, rep: HyperRepresentation, tmp_path: Path) -> None:
    out = tmp_path / "z.parquet"
    out.write_text("something else")
    with pytest.raises(FolderInUseError) as caught:
        export_embeddings(tiny_dataset, "seed", rep, out)
    assert str(caught.value) == f"{out} already exists; pass a different --out"
    assert out.read_text() == "something else"
