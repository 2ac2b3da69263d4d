"""Publishing to a Hub and loading from it, by the real client libraries over HTTP; faults on the way."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hub_commands import Client, Result, loads, loads_in, loads_onto_a_full_disk, pushes, pushes_in_commits_of_five
from hub_server import Fault, HubServer, Repo, User
from hub_xet import XetStorage
from processes import run

from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import FormatError, HubError
from modelzoo_datasets.hub import check_destination, read_publication

FORMAT = "modelzoo-dataset-2"
SENDING = "^(PUT|DELETE)|^POST .*/(preupload|batch|commit|tag|branch|create)"
SECRETS = ("hf_writer", "hf_reader", "hf_forged")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with two users: ann writes to `ann` and `zoos`, bob to `bob` alone."""
    with HubServer(tmp_path / "hub").running() as server:
        server.users["hf_writer"] = User("ann", writes=("ann", "zoos"))
        server.users["hf_reader"] = User("bob", writes=("bob",))
        yield server


@pytest.fixture
def ann(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "ann", hub.url, "hf_writer")


@pytest.fixture
def bob(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "bob", hub.url, "hf_reader")


@pytest.fixture
def anyone(hub: HubServer, tmp_path: Path) -> Client:
    return Client(tmp_path / "anyone", hub.url)


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))


def tiny(hub: HubServer) -> Repo:
    return hub.repos["datasets", "zoos/tiny"]


def holds(hub: HubServer, folder: Path, revision: str = "main") -> bool:
    """Whether the repo has exactly the files of a folder, byte for byte."""
    commit = tiny(hub).commit(revision)
    assert commit is not None
    local = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return local == {p: hub.content(tiny(hub), p, revision) for p in commit.files if p != ".gitattributes"}


def fails(result: Result, message: str) -> None:
    """One line, exit status 2, no token in sight."""
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"modelzoo-push: {message}\n")
    assert not any(secret in result.stderr for secret in SECRETS)


