"""Files of networks of one architecture: what they may hold, and what is refused in one line."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import random_states
from safetensors.torch import save_file
from torch import Tensor

from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.importers import read_state_files

CNN = get_architecture("cnn-s")
WEIGHTS = random_states("cnn-s", 11)


def named(weights: Tensor, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in CNN.layout.unpack(weights).items()}


class Hostile:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_files_of_a_folder_are_read_in_natural_order(tmp_path: Path) -> None:
    """Both formats, nested folders, wrapped and prefixed state dicts; other files and litter do not count."""
    save_file(named(WEIGHTS[0]), tmp_path / "net-2.safetensors")
    torch.save(named(WEIGHTS[1]), tmp_path / "net-10.pt")
    (tmp_path / "sub").mkdir()
    torch.save({"epoch": 3, "state_dict": named(WEIGHTS[2], "module.")}, tmp_path / "sub" / "a.pth")
    save_file(named(WEIGHTS[3].double(), "_orig_mod."), tmp_path / "sub" / "b.safetensors")
    (tmp_path / "sub" / "config.json").write_text("{}")
    (tmp_path / "._net-3.pt").write_bytes(b"litter")
    assert torch.equal(read_state_files(tmp_path, CNN), WEIGHTS[:4])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", ["tensor", "stacked", "one"])
def test_one_file_holds_a_tensor_of_all_models_or_stacked_state_dicts(suffix: str, kind: str, tmp_path: Path) -> None:
    value: Any = {"tensor": WEIGHTS, "stacked": named(WEIGHTS), "one": named(WEIGHTS[0])}[kind]
    path = tmp_path / f"samples{suffix}"
    if suffix == ".pt":
        torch.save(value, path)
    else:
        save_file({"weights": value} if kind == "tensor" else value, path)
    assert torch.equal(read_state_files(path, CNN), WEIGHTS[:1] if kind == "one" else WEIGHTS)


def refused(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_state_files(path, CNN)
    return str(caught.value).replace(str(path), "PATH")


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Hostile(tmp_path / "touched")}, tmp_path / "hostile.pt")
    assert refused(tmp_path) == (
        "1 of 1 files of PATH hold no models of cnn-s, which has 2,464 weights: hostile.pt is a pickle that holds more "
        "than tensors, which is never executed"
    )
    assert not (tmp_path / "touched").exists()


def test_files_that_are_no_such_models_are_counted_in_one_line(tmp_path: Path) -> None:
    save_file(named(WEIGHTS[0]), tmp_path / "a.safetensors")
    wrong = named(WEIGHTS[1])
    first = CNN.layout.slots[0].name
    save_file({**wrong, first: torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    save_file({name: wrong[name] for name in list(wrong)[1:]}, tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"no header")
    torch.save(torch.zeros(3, 7), tmp_path / "e.pt")
    start = " of 5 files of PATH hold no models of cnn-s, which has 2,464 weights: "
    assert refused(tmp_path) == f"4{start}b.safetensors {first}: expected shape (8, 1, 5, 5), got (2, 2)"
    (tmp_path / "b.safetensors").unlink()
    start = start.replace("5", "4", 1)
    assert refused(tmp_path) == f"3{start}c.safetensors has 9 tensors, expected 10"
    (tmp_path / "c.safetensors").unlink()
    assert re.fullmatch(r"2 of 3 files .*: d.safetensors .*", refused(tmp_path))
    (tmp_path / "d.safetensors").unlink()
    assert refused(tmp_path).endswith("e.pt is a tensor of shape (3, 7), expected (n, 2464)")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    save_file(named(WEIGHTS[0]), tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert refused(folder) == "PATH holds no files *.safetensors, *.pt, *.pth"
    assert "skipped 1: points outside of its folder or archive, or is no plain file" in caplog.text


def test_a_file_with_holes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "holes.pt"
    path.touch()
    os.truncate(path, 10**12)
    assert "more than the limit of 1,000,000,000" in refused(path)
    assert "is larger than the size of the whole source allows" in refused(tmp_path)


def test_a_folder_of_other_files_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b")
    assert refused(path).endswith("table.csv is no file .safetensors, .pt or .pth")
    assert refused(tmp_path) == "PATH holds no files *.safetensors, *.pt, *.pth"
