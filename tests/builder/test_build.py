"""A dataset folder holds the bits of its zoos, is described exactly, and is written completely or not at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.random_zoos import recipe, write_zoo
from helpers.steps import StepProgress

from modelzoo_datasets import build_dataset, generate_zoo, load_zoo, read_recipe
from modelzoo_datasets.builder import shard_plan
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import FolderInUseError, FormatError
from modelzoo_datasets.zoo import ZooFolder, read_json, read_tensors, write_json, write_tensors

SPLITS = ("train", "validation", "test")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(dataset: Path, config: str, split: str) -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted((dataset / config).glob(f"{split}-*"))])


def header_of(dataset: Path) -> dict[str, Any]:
    _, header, body = (dataset / "README.md").read_text().split("---\n", 2)
    assert body.strip().startswith("# ")
    parsed: dict[str, Any] = yaml.safe_load(header)
    return parsed


@pytest.fixture
def zoo(tiny_hyp_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the smaller zoo that a test may change."""
    return Path(shutil.copytree(tiny_hyp_zoo, tmp_path / "zoo"))


def test_the_same_zoos_give_the_same_bytes_wherever_they_are_built(
    tiny_zoo: Path, tiny_hyp_zoo: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_zoo, tmp_path / "moved")
    assert build_dataset([Path(moved), tiny_hyp_zoo], tmp_path / "elsewhere") is True
    assert contents(tmp_path / "elsewhere") == contents(tiny_dataset)


def test_a_dataset_holds_exactly_its_files(tiny_dataset: Path) -> None:
    tables = {
        f"{config}/{split}-00000-of-00001.parquet"
        for config in ("seed", "seed_index", "hyp", "hyp_index")
        for split in SPLITS
    }
    kinds = ("accuracy", "layers", "similarity")
    pictures = {f"assets/{config}-{kind}.png" for config in ("seed", "hyp") for kind in kinds}
    pictures |= {"assets/hyp-hyper-parameters.png"}
    described = {"README.md", "layout.json", "zoo.json", "checksums.sha256", "footers.json"}
    described |= {"code/cnn-s.py", "images.json", "splits.safetensors"}
    assert set(contents(tiny_dataset)) == {*described, *tables, *pictures}
    assert list(tiny_dataset.parent.iterdir()) == [tiny_dataset], "something was left beside it"


def test_weights_are_the_state_files_to_the_bit(tiny_zoo: Path, tiny_hyp_zoo: Path, tiny_dataset: Path) -> None:
    for config, zoo in (("seed", tiny_zoo), ("hyp", tiny_hyp_zoo)):
        for split in SPLITS:
            for row in rows_of(tiny_dataset, config, split).to_dict("records"):
                name = f"epoch-{row['epoch']:03d}.safetensors"
                state = read_tensors(zoo / "states" / row["model_id"] / name)
                numbers = sorted({int(key.split(".")[1]) for key in state})
                keys = [f"module_list.{n}.{kind}" for n in numbers for kind in ("weight", "bias")]
                raw = b"".join(state[key].numpy().tobytes() for key in keys)
                assert row["weights"].dtype == np.float32
                assert row["weights"].tobytes() == raw
                assert row["sha256"] == hashlib.sha256(raw).hexdigest()


def test_every_state_is_in_exactly_the_split_of_its_model(
    tiny_zoo: Path, tiny_hyp_zoo: Path, tiny_dataset: Path
) -> None:
    for config, zoo in (("seed", tiny_zoo), ("hyp", tiny_hyp_zoo)):
        found = pd.concat([rows_of(tiny_dataset, config, s).assign(split=s) for s in SPLITS])
        expected = ZooFolder.open(zoo).models.set_index("model_id")["split"]
        assert dict(zip(found["model_id"], found["split"], strict=True)) == expected.to_dict()
        states = ZooFolder.open(zoo).states
        assert len(found) == len(states)
        assert found.groupby("model_id")["split"].nunique().max() == 1


