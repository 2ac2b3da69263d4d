"""Load from a Hub with `datasets` alone, and with `load_zoo`, which downloads only the needed files."""

import json
from pathlib import Path

import pytest
from helpers.hub_commands import Client, loads, loads_in, loads_onto_a_full_disk, shown
from helpers.hub_server import HubServer, holds, tiny
from helpers.hub_xet import XetStorage
from helpers.processes import run
from helpers.shards import cut

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import ArgumentError

FORMAT = "modelzoo-dataset-4"


PLAIN = """
import atexit, gc, json, sys
from datasets import get_dataset_config_names, load_dataset
atexit.register(gc.collect)  # pyarrow 26 may hang at exit after a stream that was left early
repo = "zoos/tiny"
streamed = load_dataset(repo, "hyp", split="validation", streaming=True)
print(json.dumps({
    "configs": sorted(get_dataset_config_names(repo)),
    "seed": {split: rows["sha256"][:] for split, rows in load_dataset(repo, "seed").items()},
    "default": load_dataset(repo, split="test")["weights"][0],
    "index": sorted(load_dataset(repo, "hyp_index", split="train").column_names)[:3],
    "streamed": [row["weights"] for row in streamed],
    "revision": load_dataset(repo, "hyp", split="test", revision="modelzoo-dataset-4")["weights"][0],
    "ours": [name for name in sys.modules if name.startswith(("modelzoo", "hyperrep"))],
}))
"""


def test_two_configs_load_in_plain_datasets_by_name_as_a_stream_and_of_a_revision(
    hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path, tmp_path: Path
) -> None:
    result = ann.push(tiny_dataset, "zoos/tiny")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(f"{hub.url}/datasets/zoos/tiny: pushed\n")
    assert holds(hub, tiny_dataset)
    assert [c.title for c in tiny(hub).commits.values()] == ["initial commit", "Upload dataset with modelzoo-push"]
    assert tiny(hub).tags == {FORMAT: tiny(hub).branches["main"]}
    anyone.home.mkdir()
    environment = {"PATH": "/usr/bin:/bin", **anyone.environment()}
    loaded = run(["python", "-c", PLAIN], cwd=anyone.home, env=environment)
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    seed, hyp = load_zoo(tiny_dataset, "seed"), load_zoo(tiny_dataset, "hyp")
    assert found["configs"] == ["hyp", "hyp_index", "seed", "seed_index"]
    for split, hashes in found["seed"].items():
        assert hashes == seed.table.loc[seed.table["split"] == split, "sha256"].tolist()
    assert found["default"] == seed.select(seed.table["split"] == "test").weights[0].tolist()
    assert found["streamed"] == hyp.select(hyp.table["split"] == "validation").weights.tolist()
    assert found["revision"] == hyp.select(hyp.table["split"] == "test").weights[0].tolist()
    assert "weights" not in found["index"]
    assert found["ours"] == []


