"""Push to a Hub with the real client over HTTP, with faults on the way."""

import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.hub_commands import Client, Result, Running, loads, pushes, pushes_in_commits_of_five, shown
from helpers.hub_server import HubServer, holds, tiny
from helpers.hub_state import Fault, Pull
from helpers.hub_xet import XetStorage

from modelzoo_datasets import build_dataset
from modelzoo_datasets.hub import name_repo
from modelzoo_datasets.zoo import write_footers

FORMAT = "modelzoo-dataset-4"
TITLE = "Upload dataset with modelzoo-push"
SENDING = "^(PUT|DELETE)|^POST .*/(preupload|batch|commit|tag|branch|create)"
SECRETS = ("hf_writer", "hf_reader", "hf_forged")


def fails(result: Result, message: str) -> None:
    """One line, exit status 2, no token in sight."""
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"modelzoo-push: {message}\n")
    assert not any(secret in result.stderr for secret in SECRETS)


def hold(hub: HubServer, fault: Fault, running: Running) -> threading.Event:
    """Wait until the Hub has served what the fault skips and is asked for more; it answers when the event is set."""
    fault.holds, served, times = threading.Event(), fault.skip, fault.times
    hub.faults.append(fault)
    until = time.monotonic() + 60
    while len(hub.asked(fault.match)) < served or fault.times == times:
        assert time.monotonic() < until and running.process.is_alive()
        time.sleep(0.01)
    return fault.holds


def kill_at(hub: HubServer, fault: Fault, running: Running) -> None:
    """End a command without notice when the Hub has served what the fault skips and is asked for more."""
    release = hold(hub, fault, running)
    running.process.kill()
    running.process.join()
    hub.faults.clear()
    release.set()
    time.sleep(0.3)  # what was in the Hub's hands still arrives


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


def test_the_source_of_an_earlier_module_does_not_stay(
    hub: HubServer, ann: Client, dataset: Path, tiny_dataset: Path
) -> None:
    (dataset / "code" / "cnn-m.py").write_text("# the network before\n")
    (dataset / "code" / "mine.txt").write_text("of a user")
    assert ann.push(dataset, "zoos/tiny").returncode == 0
    assert holds(hub, dataset)
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    (dataset / "code" / "cnn-m.py").unlink()
    assert holds(hub, dataset)


