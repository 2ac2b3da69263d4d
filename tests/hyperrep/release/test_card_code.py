"""Every block of Python of every card runs, in its folder and from the Hub, and does what the card says."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.hub_commands import Client
from helpers.hub_server import HubServer
from helpers.processes import execute, hashes
from huggingface_hub import DatasetCard, ModelCard

from hyperrep import HyperRepresentation, load_sample
from hyperrep.release.cards import write_sample_code
from hyperrep.release.export import SampleRequest, export_samples
from modelzoo_datasets import build_dataset, verify_folder
from modelzoo_datasets.builder import schema
from modelzoo_datasets.hub import read_manifest

KINDS = ("dataset", "large", "hyperrep", "sample", "samples")
REPO = "zoos/anything"  # no card knows it before it is pushed
RUN_ALL = """
for block in {blocks!r}:
    exec(compile(block, "a card", "exec"), {{}})
print("all ran")
"""
WITHOUT_US = """
import sys
sys.modules.update(modelzoo_datasets=None, hyperrep=None)
{block}
import torch
with torch.no_grad():
    print(module(torch.ones(2, 1, 28, 28)).double().sum().item())
"""


@pytest.fixture(scope="module")
def folders(
    trained: Path, tiny_dataset: Path, tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of each kind that has a card."""
    root = tmp_path_factory.mktemp("cards")
    export_samples(trained, root / "samples", SampleRequest(n=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MAX_INLINE_PARAMETERS", 1000)
        build_dataset([tiny_zoo], root / "large")
    own = {"large": root / "large", "samples": root / "samples", "sample": root / "samples" / "normal-0001"}
    return {"dataset": tiny_dataset, "hyperrep": trained, **own}


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def pushed_card(hub: HubServer) -> str:
    """The card in the only repo."""
    (repo,) = hub.repos.values()
    return hub.content(repo, "README.md").decode()


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_runs_in_its_folder_and_from_the_hub(
    kind: str, folders: dict[str, Path], hub: HubServer, ann: Client, anyone: Client, tmp_path: Path
) -> None:
    folder = folders[kind]
    before, python = hashes(folder), blocks((folder / "README.md").read_text())
    offline = Client(tmp_path / "offline", "http://127.0.0.1:9")
    here = offline.run(execute, str(folder), RUN_ALL.format(blocks=python), HF_HUB_OFFLINE="1")
    assert here.stdout.endswith("all ran\n"), here.stderr
    assert ann.push(folder, REPO).returncode == 0
    assert hashes(folder) == before, "a push changes nothing here"
    pushed = blocks(pushed_card(hub))
    assert len(pushed) == len(python) >= (1 if kind == "hyperrep" else 2)
    assert all(REPO in block and "Path" not in block for block in pushed)
    (tmp_path / "empty").mkdir()
    there = anyone.run(execute, str(tmp_path / "empty"), RUN_ALL.format(blocks=pushed))
    assert there.stdout.endswith("all ran\n"), there.stderr
    assert ": is already this " in ann.push(folder, REPO).stdout


@pytest.mark.parametrize("kind", ["sample", "samples"])
def test_a_sample_is_rebuilt_without_this_package(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Its own process, in which neither of the two packages can be imported."""
    (block,) = (block for block in blocks((folders[kind] / "README.md").read_text()) if "nn.Linear" in block)
    assert "modelzoo_datasets" not in block and "hyperrep" not in block
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_US.format(block=block)]
    result = subprocess.run(command, cwd=folders[kind], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    sample = folders["sample"] if kind == "sample" else folders["samples"] / "normal-0000"
    with torch.no_grad():
        expected = load_sample(sample)(torch.ones(2, 1, 28, 28)).double().sum().item()
    assert float(result.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-6)


def test_a_pushed_dataset_passes_its_checks(
    folders: dict[str, Path], hub: HubServer, ann: Client, tmp_path: Path
) -> None:
    assert ann.push(folders["dataset"], REPO).returncode == 0
    repo, copy = hub.repos["datasets", REPO], tmp_path / "copy"
    commit = repo.commit("main")
    assert commit is not None
    for path in commit.files:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(hub.content(repo, path))
    assert (copy / "README.md").read_bytes() != (folders["dataset"] / "README.md").read_bytes()
    assert [check for check in verify_folder(copy, states=0) if not check.has_passed] == []


def test_a_card_that_somebody_edited_keeps_the_edits_and_its_examples_name_the_repo(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for kind in ("dataset", "hyperrep", "sample"):
        folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
        (folder / "README.md").write_text((folder / "README.md").read_text() + '\nMine: load_zoo(".").\n')
        card = read_manifest(folder, REPO).card
        assert card is not None and card.endswith('\nMine: load_zoo(".").\n') and f'("{REPO}"' in card


def test_a_dataset_that_was_built_for_another_repo_names_the_one_it_is_pushed_to(
    tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    build_dataset([tiny_hyp_zoo], tmp_path / "dataset", repo_id="zoos/first")
    card = read_manifest(tmp_path / "dataset", REPO).card
    assert card is not None and "zoos/first" not in card and f'load_dataset("{REPO}", "hyp"' in card
    assert f"FROM 'hf://datasets/{REPO}/hyp/*.parquet'" in card


@pytest.mark.parametrize(
    "code",
    [
        "from hyperrep import HyperRepresentation as H\nH.from_pretrained('.').push_to_hub('zoos/anything')",
        "from modelzoo_datasets import push_to_hub\npush_to_hub('.', 'zoos/anything')",
    ],
    ids=["from memory", "by function"],
)
def test_python_names_the_repo_too(code: str, folders: dict[str, Path], hub: HubServer, ann: Client) -> None:
    result = ann.run(execute, str(folders["hyperrep"]), code)
    assert result.returncode == 0, result.stderr
    assert f'HyperRepresentation.from_pretrained("{REPO}")' in pushed_card(hub)


def test_cards_of_samples_have_the_license_of_the_zoo_and_links(folders: dict[str, Path]) -> None:
    sample, samples = (folders[kind] / "README.md" for kind in ("sample", "samples"))
    assert ModelCard.load(sample).data.license == DatasetCard.load(samples).data.license == "cc-by-4.0"
    for path in (sample, samples, folders["hyperrep"] / "README.md"):
        text = path.read_text()
        assert "`cc-by-4.0`, the license of the zoo" in text
        for url in ("arxiv.org/abs/2209.14733", "arxiv.org/abs/2209.14764", "www.modelzoos.cc", "github.com/HSG-AIML"):
            assert f"https://{url}" in text


def test_networks_with_dropout_are_rebuilt_under_their_names(trained: Path, tmp_path: Path) -> None:
    """Layers of dropout shift the numbers in the names of tensors."""
    rep = HyperRepresentation.from_pretrained(trained)
    config = dataclasses.replace(rep.config, dropout=0.1)
    code = write_sample_code(HyperRepresentation(config))
    assert code is not None and "nn.Dropout(0.1)" in code.code
    scope: dict[str, object] = {"state": rep.architecture.layout_with(0.1).unpack(rep.mean)}
    exec("from torch import nn\n" + code.write_loading("tanh"), scope)
