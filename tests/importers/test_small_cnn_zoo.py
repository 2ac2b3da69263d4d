"""The Small CNN Zoo: models trained here, written in TensorFlow's order of axes as one array and one table."""

import io
import random
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.processes import hashes
from helpers.small_cnn_originals import RECIPE, write_zoo
from torch import nn

from modelzoo_datasets import build_dataset, generate_zoo, load_zoo, read_recipe
from modelzoo_datasets.architectures import build_module, get_architecture
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import FormatError, ModelZooError
from modelzoo_datasets.images import Images
from modelzoo_datasets.importers import Imported, import_zoo
from modelzoo_datasets.importers.base import Overrides
from modelzoo_datasets.verification import verify_folder
from modelzoo_datasets.zoo import ZooFolder

IMAGES = "fashion-mnist-5k"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, engine: TorchEngine) -> Path:
    """A zoo folder of six models."""
    root = tmp_path_factory.mktemp("trained")
    (root / "small.toml").write_text(RECIPE)
    generate_zoo(read_recipe(str(root / "small.toml")), root / "hyp", config="hyp", engine=engine, images_root=root)
    return root / "hyp"


@pytest.fixture(scope="module")
def original(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_zoo(trained, tmp_path_factory.mktemp("original") / "mnist")


def imported(source: Path, out: Path, **options: Any) -> Imported:
    claims = Overrides(images=IMAGES, **options.pop("claims", {}))
    return import_zoo(
        source, out, format="small-cnn-zoo", images_root=out.parent / "images", overrides=claims, **options
    )


def test_weights_come_back_in_our_order_and_do_what_is_claimed(
    original: Path, trained: Path, tmp_path: Path, engine: TorchEngine
) -> None:
    found = imported(original, tmp_path / "zoo")
    assert (found.name, found.models, found.states, found.skipped) == ("mnist-small-cnn/hyp", 6, 18, [])
    ours, theirs = ZooFolder.open(trained), ZooFolder.open(tmp_path / "zoo")
    assert theirs.states["sha256"].tolist() == ours.states["sha256"].tolist()
    assert theirs.states["test_acc"].tolist() == ours.states["test_acc"].tolist()
    assert theirs.models["activation"].tolist() == ours.models["activation"].tolist()
    row = theirs.models.iloc[0]
    assert (row["optimizer"], row["init"], row["weight_decay"], row["batch_size"]) == (
        "rmsprop",
        "RandomNormal",
        1e-6,
        512,
    )
    more = theirs.info.recipe.to_json()["models"]
    assert (more["init_std"][0], more["train_fraction"][0], more["origin"][0]) == (0.05, 0.25, "/cns/models/hyp-00001")
    checks = verify_folder(tmp_path / "zoo", engine=engine, images_root=tmp_path / "images", states=18)
    assert [problem for check in checks for problem in check.problems] == []
    assert [check.n for check in checks if check.name.startswith("metrics")] == [18]
    build_dataset([tmp_path / "zoo"], tmp_path / "dataset")
    assert load_zoo(tmp_path / "dataset").model(3).module_list[-1].weight.shape == (10, 16)


def test_wrong_axes_would_have_been_found(original: Path, tmp_path: Path, engine: TorchEngine) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in ("metrics.csv.gz", "layout.csv"):
        (folder / name).write_bytes((original / name).read_bytes())
    weights = np.load(original / "weights.npy")
    weights[:, 16:160] = weights[:, 16:160].reshape(-1, 3, 3, 1, 16).transpose(0, 2, 1, 3, 4).reshape(-1, 144)
    np.save(folder / "weights.npy", weights)  # height and width of the first kernels exchanged
    imported(folder, tmp_path / "zoo")
    checks = verify_folder(tmp_path / "zoo", engine=engine, images_root=tmp_path / "images", states=18)
    assert any("test_acc is" in problem for check in checks for problem in check.problems)


@pytest.mark.parametrize("storage", ["states", "packed"])
def test_the_published_archive_and_rows_in_any_order(
    original: Path, trained: Path, tmp_path: Path, storage: str
) -> None:
    scattered = write_zoo(trained, tmp_path / "mnist", shuffled=True)
    with tarfile.open(tmp_path / "mnist.tar.xz", "w:xz") as archive:
        archive.add(scattered, "mnist")
    with tarfile.open(tmp_path / "plain.tar", "w") as archive:
        archive.add(scattered, "mnist")
    imported(tmp_path / "mnist.tar.xz", tmp_path / "a", storage=storage)
    imported(scattered, tmp_path / "b", storage=storage)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    imported(tmp_path / "plain.tar", tmp_path / "c", storage=storage)
    of_all = [ZooFolder.open(tmp_path / name).states["sha256"].tolist() for name in ("a", "c")]
    assert of_all[0] == of_all[1]
    imported(original, tmp_path / "in-order")
    assert sorted(of_all[0]) == sorted(ZooFolder.open(tmp_path / "in-order").states["sha256"])


@pytest.mark.parametrize("header", ["", "0\n"])  # as published, with the header that pandas writes
def test_splits_of_others_are_the_splits(original: Path, tmp_path: Path, header: str) -> None:
    rows = list(range(18))
    random.Random(5).shuffle(rows)
    (tmp_path / "split.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    imported(original, tmp_path / "zoo", claims={"splits": tmp_path / "split.csv"})
    # As 2302.14040 does it: permute, keep the last step, first half (shuffled with seed 0) 80/20, second half test.
    models = [row // 3 + 1 for row in rows if row % 3 == 2]
    first = [0, 1, 2]
    random.Random(0).shuffle(first)
    expected = {models[first[0]]: "train", models[first[1]]: "train", models[first[2]]: "validation"}
    expected |= dict.fromkeys(models[3:], "test")
    found = ZooFolder.open(tmp_path / "zoo").models
    assert dict(zip(found["index"], found["split"], strict=True)) == expected


def test_states_behind_a_cut_are_missing(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in ("metrics.csv.gz", "layout.csv"):
        (folder / name).write_bytes((original / name).read_bytes())
    content = (original / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(content[: 128 + 4 * 4970 * 16 + 99])
    with tarfile.open(tmp_path / "mnist.tar.gz", "w:gz") as archive:
        archive.add(folder, "mnist")
    with zipfile.ZipFile(tmp_path / "mnist.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in folder.iterdir():
            zipped.write(path, f"mnist/{path.name}")
    for source in (folder, tmp_path / "mnist.tar.gz", tmp_path / "mnist.zip"):
        found = imported(source, tmp_path / f"from-{source.name}")
        assert (found.models, found.states, found.lost_states) == (6, 16, 2)
        assert found.skipped == ["skipped 2: state behind the place where weights.npy is cut off (first: row 16)"]
    assert not list(tmp_path.glob(".*")), "temporary files are removed"


def test_a_plain_tar_that_was_not_downloaded_whole(original: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mnist.tar", "w") as archive:
        for name in ("metrics.csv.gz", "layout.csv", "weights.npy"):
            archive.add(original / name, f"mnist/{name}")
    with tarfile.open(tmp_path / "mnist.tar") as archive:
        start = archive.getmember("mnist/weights.npy").offset_data
    with (tmp_path / "mnist.tar").open("r+b") as file:
        file.truncate(start + 128 + 4 * 4970 * 16 + 99)
    found = imported(tmp_path / "mnist.tar", tmp_path / "zoo")
    assert (found.models, found.states, found.lost_states) == (6, 16, 2)
    assert "skipped 2: state behind the place where weights.npy is cut off (first: row 16)" in found.skipped


def test_what_does_not_go_together(original: Path, tmp_path: Path) -> None:
    def fails(name: str, content: bytes, told: str, **claims: Any) -> None:
        folder = tmp_path / f"f{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in original.iterdir():
            (folder / path.name).write_bytes(content if path.name == name else path.read_bytes())
        with pytest.raises(ModelZooError, match=told):
            imported(folder, tmp_path / "zoo", claims=claims)
        assert not (tmp_path / "zoo").exists()

    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}] * 18, dtype=object), allow_pickle=True)
    fails("weights.npy", objects.getvalue(), r"expected float32 of shape \(18, 4970\), got object")
    few = io.BytesIO()
    np.save(few, np.zeros((17, 4970), np.float32))
    fails("weights.npy", few.getvalue(), r"got float32 of shape \(17, 4970\)")
    fails("weights.npy", b"x", "weights.npy is not a readable array of numpy")
    fails("metrics.csv.gz", b"x", "cannot read metrics.csv.gz .* download it again")
    layout = (original / "layout.csv").read_text()
    fails("layout.csv", layout.replace("16, 16", "15, 16").encode(), "is the layout of another architecture")
    fails("layout.csv", layout.rpartition("\nseq")[0].encode(), "does not cover every weight exactly once")
    fails("layout.csv", b"a,b\n1,2\n", "has no columns varname")
    of_layout = r"^layout.csv of \w+: {} of row 0 must be a whole number from 0, got {}; download it again$"
    fails("layout.csv", layout.replace(",0,16,", ",x,16,", 1).encode(), of_layout.format("start_idx", "'x'"))
    fails("layout.csv", layout.replace(",0,16,", ",0,,", 1).encode(), of_layout.format("end_idx", "nan"))
    fails("layout.csv", layout.replace(",0,16,", ",16,0,", 1).encode(), "is the layout of another architecture")
    fails("layout.csv", layout.replace(layout.split("\n")[1].split(",")[0], "", 1).encode(), "varname of row 0 must be")
    (tmp_path / "split.csv").write_text("0\n1\n")
    fails("", b"", "is not a permutation of 18 rows", splits=tmp_path / "split.csv")
    with pytest.raises(
        FormatError, match="is not a zoo of format small-cnn-zoo: weights.npy is missing; is --format right"
    ):
        imported(tmp_path, tmp_path / "zoo", claims={"inside": "nowhere"})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"step": None}, "step of row 4 must be a whole number from 0, got nan"),
        ({"step": 0.5}, "step of row 4 must be a whole number from 0, got 0.5"),
        ({"step": "end"}, "step of row 4 must be a whole number from 0, got 'end'"),
        ({"modeldir": None}, "modeldir of row 4 must be a name, got nan"),
    ],
)
def test_a_row_that_does_not_say_of_which_state_it_is(
    change: dict[str, Any], what: str, original: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "mnist"))
    table = pd.read_csv(folder / "metrics.csv.gz", index_col=0).astype({name: object for name in change})
    table.loc[4, list(change)] = list(change.values())
    table.to_csv(folder / "metrics.csv.gz")
    with pytest.raises(FormatError) as caught:
        imported(folder, tmp_path / "zoo")
    assert str(caught.value) == f"metrics.csv.gz of mnist: {what}; download it again"


