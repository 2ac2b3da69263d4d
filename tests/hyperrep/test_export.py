"""Embeddings and samples as files that need no code of ours."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hyperrep import HyperRepresentation, load_representation, train
from hyperrep.export import export_embeddings, export_samples
from hyperrep.recipe import DataRecipe, EvaluationRecipe, HyperRecipe, LearningRecipe, ModelRecipe
from hyperrep.samplers import SAMPLERS
from modelzoo_datasets.errors import FolderInUseError, FormatError, ModelZooError
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.population import nearest
from modelzoo_datasets.seeds import generator

RECIPE = HyperRecipe(
    name="tiny",
    data=DataRecipe(config="seed", epochs=(1, 2)),
    model=ModelRecipe(width=16, blocks=1, heads=2, feedforward=32, bottleneck="tokens", latent=0.2, projection=8),
    learning=LearningRecipe(epochs=1, batch_size=14, lr=3e-3, weight_decay=1e-2),
    evaluation=EvaluationRecipe(),
)


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny hyper-representation."""
    folder = tmp_path_factory.mktemp("export") / "hyperrep"
    train(tiny_dataset, RECIPE, folder)
    return folder


@pytest.fixture(scope="module")
def rep(trained: Path) -> HyperRepresentation:
    """The tiny hyper-representation."""
    return load_representation(trained)


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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_networks_that_plain_torch_runs(
    trained: Path, rep: HyperRepresentation, tmp_path: Path, sampler: str
) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, n=3, sampler=sampler, quality=0.5, seed=4)
    expected = rep.sample(3, sampler=sampler, quality=0.5, generator=generator(4, "samples", sampler))
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == [f"{sampler}-{number:04d}" for number in range(3)]
    for number, folder in enumerate(folders):
        network = PlainNetwork()
        network.load_state_dict(load_file(out / folder / "model.safetensors"))
        vector = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        assert torch.equal(vector, expected[number])
        assert network(torch.zeros(2, 1, 28, 28)).isfinite().all()


def test_every_sample_says_what_it_is(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, n=2, sampler="kde", quality=0.5, seed=4)
    facts = json.loads((trained / "training.json").read_text())
    for number in range(2):
        told = json.loads((out / f"kde-{number:04d}" / "config.json").read_text())
        assert told == {
            "format": "modelzoo-samples-1",
            "architecture": "cnn-s",
            "activation": "tanh",
            "dropout": 0.0,
            "sampler": "kde",
            "quality": 0.5,
            "seed": 4,
            "number": number,
            "states_sha256": facts["states_sha256"],
        }


def test_the_table_has_a_row_per_sample_with_its_distance_and_embedding(
    trained: Path, rep: HyperRepresentation, tmp_path: Path
) -> None:
    out = tmp_path / "samples"
    export_samples(trained, out, n=3, sampler="kde-shared", quality=1.0, seed=4)
    table = pq.read_table(out / "samples.parquet").to_pandas()
    assert list(table.columns) == ["sample", "sampler", "seed", "distance", "z"]
    assert table["sample"].tolist() == [f"kde-shared-{number:04d}" for number in range(3)]
    assert set(table["sampler"]) == {"kde-shared"}
    assert set(table["seed"]) == {4}
    draws = generator(4, "samples", "kde-shared")
    weights = rep.sample(3, sampler="kde-shared", generator=draws)
    np.testing.assert_array_equal(np.stack(table["z"].tolist()), rep.embed(weights).numpy())
    decoded = rep.decode(rep.embeddings)
    as_it_is = nearest(weights, decoded, rep.scale)[0].numpy()
    assert (table["distance"].to_numpy() <= as_it_is + 1e-6).all()
    assert (table["distance"] > 0).all()


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_seeds_give_equal_files_and_others_other_models(trained: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        export_samples(trained, tmp_path / name, n=2, sampler="kde", quality=0.5, seed=seed)
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
    with pytest.raises(FolderInUseError, match=f"^{re.escape(f'{out} is not empty; choose another --out')}$"):
        export_samples(trained, out, n=1, sampler="kde", quality=0.5, seed=0)
    assert note.read_text() == "mine"


def test_an_empty_folder_is_filled_and_a_refused_call_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    out.mkdir()
    with pytest.raises(ModelZooError, match=r"^expected n >= 1 and 0 < quality <= 1, got n 1, quality 2\.0$"):
        export_samples(trained, out, n=1, sampler="kde", quality=2.0, seed=0)
    assert list(tmp_path.rglob("*")) == [out]
    export_samples(trained, out, n=1, sampler="kde", quality=0.5, seed=0)
    assert sorted(contents(out)) == ["kde-0000/config.json", "kde-0000/model.safetensors", "samples.parquet"]


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
    np.testing.assert_array_equal(np.stack(table["z"].tolist()), rep.embed(zoo.weights).numpy())


def test_a_dataset_of_another_architecture_is_refused(trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    rep = load_representation(trained)
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
    assert str(caught.value) == f"{out} exists; choose another --out"
    assert out.read_text() == "something else"
