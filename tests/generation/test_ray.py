"""A real Ray cluster of two nodes: workers and nodes are lost midway, and the zoo folder has the bytes of a local run.

Clusters, and what is connected to them, are processes of their own: Ray asks for this machine's own address, which a
test may not.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.processes import BIN, hashes, run

from modelzoo_datasets import read_recipe
from modelzoo_datasets._util import versions
from modelzoo_datasets.engines import Engine, TorchEngine
from modelzoo_datasets.errors import DeviceError, MissingExtraError
from modelzoo_datasets.generation import ray_cohorts
from modelzoo_datasets.generation.ray_cohorts import generate_on_ray
from modelzoo_datasets.plugins import VARIABLE

PLUGIN = """
from torch import nn
from modelzoo_datasets.architectures import Architecture, register_architecture

class Brittle(nn.Sequential):
    def forward(self, x):
        if {fails} and self.training and len(self) > 3:  # with dropout
            raise RuntimeError("brittle\\n  indeed")
        return super().forward(x)

def build(activation, dropout):
    layers = [nn.Flatten(), nn.Linear(784, 10)]
    return Brittle(*layers, *([nn.Dropout(dropout), nn.Identity()] if dropout else []))

register_architecture(Architecture("brittle", (1, 28, 28), 10, build))
"""

AHEAD = """
import sys
from pathlib import Path

from modelzoo_datasets import read_recipe
from modelzoo_datasets.generation import ray_cohorts
from modelzoo_datasets.progress import NoProgress

made = trained = 0
cohorts = ray_cohorts._cohorts

def counted(*arguments):
    global made
    for cohort in cohorts(*arguments):
        made += 1
        print(made - trained)
        yield cohort

class Training(NoProgress):
    def update(self, n=1):
        global trained
        trained += n

class Watched(NoProgress):
    def start(self, description, total, *, initial=0):
        return Training() if description == "training tiny/hyp" else self

ray_cohorts._cohorts = counted
here = Path(__file__).parent
recipe, options = read_recipe(sys.argv[1]), {"address": sys.argv[2], "images_root": here, "progress": Watched()}
ray_cohorts.generate_on_ray(recipe, here / "zoo", config="hyp", cohort_size=1, **options)
"""


def serve() -> None:
    """Start a cluster of two nodes, each of one core and, by its word, one GPU; do what is said on stdin, line by line.

    Its own first line is its address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    psutil = import_module("psutil")  # Ray's own, which is to be found once Ray is imported
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    other = cluster.add_node(num_cpus=1, num_gpus=1)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "remove a node\n":
            cluster.remove_node(other, allow_graceful=False)
            print("removed", flush=True)
        if line == "kill a worker\n":
            while not (busy := [p for p in psutil.Process().children(recursive=True) if "ray::cohort" in p.name()]):
                time.sleep(0.01)
            print(" ".join(busy[0].cmdline()), flush=True)
            busy[0].kill()
    cluster.shutdown()


class Served:
    """A cluster, and what can be done to it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = self._line()
        assert self.address, "the cluster did not start"

    def do(self, what: str) -> str:
        """Say it, and return the answer."""
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@contextmanager
def files_of_ray() -> Iterator[dict[str, str]]:
    """An environment in which a cluster keeps its files in a folder that is removed."""
    folder = tempfile.mkdtemp(prefix="ray-")  # not pytest's, whose path is too long for a socket
    try:
        yield {**os.environ, "RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finally:
        shutil.rmtree(folder)


@contextmanager
def served(**environment: str) -> Iterator[Served]:
    """A cluster of its own, gone afterwards."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        files_of_ray() as variables,
        subprocess.Popen([sys.executable, __file__], text=True, env={**variables, **environment}, **pipes) as process,
    ):
        try:
            yield Served(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Served]:
    """One for all tests that leave its nodes alive."""
    with served() as found:
        yield found


def reached(until: Callable[[], bool], process: "subprocess.Popen[str]", patience: float = 300) -> None:
    """Wait until something is so while a process runs."""
    end = time.monotonic() + patience
    while not until():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"not reached within {patience} s"
        time.sleep(0.01)


