"""Footers of Parquet files: a damaged one is told in one line, and never ends the process."""

import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.processes import run_code

from modelzoo_datasets import load_zoo, verify_folder
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import FOOTERS_FILE, Footer, read_footers

OLD = Path(__file__).parents[1] / "fixtures" / "old-formats" / "dataset-3"
FILE = "seed/validation-00000-of-00001.parquet"
FLIPS = 120
# Prints one letter for each flipped bit: r refused, l loaded. A process that ends early prints fewer.
HARNESS = """
import sys
from pathlib import Path
from modelzoo_datasets import load_zoo
from modelzoo_datasets.errors import FormatError

dataset, file = Path(sys.argv[1]), Path(sys.argv[1]) / sys.argv[2]
sound = file.read_bytes()
for place in map(int, sys.argv[3:]):
    damaged = bytearray(sound)
    damaged[place // 8] ^= 1 << place % 8
    file.write_bytes(damaged)
    try:
        load_zoo(dataset, "seed", split="validation", filters=[("test_acc", ">", 0.0)], cache=False)
        print("l", end="")
    except FormatError as error:
        assert str(error).startswith(f"cannot read {file}: expected an intact Parquet file, got "), error
        print("r", end="")
"""


def load_damaged(dataset: Path, bits: list[int], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Load the dataset once for each flipped bit, all in one process."""
    arguments = ["", str(dataset), FILE, *map(str, bits)]
    return run_code(f"import sys\nsys.argv = {arguments!r}\n{HARNESS}", cwd=cwd, env=os.environ)


def places(path: Path, count: int) -> list[int]:
    """Bits of a footer, among them those that ended the process before footers had checksums."""
    size, nbytes = path.stat().st_size, Footer.from_file(path).nbytes
    generator = random.Random(0)
    return [8 * (size - nbytes + generator.randrange(nbytes)) + generator.randrange(8) for _ in range(count)]


def test_every_footer_is_listed_with_its_length_and_hash(tiny_dataset: Path) -> None:
    footers = json.loads((tiny_dataset / FOOTERS_FILE).read_text())
    assert {*footers} == {path.relative_to(tiny_dataset).as_posix() for path in tiny_dataset.rglob("*.parquet")}
    for name, footer in footers.items():
        content = (tiny_dataset / name).read_bytes()
        assert content[-4:] == b"PAR1" and footer["nbytes"] == int.from_bytes(content[-8:-4], "little") + 8
        assert footer["sha256"] == hashlib.sha256(content[-footer["nbytes"] :]).hexdigest()


def test_a_footer_is_parsed_as_pyarrow_parses_it(tiny_dataset: Path) -> None:
    for name, footer in read_footers(tiny_dataset).items():
        with (tiny_dataset / name).open("rb") as file:
            assert footer.read(file).equals(pq.read_metadata(tiny_dataset / name))


def test_a_flipped_bit_in_a_footer_is_always_refused(dataset: Path) -> None:
    bits = places(dataset / FILE, FLIPS)
    result = load_damaged(dataset, bits, dataset.parent)
    assert (result.stderr, result.stdout) == ("", "r" * FLIPS)


def test_a_flipped_bit_in_a_footer_without_checksum_does_not_end_the_process(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "dataset")
    ended_before = [(21558, 1), (21401, 0), (21371, 1), (21352, 3), (23614, 2)]
    bits = [*(8 * byte + bit for byte, bit in ended_before), *places(tmp_path / "dataset" / FILE, FLIPS)]
    result = load_damaged(tmp_path / "dataset", bits, tmp_path)
    (line,) = result.stderr.splitlines()
    assert "older format" in line and len(result.stdout) == len(bits)
    assert {*result.stdout} == {"l", "r"}


def test_a_file_that_is_not_listed_is_refused(dataset: Path) -> None:
    footers = json.loads((dataset / FOOTERS_FILE).read_text())
    del footers[FILE]
    (dataset / FOOTERS_FILE).write_text(json.dumps(footers))
    with pytest.raises(FormatError) as caught:
        load_zoo(dataset, "seed", split="validation")
    assert str(caught.value) == (
        f"{dataset / FILE} is not listed in footers.json of its dataset; remove it, or build it again"
    )


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": {"nbytes": "9", "sha256": ""}}', "{"])
def test_a_malformed_list_is_told(content: str, dataset: Path) -> None:
    (dataset / FOOTERS_FILE).write_text(content)
    with pytest.raises(FormatError, match="footers.json"):
        load_zoo(dataset)
    checks = verify_folder(dataset, states=0)
    assert (checks[0].name, checks[0].has_passed, len(checks)) == ("footers", False, 1)


def test_verify_names_a_damaged_footer_and_a_missing_list(dataset: Path) -> None:
    content = bytearray((dataset / FILE).read_bytes())
    content[-20] ^= 1
    (dataset / FILE).write_bytes(content)
    footers = verify_folder(dataset, states=0)[0]
    assert footers.problems == [
        f"cannot read {dataset / FILE}: its footer is not the one that footers.json lists; build the dataset again"
    ]
    (dataset / FOOTERS_FILE).unlink()
    assert verify_folder(dataset, states=0)[0].problems == [
        f"{dataset / FOOTERS_FILE} is missing; build the dataset again"
    ]