def test_a_private_repo_is_loaded_with_a_token_alone(
    hub: HubServer, ann: Client, bob: Client, anyone: Client, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny", "--private").returncode == 0
    assert tiny(hub).private
    request = {"config": "hyp", "split": "test"}
    assert ann.run(loads, "zoos/tiny", request).stdout == shown(tiny_dataset, **request)
    assert anyone.run(loads, "zoos/tiny", request).stdout == (
        "HubAccessError: loading zoos/tiny from the Hub: zoos/tiny does not exist or is private; for a "
        "private repo, log in with `hf auth login` or set HF_TOKEN\n"
    )
    assert bob.run(loads, "zoos/tiny", request).stdout == (
        "HubAccessError: loading zoos/tiny from the Hub: zoos/tiny does not exist or is not visible with the current "
        "token; check the name and the token\n"
    )
    plain = "from datasets import load_dataset; load_dataset('zoos/tiny', 'hyp')"
    told = run(["python", "-c", plain], cwd=hub.store, env={"PATH": "/usr/bin:/bin", **anyone.environment()})
    assert "DatasetNotFoundError: Dataset 'zoos/tiny' doesn't exist on the Hub or cannot be accessed." in told.stderr


def test_only_the_files_that_are_asked_for_are_loaded_and_only_once(
    hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    hub.requests.clear()
    request = {"config": "hyp", "split": "test"}
    loaded = anyone.run(loads, "zoos/tiny", request)
    assert loaded.stdout == shown(tiny_dataset, **request)
    got = {request.path.split("/", 6)[-1] for request in hub.asked("^GET .*/resolve/")}
    assert got == {"zoo.json", "layout.json", "footers.json", "hyp/test-00000-of-00001.parquet"}
    hub.requests.clear()
    assert anyone.run(loads, "zoos/tiny", request, request).stdout == 2 * loaded.stdout
    assert [(r.method, r.path) for r in hub.requests] == [("GET", "/api/datasets/zoos/tiny")], "where main is, once"
    hub.requests.clear()
    fixed = request | {"revision": tiny(hub).branches["main"]}
    assert anyone.run(loads, "zoos/tiny", fixed).stdout == loaded.stdout
    assert anyone.run(loads, "zoos/tiny", request, {"config": "seed"}, HF_HUB_OFFLINE="1").stdout == (
        f"{loaded.stdout}HubUnavailableError: loading zoos/tiny from the Hub: HF_HUB_OFFLINE is set and not all "
        "files are in the cache; unset it to download them\n"
    )
    assert not hub.requests
    anyone.endpoint = "http://127.0.0.1:9"
    assert anyone.run(loads, "zoos/tiny", request).stdout == loaded.stdout, "the Hub is down, the cache is not"


def test_what_cannot_be_loaded_is_told(hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    told = anyone.run(loads, "zoos/tiny", {"revision": "gone"}, {"config": "sed"}, {"split": "val"}).stdout.splitlines()
    unknown = "zoos/tiny has no revision 'gone'; pass one of its branches, tags or commits"
    assert told == [
        f"HubError: loading zoos/tiny from the Hub: {unknown}",
        "ArgumentError: zoos/tiny has no config 'sed'; it has seed, hyp",
        "ArgumentError: split must be one of train, validation, test; got 'val'",
    ]
    assert ann.run(loads, "zoos/tiny", {}, HF_HUB_OFFLINE="1").stdout == (
        "HubUnavailableError: loading zoos/tiny from the Hub: HF_HUB_OFFLINE is set and not all files are in the "
        "cache; unset it to download them\n"
    ), "offline without a copy"
    newer = tiny(hub).commit("main").files | {"zoo.json": hub.put(b'{"format": "modelzoo-dataset-99"}')}
    tiny(hub).branches["main"] = tiny(hub).add("a later release", newer).oid
    told = anyone.run(loads, "zoos/tiny", {}, {"config": "hyp", "revision": FORMAT}).stdout.splitlines()
    assert told[0] == (
        "FormatError: zoos/tiny has format 'modelzoo-dataset-99', but load_zoo reads 'modelzoo-dataset-4'; "
        "try revision='modelzoo-dataset-4'"
    )
    assert told[1:] == shown(tiny_dataset, config="hyp").splitlines()
    hub.create("datasets", "zoos/other")
    told = anyone.run(loads, "zoos/other", {}).stdout.splitlines()
    assert told == [
        "FormatError: zoos/other is not a dataset folder: it has no zoo.json; build one with modelzoo-build"
    ]


def test_a_folder_comes_before_the_repo_of_its_name(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    (hub.store / "zoos" / "tiny").mkdir(parents=True)
    told = ann.run(loads_in, str(hub.store), "zoos/tiny").stdout
    assert told == "FormatError: zoos/tiny is not a dataset folder: it has no zoo.json; build one with modelzoo-build\n"
    assert ann.run(loads_in, str(hub.store), "hf://datasets/zoos/tiny").stdout == shown(tiny_dataset)
    with pytest.raises(ArgumentError, match="revision must be None for a folder; got 'main' for "):
        load_zoo(tiny_dataset, revision="main")


@pytest.mark.parametrize("without_xet", ["1", "0"])
def test_a_full_disk_is_told_and_the_next_load_goes_on(
    without_xet: str, hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path, tmp_path: Path
) -> None:
    hub.xet = None if without_xet == "1" else XetStorage(tmp_path / "xet")
    assert ann.push(tiny_dataset, "zoos/tiny", HF_HUB_DISABLE_XET=without_xet).returncode == 0
    request = {"config": "seed", "split": "train"}
    told = anyone.run(loads_onto_a_full_disk, "zoos/tiny", request, HF_HUB_DISABLE_XET=without_xet).stdout
    assert told == (
        f"DiskFullError: loading zoos/tiny from the Hub: the disk of {anyone.home}/hub is full; free some space "
        "there, or set HF_HOME to a folder on a larger disk, then try again to resume\n"
    )
    loaded = anyone.run(loads, "zoos/tiny", request, HF_HUB_DISABLE_XET=without_xet)
    assert loaded.stdout == shown(tiny_dataset, **request)


def test_of_many_files_only_those_with_wanted_models_are_downloaded(
    hub: HubServer, ann: Client, anyone: Client, dataset: Path
) -> None:
    paths = cut(dataset, "seed", "train", shards=4)
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    models = load_zoo(dataset, "seed", split="train").table["model_id"].unique().tolist()
    of_third = {"config": "seed", "split": "train", "models": [models[8], models[9]], "epochs": [2]}
    first = {"config": "seed", "split": "train", "models": 1}
    hub.requests.clear()
    loaded = anyone.run(loads, "zoos/tiny", of_third, first)
    assert loaded.stdout == shown(dataset, **of_third) + shown(dataset, **first), loaded.stderr
    cached = {path.name for path in anyone.home.glob("hub/*/snapshots/*/seed/*")}
    assert cached == {paths[0].name, paths[2].name}
    hub.requests.clear()
    fixed = of_third | {"revision": tiny(hub).branches["main"]}
    assert anyone.run(loads, "zoos/tiny", fixed, HF_HUB_OFFLINE="1").stdout == shown(dataset, **of_third)
    nothing = {"config": "seed", "split": "train", "filters": [("lr", ">", 1)]}
    assert "matches the given split, epochs, models and filters" in anyone.run(loads, "zoos/tiny", nothing).stdout
    assert not hub.asked("^GET .*/resolve/.*parquet"), "the index says so"


def test_what_an_offline_cache_lacks_is_told(hub: HubServer, ann: Client, anyone: Client, dataset: Path) -> None:
    """Clients of the Hub before 2.0 return the part of a repo that they have, without a word."""
    cut(dataset, "seed", "train", shards=2)
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    split = {"config": "seed", "split": "train"}
    whole = anyone.run(loads, "zoos/tiny", split).stdout
    lacking = (
        "HubUnavailableError: loading zoos/tiny from the Hub: HF_HUB_OFFLINE is set and not all files are in the "
        "cache; unset it to download them\n"
    )
    every = {"config": "seed"}  # the other splits were never downloaded
    assert anyone.run(loads, "zoos/tiny", split, every, HF_HUB_OFFLINE="1").stdout == whole + lacking
    shards = sorted(anyone.home.rglob("snapshots/*/seed/train-*.parquet"))
    assert len(shards) > 1
    shards[-1].unlink()
    assert anyone.run(loads, "zoos/tiny", split, HF_HUB_OFFLINE="1").stdout == lacking
    assert anyone.run(loads, "zoos/tiny", split).stdout == whole, "what lacks is downloaded again"
