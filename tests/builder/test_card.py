"""The card is valid for the Hub, its examples run, and its figures and known issues are those of its zoos."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import matplotlib.image
import pandas as pd
import pytest
import torch
from helpers.hub_commands import Client, commands
from helpers.hub_server import HubServer
from helpers.processes import execute, hashes
from helpers.random_zoos import recipe, write_zoo
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.utils import get_session
from torch import nn

from modelzoo_datasets import build_dataset, load_zoo, read_recipe
from modelzoo_datasets.architectures import architecture_names, build_module, get_architecture
from modelzoo_datasets.builder import schema
from modelzoo_datasets.builder.card_examples import write_module_code
from modelzoo_datasets.builder.card_links import list_links
from modelzoo_datasets.builder.card_metadata import CardMetadata
from modelzoo_datasets.builder.dictionary import list_absent, list_columns
from modelzoo_datasets.builder.integrity import read_checksums
from modelzoo_datasets.builder.known_issues import find_known_issues
from modelzoo_datasets.builder.schema import TableSchema
from modelzoo_datasets.errors import FormatError, RecipeError
from modelzoo_datasets.images.registry import get_image_dataset, image_dataset_names
from modelzoo_datasets.recipes import ExternalModels, find_recipe, recipe_names
from modelzoo_datasets.verification import Check
from modelzoo_datasets.verification.dataset_checks import check_checksums
from modelzoo_datasets.verification.viewer import check_viewer
from modelzoo_datasets.weights import Layout
from modelzoo_datasets.zoo import DatasetInfo, ImportInfo, RecipeInfo, ZooFolder, ZooInfo

# What a block of a card leaves behind, compared with what load_zoo gives.
SAME = """
import modelzoo_datasets
found = modelzoo_datasets.load_zoo({source!r}, split="train")
assert states["sha256"][:] == found.table["sha256"].tolist()
assert zoo.weights.equal(found.weights)
images = torch.rand(5, 1, 28, 28)
assert module(images).equal(found.model(0)(images))
last = found[found.table["epoch"] == found.table["epoch"].max()]
assert trained["model_id"][:] == last.table["model_id"].tolist() and 0 < len(trained) < len(found)
assert torch.tensor(trained["weights"][:]).equal(last.weights)
print("the same")
"""


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.S)


@pytest.fixture
def offline(tmp_path: Path) -> Client:
    """A machine that reaches nobody."""
    return Client(tmp_path / "offline", "http://127.0.0.1:9")


def output_of(program: str, folder: Path, client: Client, **environment: str) -> str:
    """What a program prints that is run in a folder."""
    result = client.run(execute, str(folder), program, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_python_example_runs_in_the_folder(tiny_dataset: Path, offline: Client) -> None:
    python = blocks((tiny_dataset / "README.md").read_text(), "python")
    program = "\n".join([*python, SAME.format(source=str(tiny_dataset))])
    assert output_of(program, tiny_dataset, offline, HF_HUB_OFFLINE="1") == "the same\n"


def test_every_python_example_runs_against_the_hub(
    hub: HubServer, ann: Client, anyone: Client, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    build_dataset([tiny_hyp_zoo], tmp_path / "dataset", repo_id="zoos/tiny")
    assert ann.push(tmp_path / "dataset", "zoos/tiny").returncode == 0
    python = blocks((tmp_path / "dataset" / "README.md").read_text(), "python")
    program = "\n".join([*python, SAME.format(source=str(tmp_path / "dataset"))])
    anyone.home.mkdir()
    assert output_of(program, anyone.home, anyone) == "the same\n"


def test_the_examples_of_a_zoo_with_weights_in_files_run(
    tiny_zoo: Path, tmp_path: Path, offline: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MAX_INLINE_PARAMETERS", 1000)
    build_dataset([tiny_zoo], tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    plain, part, _, module = blocks(card, "python")
    check = """