def test_rows_carry_the_facts_of_their_model_and_state(tiny_hyp_zoo: Path, tiny_dataset: Path) -> None:
    zoo = ZooFolder.open(tiny_hyp_zoo)
    joined = zoo.states.merge(zoo.models, on="model_id").set_index(["model_id", "epoch"])
    for split in SPLITS:
        rows = rows_of(tiny_dataset, "hyp", split)
        assert list(rows["model_id"]) == sorted(rows["model_id"])
        for row in rows.drop(columns="weights").to_dict("records"):
            fact = joined.loc[(row["model_id"], row["epoch"])]
            assert np.array_equal(row.pop("test_recall"), fact["test_recall"])
            for name, value in row.items():
                if name not in ("model_id", "epoch"):
                    assert value == fact[name] or (pd.isna(value) and pd.isna(fact[name])), name


def test_the_index_is_the_same_table_without_the_weights(tiny_dataset: Path) -> None:
    for config in ("seed", "hyp"):
        for split in SPLITS:
            whole = rows_of(tiny_dataset, config, split).drop(columns="weights")
            pd.testing.assert_frame_equal(rows_of(tiny_dataset, f"{config}_index", split), whole)


def test_the_card_describes_the_files_exactly(tiny_dataset: Path) -> None:
    header = header_of(tiny_dataset)
    names = ["seed", "seed_index", "hyp", "hyp_index"]
    assert [entry["config_name"] for entry in header["configs"]] == names
    assert [entry["config_name"] for entry in header["dataset_info"]] == names
    assert [e["config_name"] for e in header["configs"] if e.get("default")] == ["seed"]
    for entry, info in zip(header["configs"], header["dataset_info"], strict=True):
        assert [d["split"] for d in entry["data_files"]] == list(SPLITS)
        for pattern, split in zip(entry["data_files"], info["splits"], strict=True):
            (path,) = tiny_dataset.glob(pattern["path"])
            table = pq.read_table(path)
            assert split["name"] == pattern["split"]
            assert split["num_examples"] == table.num_rows
            assert split["num_bytes"] > 0
            assert [f["name"] for f in info["features"]] == table.schema.names
    features = {feature["name"]: feature for feature in header["dataset_info"][0]["features"]}
    assert features["weights"] == {"name": "weights", "list": "float32", "length": 2464}
    assert features["test_recall"] == {"name": "test_recall", "list": "float64"}
    assert features["finite"] == {"name": "finite", "dtype": "bool"}


