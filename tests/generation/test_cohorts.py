"""Cohorts: however a zoo is cut and wherever its parts are trained and stopped, the folder has the bytes of one run."""

import dataclasses
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import BIN, hashes, kill_when, run

from modelzoo_datasets import generate_zoo, read_recipe
from modelzoo_datasets.engines import Engine
from modelzoo_datasets.errors import ArgumentError, FormatError, ModelZooError
from modelzoo_datasets.generation import cohorts, generate_cohort
from modelzoo_datasets.generation.cohort_results import Results
from modelzoo_datasets.generation.cohorts import select_part
from modelzoo_datasets.recipes import Member, Recipe

SCRIPT = ROOT / "generation" / "slurm.sh"
DIGEST = "0" * 64  # stands for `ZooInfo.digest`


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return read_recipe(str(tiny_recipe))


@pytest.fixture
def members(recipe: Recipe) -> list[Member]:
    return recipe.members("hyp")


def states_of(member: Member, first: int = 0) -> dict[str, torch.Tensor]:
    """States as a result holds them, of epochs `first` to the last."""
    epochs = torch.arange(first, member.training.epochs + 1)
    return {"weights": epochs[:, None] + torch.zeros(1, 3), "train_acc": epochs / 10}


def put_whole(results: Results, member: Member) -> None:
    results.put(member, states_of(member), 0, last=True)


@pytest.mark.parametrize(("n", "parts"), [(8, 3), (20, 20), (3, 5), (2560, 40), (0, 2)])
def test_slices_are_all_models_once_in_order_and_of_equal_size(n: int, parts: int, members: list[Member]) -> None:
    many = [dataclasses.replace(members[0], index=i) for i in range(n)]
    slices = [select_part(many, part, parts) for part in range(1, parts + 1)]
    assert [member for part in slices for member in part] == many
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize("part", [0, 4])
def test_a_part_that_is_not_there_is_refused(part: int, members: list[Member]) -> None:
    with pytest.raises(ArgumentError) as caught:
        select_part(members, part, 3)
    assert str(caught.value) == f"cohort must be 1/3 to 3/3, got {part}/3"


@pytest.mark.parametrize("at", ["", "memory://zoos/hyp"], ids=["folder", "memory"])
def test_a_zoo_of_cohorts_in_any_order_and_of_none_is_the_zoo_of_one_run(
    at: str, recipe: Recipe, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path
) -> None:
    out, where = tmp_path / "zoo", {"engine": engine, "images_root": tmp_path, "results": at or None}
    trained = [generate_cohort(recipe, out, config="hyp", part=(part, 4), **where) for part in (3, 1, 3)]
    assert trained == [2, 2, 0]
    assert not out.exists()
    assert generate_zoo(recipe, out, config="hyp", **where) == 4
    assert hashes(out) == hashes(tiny_hyp_zoo)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]  # nothing is left beside it