def of_session(session: int) -> set[str]:
    """Names of the processes of a session."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            if os.getsid(int(process.name)) == session:
                found.add((process / "comm").read_text().strip())
    return found


@pytest.fixture
def ray_files() -> Iterator[dict[str, str]]:
    """As `files_of_ray`, for one test."""
    with files_of_ray() as variables:
        yield variables


def refused(words: list[str | Path], message: str, **options: object) -> None:
    """One line on stderr, word by word, exit status 2, nothing on stdout."""
    result = run(words, **options)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"modelzoo-generate: {message}\n")


def test_a_zoo_trained_while_a_worker_and_a_node_are_lost_is_the_zoo_trained_here(
    tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "zoo"
    words = [
        BIN / "modelzoo-generate",
        f"{tiny_recipe}/hyp",
        "--engine",
        "torch",
        "--out",
        out,
        "--ray-cohort",
        "2",
        "--ray",
    ]
    with served() as cluster:
        command = [*map(str, words), cluster.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            reached(lambda: bool(list(tmp_path.glob("zoo.cohorts/hyp-*.safetensors"))), process)
            assert cluster.do("kill a worker").startswith("ray::cohort hyp-000")
            reached(lambda: len(list(out.glob("progress/*.json"))) >= 2, process)
            assert cluster.do("remove a node") == "removed"
            told, errors = process.communicate(timeout=300)
    assert (process.returncode, told, errors) == (0, f"{out}: tiny/hyp, 8 models trained\n", "")  # nothing of Ray's own
    assert hashes(out) == hashes(tiny_hyp_zoo)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


@pytest.mark.slow
def test_twins_and_packed_layouts_come_through_ray_unchanged(
    tiny_recipe: Path, tiny_hyp_zoo: Path, cluster: Served, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(f'{tiny_recipe.read_text()}\n[configs.hyp-sparse]\nparent = "hyp"\nepochs = 1\n')
    words = [
        "modelzoo-generate",
        f"{recipe}/hyp-sparse",
        "--parent",
        tiny_hyp_zoo,
        "--storage",
        "packed",
        "--engine",
        "torch",
        "--out",
    ]
    local = run([*words, tmp_path / "local"])
    assert local.returncode == 0, local.stderr
    more = ["--ray", cluster.address, "--ray-cohort", "3", "--ray-gpus", "0.5"]
    more += ["--results", f"file://{tmp_path}/results"]
    for trained in (8, 0):
        found = run([*words, tmp_path / "zoo", *more])
        told = f"{tmp_path / 'zoo'}: tiny/hyp-sparse, {trained} models trained\n"
        assert (found.returncode, found.stdout, found.stderr) == (0, told, "")
        assert hashes(tmp_path / "zoo") == hashes(tmp_path / "local")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_no_more_cohorts_are_made_than_keep_the_nodes_busy(tiny_recipe: Path, cluster: Served, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(AHEAD)
    result = subprocess.run([sys.executable, script, tiny_recipe, cluster.address], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert [int(word) for word in result.stdout.split()] == [1, 2, 3, 4, 4, 4, 4, 4]  # two for each of two cores


@pytest.mark.slow
def test_what_fails_for_good_is_one_line_and_the_rest_is_kept(
    tiny_recipe: Path, cluster: Served, tmp_path: Path
) -> None:
    plugin, recipe, out = tmp_path / "plugin.py", tmp_path / "tiny.toml", tmp_path / "zoo"
    recipe.write_text(tiny_recipe.read_text().replace("cnn-s", "brittle"))
    words = ["modelzoo-generate", f"{recipe}/hyp", "--plugin", plugin, "--engine", "torch", "--out"]
    on_ray = ["--ray", cluster.address, "--ray-cohort", "4"]
    plugin.write_text(PLUGIN.format(fails=True))
    refused(
        [*words, out, *on_ray],
        "could not train hyp-00003 to hyp-00004 (RuntimeError: brittle indeed), hyp-00007 to hyp-00008 (RuntimeError: "
        "brittle indeed); all others are kept, run the same command again to resume",
    )
    plugin.write_text(PLUGIN.format(fails=False))
    found = run([*words, out, *on_ray])
    assert (found.returncode, found.stdout) == (0, f"{out}: tiny/hyp, 4 models trained\n"), found.stderr
    assert run([*words, tmp_path / "local"]).returncode == 0
    assert hashes(out) == hashes(tmp_path / "local")


@pytest.mark.slow
def test_ctrl_c_stops_the_cluster_too_and_leaves_a_folder_to_go_on_with(
    tiny_recipe: Path, tiny_hyp_zoo: Path, ray_files: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "zoo"
    words = [
        "modelzoo-generate",
        f"{tiny_recipe}/hyp",
        "--engine",
        "torch",
        "--out",
        out,
        "--ray",
        "local",
        "--ray-cohort",
        "1",
    ]
    # In a group of its own, all of which a terminal tells; SIGINT is ignored where tests run in the background.
    listening = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = [str(BIN / words[0]), *map(str, words[1:])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ray_files, **listening) as process:
        reached(lambda: bool(list(out.glob("progress/*.json"))), process)
        assert {"raylet", "gcs_server"} <= of_session(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "modelzoo-generate: stopped; run the same command again to resume\n")
    assert not (out / "states.parquet").exists()
    kept = {path.stem for pattern in ("zoo/progress/*", "zoo.cohorts/hyp-*") for path in tmp_path.glob(pattern)}
    end = time.monotonic() + 60
    while left := of_session(process.pid):
        assert time.monotonic() < end, left
        time.sleep(0.1)
    result = run([*words, "--ray-cpus", "2"], env=ray_files)
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout.split()[-3]) <= 8 - len(kept)
    assert hashes(out) == hashes(tiny_hyp_zoo)


@pytest.mark.slow
def test_nodes_with_other_versions_or_too_little_are_refused(
    tiny_recipe: Path, ray_files: dict[str, str], tmp_path: Path
) -> None:
    information = tmp_path / "other" / "modelzoo_datasets-9.9.dist-info" / "METADATA"
    information.parent.mkdir(parents=True)
    information.write_text("Metadata-Version: 2.1\nName: modelzoo-datasets\nVersion: 9.9\n")
    here = versions()
    mine, other = (f"modelzoo-datasets {own}, torch {here['torch']}" for own in (here["modelzoo-datasets"], "9.9"))
    words = ["modelzoo-generate", f"{tiny_recipe}/hyp", "--out", tmp_path / "zoo", "--ray"]
    path = [str(information.parent.parent), *filter(None, sys.path)]
    with served(PYTHONPATH=os.pathsep.join(path)) as cluster:
        told = f"node {socket.gethostname()} has {other}, but the zoo is made with {mine}; "
        told += "install the same versions on every node"
        refused([*words, cluster.address], told)
    told = "no node of the Ray cluster has what a task needs (CPU: 1, GPU: 1); ask for less, or add nodes"
    refused([*words, "local", "--ray-gpus", "1"], told, env=ray_files)


def _told(tiny_recipe: Path, out: Path, **options: Any) -> str:
    """What an attempt in this process is refused with, before anything is connected or made."""
    with pytest.raises((DeviceError, MissingExtraError)) as caught:
        generate_on_ray(read_recipe(str(tiny_recipe)), out, config="hyp", images_root=out.parent, **options)
    assert not out.exists()
    return str(caught.value)


def test_without_ray_its_installation_is_told(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    told = "clusters need ray, which is not installed: pip install 'modelzoo-datasets[ray]'"
    assert _told(tiny_recipe, tmp_path / "zoo", address="auto") == told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"address": "127.0.0.1:1"}, "there is no Ray cluster at 127.0.0.1:1: [Errno 111] Connection refused"),
        ({"address": "auto"}, "there is no Ray cluster at 127.0.0.1:2: [Errno 111] Connection refused"),
        ({"address": "nearby"}, "--ray must be HOST:PORT, auto or local, got 'nearby'"),
        ({"address": "local", "cpus": 0}, "--ray-cpus must be at least 1, got 0"),
        ({"address": "local", "gpus": 1.5}, "--ray-gpus must be a share from 0 to 1, or a whole number, got 1.5"),
        ({"address": "local", "cohort_size": 0}, "--ray-cohort must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(
    options: dict[str, Any], told: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")  # what `auto` means where it is set
    assert _told(tiny_recipe, tmp_path / "zoo", **options) == told


if __name__ == "__main__":
    serve()


def test_tasks_without_gpus_get_an_engine_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(ray_cohorts, "get_engine", names.append)
    for engine, gpus in (("auto", 0.0), ("auto", 0.5), ("torch", 0.0), ("cuda", 1.0)):
        ray_cohorts._select_engine(engine, gpus)
    assert names == ["native", "auto", "torch", "cuda"]
    with pytest.raises(DeviceError, match="^--engine cuda needs a GPU for each task: pass --ray-gpus, such as 1 or"):
        ray_cohorts._select_engine("cuda", 0.0)


@pytest.mark.parametrize(("gpus", "share"), [(0.0, 1.0), (0.25, 0.25), (1.0, 1.0), (2.0, 1.0)])
def test_tasks_that_share_a_gpu_share_its_memory(gpus: float, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def get_engine(name: str, num_threads: int, *, gpu_share: float) -> Engine:
        shares.append(gpu_share)
        return TorchEngine(num_threads)

    monkeypatch.setattr(ray_cohorts, "get_engine", get_engine)
    monkeypatch.setenv(VARIABLE, "")
    cohort: Any = SimpleNamespace(architecture="cnn-s", info=SimpleNamespace(engine="torch", versions={"torch": "1.0"}))
    images: Any = None
    with pytest.raises(DeviceError, match=r"^node .* has .*, but the zoo is made with torch 1\.0; install the same"):
        ray_cohorts._train_on_node(cohort, images, 1, gpus, "")
    assert shares == [share]