def test_the_datasets_library_loads_the_folder_offline(tiny_dataset: Path, tmp_path: Path) -> None:
    program = """
import json, sys
import datasets
from datasets import Features, load_dataset
import pyarrow.parquet as pq
folder, config = sys.argv[1:]
found = {}
for name in (config, config + "_index"):
    for split in ("train", "validation", "test"):
        data = load_dataset(folder, name, split=split)
        raw = pq.read_table(f"{folder}/{name}/{split}-00000-of-00001.parquet")
        expected = Features.from_arrow_schema(raw.schema)
        if int(datasets.__version__.split(".")[0]) < 4:  # it reads lists of a fixed length as lists of any length
            data = data.cast(expected)
        assert data.features == expected, (data.features, raw.schema)
        assert data.num_rows == raw.num_rows
        assert data.with_format("arrow")[:].column("sha256").equals(raw.column("sha256"))
    if name == config:
        found = {"shape": list(data.with_format("numpy")["weights"][:].shape),
                 "first": data[0]["weights"][:3]}
print(json.dumps(found))
"""
    environment = os.environ | {
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", program, str(tiny_dataset), "hyp"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    expected = load_zoo(tiny_dataset, "hyp", split="test").weights
    assert found["shape"] == list(expected.shape)
    assert found["first"] == expected[0, :3].tolist()


def test_row_groups_and_shards_hold_whole_models(
    tiny_zoo: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = 4 * 2464
    monkeypatch.setattr(shard_plan, "_ROW_GROUP_BYTES", 4 * state)  # a model has 3 states here
    monkeypatch.setattr(shard_plan, "_MAX_SHARD_BYTES", 14 * state)
    build_dataset([tiny_zoo], tmp_path / "cut")
    paths = sorted((tmp_path / "cut" / "seed").glob("train-*"))
    assert len(paths) > 1
    assert [p.name for p in paths] == [f"train-{i:05d}-of-{len(paths):05d}.parquet" for i in range(len(paths))]
    models = []
    for path in paths:
        file = pq.ParquetFile(path)
        assert file.num_row_groups > 1
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["model_id", "epoch"]).to_pandas()
            for model, epochs in rows.groupby("model_id", sort=False)["epoch"]:
                assert epochs.tolist() == [0, 1, 2]
                models.append(model)
    assert models == list(dict.fromkeys(rows_of(tiny_dataset, "seed", "train")["model_id"]))
    cut, whole = load_zoo(tmp_path / "cut", "seed"), load_zoo(tiny_dataset, "seed")
    assert cut.weights.equal(whole.weights) and cut.table.equals(whole.table)


def test_columns_and_codecs_are_those_that_were_chosen(tiny_dataset: Path) -> None:
    file = pq.ParquetFile(tiny_dataset / "seed" / "train-00000-of-00001.parquet")
    weights = file.metadata.row_group(0).column(len(file.schema_arrow.names) - 1)
    assert weights.path_in_schema == "weights.list.element"
    assert (weights.compression, "BYTE_STREAM_SPLIT" in weights.encodings) == ("ZSTD", True)
    element = pa.field("element", pa.float32(), nullable=False)
    assert file.schema_arrow.field("weights").type == pa.list_(element, 2464)


def test_a_dataset_that_is_there_is_not_built_again(tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    assert build_dataset([tiny_hyp_zoo], out) is True
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert build_dataset([tiny_hyp_zoo], out) is False
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_empty_folder_may_be_built_into(tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    out.mkdir()
    assert build_dataset([tiny_hyp_zoo], out) is True


@pytest.mark.parametrize("kind", ["file", "folder", "other dataset"])
def test_what_is_already_there_is_never_overwritten(
    kind: str, tiny_zoo: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    else:
        shutil.copytree(tiny_dataset, out)
    before = contents(tmp_path)
    with pytest.raises(FolderInUseError) as caught:
        build_dataset([tiny_zoo], out)
    assert str(caught.value) == f"output folder {out} already contains other files; pass a different --out or delete it"
    assert contents(tmp_path) == before


def test_a_state_that_was_altered_is_refused_and_nothing_is_left(zoo: Path, tmp_path: Path) -> None:
    path = zoo / "states" / "hyp-00003" / "epoch-001.safetensors"
    state = read_tensors(path)
    name = next(iter(state))
    write_tensors(path, state | {name: state[name] * 1.0000001 + 1e-7})
    with pytest.raises(FormatError) as caught:
        build_dataset([zoo], tmp_path / "out")
    assert str(caught.value) == (
        f"state hyp-00003 epoch 1 of {zoo} differs from the state that was trained; "
        f"delete {zoo}/states/hyp-00003 and run modelzoo-generate again"
    )
    assert not (tmp_path / "out").exists()


def test_a_refused_build_does_not_stand_in_the_way_of_the_next(zoo: Path, tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    shutil.rmtree(zoo / "states" / "hyp-00008")
    with pytest.raises(FormatError, match="^cannot read state file "):
        build_dataset([zoo], tmp_path / "out")
    assert build_dataset([tiny_hyp_zoo], tmp_path / "out") is True
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_model_that_diverged_is_left_out_and_counted(tiny_recipe: Path, engine: Engine, tmp_path: Path) -> None:
    text = tiny_recipe.read_text()
    head = text[: text.index("[configs.seed]")]
    (tmp_path / "wild.toml").write_text(
        f"{head}[configs.wild]\nepochs = 1\nseeds = [1]\nactivation = 'relu'\noptimizer = 'sgd'\n"
        "init = 'kaiming_normal'\nlr = [1e-2, 1e38]\n"
    )
    chosen = read_recipe(str(tmp_path / "wild.toml"))
    generate_zoo(chosen, tmp_path / "zoo", config="wild", engine=engine, images_root=tmp_path)
    states = ZooFolder.open(tmp_path / "zoo").states
    assert states["finite"].tolist() == [True, True, True, False]
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    assert set(load_zoo(tmp_path / "dataset").table["model_id"]) == {"wild-00001"}
    assert "| `wild` | 1 | 2 | " in (tmp_path / "dataset" / "README.md").read_text()
    build_dataset([tmp_path / "zoo"], tmp_path / "all", keep_diverged=True)
    kept = load_zoo(tmp_path / "all")
    assert set(kept.table["model_id"]) == {"wild-00001", "wild-00002"}
    assert kept.table["finite"].tolist() == kept.weights.isfinite().all(dim=1).tolist()
    assert not kept.table["finite"].all()


def test_twins_have_a_parent_and_a_sparsity_and_others_have_neither(tmp_path: Path) -> None:
    chosen = recipe(models=20, epochs=1)
    for config in ("seed", "seed-sparse"):
        write_zoo(tmp_path / config, chosen, "packed", config=config)
    build_dataset([tmp_path / "seed", tmp_path / "seed-sparse"], tmp_path / "dataset")
    parents, twins = (load_zoo(tmp_path / "dataset", config) for config in ("seed", "seed-sparse"))
    assert not {"parent_id", "sparsity"} & set(parents.table.columns)
    assert [name.replace("-sparse", "") for name in twins.table["model_id"]] == twins.table["parent_id"].tolist()
    assert twins.table["sparsity"].tolist() == [epoch / 16 for epoch in twins.table["epoch"]]
    assert set(twins.table["parent_id"]) == set(parents.table["model_id"])
    split_of = dict(zip(parents.table["model_id"], parents.table["split"], strict=True))
    assert [split_of[parent] for parent in twins.table["parent_id"]] == twins.table["split"].tolist()


def test_the_card_counts_models_states_and_splits(tiny_dataset: Path) -> None:
    card = (tiny_dataset / "README.md").read_text()
    for config, counts in (("seed", "20 | 60 | 14 / 3 / 3"), ("hyp", "8 | 16 | 4 / 2 / 2")):
        assert f"| `{config}` | {counts} |" in card
    last = load_zoo(tiny_dataset, "seed", epochs=[2]).table["test_acc"]
    assert f"| {last.min():.3f} |" in card and f"| {last.max():.3f} | 0 |" in card


def test_zoos_of_other_images_are_not_mixed(zoo: Path, tiny_zoo: Path, tmp_path: Path) -> None:
    write_json(zoo / "zoo.json", read_json(zoo / "zoo.json") | {"images": "mnist"})
    with pytest.raises(FormatError) as caught:
        build_dataset([tiny_zoo, zoo], tmp_path / "out")
    assert str(caught.value) == (
        f"all zoos of a dataset must have the same images: {tiny_zoo} has fashion-mnist-5k, {zoo} has mnist; "
        "build them separately"
    )


def test_zoos_of_other_architectures_are_not_mixed(zoo: Path, tiny_zoo: Path, tmp_path: Path) -> None:
    write_json(zoo / "zoo.json", read_json(zoo / "zoo.json") | {"architecture": "mlp"})
    with pytest.raises(FormatError) as caught:
        build_dataset([tiny_zoo, zoo], tmp_path / "out")
    assert str(caught.value) == (
        f"all zoos of a dataset must have the same architecture: {tiny_zoo} has cnn-s, {zoo} has mlp; "
        "build them separately"
    )


def test_two_zoos_of_one_config_are_refused(zoo: Path, tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        build_dataset([zoo, tiny_hyp_zoo], tmp_path / "out")
    assert str(caught.value) == "all zoos of a dataset must have different configs, got hyp, hyp"


def test_a_folder_that_is_no_zoo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        build_dataset([tmp_path], tmp_path / "out")
    told = "it has no zoo.json; pass a folder from modelzoo-generate or modelzoo-import"
    assert str(caught.value) == f"{tmp_path} is not a zoo folder: {told}"


def test_progress_counts_the_states_of_every_config(tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    build_dataset([tiny_hyp_zoo], tmp_path / "o", progress=StepProgress(lambda *step: told.append(step)))
    assert {(what, total) for what, _, total in told} == {("building hyp", 16)}
    assert [done for _, done, _ in told] == [0, 8, 12, 16], "one row group after the other"