def test_a_push_that_was_killed_halfway_goes_on(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    fault = Fault("^PUT", skip=5, times=10)
    kill_at(hub, fault, ann.start(pushes, str(tiny_dataset), "zoos/tiny"))
    sent = {request.path for request in hub.asked("^PUT") if request.status == 200}
    assert list(tiny(hub).commits.values())[-1].title == "initial commit", "nothing is to be seen before it is whole"
    hub.requests.clear()
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    assert holds(hub, tiny_dataset)
    assert sent and not sent & {request.path for request in hub.asked("^PUT")}
    assert len(sent) + len(hub.asked("^PUT")) == len(
        [path for kind in ("*.parquet", "*.png", "*.safetensors") for path in tiny_dataset.rglob(kind)]
    )


def test_of_two_pushes_at_the_same_time_the_repo_is_whole(hub: HubServer, ann: Client, dataset: Path) -> None:
    others = [ann, replace(ann, home=ann.home / "other")]
    for text in ("", "\nA new paragraph.\n"):
        (dataset / "README.md").write_text((dataset / "README.md").read_text() + text)
        results = [running.result() for running in [one.start(pushes, str(dataset), "zoos/tiny") for one in others]]
        assert 0 in [result.returncode for result in results], results
        for result in results:  # one may meet the repo before the other has made its first commit
            assert result.returncode == 0 or (result.returncode, result.stderr.count("\n")) == (2, 1), result
        assert holds(hub, dataset)


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
    assert [c.title for c in tiny(hub).commits.values()] == ["initial commit", TITLE]
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
    busy = "the Hub is busy or limits requests (429 an injected fault); run the same command later to resume"
    fails(ann.push(tiny_dataset, "zoos/tiny"), f"pushing to zoos/tiny: {busy}")
    ann.endpoint = "http://127.0.0.1:9"
    result = ann.push(tiny_dataset, "zoos/tiny")
    fails(
        result,
        "pushing to zoos/tiny: cannot reach the Hub at http://127.0.0.1:9 ([Errno 111] Connection refused); check the "
        "network and HF_ENDPOINT, then run the same command again to resume",
    )
    why = "HF_HUB_OFFLINE is set and not all files are in the cache; unset it to download them"
    offline = f"pushing to zoos/tiny: {why}"
    fails(ann.push(tiny_dataset, "zoos/tiny", HF_HUB_OFFLINE="1"), offline)


def test_tokens_that_do_not_suffice_are_told_without_being_shown(
    hub: HubServer, ann: Client, bob: Client, anyone: Client, tiny_dataset: Path
) -> None:
    words = (tiny_dataset, "zoos/tiny")
    need = "pushing to zoos/tiny needs a token with write access: log in with `hf auth login` or set HF_TOKEN"
    fails(anyone.push(*words), need)
    forged = (
        "pushing to zoos/tiny: the Hub rejects the current token (Invalid credentials in Authorization header); "
        f"create one at {hub.url}/settings/tokens, then log in with `hf auth login` or set HF_TOKEN"
    )
    fails(anyone.push(*words, HF_TOKEN="hf_forged"), forged)
    told = bob.push(*words)
    fails(
        told,
        "pushing to zoos/tiny: the current token does not permit this (You don't have the rights to create a dataset "
        "under the namespace 'zoos'); use one with write access to zoos",
    )
    assert not hub.repos
    assert ann.push(*words).returncode == 0
    (hub.store.parent / "changed").mkdir()
    changed = Path(shutil.copytree(tiny_dataset, hub.store.parent / "changed" / "dataset"))
    (changed / "README.md").write_text((tiny_dataset / "README.md").read_text() + "!")
    refused = bob.push(changed, "zoos/tiny")
    assert "does not permit this (You don't have the rights to write to this repo)" in refused.stderr
    (anyone.home / "token").write_text("hf_writer")  # where `hf auth login` puts it
    assert anyone.push(*words).stdout.endswith("is already this dataset\n")


def test_what_is_public_does_not_pass_for_private(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.create("datasets", "zoos/tiny")
    refused = "zoos/tiny exists and is public; make it private in its settings or omit --private"
    fails(ann.push(tiny_dataset, "zoos/tiny", "--private"), refused)
    assert list(tiny(hub).commits.values())[-1].title == "initial commit"


def test_nothing_is_sent_to_a_public_repo_that_was_made_at_the_same_time(
    hub: HubServer, ann: Client, tiny_dataset: Path
) -> None:
    pushing = ann.start(pushes, str(tiny_dataset), "zoos/tiny", "--private")
    release = hold(hub, Fault("/repos/create"), pushing)
    hub.create("datasets", "zoos/tiny")
    release.set()
    fails(pushing.result(), "zoos/tiny exists and is public; make it private in its settings or omit --private")
    assert not hub.asked("^PUT|/(preupload|commit)/")


def test_a_name_that_a_model_has_is_refused(hub: HubServer, ann: Client, tiny_dataset: Path) -> None:
    hub.create("models", "zoos/tiny")
    fails(ann.push(tiny_dataset, "zoos/tiny"), "zoos/tiny is a model repo, not a dataset repo; choose another name")
    assert list(hub.repos) == [("models", "zoos/tiny")]


def test_a_config_that_others_load_is_not_hidden(
    hub: HubServer, ann: Client, tiny_dataset: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    build_dataset([tiny_zoo], tmp_path / "one")
    refused = (
        f"zoos/tiny has a config 'hyp' that {tmp_path / 'one'} does not have, and the new card would hide it; build "
        "all zoos into one folder, or push to another --revision or repo"
    )
    fails(ann.push(tmp_path / "one", "zoos/tiny"), refused)
    assert holds(hub, tiny_dataset)


def test_a_branch_is_made_and_main_is_left_alone(
    hub: HubServer, ann: Client, dataset: Path, tiny_dataset: Path
) -> None:
    assert ann.push(tiny_dataset, "zoos/tiny").returncode == 0
    main = tiny(hub).branches["main"]
    shutil.copy(dataset / "hyp" / "test-00000-of-00001.parquet", dataset / "hyp" / "validation-00000-of-00001.parquet")
    write_footers(dataset)
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
    none = "zoos/tiny does not exist, so no pull request can change it; omit --create-pr"
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


def test_a_pull_request_whose_push_was_killed_halfway_is_gone_on_with(
    hub: HubServer, bob: Client, tiny_dataset: Path
) -> None:
    main = hub.create("datasets", "zoos/tiny").branches["main"]
    words = (str(tiny_dataset), "zoos/tiny", "--create-pr")
    kill_at(hub, Fault("/preupload/refs", skip=2), bob.start(pushes_in_commits_of_five, *words))
    half = {*tiny(hub).commits[tiny(hub).pulls["refs/pr/1"]].files}
    assert len(half) > 5 and "README.md" not in half
    hub.requests.clear()
    again = bob.push(*words)
    assert again.stdout.endswith(f"{hub.url}/datasets/zoos/tiny/discussions/1: pushed\n"), again.stderr
    assert [*tiny(hub).pulls] == ["refs/pr/1"] and holds(hub, tiny_dataset, "refs/pr/1")
    assert len(hub.asked("/commit/refs%2Fpr%2F1")) == len(hub.asked("/commit/")) == 1
    made = len(tiny(hub).commits)
    hub.requests.clear()
    assert bob.push(*words).stdout.endswith("/discussions/1: is already this dataset\n")
    assert (len(tiny(hub).commits), hub.asked(SENDING)) == (made, [])
    assert (tiny(hub).branches, tiny(hub).tags) == ({"main": main}, {})


def test_a_pull_request_whose_opening_was_not_heard_of_is_not_opened_twice(
    hub: HubServer, bob: Client, tiny_dataset: Path
) -> None:
    hub.create("datasets", "zoos/tiny")
    hub.faults.append(Fault("/commit/", when="after"))
    result = bob.push(tiny_dataset, "zoos/tiny", "--create-pr")
    assert result.returncode == 2 and result.stderr.endswith("then run the same command again to resume\n")
    again = bob.push(tiny_dataset, "zoos/tiny", "--create-pr")
    assert again.stdout.endswith("/discussions/1: is already this dataset\n"), again.stderr
    assert [*tiny(hub).pulls] == ["refs/pr/1"]


NOT_OURS = (
    Pull("A fix", "bob"),
    Pull(TITLE, "ann"),
    Pull(TITLE, "bob", status="closed"),
    Pull(TITLE, "bob", status="merged"),
    Pull(f"{TITLE} (2 of 3)", "bob"),
    Pull("Upload dataset", "bob"),  # as `datasets` names its own
)


@pytest.mark.parametrize("mine", [None, Pull(TITLE, "bob", status="draft"), Pull(f"{TITLE} (1 of 3)", "bob")])
def test_only_what_the_same_user_opened_by_the_same_command_is_gone_on_with(
    mine: Pull | None, hub: HubServer, bob: Client, tiny_dataset: Path
) -> None:
    repo = hub.create("datasets", "zoos/tiny")
    listed = [*NOT_OURS[:3], *([mine] if mine else []), *NOT_OURS[3:]]  # on several pages
    for number, pull in enumerate(listed, 1):
        repo.discussions[f"refs/pr/{number}"] = pull
        repo.pulls[f"refs/pr/{number}"] = repo.branches["main"]
    result = bob.push(tiny_dataset, "zoos/tiny", "--create-pr")
    expected = 4 if mine else 7
    assert result.stdout.endswith(f"/discussions/{expected}: pushed\n"), result.stderr
    assert holds(hub, tiny_dataset, f"refs/pr/{expected}")
    assert {*repo.pulls.values()} == {repo.branches["main"], repo.pulls[f"refs/pr/{expected}"]}


def test_more_files_than_a_commit_takes_are_several_and_the_card_comes_last(
    hub: HubServer, ann: Client, tiny_dataset: Path
) -> None:
    assert ann.run(pushes_in_commits_of_five, str(tiny_dataset), "zoos/tiny").returncode == 0
    assert holds(hub, tiny_dataset)
    _, *others = tiny(hub).commits.values()
    files = [path for path in tiny_dataset.rglob("*") if path.is_file()]
    parts = -(-(len(files) - 2) // 5)  # the card and zoo.json go with the last ones
    assert [commit.title for commit in others] == [f"{TITLE} ({i} of {parts})" for i in range(1, parts + 1)]
    assert ["README.md" in commit.files for commit in others] == [*[False] * (parts - 1), True]


def test_a_dry_run_lists_files_and_bytes_and_asks_nobody(hub: HubServer, anyone: Client, tiny_dataset: Path) -> None:
    result = anyone.push(tiny_dataset, "zoos/tiny", "--dry-run")
    assert (result.returncode, result.stderr, hub.requests) == (0, "", [])
    files = {str(p.relative_to(tiny_dataset)): p.stat().st_size for p in tiny_dataset.rglob("*") if p.is_file()}
    files["README.md"] = len(name_repo((tiny_dataset / "README.md").read_text(), "zoos/tiny").encode())
    for path, size in files.items():
        assert re.search(rf"{re.escape(path)} +│ +{size:,} *│", result.stdout)
    assert f"nothing was sent: {len(files)} files, {sum(files.values()):,} bytes for zoos/tiny\n" in result.stdout


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
    fails(ann.push(dataset, "zoos/tiny"), f"{card}: the Hub rejects its YAML header: {told}")
    assert not hub.repos
