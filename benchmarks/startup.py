"""CPU seconds that commands and imports need to start, as a Markdown table: python benchmarks/startup.py."""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

_RUNS = 5
_BIN = Path(sys.executable).parent
_COMMANDS = {
    "modelzoo-generate": ["no-such-recipe", "--out", "zoo"],
    "modelzoo-import": ["nowhere", "--format", "model-zoos", "--out", "zoo"],
    "modelzoo-build": ["nowhere", "--out", "dataset"],
    "modelzoo-verify": ["nowhere"],
    "modelzoo-push": ["nowhere", "org/name"],
    "modelzoo-hyperrep": ["train", "nowhere", "--out", "rep"],
    "modelzoo-judge": ["nowhere", "--against", "org/name"],
    "modelzoo-demo": ["--recipe", "no-such-recipe", "--out", "demo"],
}  # command -> arguments of a typical error
_STATEMENTS = ("import modelzoo_datasets", "from modelzoo_datasets import load_zoo")


def measure_cpu_seconds(words: list[str]) -> float:
    """Return the median CPU time of a process over five runs, in seconds of user and system time."""
    times = []
    for _ in range(_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def main() -> None:
    """Print both tables."""
    print("| command | --help | --version | error |\n|---|---:|---:|---:|")
    for name, error in _COMMANDS.items():
        path = str(_BIN / name)
        cells = [f"{measure_cpu_seconds([path, *words]):.2f}" for words in (["--help"], ["--version"], error)]
        print(f"| `{name}` | {' | '.join(cells)} |")
    print("\n| statement | CPU seconds |\n|---|---:|")
    for statement in _STATEMENTS:
        print(f"| `{statement}` | {measure_cpu_seconds([sys.executable, '-c', statement]):.2f} |")


if __name__ == "__main__":
    main()
