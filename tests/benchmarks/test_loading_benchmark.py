"""The benchmark of loading runs and prints what it promises. No time is asserted."""

import re
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT

BENCHMARK = ROOT / "benchmarks" / "loading.py"


def test_every_way_to_load_gives_the_same_states_and_has_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--quick", "--out", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    everything, some = re.findall(r"^\|.*(?:\n\|.*)*", done.stdout, re.M)
    first = [[cell.strip() for cell in line.strip("|").split("|")] for line in everything.splitlines()[2:]]
    second = [[cell.strip() for cell in line.strip("|").split("|")] for line in some.splitlines()[2:]]
    assert len(first) == 8 and {line[1] for line in first} == {"204"}, "4 models of 51 states"
    assert {line[0]: line[2] for line in second} == {
        "last 5 epochs": "20",
        "last 25 epochs": "100",
        "random states": "4",
        "stream of 1000": "204",
    }
    for line in [line[2:] for line in first] + [line[3:] for line in second]:
        assert all(float(cell.split()[0].replace(",", "")) >= 0 for cell in line), line
    assert "load average at the start" in done.stdout and "load average at the end" in done.stdout
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
