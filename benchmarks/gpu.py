"""Everything to know about the engine `cuda` on a GPU: does it compute what it should, and how fast is it?

    sh benchmarks/gpu.sh --out DIR      prints a table and writes DIR/gpu.json; less than ten minutes on one H200

Every part is a process of its own with a limit of time, so a part that fails or hangs does not stop the others. Images
and states are noise: nothing is downloaded, and no speed depends on them.
"""

import argparse
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from learning import Case as LearningCase
from learning import untrained
from tables import markdown

from hyperrep.recipe import HyperRecipe
from hyperrep.trainer.functional_loss import Predictor
from hyperrep.trainer.loop import train_epochs
from modelzoo_datasets import read_recipe
from modelzoo_datasets._util import SPLITS, versions
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.engines import CudaEngine, Job, NetworkSpec, TorchEngine, make_batched_network
from modelzoo_datasets.engines.cuda.device_check import DeviceInfo, run_self_check
from modelzoo_datasets.engines.native.native_engine import NativeEngine
from modelzoo_datasets.engines.self_check import CHAIN_CASES, find_deviation
from modelzoo_datasets.images import Images, Split
from modelzoo_datasets.seeds import keyed_generator

ROOT = Path(__file__).parents[1]
RESULT = "RESULT "  # before the JSON that a part ends with
LAST_LINES = 3  # of what a failed part said
Result = Mapping[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement."""

    name: str
    limit: float  # seconds
    command: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a part."""

    name: str
    status: str  # ok, failed, or out of time
    seconds: float
    result: Result = field(default_factory=dict)
    last_lines: Sequence[str] = ()


def noise(architecture: str, train: int, other: int) -> Images:
    """Images without any meaning, of the shape that an architecture takes."""
    registered = get_architecture(architecture)

    def split(name: str, n: int) -> Split:
        generator = keyed_generator(0, "benchmark", name)
        pixels = torch.randint(0, 256, (n, *registered.input_shape), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(0, registered.classes, (n,), generator=generator))

    channels = registered.input_shape[0]
    sizes = {"train": train, "validation": other, "test": other}
    splits = {name: split(name, n) for name, n in sizes.items()}
    return Images("noise", registered.classes, (0.5,) * channels, (0.25,) * channels, splits)


def new_engine(is_dry: bool) -> CudaEngine:
    """The engine under test, on the first GPU; with all cores for random numbers."""
    return CudaEngine(torch.device("cpu") if is_dry else None, num_threads=os.cpu_count() or 1)


def synchronize(device: torch.device) -> None:
    """Wait for everything that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_itself(is_dry: bool) -> Result:
    """Run the self-check; a deviation is an error."""
    engine = new_engine(is_dry)
    check: Callable[[], str | None] = lambda: run_self_check(engine)  # noqa: E731
    if is_dry:
        check = lambda: find_deviation(engine, NativeEngine(1), CHAIN_CASES)  # noqa: E731
    if (problem := check()) is not None:
        raise RuntimeError(problem)
    return {"path of cnn-s": engine.environment("cnn-s")["path"]}


def seconds_of_epoch(
    engine: CudaEngine, images: Images, jobs: Sequence[Job], architecture: str, metrics: bool
) -> float:
    """Time of the last of two epochs: the first one compiles, captures and warms up."""
    stream = engine.train(architecture, images, jobs, metrics_on=SPLITS if metrics else ())
    cohorts: dict[int, float] = {}
    start = time.perf_counter()
    total = 0.0
    for states in stream:
        synchronize(engine.device)
        now = time.perf_counter()
        if int(states.epochs[0]) == 2:
            total += now - cohorts[int(states.jobs[0])]
        cohorts[int(states.jobs[0])] = now
    assert total > 0, f"no second epoch within {time.perf_counter() - start:.0f} s"
    return total


def jobs_of_recipe(recipe: str, models: int) -> list[Job]:
    """The first models of the config `seed`, for two epochs."""
    members = read_recipe(recipe).members("seed")[:models]
    return [Job(training=dataclasses.replace(member.training, epochs=2), seed=member.seed) for member in members]


def train_mnist(is_dry: bool) -> Result:
    """Time an epoch of mnist-cnn-s/seed: models that fill the GPU once, and all, with and without metrics."""
    engine = new_engine(is_dry)
    images = noise("cnn-s", 40, 20) if is_dry else noise("cnn-s", 50_000, 10_000)
    result: dict[str, float | str] = {}
    for models in (2, 3) if is_dry else (132, 1000):
        for metrics in (False, True):
            seconds = seconds_of_epoch(engine, images, jobs_of_recipe("mnist-cnn-s", models), "cnn-s", metrics)
            name = f"{models} models{', metrics' if metrics else ''}"
            result[f"s/epoch, {name}"] = round(seconds, 3)
            result[f"model steps/s, {name}"] = round(models * -(-len(images.splits["train"]) // 10) / seconds)
    result["minutes for 1,000 models x 50 epochs"] = round(seconds * 1000 / models * 50 / 60, 1)
    return result


def train_resnets(is_dry: bool) -> Result:
    """Time an epoch of ResNet-18 as in cifar10-resnet18/seed, on a part of the images."""
    engine = new_engine(is_dry)
    images = noise("resnet18", 8, 4) if is_dry else noise("resnet18", 10_240, 2_000)
    jobs = jobs_of_recipe("cifar10-resnet18", 1 if is_dry else 4)
    if is_dry:
        jobs = [dataclasses.replace(j, training=dataclasses.replace(j.training, batch_size=4)) for j in jobs]
    seconds = seconds_of_epoch(engine, images, jobs, "resnet18", metrics=not is_dry)
    image_rate = len(jobs) * len(images.splits["train"]) / seconds
    return {
        "images/s": round(image_rate),
        "models/hour (40,000 images, 50 epochs)": round(image_rate * 3600 / (40_000 * 50), 2),
    }


def learn(is_dry: bool) -> Result:
    """Time steps of an auto-encoder in bfloat16, with and without networks in the loss."""
    device = torch.device("cpu" if is_dry else "cuda")
    small = {"width": 16, "latent": 8, "batch": 8, "batches": 1}
    case = LearningCase(1, **small) if is_dry else LearningCase(2, width=256, batch=256, batches=20)
    network = make_batched_network(TorchEngine(1), "cnn-s", NetworkSpec("tanh"))
    predictor = Predictor(network, noise("cnn-s", 200, 1).inputs("train"))
    functional = dataclasses.replace(case.recipe.learning, functional_weight=1.0)
    recipes: dict[str, tuple[HyperRecipe, Predictor | None]] = {
        "steps/s": (case.recipe, None),
        "steps/s, functional loss": (dataclasses.replace(case.recipe, learning=functional), predictor),
    }
    result: dict[str, float | str] = {}
    for name, (recipe, networks) in recipes.items():
        rep, states = untrained(case).to(device), case.states
        with tempfile.TemporaryDirectory() as folder:
            epochs = train_epochs(rep, states, states[:1], recipe, Path(folder), networks, precision="bf16")
            next(epochs)
            synchronize(device)
            start, count = time.perf_counter(), 1 if is_dry else 5
            assert len(list(islice(epochs, count))) == count
            synchronize(device)
            result[name] = round(count * case.batches / (time.perf_counter() - start), 2)
    return result


MEASUREMENTS: dict[str, tuple[float, Callable[[bool], Result]]] = {
    "self-check": (120, check_itself),
    "mnist seed": (120, train_mnist),
    "resnet-18": (100, train_resnets),
    "auto-encoder": (60, learn),
}
TESTS_LIMIT = 150.0


def all_parts(is_dry: bool) -> list[Part]:
    """The parts in their order: what is right first, then what is fast."""
    dry = ["--dry-run"] if is_dry else []
    parts = [
        Part(name=name, limit=limit, command=[sys.executable, __file__, "--part", name, *dry])
        for name, (limit, _) in MEASUREMENTS.items()
    ]
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    tests += ["--collect-only"] if is_dry else []
    return [parts[0], Part(name="pytest -m gpu", limit=TESTS_LIMIT, command=tests), *parts[1:]]


def run_part(part: Part) -> Outcome:
    """Run a part in a group of processes of its own, which ends with it or at its limit."""
    start = time.perf_counter()
    process = subprocess.Popen(
        list(part.command),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=part.limit)
        status = "ok" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "out of time"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    seconds, lines = time.perf_counter() - start, [line for line in output.splitlines() if line.strip()]
    result = next((json.loads(line.removeprefix(RESULT)) for line in lines if line.startswith(RESULT)), {})
    last = [] if result else lines[-LAST_LINES if status != "ok" else -1 :]
    return Outcome(name=part.name, status=status, seconds=round(seconds, 1), result=result, last_lines=last)


def describe_machine(is_dry: bool) -> dict[str, str]:
    """The GPU, its driver and all versions."""
    own = {"python": platform.python_version(), **versions()}
    return own if is_dry else {**own, **asdict(DeviceInfo.from_device(torch.device("cuda", 0)))}


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print one line for every number, or for what a part said last."""
    rows = []
    for outcome in outcomes:
        numbers = [f"{name}: {value}" for name, value in outcome.result.items()] or list(outcome.last_lines) or ["-"]
        for place, text in enumerate(numbers):
            head = (outcome.name, outcome.status, f"{outcome.seconds:.0f}") if place == 0 else ("", "", "")
            rows.append((*head, text.replace("|", "/")))
    print(markdown(("part", "status", "s", "result"), rows), flush=True)


def main() -> None:
    """Run all parts, or the one that is named; exit with 1 where a part is not ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="folder of gpu.json")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU: its numbers mean nothing")
    parser.add_argument("--part", choices=list(MEASUREMENTS), help="run this part alone, in this process")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no CUDA GPU here; --dry-run shows that the benchmark runs")
    if options.part is not None:
        print(RESULT + json.dumps(MEASUREMENTS[options.part][1](options.dry_run)), flush=True)
        return
    machine, outcomes = describe_machine(options.dry_run), []
    print(", ".join(f"{name} {value}" for name, value in machine.items()), "\n", sep="\n", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in all_parts(options.dry_run):
        outcomes.append(run_part(part))
        print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        values = {"machine": machine, "dry_run": options.dry_run, "parts": [asdict(outcome) for outcome in outcomes]}
        (options.out / "gpu.json").write_text(json.dumps(values, indent=2) + "\n")
    print_table(outcomes)
    if any(outcome.status != "ok" for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
