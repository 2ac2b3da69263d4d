"""Hyper-representations and samples on a Hub, by the real client over HTTP: pushed, loaded back, named as lineage."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.hub_commands import Client
from helpers.hub_models import loads_sample, loads_table, samples_from
from helpers.hub_server import HubServer
from safetensors.torch import load_file

from hyperrep import HyperRepresentation
from hyperrep.release.export import SampleRequest, export_samples
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.hub import read_manifest


@pytest.fixture(scope="module")
def samples(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples."""
    out = tmp_path_factory.mktemp("pushing") / "samples"
    export_samples(trained, out, SampleRequest(n=2, seed=3))
    return out


def test_a_sample_is_a_model_repo_that_loads_in_two_lines(hub: HubServer, ann: Client, samples: Path) -> None:
    result = ann.push(samples / "normal-0001", "zoos/normal-0001")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(f"{hub.url}/zoos/normal-0001: pushed\n")
    repo = hub.repos["models", "zoos/normal-0001"]
    assert {*repo.commit("main").files} == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert repo.tags == {"modelzoo-sample-1": repo.branches["main"]}
    loaded = ann.run(loads_sample, "zoos/normal-0001")
    tensors = load_file(samples / "normal-0001" / "model.safetensors")
    assert loaded.stdout == f"ModuleListCNN { {name: float(p.sum()) for name, p in sorted(tensors.items())} }\n", (
        loaded.stderr
    )
    assert ann.push(samples / "normal-0001", "zoos/normal-0001").stdout.endswith(": is already this sampled model\n")


def test_the_table_of_samples_is_a_dataset_repo(hub: HubServer, ann: Client, samples: Path) -> None:
    assert ann.push(samples, "zoos/samples").returncode == 0
    files = {*hub.repos["datasets", "zoos/samples"].commit("main").files}
    assert files == {".gitattributes", "README.md", "samples.json", "samples.parquet"}
    loaded = ann.run(loads_table, "zoos/samples", "normal")
    assert loaded.stdout.startswith("['normal-0000', 'normal-0001'] ") and loaded.stdout.endswith(" []\n"), (
        loaded.stderr
    )


def test_samples_of_a_pushed_hyper_representation_name_it_and_its_revision(
    hub: HubServer, ann: Client, trained: Path, rep: HyperRepresentation, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "hyperrep")  # its card gets the name of the repo
    assert ann.push(folder, "zoos/tiny-hyperrep").returncode == 0
    repo = hub.repos["models", "zoos/tiny-hyperrep"]
    out = tmp_path / "samples"
    result = ann.run(samples_from, "zoos/tiny-hyperrep", str(out))
    assert (result.returncode, result.stdout) == (0, f"{out}: 2 models\n"), result.stderr
    lineage = json.loads((out / "normal-0000" / "config.json").read_text())["lineage"]
    assert (lineage["hyperrep"], lineage["hyperrep_revision"]) == ("zoos/tiny-hyperrep", repo.branches["main"])
    card = (out / "normal-0000" / "README.md").read_text()
    assert "base_model: zoos/tiny-hyperrep" in card
    expected = rep.sample(2, seed=0)
    found = load_file(out / "normal-0000" / "model.safetensors")
    assert rep.layout.pack(found).equal(expected[0])
    assert ann.push(out / "normal-0000", "zoos/normal-0000").returncode == 0, "the Hub refuses its card"


def test_what_is_not_whole_is_refused_before_anything_is_sent(samples: Path, trained: Path, tmp_path: Path) -> None:
    for source, missing, maker in (
        (samples / "normal-0000", "README.md", "modelzoo-hyperrep sample"),
        (samples, "samples.parquet", "modelzoo-hyperrep sample"),
        (trained, "model.safetensors", "modelzoo-hyperrep train"),
    ):
        folder = Path(shutil.copytree(source, tmp_path / source.name))
        (folder / missing).unlink()
        with pytest.raises(FormatError) as caught:
            read_manifest(folder, "zoos/name")
        assert str(caught.value) == f"{folder} is incomplete: it has no {missing}; make it again with {maker}"


def test_each_kind_says_what_it_is(samples: Path, trained: Path) -> None:
    for folder, repo_type, kind in (
        (samples / "normal-0000", "model", "sampled model"),
        (samples, "dataset", "table of samples"),
        (trained, "model", "hyper-representation"),
    ):
        manifest = read_manifest(folder, "zoos/name")
        assert (manifest.repo_type, manifest.kind) == (repo_type, kind)
