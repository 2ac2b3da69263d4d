"""Shared small functions: text of errors, sort keys, names, checksums, cache folders and prefetching."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelzoo_datasets._util import (
    file_sha256,
    is_config_name,
    is_config_name_on_hub,
    is_recipe_name,
    natural_key,
    one_line,
    prefetch,
    user_cache_folder,
)


def test_one_item_is_made_while_the_one_before_is_in_use_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    found = prefetch(items())
    assert not made
    for number in range(3):
        assert next(found) == number
        assert len(made) <= number + 2
    found.close()
    assert len(made) <= 4
    assert list(prefetch(iter("abc"))) == ["a", "b", "c"]


def test_what_making_an_item_fails_of_is_raised_in_its_place() -> None:
    found = prefetch(1 // number for number in (1, 0))
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("first\n   second"), "first second"), (KeyError(), "KeyError"), ("one\ttwo", "one two")],
)
def test_an_error_is_one_line_and_never_empty(error: object, text: str) -> None:
    assert one_line(error) == text


def test_natural_keys_compare_digits_as_numbers() -> None:
    names = ["layer.10.weight", "layer.9.weight", "layer", "9", "layer.09.weight", "conv"]
    ordered = ["conv", "layer", "layer.09.weight", "layer.9.weight", "layer.10.weight", "9"]
    assert sorted(names, key=natural_key) == ordered


@pytest.mark.parametrize(("name", "valid"), [("seed", True), ("a_b.c-1", True), (".a", False), ("a/b", False)])
def test_config_names(name: str, valid: bool) -> None:
    assert is_config_name(name) == is_recipe_name(name) == valid
    assert not is_config_name(f"{name}_index")


@pytest.mark.parametrize(("name", "valid"), [("seed", True), ("ä b", True), ("data", False), ("a:b", False)])
def test_config_names_of_other_tools(name: str, valid: bool) -> None:
    assert is_config_name_on_hub(name) == valid


def test_a_file_has_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place for caches")
def test_caches_lie_where_the_system_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache_folder("images") == tmp_path / ".cache" / "modelzoo-datasets" / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert user_cache_folder("weights") == tmp_path / "caches" / "modelzoo-datasets" / "weights"
    assert not any(tmp_path.iterdir())