def test_results_of_big_models_come_in_parts_and_twins_with_all_they_have(
    tiny_recipe: Path, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(f'{tiny_recipe.read_text()}\n[configs.hyp-sparse]\nparent = "hyp"\nepochs = 2\n')
    twins = {"engine": engine, "images_root": tmp_path, "parent": tiny_hyp_zoo, "models": range(4, 5)}
    recipe, out = read_recipe(str(path)), tmp_path / "zoo"
    generate_zoo(recipe, tmp_path / "once", config="hyp-sparse", **twins)
    monkeypatch.setattr(cohorts, "_PART_BYTES", 1)
    assert generate_cohort(recipe, out, config="hyp-sparse", part=(1, 1), **twins) == 1
    found = {file.name for file in (tmp_path / "zoo.cohorts").iterdir()}
    assert found == {f"hyp-sparse-00004{part}.safetensors" for part in ("", ".part-000", ".part-001")}
    assert generate_zoo(recipe, out, config="hyp-sparse", **twins) == 0
    assert hashes(out) == hashes(tmp_path / "once")


@pytest.mark.parametrize("at", ["results", "memory://half-written"])
def test_what_a_killed_task_leaves_is_no_result(at: str, members: list[Member], tmp_path: Path) -> None:
    results = Results(at if "://" in at else str(tmp_path / at), DIGEST)
    files: Any = results._files
    whole, cut, begun, empty = members[:4]
    for member in (whole, cut, begun, empty):
        put_whole(results, member)
    name = {member: f"{results._root}/{member.model_id}.safetensors" for member in members[:4]}
    content = files.cat_file(name[cut])
    files.rm_file(name[begun])
    results.put(begun, states_of(begun), 0, last=False)
    files.pipe_file(f"{results._root}/.{begun.model_id}.safetensors.0123456789abcdef", content[:50])
    for kept in (0, 7, 8, 100, len(content) - 1):
        files.pipe_file(name[cut], content[:kept])
        files.pipe_file(name[empty], content[:0])
        assert results.select_finished(members) == [whole]
    results.sweep(members)
    assert results.select_finished(members) == []
    assert not files.exists(results._root) or files.ls(results._root) == []


def test_sweeping_leaves_the_files_of_others_alone(members: list[Member], tmp_path: Path) -> None:
    others = {"hyp-000011.safetensors", "seed-hyp-00001.safetensors", "notes.txt", "hyp-00002.part-001.safetensors"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    results = Results(str(tmp_path), DIGEST)
    put_whole(results, members[0])
    results.sweep(members[:1])
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_result_is_whole_whoever_writes_the_same_at_the_same_time(members: list[Member], tmp_path: Path) -> None:
    results, errors = Results(str(tmp_path), DIGEST), []

    def write() -> None:
        try:
            for _ in range(20):
                put_whole(results, members[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if results.select_finished(members[:1]):
            (found,) = results.read(members[0])
            assert torch.equal(found["weights"], states_of(members[0])["weights"])
    assert not errors
    assert [path.name for path in tmp_path.iterdir()] == [f"{members[0].model_id}.safetensors"]


def test_results_of_another_recipe_or_version_are_refused_and_left(
    recipe: Recipe, engine: Engine, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"engine": engine, "images_root": tmp_path, "models": range(1, 2)}
    generate_cohort(recipe, tmp_path / "zoo", config="hyp", part=(1, 1), **where)
    name = tmp_path / "zoo.cohorts" / "hyp-00001.safetensors"
    before = name.read_bytes()
    other = dataclasses.replace(recipe, seed=2)
    for attempt in (generate_zoo, lambda *args, **more: generate_cohort(*args, part=(1, 1), **more)):
        with pytest.raises(FormatError) as caught:
            attempt(other, tmp_path / "zoo", config="hyp", **where)
        assert str(caught.value) == (
            f"cohort result {name} belongs to another recipe, engine or version than this zoo; remove it, or pass "
            "another --results"
        )
    assert name.read_bytes() == before


def test_a_damaged_result_is_named(members: list[Member], tmp_path: Path) -> None:
    results, member = Results(str(tmp_path), DIGEST), members[0]
    results.put(member, states_of(member), 0, last=False)
    results.put(member, states_of(member, first=1), 1, last=True)
    name = tmp_path / f"{member.model_id}.safetensors"
    with pytest.raises(FormatError) as caught:
        list(results.read(member))
    assert str(caught.value) == f"cannot read cohort result {name}: 3 states, expected 2; remove it"
    part = tmp_path / f"{member.model_id}.part-000.safetensors"
    part.unlink()
    with pytest.raises(FormatError) as caught:
        list(results.read(member))
    assert str(caught.value).startswith(f"cannot read cohort result {part}: ")
    assert str(caught.value).endswith("; remove it")


def test_a_result_that_only_its_writer_sees_is_an_error(members: list[Member], tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        list(Results(str(tmp_path), DIGEST).read(members[0]))
    assert str(caught.value) == (
        f"there is no result of {members[0].model_id} at {tmp_path}, although a node wrote it: pass a folder that "
        "all nodes share as --results, or an fsspec URL"
    )


def test_results_at_no_place_are_refused() -> None:
    with pytest.raises(ModelZooError) as caught:
        Results("nowhere://zoo", DIGEST)
    assert str(caught.value) == "results cannot be at nowhere://zoo: Protocol not known: nowhere"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_place_is_understood_in_any_working_directory(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Results(f"{prefix}results", DIGEST).url == str(tmp_path / "results")


def test_collecting_goes_on_where_it_was_killed(
    recipe: Recipe, tiny_hyp_zoo: Path, engine: Engine, tmp_path: Path
) -> None:
    """A kill between taking a result in and removing it leaves both; nothing is trained again."""
    where: dict[str, Any] = {"engine": engine, "images_root": tmp_path, "models": range(1, 3)}
    generate_cohort(recipe, tmp_path / "zoo", config="hyp", part=(1, 1), **where)
    shutil.copytree(tmp_path / "zoo.cohorts", tmp_path / "kept")
    assert generate_zoo(recipe, tmp_path / "zoo", config="hyp", **where) == 0
    first = hashes(tmp_path / "zoo")
    (tmp_path / "kept").rename(tmp_path / "zoo.cohorts")
    assert generate_zoo(recipe, tmp_path / "zoo", config="hyp", **where) == 0
    assert hashes(tmp_path / "zoo") == first
    assert not (tmp_path / "zoo.cohorts").exists()


@pytest.mark.slow
def test_array_tasks_killed_and_run_twice_at_once_end_with_the_same_bytes(
    tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path
) -> None:
    out, results = tmp_path / "zoo", tmp_path / "shared"
    command = [
        "modelzoo-generate",
        f"{tiny_recipe}/hyp",
        "--engine",
        "torch",
        "--out",
        out,
        "--threads",
        "1",
        "--results",
    ]
    part = [*command, f"file://{results}", "--cohort"]
    kill_when([*part, "1/2"], lambda: bool(list(results.glob("hyp-*.safetensors"))))
    words = [[str(BIN / part[0]), *map(str, part[1:]), place] for place in ("1/2", "2/2", "2/2")]
    tasks = [subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for w in words]
    told = [task.communicate(timeout=300) for task in tasks]
    assert [errors for _, errors in told] == ["", "", ""]
    assert told[0][0] in {f"{out}: tiny/hyp, {n} models trained\n" for n in (1, 2, 3)}
    assert not out.exists()
    result = run([*command, results])
    assert (result.returncode, result.stdout) == (0, f"{out}: tiny/hyp, 0 models trained\n"), result.stderr
    assert hashes(out) == hashes(tiny_hyp_zoo)
    assert not results.exists()


FAKE_SBATCH = """\
#!/bin/sh
# Runs at once what it is given, as Slurm would on its nodes: an array index by index, from a copy of the script.
echo "$@" >>"$LOG"
while :; do
    case $1 in
    --array=*) tasks=${1#--array=1-} ;;
    --cpus-per-task=*) export SLURM_CPUS_PER_TASK="${1#*=}" ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
cp "$1" "$LOG.script"
shift
if [ -z "${tasks-}" ]; then
    sh "$LOG.script" "$@" >>"$LOG.out"
else
    for task in $(seq "$tasks" -1 1); do
        SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$tasks sh "$LOG.script" "$@" >>"$LOG.out"
    done
fi
echo "17;cluster"
"""


def submitted(words: list[str | Path], folder: Path, **environment: str) -> tuple[list[str], list[str]]:
    """Run the script where sbatch runs jobs at once; returns how jobs were submitted, and what they printed."""
    sbatch, log = folder / "bin" / "sbatch", folder / "log"
    sbatch.parent.mkdir()
    sbatch.write_text(FAKE_SBATCH)
    sbatch.chmod(0o755)
    path = os.pathsep.join([str(sbatch.parent), str(BIN), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "LOG": str(log), "CPUS": "1", **environment}
    result = subprocess.run(["sh", SCRIPT, *words], env=variables, capture_output=True, text=True)
    parts = environment["PARTS"]
    told = f"array 17 trains {words[0]} in {parts} parts, then job 17 writes {words[1]}\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, told, "")
    return log.read_text().splitlines(), Path(f"{log}.out").read_text().splitlines()


def test_the_slurm_script_trains_every_part_and_then_collects(tmp_path: Path) -> None:
    words: list[str | Path] = ["mnist-cnn-s/seed", "zoos/a b", "--models", "1-9"]
    jobs, commands = submitted(words, tmp_path, PARTS="3", CPUS="5", GENERATE="echo")
    assert [job.split(" --cpus")[0] for job in jobs] == [
        "--parsable --job-name=modelzoo --array=1-3",
        "--parsable --job-name=modelzoo-collect --dependency=afterok:17 --kill-on-invalid-dep=yes",
    ]
    command = "mnist-cnn-s/seed --out zoos/a b --threads 5 --models 1-9"
    assert commands == [*(f"{command} --cohort {part}/3" for part in (3, 2, 1)), command]


@pytest.mark.slow
def test_the_slurm_script_makes_the_zoo_of_one_run(tiny_recipe: Path, tiny_hyp_zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    _, lines = submitted([f"{tiny_recipe}/hyp", out, "--engine", "torch"], tmp_path, PARTS="3")
    assert lines == [f"{out}: tiny/hyp, {n} models trained" for n in (3, 3, 2, 0)]
    assert hashes(out) == hashes(tiny_hyp_zoo)
    assert not (tmp_path / "zoo.cohorts").exists()


def test_the_slurm_script_says_how_it_is_used() -> None:
    assert subprocess.run(["sh", "-n", SCRIPT]).returncode == 0
    result = subprocess.run(["sh", SCRIPT], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "sh generation/slurm.sh RECIPE/CONFIG OUT" in result.stderr