def shown(source: Path, **options: str) -> str:
    """What `loads` prints of a folder."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as text:
        loads(str(source), options)
    return text.getvalue()


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
    "revision": load_dataset(repo, "hyp", split="test", revision="modelzoo-dataset-2")["weights"][0],
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
    assert [c.title for c in tiny(hub).commits.values()] == ["initial commit", "Upload dataset"]
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


def test_what_is_there_is_not_sent_again(hub: HubServer, ann: Client, dataset: Path) -> None:
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    hub.requests.clear()
    again = ann.push(dataset, "zoos/tiny")
    assert again.stdout.endswith("zoos/tiny: is already this dataset\n")
    assert not hub.asked(SENDING)
    (dataset / "README.md").write_text((dataset / "README.md").read_text() + "\nA new paragraph.\n")
    before = tiny(hub).branches["main"]
    assert ann.push(dataset, "zoos/tiny").stdout.endswith("zoos/tiny: pushed\n")
    assert not hub.asked("^PUT") and len(hub.asked("/commit/")) == 1
    assert holds(hub, dataset)
    assert before != tiny(hub).branches["main"] == tiny(hub).tags[FORMAT], "the tag goes with what is there"


def test_shards_of_an_earlier_push_do_not_stay_among_the_new_ones(
    hub: HubServer, ann: Client, dataset: Path, tiny_dataset: Path
) -> None:
    whole = dataset / "seed" / "train-00000-of-00001.parquet"
    table = pq.read_table(whole)
    for i, part in enumerate((table[:21], table[21:])):
        pq.write_table(part, whole.with_name(f"train-0000{i}-of-00002.parquet"))
    whole.unlink()
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    assert holds(hub, dataset)
    result = ann.push(tiny_dataset, "zoos/tiny")
    assert re.search(r"seed +│ +[\d,]+ +│ +1 │ +2 │ +2 *│", result.stdout), result.stdout
    assert holds(hub, tiny_dataset)


def test_a_push_that_was_killed_halfway_goes_on(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    released = threading.Event()
    hub.faults.append(Fault("^PUT", skip=5, holds=released, times=10))
    running = ann.start(pushes, str(tiny_dataset), "zoos/tiny")
    until = time.monotonic() + 60
    while len(hub.asked("^PUT")) < 5:
        assert time.monotonic() < until and running.process.is_alive()
        time.sleep(0.01)
    running.process.kill()
    running.process.join()
    hub.faults.clear()
    released.set()
    time.sleep(0.3)  # what was in the Hub's hands still arrives
    sent = {request.path for request in hub.asked("^PUT") if request.status == 200}
    assert list(tiny(hub).commits.values())[-1].title == "initial commit", "nothing is to be seen before it is whole"
    hub.requests.clear()
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    assert holds(hub, tiny_dataset)
    assert sent and not sent & {request.path for request in hub.asked("^PUT")}
    assert len(sent) + len(hub.asked("^PUT")) == len(
        list(tiny_dataset.rglob("*.parquet")) + list(tiny_dataset.rglob("*.png"))
    )


def test_a_hub_that_fails_now_and_then_is_asked_again(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.faults += [
        Fault("GET /api/datasets/zoos/tiny$", status=500),
        Fault("POST /api/repos/create", status=429, headers={"Retry-After": "1"}),
        Fault("/preupload/", status=503),
        Fault("^PUT", status=500, skip=3),
        Fault("^PUT", skip=4),  # cut
        Fault("/commit/", status=412),  # somebody else committed
        Fault("/commit/", when="after"),  # done, but the answer is lost
        Fault("/tag/", status=500),
    ]
    result = ann.push(tiny_dataset, "zoos/tiny")
    assert (result.returncode, result.stderr) == (0, "")
    assert not [fault for fault in hub.faults if fault.times], "every fault befell"
    assert holds(hub, tiny_dataset)
    assert [c.title for c in tiny(hub).commits.values()] == ["initial commit", "Upload dataset"]
    assert tiny(hub).tags == {FORMAT: tiny(hub).branches["main"]}
    hub.faults[:] = [
        Fault("GET /api/datasets/zoos/tiny$", status=502),
        Fault("HEAD .*train", status=500),
        Fault("GET .*/resolve/.*train", when="during"),
        Fault("GET .*/resolve/.*test", status=429),
    ]
    loaded = ann.run(loads, "zoos/tiny", {"config": "seed"})
    assert not [fault for fault in hub.faults if fault.times], "every fault befell"
    assert loaded.stdout == shown(tiny_dataset, config="seed")


def test_a_hub_that_serves_nothing_is_told_in_one_line(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.faults.append(Fault("/api/", status=429, headers={"Retry-After": "1800"}, times=100))
    busy = "the Hub does not serve this for now (429 an injected fault); run the same command later to go on"
    fails(ann.push(tiny_dataset, "zoos/tiny"), f"pushing to zoos/tiny: {busy}")
    ann.endpoint = "http://127.0.0.1:9"
    result = ann.push(tiny_dataset, "zoos/tiny")
    fails(
        result,
        "pushing to zoos/tiny: cannot reach the Hub at http://127.0.0.1:9 ([Errno 111] Connection refused); check the "
        "network and HF_ENDPOINT, then run the same command again to go on",
    )
    offline = "pushing to zoos/tiny: offline (HF_HUB_OFFLINE is set), and not all of it is in the cache"
    fails(ann.push(tiny_dataset, "zoos/tiny", HF_HUB_OFFLINE="1"), offline)


def test_tokens_that_do_not_suffice_are_told_without_being_shown(
    hub: HubServer, ann: Client, bob: Client, anyone: Client, tiny_dataset: Path
) -> None:
    words = (tiny_dataset, "zoos/tiny")
    need = "pushing to zoos/tiny takes a token with write access: log in with `hf auth login` or set HF_TOKEN"
    fails(anyone.push(*words), need)
    forged = (
        "pushing to zoos/tiny: the Hub does not accept the token in use (Invalid credentials in Authorization header); "
        f"make one at {hub.url}/settings/tokens, then log in with `hf auth login` or set HF_TOKEN"
    )
    fails(anyone.push(*words, HF_TOKEN="hf_forged"), forged)
    told = bob.push(*words)
    fails(
        told,
        "pushing to zoos/tiny: the token in use may not do this (You don't have the rights to create a dataset under "
        "the namespace 'zoos'); it needs write access to zoos",
    )
    assert not hub.repos
    assert ann.push(*words).returncode == 0
    (hub.store.parent / "changed").mkdir()
    changed = Path(shutil.copytree(tiny_dataset, hub.store.parent / "changed" / "dataset"))
    (changed / "README.md").write_text((tiny_dataset / "README.md").read_text() + "!")
    refused = bob.push(changed, "zoos/tiny")
    assert "may not do this (You don't have the rights to write to this repo)" in refused.stderr
    (anyone.home / "token").write_text("hf_writer")  # where `hf auth login` puts it
    assert anyone.push(*words).stdout.endswith("is already this dataset\n")


def test_a_private_repo_is_loaded_with_a_token_alone(
    hub: HubServer, ann: Client, bob: Client, anyone: Client, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny", "--private").returncode == 0
    assert tiny(hub).private
    request = {"config": "hyp", "split": "test"}
    assert ann.run(loads, "zoos/tiny", request).stdout == shown(tiny_dataset, **request)
    assert anyone.run(loads, "zoos/tiny", request).stdout == (
        "HubAccessError: loading zoos/tiny from the Hub: no zoos/tiny can be seen without a token; if it is private, "
        "log in with `hf auth login` or set HF_TOKEN\n"
    )
    assert bob.run(loads, "zoos/tiny", request).stdout == (
        "HubAccessError: loading zoos/tiny from the Hub: there is no zoos/tiny, or none that the token in use may see\n"
    )
    plain = "from datasets import load_dataset; load_dataset('zoos/tiny', 'hyp')"
    told = run(["python", "-c", plain], cwd=hub.store, env={"PATH": "/usr/bin:/bin", **anyone.environment()})
    assert "DatasetNotFoundError: Dataset 'zoos/tiny' doesn't exist on the Hub or cannot be accessed." in told.stderr


def test_what_is_public_does_not_pass_for_private(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.create("datasets", "zoos/tiny")
    refused = "zoos/tiny exists and is public; make it private in its settings first, or leave --private out"
    fails(ann.push(tiny_dataset, "zoos/tiny", "--private"), refused)
    assert list(tiny(hub).commits.values())[-1].title == "initial commit"


def test_a_name_that_a_model_has_is_refused(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.create("models", "zoos/tiny")
    fails(ann.push(tiny_dataset, "zoos/tiny"), "zoos/tiny is a model, not a dataset; choose another name")
    assert list(hub.repos) == [("models", "zoos/tiny")]


def test_a_config_that_others_load_is_not_hidden(
    hub: HubServer, ann: Client, tiny_dataset: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    from modelzoo_datasets import build

    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    build([tiny_zoo], tmp_path / "one")
    refused = (
        f"zoos/tiny has config 'hyp', which {tmp_path / 'one'} has not and whose card would hide it; build all its "
        "zoos into one folder, or push to another --revision or name"
    )
    fails(ann.push(tmp_path / "one", "zoos/tiny"), refused)
    assert holds(hub, tiny_dataset)


def test_a_branch_is_made_and_main_is_left_alone(
    hub: HubServer, ann: Client, dataset: Path, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    main = tiny(hub).branches["main"]
    shutil.copy(dataset / "hyp" / "test-00000-of-00001.parquet", dataset / "hyp" / "validation-00000-of-00001.parquet")
    result = ann.push(dataset, "zoos/tiny", "--revision", "draft/two")
    assert result.stdout.endswith(f"{hub.url}/datasets/zoos/tiny/tree/draft/two: pushed\n")
    assert holds(hub, dataset, "draft/two") and holds(hub, tiny_dataset)
    assert tiny(hub).tags == {FORMAT: main} and tiny(hub).branches["main"] == main
    request = {"config": "hyp", "split": "validation"}
    loaded = ann.run(loads, "zoos/tiny", {**request, "revision": "draft/two"}, request, {**request, "revision": main})
    assert loaded.stdout == shown(dataset, **request) + 2 * shown(tiny_dataset, **request)


def test_a_pull_request_is_opened_by_who_may_not_write(
    hub: HubServer, ann: Client, bob: Client, dataset: Path, tiny_dataset: Path
) -> None:
    none = "there is no zoos/tiny that a pull request could change; leave --create-pr out"
    fails(bob.push(dataset, "zoos/tiny", "--create-pr"), none)
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    (dataset / "layout.json").write_text((dataset / "layout.json").read_text() + "\n")
    shutil.copy(dataset / "hyp" / "test-00000-of-00001.parquet", dataset / "hyp" / "train-00000-of-00001.parquet")
    result = bob.push(dataset, "zoos/tiny", "--create-pr")
    assert result.stdout.endswith(f"{hub.url}/datasets/zoos/tiny/discussions/1: pushed\n"), result.stderr
    assert holds(hub, dataset, "refs/pr/1") and holds(hub, tiny_dataset)
    hub.requests.clear()
    again = ann.push(dataset, "zoos/tiny", "--revision", "refs/pr/1")
    assert again.stdout.endswith("/discussions/1: is already this dataset\n")
    assert not hub.asked(SENDING)


def test_more_files_than_a_commit_takes_are_several_and_the_card_comes_last(
    hub: HubServer, ann: Client, tiny_dataset: Path
) -> None:
    assert ann.run(pushes_in_commits_of_five, str(tiny_dataset), "zoos/tiny").returncode == 0
    assert holds(hub, tiny_dataset)
    _, *others = tiny(hub).commits.values()
    assert [commit.title for commit in others] == [f"Upload dataset ({i} of 4)" for i in range(1, 5)]
    assert ["README.md" in commit.files for commit in others] == [False, False, False, True]


def test_a_dry_run_lists_files_and_bytes_and_asks_nobody(hub: HubServer, anyone: Client, tiny_dataset: Path) -> None:
    result = anyone.push(tiny_dataset, "zoos/tiny", "--dry-run")
    assert (result.returncode, result.stderr, hub.requests) == (0, "", [])
    files = {str(p.relative_to(tiny_dataset)): p.stat().st_size for p in tiny_dataset.rglob("*") if p.is_file()}
    for path, size in files.items():
        assert re.search(rf"{re.escape(path)} +│ +{size:,} *│", result.stdout)
    assert f"nothing was sent: {len(files)} files, {sum(files.values()):,} bytes for zoos/tiny\n" in result.stdout


def test_only_the_files_that_are_asked_for_are_loaded_and_only_once(
    hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    hub.requests.clear()
    request = {"config": "hyp", "split": "test"}
    loaded = anyone.run(loads, "zoos/tiny", request)
    assert loaded.stdout == shown(tiny_dataset, **request)
    got = {request.path.split("/", 6)[-1] for request in hub.asked("^GET .*/resolve/")}
    assert got == {"zoo.json", "layout.json", "hyp/test-00000-of-00001.parquet"}
    hub.requests.clear()
    assert anyone.run(loads, "zoos/tiny", request, request).stdout == 2 * loaded.stdout
    assert [(r.method, r.path) for r in hub.requests] == [("GET", "/api/datasets/zoos/tiny")], "where main is, once"
    hub.requests.clear()
    fixed = request | {"revision": tiny(hub).branches["main"]}
    assert anyone.run(loads, "zoos/tiny", fixed).stdout == loaded.stdout
    assert anyone.run(loads, "zoos/tiny", request, {"config": "seed"}, HF_HUB_OFFLINE="1").stdout == (
        f"{loaded.stdout}HubUnavailableError: loading zoos/tiny from the Hub: offline (HF_HUB_OFFLINE is set), and "
        "not all of it is in the cache\n"
    )
    assert not hub.requests
    anyone.endpoint = "http://127.0.0.1:9"
    assert anyone.run(loads, "zoos/tiny", request).stdout == loaded.stdout, "the Hub is down, the cache is not"


def test_what_cannot_be_loaded_is_told(hub: HubServer, ann: Client, anyone: Client, tiny_dataset: Path) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    told = anyone.run(loads, "zoos/tiny", {"revision": "gone"}, {"config": "sed"}, {"split": "val"}).stdout.splitlines()
    unknown = "zoos/tiny has no revision 'gone'; name a branch, a tag or a commit of it"
    assert told == [
        f"HubError: loading zoos/tiny from the Hub: {unknown}",
        "FormatError: zoos/tiny has no config 'sed'; it has seed, hyp",
        "FormatError: split must be one of train, validation, test, got 'val'",
    ]
    assert ann.run(loads, "zoos/tiny", {}, HF_HUB_OFFLINE="1").stdout == (
        "HubUnavailableError: loading zoos/tiny from the Hub: offline (HF_HUB_OFFLINE is set), and not all of it is in "
        "the cache\n"
    ), "offline without a copy"
    newer = tiny(hub).commit("main").files | {"zoo.json": hub.put(b'{"format": "modelzoo-dataset-3"}')}
    tiny(hub).branches["main"] = tiny(hub).add("a later release", newer).oid
    told = anyone.run(loads, "zoos/tiny", {}, {"config": "hyp", "revision": FORMAT}).stdout.splitlines()
    assert told[0] == (
        "FormatError: zoos/tiny has format 'modelzoo-dataset-3', but load_zoo reads 'modelzoo-dataset-2'; "
        "try revision='modelzoo-dataset-2'"
    )
    assert told[1:] == shown(tiny_dataset, config="hyp").splitlines()
    hub.create("datasets", "zoos/other")
    told = anyone.run(loads, "zoos/other", {}).stdout.splitlines()
    assert told == ["FormatError: zoos/other is no dataset folder: it has no zoo.json; modelzoo-build makes one"]


def test_a_folder_comes_before_the_repo_of_its_name(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    (hub.store / "zoos" / "tiny").mkdir(parents=True)
    told = ann.run(loads_in, str(hub.store), "zoos/tiny").stdout
    assert told == "FormatError: zoos/tiny is no dataset folder: it has no zoo.json; modelzoo-build makes one\n"
    assert ann.run(loads_in, str(hub.store), "hf://datasets/zoos/tiny").stdout == shown(tiny_dataset)
    with pytest.raises(FormatError, match="is a folder, which has no revision 'main'"):
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
        f"DiskFullError: loading zoos/tiny from the Hub: the disk is full: no room for it in {anyone.home}/hub; make "
        "room there or set HF_HOME to a larger disk, then do the same again to go on\n"
    )
    loaded = anyone.run(loads, "zoos/tiny", request, HF_HUB_DISABLE_XET=without_xet)
    assert loaded.stdout == shown(tiny_dataset, **request)


def test_xet_storage_is_used_where_the_hub_has_it(
    hub: HubServer, ann: Client, anyone: Client, dataset: Path, tmp_path: Path
) -> None:
    hub.xet = XetStorage(tmp_path / "xet")
    result = ann.push(dataset, "zoos/tiny", HF_HUB_DISABLE_XET="0")
    assert (result.returncode, result.stderr) == (0, "")
    assert hub.asked("/xet-write-token/") and not hub.asked("^PUT|/lfs")
    stored = hub.xet.bytes()
    assert stored > 500_000
    train = dataset / "seed" / "train-00000-of-00001.parquet"
    shutil.copy(train, dataset / "assets" / "copy.png")  # the same chunks under another name
    assert ann.push(dataset, "zoos/tiny", HF_HUB_DISABLE_XET="0").returncode == 0
    assert "assets/copy.png" in tiny(hub).commits[tiny(hub).branches["main"]].files
    assert hub.xet.bytes() < stored + train.stat().st_size / 10
    loaded = anyone.run(loads, "zoos/tiny", {"config": "seed"}, HF_HUB_DISABLE_XET="0")
    assert loaded.stdout == shown(dataset, config="seed")
    assert not hub.asked("^GET .*/resolve/.*parquet") and hub.asked("/xet-read-token/")


def test_a_card_that_the_hub_refuses_is_told_before_anything_is_made(
    hub: HubServer, ann: Client, dataset: Path
) -> None:
    card = dataset / "README.md"
    card.write_text(card.read_text().replace("license: ", "license: none-such-"))
    told = '"license" must be one of [apache-2.0, mit, ...]'
    fails(ann.push(dataset, "zoos/tiny"), f"{card}: the Hub refuses its header: {told}")
    assert not hub.repos


# Without a Hub: what is refused before anything is sent.


def _without_card(folder: Path) -> str:
    (folder / "README.md").unlink()
    return f"{folder} is incomplete: it has no README.md; build it again with modelzoo-build"


def _without_layout(folder: Path) -> str:
    (folder / "layout.json").unlink()
    return f"{folder} is incomplete: it has no layout.json; build it again with modelzoo-build"


def _without_header(folder: Path) -> str:
    (folder / "README.md").write_text("# A card\n")
    return f"{folder}/README.md has no header with the configs of the dataset; build it again with modelzoo-build"


def _without_a_split(folder: Path) -> str:
    (folder / "hyp" / "test-00000-of-00001.parquet").unlink()
    return f"{folder} is incomplete: it has no hyp/test-*.parquet; build it again with modelzoo-build"


def _without_a_shard(folder: Path) -> str:
    (folder / "hyp" / "test-00000-of-00001.parquet").rename(folder / "hyp" / "test-00000-of-00002.parquet")
    missing = "hyp/test-00001-of-00002.parquet"
    return f"{folder} is incomplete: it has no {missing}; build it again with modelzoo-build"


def _with_shards_of_two_builds(folder: Path) -> str:
    shutil.copy(folder / "hyp" / "test-00000-of-00001.parquet", folder / "hyp" / "test-00001-of-00002.parquet")
    extra = "hyp/test-00001-of-00002.parquet"
    return f"{folder} is incomplete: it must not have {extra}; build it again with modelzoo-build"


def _of_an_older_format(folder: Path) -> str:
    facts = json.loads((folder / "zoo.json").read_text())
    (folder / "zoo.json").write_text(json.dumps(facts | {"format": "modelzoo-dataset-1"}))
    return (
        f"{folder} has format 'modelzoo-dataset-1', but modelzoo-push takes 'modelzoo-dataset-2'; "
        "modelzoo-build makes one from zoo folders"
    )


def _no_dataset(folder: Path) -> str:
    (folder / "zoo.json").unlink()
    return f"{folder} is no dataset folder: it has no zoo.json; modelzoo-build makes one"


def _with_a_config_the_hub_refuses(folder: Path) -> str:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("config_name: hyp\n", "config_name: hyp?\n"))
    return (
        f"{folder}: the Hub refuses 'hyp?' as the name of a config (none of < > : / \\ | ? *, no leading dot, not "
        "'data'); name it otherwise in the recipe"
    )


def _with_a_config_the_card_does_not_name(folder: Path) -> str:
    facts = json.loads((folder / "zoo.json").read_text())
    facts["configs"]["more"] = facts["configs"]["hyp"]
    (folder / "zoo.json").write_text(json.dumps(facts))
    return f"{folder} is incomplete: its README.md has no config 'more'; build it again with modelzoo-build"


def _with_a_loading_script(folder: Path) -> str:
    (folder / "tiny.py").touch()
    return f"{folder}: `datasets` refuses a repo with a tiny.py in it; remove the file"


def _with_too_many_files(folder: Path) -> str:
    (folder / "weights").mkdir()
    for number in range(10_001):
        (folder / "weights" / f"{number}").touch()
    return (
        f"{folder}/weights has 10,001 files, the Hub takes 10,000 in a folder; publish it as several datasets, or "
        "build it with larger shards"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        _without_card,
        _without_layout,
        _without_header,
        _without_a_split,
        _without_a_shard,
        _with_shards_of_two_builds,
        _of_an_older_format,
        _no_dataset,
        _with_a_config_the_hub_refuses,
        _with_a_config_the_card_does_not_name,
        _with_a_loading_script,
        _with_too_many_files,
    ],
)
def test_a_folder_that_cannot_be_published_is_refused(spoil: Callable[[Path], str], dataset: Path) -> None:
    told = spoil(dataset)
    with pytest.raises(FormatError) as caught:
        read_publication(dataset, "zoos/tiny")
    assert str(caught.value) == told


def test_hidden_files_are_not_published(dataset: Path) -> None:
    (dataset / ".env").write_text("HF_TOKEN=hf_writer")
    (dataset / ".cache").mkdir()
    (dataset / ".cache" / "draft.md").touch()
    assert not [file.path for file in read_publication(dataset, "zoos/tiny").files if file.path.startswith(".")]


@pytest.mark.parametrize(
    ("repo_id", "revision", "create_pr", "told"),
    [
        ("tiny", None, False, "'tiny' is no name of a repo; it must look like modelzoos/mnist-cnn-s"),
        ("a/b/c", None, False, "'a/b/c' is no name of a repo; it must look like modelzoos/mnist-cnn-s"),
        ("a/b c", None, False, "'a/b c' is no name of a repo; it must look like modelzoos/mnist-cnn-s"),
        ("a/b", "0" * 40, False, f"a commit cannot be pushed to; --revision must be a branch, got '{'0' * 40}'"),
        (
            "a/b",
            "draft",
            True,
            "--create-pr opens a pull request against main; leave --revision out, or go on with one that is open by "
            "--revision refs/pr/N alone",
        ),
    ],
)
def test_what_cannot_be_pushed_to_is_refused(repo_id: str, revision: str | None, create_pr: bool, told: str) -> None:
    with pytest.raises(HubError) as caught:
        check_destination(repo_id, revision, create_pr)
    assert str(caught.value) == told
