"""SIGKILL at any moment and run again: the same bytes as if nothing had happened, finished work not done twice."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import BIN, hashes, kill_when, run
from helpers.tiny_learning import write_toml

from modelzoo_datasets import generate_zoo, get_engine, read_recipe
from modelzoo_datasets.zoo import ZooFolder

EVALUATION = """
[evaluation]
samples = 2
compared = 2
fine_tune = [1]
"""


@pytest.fixture(scope="module")
def hyper_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny-hyper.toml"
    path.write_text(write_toml(epochs=24, batch_size=4) + EVALUATION)
    return path


@pytest.mark.parametrize("name", ["native", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_killed_generate_ends_with_the_same_bytes_and_repeats_no_finished_model(
    name: str, tiny_recipe: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    out, undisturbed = tmp_path / "zoo", tiny_zoo  # made by one process
    if name != "torch":
        undisturbed = tmp_path / "undisturbed"
        engine = get_engine(name, num_threads=1)
        generate_zoo(read_recipe(str(tiny_recipe)), undisturbed, config="seed", engine=engine, images_root=tmp_path)
    command = ["modelzoo-generate", f"{tiny_recipe}/seed", "--out", out, "--threads", "2", "--engine", name]
    kill_when(command, lambda: len(list(out.glob("progress/*.json"))) >= 3)
    finished = {path.stem for path in out.glob("progress/*.json")}
    written = {p: p.stat().st_mtime_ns for name in finished for p in (out / "states" / name).iterdir()}
    result = run(command)
    assert result.returncode == 0, result.stderr
    assert f"{20 - len(finished)} models trained" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert hashes(out) == hashes(undisturbed)


KILLED_WHILE_MERGING = """
import os, signal
from modelzoo_datasets.zoo import backends as stores

stores.merge_packs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_packed_generate_killed_between_models_and_again_while_they_are_merged_trains_none_of_them_again(
    tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    out, plugin = tmp_path / "zoo", tmp_path / "killer.py"
    plugin.write_text(KILLED_WHILE_MERGING)
    command = [
        "modelzoo-generate",
        f"{tiny_recipe}/hyp",
        "--out",
        out,
        "--storage",
        "packed",
        "--threads",
        "1",
        "--engine",
        "torch",
    ]
    kill_when(command, lambda: len(list(out.glob("progress/*.json"))) >= 2)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("progress/*.json")}
    assert run([*command, "--plugin", plugin]).returncode == -signal.SIGKILL
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(out.glob("progress/*.json"))) == len(list(out.glob("progress/*.safetensors"))) == 8
    result = run(command)
    assert (result.returncode, result.stdout) == (0, f"{out}: tiny/hyp, 0 models trained\n")
    assert sorted(path.name for path in out.rglob("*safetensors*")) == ["models-00001-00100.safetensors"]
    packed, plain = ZooFolder.open(out), ZooFolder.open(tiny_hyp_zoo)
    for name in ("models.parquet", "states.parquet", "statistics.json", "pairs.parquet"):
        assert (out / name).read_bytes() == (tiny_hyp_zoo / name).read_bytes()
    for model, epoch in zip(plain.states["model_id"], plain.states["epoch"], strict=True):
        assert torch.equal(packed.weights(model, epoch), plain.weights(model, epoch))


def test_the_demo_leaves_a_folder_of_something_else_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    result = run(["modelzoo-demo", "--out", tmp_path])
    told = f"modelzoo-demo: output folder {tmp_path} already contains thesis.tex; pass a different --out\n"
    assert (result.returncode, result.stderr) == (2, told)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_ctrl_c_is_one_line_and_leaves_a_folder_to_go_on_with(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    words = [str(BIN / "modelzoo-generate"), f"{tiny_recipe}/seed", "--out", str(out), "--threads", "1", "--quiet"]
    # Where the tests run in the background, SIGINT is ignored, and a command would inherit that.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **listening) as process:
        while not list(out.glob("progress/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "modelzoo-generate: stopped; run the same command again to resume\n")
    assert not (out / "states.parquet").exists()
    assert list(out.glob("progress/*.json"))


@pytest.mark.slow
def test_a_demo_killed_in_every_stage_ends_with_the_same_bytes(
    tiny_recipe: Path, hyper_recipe: Path, tmp_path: Path
) -> None:
    def demo(out: Path) -> list[str | Path]:
        recipes = ["--recipe", tiny_recipe, "--hyper-recipe", hyper_recipe]
        return ["modelzoo-demo", "--out", out, *recipes, "--threads", "1"]

    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    kill_when(demo(killed), lambda: len(list(killed.glob("zoo/*/progress/*.json"))) >= 5)
    kill_when(demo(killed), lambda: (killed / ".hyperrep.partial" / "checkpoint.safetensors").is_file())
    kill_when(demo(killed), lambda: len(list(killed.glob("evaluation/populations/*.json"))) >= 3)
    for out in (killed, undisturbed):
        result = run(demo(out))
        assert result.returncode == 0, result.stderr
    assert (killed / "report.html").is_file()
    assert _repeatable(killed) == _repeatable(undisturbed)


def _repeatable(folder: Path) -> dict[str, str]:
    """Path -> hash of all files but TensorBoard's, which hold the time of day by their nature."""
    return {path: found for path, found in hashes(folder).items() if "events" not in Path(path).parts}