@pytest.mark.parametrize("archive", ["gzip", "encrypted zip", "damaged zip"])
def test_files_that_cannot_be_unpacked_are_told_in_one_line(archive: str, original: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(original, tmp_path / "mnist"))
    if archive == "gzip":
        content = bytearray((source / "metrics.csv.gz").read_bytes())
        content[10 + content[10:].index(0) + 1] |= 0b110  # behind the header, which ends in the name of the file
        (source / "metrics.csv.gz").write_bytes(content)
        told = "cannot read metrics.csv.gz of mnist: Error -3 while decompressing data: invalid block type; download it"
    else:
        with zipfile.ZipFile(tmp_path / "mnist.zip", "w") as written:
            for path in sorted(source.iterdir()):
                written.write(path, path.name)
            start = written.getinfo("weights.npy").header_offset
        content = bytearray((tmp_path / "mnist.zip").read_bytes())
        if archive == "encrypted zip":
            listed = content.rindex(b"PK\1\2")
            content[start + 6] |= 1
            content[listed + 8] |= 1
            why = "it is encrypted"
        else:
            content[start] ^= 1
            why = "Bad magic number for file header"
        source = tmp_path / "mnist.zip"
        source.write_bytes(content)
        told = f"weights.npy is not a readable array of numpy: {why}"
    with pytest.raises(FormatError) as caught:
        imported(source, tmp_path / "zoo")
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert not (tmp_path / "zoo").exists()


