"""modelzoo-cache: what is cached, whether it is intact, and how it is removed; by real commands on real caches."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.processes import run

from modelzoo_datasets import load_zoo
from modelzoo_datasets.engines.native import compiler
from modelzoo_datasets.loading import cache, write_cached_tensor

SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def home(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of caches with two decoded files, a measurement, a kernel and an image dataset."""
    monkeypatch.setattr(cache, "_MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODELZOO_CACHE", raising=False)
    home = tmp_path / "home" / "modelzoo-datasets"
    for split in ("train", "test"):
        load_zoo(dataset, "seed", split=split)
    write_cached_tensor(home / "weights" / f"{'a' * 32}.safetensors", torch.arange(5))
    (home / "weights" / "thesis.txt").write_text("mine")
    compiler._cache_folder.cache_clear()
    try:
        compiler.compile_library(SOURCE, "", Path(), compiler.PORTABLE)
    finally:
        compiler._cache_folder.cache_clear()
    (home / "images" / "mnist").mkdir(parents=True)
    (home / "images" / "mnist" / "images.gz").write_bytes(b"x" * 200_000)
    return home


def called(*words: str) -> subprocess.CompletedProcess[str]:
    return run(["modelzoo-cache", *words], env=dict(os.environ))


def rows(result: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """First cell -> other cells of the printed table."""
    lines = [
        [cell.strip() for cell in line.strip("│ ").split("│")] for line in result.stdout.splitlines() if "│" in line
    ]
    return {first: rest for first, *rest in lines}


def test_caches_are_listed_with_sizes(home: Path) -> None:
    result = called("list")
    assert (result.returncode, result.stderr) == (0, "")
    table = rows(result)
    assert table["weights"][:2] == [str(home / "weights"), "3"] and float(table["weights"][2]) > 0.4
    assert table["native"][:2] == [str(home / "native"), "1"]
    assert table["images"] == [str(home / "images"), "1", "0.2", "downloaded image datasets"]
    assert table["cuda"][1:3] == ["0", "0.0"]
    assert list(rows(called("list", "images"))) == ["images"]


def test_damaged_files_are_named_and_left_alone(home: Path, dataset: Path) -> None:
    result = called("verify")
    assert (result.returncode, result.stderr) == (0, "")
    assert [rows(result)[name][:3] for name in ("weights", "native", "images")] == [
        ["3", "0", "0"],
        ["1", "0", "0"],
        ["0", "0", "0"],
    ]
    damaged = sorted([next(home.glob("native/*.so")), *home.glob("weights/*.safetensors")])
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1  # the last number, or in the hash of the last block
        path.write_bytes(content)
    (home / "weights" / f"{'b' * 32}-{'0' * 32}").write_text("of an earlier release")
    (home / "native" / f"{'0' * 32}.so").write_text("of an earlier release")
    result = called("verify")
    assert result.returncode == 1
    assert sorted(result.stderr.splitlines()) == [
        f"modelzoo-cache: {path} is damaged; it is made again when it is needed" for path in damaged
    ]
    assert [rows(result)[name][:3] for name in ("weights", "native")] == [["0", "3", "1"], ["0", "1", "1"]]
    assert all(path.exists() for path in damaged)
    load_zoo(dataset, "seed")
    assert called("verify", "weights").returncode == 1, "the measurement is still damaged"


def test_what_can_be_made_again_is_cleared_and_downloads_only_by_name(home: Path) -> None:
    result = called("clear")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split(": ")[1].split(" files")[0] for line in result.stdout.splitlines()] == ["3", "1", "0"]
    assert {path.name for path in home.rglob("*") if path.is_file()} == {"images.gz", "thesis.txt"}
    assert called("clear", "images").returncode == 0
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["thesis.txt"]
    assert called("clear").stdout.count(": 0 files deleted, 0.0 MB") == 3


def test_a_link_to_images_elsewhere_and_an_unknown_cache_are_one_line(home: Path, tmp_path: Path) -> None:
    (home / "images").rename(tmp_path / "mine")
    (home / "images").symlink_to(tmp_path / "mine")
    result = called("clear", "images")
    assert (result.returncode, result.stderr) == (
        2,
        f"modelzoo-cache: {home}/images is a link to {tmp_path}/mine, which is left alone; look there yourself\n",
    )
    assert (tmp_path / "mine" / "mnist" / "images.gz").exists()
    result = called("clear", "weight")
    assert (result.returncode, result.stderr) == (
        2,
        "modelzoo-cache: unknown cache 'weight'; did you mean 'weights'?\n",
    )
