"""The benchmarks of loading run and print what they promise. No time is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT


def run_quickly(name: str, out: Path) -> list[list[list[str]]]:
    """Run a benchmark with the least work, and return the cells of its tables."""
    program = str(ROOT / "benchmarks" / name)
    done = subprocess.run(
        [sys.executable, program, "--quick", "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "load average at the start" in done.stdout and "load average at the end" in done.stdout
    assert not list(out.iterdir()), "it leaves nothing behind"
    tables = re.findall(r"^\|.*(?:\n\|.*)*", done.stdout, re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()[2:]] for t in tables]


def check_numbers(lines: list[list[str]]) -> None:
    for line in lines:
        assert all(float(cell.split()[0].replace(",", "")) >= 0 for cell in line), line


def test_every_way_to_load_gives_the_same_states_and_has_a_line(tmp_path: Path) -> None:
    first, second = run_quickly("loading.py", tmp_path)
    assert len(first) == 8 and {line[1] for line in first} == {"204"}, "4 models of 51 states"
    assert {line[0]: line[2] for line in second} == {
        "last 5 epochs": "20",
        "last 25 epochs": "100",
        "random states": "4",
        "stream of 1000": "204",
    }
    check_numbers([line[2:] for line in first] + [line[3:] for line in second])


def test_loading_with_hashes_compared_and_not_gives_the_same_states(tmp_path: Path) -> None:
    (table,) = run_quickly("cached.py", tmp_path)
    assert [line[:3] for line in table] == [
        [what, how, states]
        for what, states in (("everything", "204"), ("last 25 epochs", "100"), ("random states", "4"))
        for how in ("not compared", "compared")
    ]
    check_numbers([line[3:] for line in table])


@pytest.mark.slow
def test_our_ranges_need_the_fewest_requests(tmp_path: Path) -> None:
    (table,) = run_quickly("ranges.py", tmp_path)
    check_numbers([line[2:] for line in table])
    for what in ("everything", "10 models", "64 ranges of 1 MB"):
        ours, *others = [float(line[2]) for line in table if line[0] == what]
        assert len(others) == 2 and ours < min(others)
