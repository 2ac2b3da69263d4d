"""Every kind of dataset folder and table is read by plain `datasets` 3.2 with PyArrow 18, in an environment of its own.

It is made from the package index, so the tests are slow and need a network:
pytest -m slow tests/builder/test_old_readers.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import random_zoos, tiny_learning
from helpers.untrained_originals import imported, write_zoo

from hyperrep import train
from hyperrep.release import SampleRequest, export_embeddings, export_samples
from modelzoo_datasets import build_dataset, load_zoo
from modelzoo_datasets.zoo import DatasetInfo

OLD = Path(__file__).parents[1] / "fixtures" / "old-formats"
PACKAGES = ("pyarrow==18.0.0", "datasets==3.2.0", "numpy==2.0.0", "pandas==2.2.3", "huggingface-hub==0.34.0")
PROGRAM = """
import json, sys
import datasets, pyarrow

assert (datasets.__version__, pyarrow.__version__) == ("3.2.0", "18.0.0")
folder, cache, *names = sys.argv[1:]
found = {}
for name in names:
    for split, rows in datasets.load_dataset(folder, name, cache_dir=cache).items():
        sums = {key: sum(map(sum, rows[key])) for key in ("weights", "z") if key in rows.column_names}
        found[f"{name}/{split}"] = [rows.num_rows, rows.column_names, sums]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the oldest supported readers."""
    uv, folder = Path(sys.executable).with_name("uv"), tmp_path_factory.mktemp("readers") / "venv"
    if not uv.is_file():
        pytest.skip("needs uv beside Python, as make setup installs it")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", folder / "bin" / "python", *PACKAGES], check=True)
    return folder / "bin" / "python"


def read(python: Path, folder: Path, cache: Path, *names: str) -> dict[str, tuple[int, list[str], dict[str, float]]]:
    """Config and split -> rows, columns, and the sum of all weights and of all embeddings."""
    words = [python, "-c", PROGRAM, folder, cache, *names]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "PYTHONPATH": ""}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, list[str], dict[str, float]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(python: Path, folder: Path, cache: Path) -> None:
    """Compare what the old reader finds with what `load_zoo` loads."""
    for config, info in DatasetInfo.read(folder).configs.items():
        found = read(python, folder, cache, config, f"{config}_index")
        for name, (rows, columns, sums) in found.items():
            zoo = load_zoo(folder, config, split=name.rpartition("/")[2], cache=False)
            assert rows == len(zoo)
            assert [column for column in columns if column in zoo.table] == [*zoo.table.columns.drop("split")]
            if "weights" in sums:
                assert abs(sums["weights"] - zoo.weights.double().sum().item()) < 1e-6 * zoo.weights.numel()
        assert ("weights" in found[f"{config}/train"][1]) == (info.weights == "inline")


@pytest.mark.slow
def test_a_dataset_with_weights_in_its_tables(python: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    check(python, tiny_dataset, tmp_path)


@pytest.mark.slow
def test_a_dataset_with_weights_in_files(python: Path, resnet_dataset: Path, tmp_path: Path) -> None:
    check(python, resnet_dataset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_dataset_of_an_older_format(number: int, python: Path, tmp_path: Path) -> None:
    check(python, OLD / f"dataset-{number}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["states", "packed"])
def test_sparsified_twins(storage: str, python: Path, tmp_path: Path) -> None:
    recipe = random_zoos.recipe(models=20, epochs=1)
    for config in ("seed", "seed-sparse"):
        random_zoos.write_zoo(tmp_path / config, recipe, storage, config=config)
    build_dataset([tmp_path / "seed", tmp_path / "seed-sparse"], tmp_path / "dataset")
    assert {"parent_id", "sparsity"} <= {*load_zoo(tmp_path / "dataset", "seed-sparse", cache=False).table}
    check(python, tmp_path / "dataset", tmp_path / "cache")


@pytest.mark.slow
def test_tables_of_embeddings_and_samples(python: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    rep = train(tiny_dataset, tiny_learning.recipe(epochs=1), tmp_path / "rep")
    (tmp_path / "embedded").mkdir()
    export_embeddings(tiny_dataset, "seed", rep, tmp_path / "embedded" / "z.parquet")
    export_samples(tmp_path / "rep", tmp_path / "samples", SampleRequest(n=3))
    zoo = load_zoo(tiny_dataset, "seed", cache=False)
    ((rows, columns, sums),) = read(python, tmp_path / "embedded", tmp_path / "cache", "default").values()
    assert rows == len(zoo) and columns == [*zoo.table.columns, "z"]
    assert sums["z"] == pytest.approx(rep.encode(zoo.weights).double().sum().item(), abs=1e-3)
    ((rows, columns, sums),) = read(python, tmp_path / "samples", tmp_path / "cache", "normal").values()
    assert rows == 3 and {"z", "weights", "distance", "lineage"} <= {*columns} and {*sums} == {"z", "weights"}


@pytest.mark.slow
def test_an_imported_original_that_recorded_little(python: Path, tmp_path: Path) -> None:
    imported(write_zoo(tmp_path / "tune_zoo_tiny", models=8), tmp_path / "zoo")
    build_dataset(tmp_path / "zoo", tmp_path / "dataset")
    zoo = load_zoo(tmp_path / "dataset", cache=False)
    assert not {"test_recall", "val_acc", "val_loss"} & {*zoo.table} and {"test_acc", "lr"} <= {*zoo.table}
    check(python, tmp_path / "dataset", tmp_path / "cache")