def test_a_header_that_ends_in_the_middle_is_told(original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "mnist"))
    content = (folder / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(content.replace(b"(18, 4970)", b"(18, 4970 ", 1))
    with pytest.raises(FormatError) as caught:
        imported(folder, tmp_path / "zoo")
    assert str(caught.value).startswith("weights.npy is not a readable array of numpy: ")


@pytest.mark.parametrize(("name", "channels"), [("small-cnn", 1), ("small-cnn-colour", 3)])
def test_the_network_is_that_of_the_paper(name: str, channels: int, images: Images) -> None:
    architecture = get_architecture(name)
    weights = torch.randn(4970, generator=torch.Generator().manual_seed(0)) * 0.2
    module = build_module(architecture, weights, activation="tanh", dropout=0.5)
    x = torch.randn(2, *architecture.input_shape, generator=torch.Generator().manual_seed(1))
    state = list(module.state_dict().values())
    h = x.mean(dim=1, keepdim=True)
    with torch.no_grad():
        for weight, bias in zip(state[0:6:2], state[1:6:2], strict=True):
            h = nn.functional.conv2d(h, weight, bias, stride=2).tanh()
        torch.testing.assert_close(module(x), h.mean(dim=(2, 3)) @ state[6].T + state[7])
    assert architecture.input_shape[0] == channels