import hashlib
assert row["sha256"] == hashlib.sha256(weights.numpy().tobytes()).hexdigest()
assert "weights" not in states.column_names
assert trained.column_names == ["model_id", "epoch", "weights_file", "offset", "nbytes"] and {*trained["epoch"]} == {2}
print(row["model_id"], row["epoch"], module(torch.ones(1, 1, 28, 28)).tolist())
"""
    printed = output_of(f"{plain}\n{part}\n{module}\n{check}", tmp_path / "dataset", offline, HF_HUB_OFFLINE="1")
    model, epoch, *_ = printed.split()
    weights = ZooFolder.open(tiny_zoo).weights(model, int(epoch))
    wanted = build_module(get_architecture("cnn-s"), weights, activation="tanh")
    assert printed == f"{model} {epoch} {wanted(torch.ones(1, 1, 28, 28)).tolist()}\n"
    assert len(blocks(card, "sql")) == 1 and "list_inner_product" not in card
    assert check_viewer(tmp_path / "dataset").problems == []


def test_the_sql_of_the_card_runs_as_in_the_console_of_the_viewer(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_epoch, best, norms = blocks((tiny_dataset / "README.md").read_text(), "sql")
    monkeypatch.chdir(tiny_dataset)
    zoo = load_zoo(tiny_dataset, "hyp")
    accuracy = zoo.table.groupby("epoch")["test_acc"]
    expected = zip(accuracy.median().index, accuracy.count(), accuracy.median(), accuracy.max(), strict=True)
    assert duckdb.sql(by_epoch).fetchall() == [pytest.approx(row, rel=1e-12) for row in expected]
    last = zoo.table[zoo.table["epoch"] == 1]
    medians = last.groupby(["activation", "dropout"])["test_acc"].agg(["count", "median"])
    wanted = [(*key, *row) for key, row in zip(medians.index, medians.itertuples(index=False), strict=True)]
    wanted.sort(key=lambda row: -row[3])
    assert [row[:3] for row in duckdb.sql(best).fetchall()] == [row[:3] for row in wanted]
    largest = zoo.weights.double().norm(dim=1).sort(descending=True).values[:10]
    assert [row[2] for row in duckdb.sql(norms).fetchall()] == pytest.approx(largest.tolist(), rel=1e-5)


def test_the_sql_of_a_card_with_a_repo_names_its_files_on_the_hub(tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    build_dataset([tiny_hyp_zoo], tmp_path / "dataset", repo_id="zoos/tiny")
    for query in blocks((tmp_path / "dataset" / "README.md").read_text(), "sql"):
        assert len(re.findall(r"FROM 'hf://datasets/zoos/tiny/(hyp|hyp_index)/\*\.parquet'", query)) == 1


def test_the_header_is_what_the_cards_of_the_hub_hold(tiny_dataset: Path) -> None:
    card = DatasetCard.load(tiny_dataset / "README.md")
    assert isinstance(card.data, DatasetCardData)
    found = card.data.to_dict()
    assert found["license"] == "cc-by-4.0"
    assert found["pretty_name"] == "tiny"
    assert found["task_categories"] == ["other"]
    assert found["size_categories"] == ["n<1K"]
    assert found["tags"] == ["model-zoo", "neural-network-weights", "weight-space-learning", "modelzoo-datasets"]
    assert "source_datasets" not in found
    assert list(found)[-2:] == ["configs", "dataset_info"]
    assert card.content == (tiny_dataset / "README.md").read_text()


@pytest.mark.parametrize(("license", "valid"), [("mit", True), ("none-such", False)])
def test_the_hub_validates_the_card(
    license: str, valid: bool, hub: HubServer, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(f'title = "Mine"\nlicense = "{license}"\nsource_datasets = ["ylecun/mnist"]\n')
    build_dataset([tiny_hyp_zoo], tmp_path / "dataset", builder=str(tmp_path / "mine.toml"))
    card = DatasetCard.load(tmp_path / "dataset" / "README.md")
    assert card.data.to_dict()["source_datasets"] == ["ylecun/mnist"]
    # Before release 1.0, the client's `card.validate` asks the real Hub alone.
    body = {"repoType": "dataset", "content": str(card)}
    answer = get_session().post(f"{hub.url}/api/validate-yaml", json=body)
    told = [error["message"] for error in answer.json()["errors"]]
    expected = [] if valid else ['"license" must be one of [apache-2.0, mit, ...]']
    assert (answer.status_code, told) == (200 if valid else 400, expected)


@pytest.mark.parametrize(
    ("rows", "category"),
    [(999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**8, "100M<n<1B")],
)
def test_size_categories_are_those_of_the_hub(rows: int, category: str) -> None:
    from modelzoo_datasets.builder.card import _size_category

    assert _size_category(rows) == category


def test_a_grid_has_a_picture_of_its_hyper_parameters_and_seeds_have_none(tiny_dataset: Path) -> None:
    card = (tiny_dataset / "README.md").read_text()
    assert not (tiny_dataset / "assets" / "seed-hyper-parameters.png").exists()
    shown = re.findall(r"^!\[.*\]\((.*)\)$", card, re.M)
    assert sorted(shown) == sorted(f"assets/{path.name}" for path in (tiny_dataset / "assets").iterdir())
    for path in shown:
        picture = matplotlib.image.imread(tiny_dataset / path)
        assert picture.shape[0] > 300 and picture.shape[1] > 600 and picture.std() > 0.05


def test_twins_and_zoos_without_accuracies_have_cards_too(tmp_path: Path) -> None:
    chosen = recipe(models=20, epochs=1)
    for config in ("seed", "seed-sparse"):
        write_zoo(tmp_path / config, chosen, "packed", config=config)
    build_dataset([tmp_path / "seed", tmp_path / "seed-sparse"], tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "The models of `seed-sparse` are sparsified twins of those of `seed`" in card
    assert "their share after the last epoch, median (25 % to 75 %), is 0.062 (0.062 to 0.062)." in card
    listed = {row["column"]: row for row in table_of(card, "column")}
    assert listed["`sparsity`"]["unit"] == "fraction" and "`parent_id`" in listed
    assert (tmp_path / "dataset" / "assets" / "seed-sparse-sparsity.png").is_file()


def table_of(card: str, first: str) -> list[dict[str, str]]:
    """The Markdown table whose first column has this name."""
    lines = card[card.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_dictionary_explains_every_column_of_the_tables(tiny_dataset: Path) -> None:
    card = (tiny_dataset / "README.md").read_text()
    listed = table_of(card, "column")
    features = DatasetCard.load(tiny_dataset / "README.md").data.to_dict()["dataset_info"][0]["features"]
    assert [row["column"] for row in listed] == [f"`{feature['name']}`" for feature in features]
    assert all(row["meaning"] and "publication says" not in row["meaning"] for row in listed)
    assert listed[-1] == {
        "column": "`weights`",
        "type": "list of 2,464 float32",
        "unit": "-",
        "meaning": "All numbers of the state, in the order of the layout below",
    }


def test_every_column_that_a_dataset_can_have_is_explained() -> None:
    schemas = [
        TableSchema(10, 3, twins=twins, weights=place) for twins in (True, False) for place in ("inline", "files")
    ]
    for column in list_columns(schemas):
        assert "publication says" not in column["meaning"], column
    extra = TableSchema(10, 3, twins=False, extra_columns={"origin": "str", "depth": "int"}, extra_metrics=("bleu",))
    explained = {column["name"]: column for column in list_columns([extra])}
    assert explained["origin"]["meaning"] == "Name of the model in the original"
    assert explained["depth"]["type"] == "int64" and "publication says" in explained["bleu"]["meaning"]
    assert list_absent([schemas[0]], [extra]) == ["parent_id", "sparsity"]


def test_medians_stand_where_means_would_follow_one_model(tiny_dataset: Path) -> None:
    card, last = (tiny_dataset / "README.md").read_text(), load_zoo(tiny_dataset, "seed", epochs=[2]).table
    (row,) = (row for row in table_of(card, "config") if row["config"] == "`seed`")
    quartiles = last["test_acc"].quantile([0.25, 0.5, 0.75])
    assert row["quartiles"] == " / ".join(f"{value:.3f}" for value in quartiles)
    losses = last["test_loss"].quantile([0.25, 0.5, 0.75]).tolist()
    assert f"{losses[1]:.3f} ({losses[0]:.3f} to {losses[2]:.3f})" in card
    assert " ± " not in card


def test_classes_paper_project_and_code_are_named(tiny_dataset: Path) -> None:
    card = (tiny_dataset / "README.md").read_text()
    assert "0 T-shirt/top, 1 trouser, 2 pullover," in card and "9 ankle boot." in card
    for url in ("https://arxiv.org/abs/2209.14764", "https://www.modelzoos.cc", "ModelZoos/ModelZooDataset"):
        assert url in card.split("## Links")[1].split("\n## ")[0]
    assert (
        "2002.11448" in str(list_links("small-cnn-zoo")) and list_links("safetensors").keys() < list_links(None).keys()
    )


@pytest.mark.parametrize("name", image_dataset_names())
def test_every_class_of_a_published_image_dataset_has_one_name(name: str) -> None:
    images = get_image_dataset(name)
    if name == "tiny-imagenet":  # its classes are WordNet ids, which are in its archive
        assert images.class_names == ()
    else:
        assert len({*images.class_names}) == len(images.class_names) == images.classes


# Networks as code.


@pytest.mark.parametrize("name", ["cnn-s", "cnn-s-rgb", "cnn-m", "small-cnn", "resnet18", "resnet18-100"])
def test_the_code_of_a_network_is_that_network(name: str) -> None:
    architecture = get_architecture(name)
    code = write_module_code(architecture)
    assert code is not None
    for activation, kind in (("tanh", nn.Tanh), ("gelu", nn.GELU)):
        scope: dict[str, Any] = {"nn": nn, "activation": kind}
        exec(code.code, scope)
        module, wanted = scope["module"].eval(), architecture.module(activation, 0.0).eval()
        draws = torch.Generator().manual_seed(0)
        state = {
            key: torch.rand(value.shape, generator=draws) / 8 if value.is_floating_point() else torch.zeros_like(value)
            for key, value in wanted.state_dict().items()
        }
        wanted.load_state_dict(state)
        module.load_state_dict({key.removeprefix(code.prefix): value for key, value in state.items()})
        images = torch.rand(2, *architecture.input_shape, generator=draws)
        assert module(images).equal(wanted(images))


def test_networks_that_are_no_chains_have_no_code() -> None:
    spelled = {name for name in architecture_names() if write_module_code(get_architecture(name)) is not None}
    assert "cnn-s" in spelled and not {"cnn-s-residual", "small-cnn-colour"} & spelled


# Known issues.


def states(**columns: Any) -> pd.DataFrame:
    """Four models after their one epoch, all well."""
    rows: dict[str, Any] = {
        "model_id": ["a", "b", "c", "d"],
        "epoch": [1] * 4,
        "finite": [True] * 4,
        "sha256": ["1", "2", "3", "4"],
        "test_recall": [[0.5, 0.6], [0.7, 0.9], [0.9, 0.8], [1.0, 0.9]],
        **{f"{split}_{kind}": [0.8, 0.7, 0.6, 0.7] for split in ("train", "val", "test") for kind in ("loss", "acc")},
    }
    return pd.DataFrame(rows | columns)


def grid(seeds: tuple[Any, ...], axes: dict[str, tuple[Any, ...]] | None = None, **values: Any) -> RecipeInfo:
    """The recipe of a zoo."""
    names = {"name": "small", "config": "a", "images": "none", "architecture": "cnn-s", "seed": 1}
    return RecipeInfo(**names, axes=axes or {}, seeds=seeds, **values)  # type: ignore[arg-type]


SOUND = ZooInfo(
    name="small/a",
    architecture="cnn-s",
    images="none",
    recipe=grid((7, 8), {"lr": (0.1, 0.2)}),
    layout=Layout(()),
    images_sha256="",
    classes=2,
    engine="none",
    versions={},
)
EXTERNAL = ExternalModels(models={"origin": ["x"] * 4})


@pytest.mark.parametrize(
    ("zoo", "columns", "diverged", "wrong"),
    [
        ({}, {}, 0, []),
        (
            {"recipe": grid(("random", 1000, 10**6))},
            {},
            0,
            ["contains 4 of the 1,000 models of its recipe"],
        ),
        (
            {"recipe": grid((1, 2, 3, 4, 5))},
            {},
            1,
            ["1 model diverged (some weights are not finite): not included"],
        ),
        ({"recipe": grid((), external_models=EXTERNAL)}, {}, 0, []),
        (
            {},
            {"test_acc": [0.55, 0.551, 0.9, float("nan")]},
            0,
            [
                "at chance level after the last epoch (test accuracy at most 1.1 / 2): 1 of 4 models",
                "`test_acc` is missing for 1 of 4 trained states: not recorded or not finite",
            ],
        ),
        (
            {},
            {"test_recall": [[0.0, 1.0], [1.0, 0.0], [0.1, 1.0], None]},
            0,
            ["a single class predicted for all test images after the last epoch: 2 of 4 models"],
        ),
        (
            {},
            {"sha256": ["1", "2", "1", "1"]},
            0,
            ["2 states have the same weights as another state (equal `sha256`), 0 are untrained"],
        ),
        ({}, {"val_loss": [None] * 4, "val_acc": [None] * 4}, 0, ["not recorded: `val_loss`, `val_acc`"]),
        (
            {"import_info": ImportInfo(format="x", source="x", incomparable_metrics=("train", "test_loss"))},
            {},
            0,
            ["recorded on other data than the column names say: train, test_loss"],
        ),
    ],
)
def test_defects_are_said_where_there_are_some(
    zoo: dict[str, Any], columns: dict[str, Any], diverged: int, wrong: list[str]
) -> None:
    assert find_known_issues(replace(SOUND, **zoo), states(**columns), diverged, {}, keep_diverged=False) == wrong


def test_missing_states_are_a_defect() -> None:
    missing = {"a": [0, 2], "b": [1]}
    assert find_known_issues(SOUND, states(), 0, missing, keep_diverged=True) == [
        "3 states of 2 models are missing at epochs that other models have"
    ]


def test_defects_of_a_card_are_those_of_its_table(tiny_dataset: Path) -> None:
    card = (tiny_dataset / "README.md").read_text().split("## Known issues")[1].split("\n## ")[0]
    assert "* `seed`: none." in card
    last = load_zoo(tiny_dataset, "hyp", epochs=[1]).table
    if n := int((last["test_acc"] <= 0.11).sum()):
        bound = "test accuracy at most 1.1 / 10"
        assert f"* `hyp`: at chance level after the last epoch ({bound}): {n} of 8 models." in card
    assert DatasetInfo.read(tiny_dataset).configs["hyp"].recipe.num_models == 8


# Checksums.


def test_sha256sum_checks_the_folder(dataset: Path) -> None:
    listed = read_checksums(dataset)
    assert listed == {k: v for k, v in hashes(dataset).items() if k not in ("README.md", "checksums.sha256")}
    command = ["sha256sum", "--check", "--quiet", "checksums.sha256"]
    assert subprocess.run(command, cwd=dataset, check=False).returncode == 0
    (dataset / "layout.json").write_text("[]")
    assert subprocess.run(command, cwd=dataset, check=False, capture_output=True).returncode == 1


def test_files_that_are_altered_missing_or_more_than_listed_are_named(dataset: Path) -> None:
    assert check_checksums(dataset) == Check("checksums", 25, [])
    (dataset / "layout.json").write_text("[]")
    (dataset / "assets" / "seed-layers.png").unlink()
    (dataset / "notes.txt").write_text("mine")
    (dataset / ".hidden").write_text("mine")
    assert check_checksums(dataset).problems == [
        f"{dataset}/assets/seed-layers.png is listed in checksums.sha256, but missing; build the dataset again",
        f"{dataset}/layout.json has another checksum than checksums.sha256 lists; build the dataset again",
        f"{dataset}/notes.txt is not listed in checksums.sha256; build the dataset again",
    ]
    (dataset / "checksums.sha256").unlink()
    (problem,) = check_checksums(dataset).problems
    assert problem.startswith(f"cannot read {dataset}/checksums.sha256: ")


def test_a_list_of_checksums_that_is_none_is_refused(dataset: Path) -> None:
    path = dataset / "checksums.sha256"
    path.write_text("0123  layout.json\n")
    with pytest.raises(FormatError) as caught:
        read_checksums(dataset)
    assert str(caught.value) == f"{path}: expected lines of a SHA-256, two spaces and a path, got '0123  layout.json'"


# Builder recipes.


def test_every_recipe_of_the_paper_is_published_under_its_name() -> None:
    published = {name: CardMetadata.from_toml(find_recipe("builders", name)) for name in recipe_names("builders")}
    assert set(published) == set(recipe_names("generation"))
    zoos = 0
    for name, publication in published.items():
        generated = read_recipe(name)
        assert publication.license == "cc-by-4.0" and len(publication.source_datasets) == 1
        assert publication.citation[0].startswith("@inproceedings{schuerholt2022modelzoos,")
        assert generated.images in image_dataset_names()
        if generated.source is not None:
            assert publication.repo_id == f"modelzoos/{name}"
            zoos += sum(config.parent is None for config in generated.configs.values())
    assert zoos == 27
    assert len({publication.title for publication in published.values()}) == len(published)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('license = "mit"', 'the key "title" is missing; add a title, e.g. title = "MNIST, small CNN"'),
        ('title = "A"\nlicence = "mit"', "a builder recipe has no key 'licence'; did you mean 'license'?"),
        ("title = 7", "title must be str, got 7"),
        (
            'title = "A"\nsource_datasets = "ylecun/mnist"',
            "source_datasets must be a list of strings, got 'ylecun/mnist'",
        ),
        ('title = "A"\nrepo_id = "mine"', "repo_id: expected ORG/NAME, e.g. modelzoos/mnist-cnn-s, got 'mine'"),
        (
            'title = "A"\nsource_datasets = ["a b/c"]',
            "source_datasets: expected ORG/NAME, e.g. modelzoos/mnist-cnn-s, got 'a b/c'",
        ),
        (
            'title = "A"\ncitation = ["schuerholt2022modelzoo"]',
            "unknown citation 'schuerholt2022modelzoo'; did you mean 'schuerholt2022modelzoos'?",
        ),
    ],
)
def test_a_builder_recipe_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        CardMetadata.from_toml(tmp_path / "mine.toml")
    assert str(caught.value) == f"builder recipe mine.toml: {message}"


def test_a_builder_of_ones_own_names_title_licence_text_repo_and_citation(
    tiny_hyp_zoo: Path, tmp_path: Path, offline: Client
) -> None:
    (tmp_path / "mine.toml").write_text(
        'title = "My zoo"\nlicense = "mit"\nrepo_id = "me/my-zoo"\ntext = "Made at home."\n'
        'citation = ["""@misc{me, title = {Mine}}""", "unterthiner2020predicting"]\n'
    )
    line = f"modelzoo-build {tiny_hyp_zoo} --out dataset --builder mine.toml"
    assert offline.run(commands, str(tmp_path), [line]).returncode == 0
    card = (tmp_path / "dataset" / "README.md").read_text()
    for piece in (
        "# My zoo\n",
        "license: mit\n",
        "Made at home.",
        'load_dataset("me/my-zoo", "hyp"',
        "@misc{me, title",
    ):
        assert piece in card
    assert "@misc{unterthiner2020predicting," in card and "schuerholt" not in card
    facts = json.loads((tmp_path / "dataset" / "zoo.json").read_text())
    assert (facts["repo_id"], facts["publication"]["title"]) == ("me/my-zoo", "My zoo")


def test_a_part_of_a_published_zoo_does_not_point_to_the_whole_one(tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    folder = ZooFolder(Path(shutil.copytree(tiny_hyp_zoo, tmp_path / "zoo")))
    shipped = read_recipe("fashion-mnist-cnn-s")
    facts = folder.info.to_json() | {"recipe": RecipeInfo.from_recipe(shipped, "seed").to_json()}
    (folder.path / "zoo.json").write_text(json.dumps(facts))
    found = CardMetadata.from_zoos([ZooFolder(folder.path)])
    assert (found.title, found.repo_id) == ("Fashion-MNIST, small CNN", None)
    facts["recipe"]["seeds"] = list(range(8))
    (folder.path / "zoo.json").write_text(json.dumps(facts))
    assert CardMetadata.from_zoos([ZooFolder(folder.path)]).repo_id == "modelzoos/fashion-mnist-cnn-s"
