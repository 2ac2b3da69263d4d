"""Two commands on one --out at the same time: the folder is that of one of them, whole, and the other says why not.

Both start at a barrier, in either order. In even rounds they are the same command, in odd rounds two that would write
different things. Without the lock, rounds of the writers fail.
"""

import random
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from helpers.processes import hashes, run
from helpers.races import race
from helpers.tiny_learning import write_toml
from helpers.untrained_originals import write_zoo

WRITERS = ("generate", "import", "build", "train", "sample", "embed", "probe", "evaluate", "push", "demo")
QUICK = ("generate", "import", "build", "train", "sample")
LEARNING = """\
seed = {seed}

[evaluation]
samplers = ["normal"]
num_samples = 2
num_finetuned = 1
finetune_epochs = [1]
noise = []
mixtures = []
moves = []
seed = {seed}
"""
Command = tuple[str | Path, ...]


@dataclass(frozen=True)
class Writer:
    """Two commands that write different things to one place, `OUT` in their words, and what lies there before."""

    commands: tuple[Command, Command]
    start: Path | None = None  # a folder that is copied to OUT

    def words(self, variant: int, out: Path) -> list[str]:
        return [str(word).replace("OUT", str(out)) for word in self.commands[variant]]

    def prepare(self, out: Path) -> Path:
        out.parent.mkdir(parents=True)
        if self.start is not None:
            shutil.copytree(self.start, out)
        return out


@pytest.fixture(scope="module")
def writers(
    tiny_recipe: Path, tiny_dataset: Path, tiny_hyp_zoo: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Writer]:
    folder = tmp_path_factory.mktemp("races")
    for seed in (0, 1):
        (folder / f"learning-{seed}.toml").write_text(write_toml(epochs=2, batch_size=4) + LEARNING.format(seed=seed))
    recipes = [folder / f"learning-{seed}.toml" for seed in (0, 1)]
    (folder / "protocol.toml").write_text("[evaluation]" + LEARNING.format(seed=1).partition("[evaluation]")[2])
    rep = folder / "rep"
    (result,) = race(
        [["modelzoo-hyperrep", "train", tiny_dataset, "--recipe", recipes[0], "--out", rep]], [0], folder / "r"
    )
    assert result.returncode == 0, result.stderr
    originals = write_zoo(folder / "tune_zoo_originals")
    with tarfile.open(folder / "originals.tar.gz", "w:gz") as tar:
        tar.add(originals, originals.name)
    on_rep: Command = (tiny_dataset, "--hyperrep", rep)

    def pair(*words: str | Path, differ: Sequence[Sequence[str | Path]]) -> tuple[Command, Command]:
        first, second = (tuple(words) + tuple(more) for more in differ)
        return first, second

    out: Command = ("--out", "OUT", "--quiet")
    zoo = ("--models", "1-2", "--engine", "torch", "--threads", "1", *out)
    hyperrep = "modelzoo-hyperrep"
    originals_tar: Command = ("modelzoo-import", folder / "originals.tar.gz", "--format", "model-zoos")
    originals_tar += ("--images", "fashion-mnist-5k", *out)
    names = [("--name", "a/seed"), ("--name", "b/seed")]
    evaluation = (*on_rep, "--engine", "torch", "--threads", "1", *out)
    return {
        "generate": Writer((("modelzoo-generate", f"{tiny_recipe}/hyp", *zoo),
                            ("modelzoo-generate", f"{tiny_recipe}/seed", *zoo))),
        "import": Writer(pair(*originals_tar, differ=names)),
        "build": Writer(pair("modelzoo-build", tiny_hyp_zoo, *out, differ=[(), ("--repo-id", "a/b")])),
        "train": Writer(pair(hyperrep, "train", tiny_dataset, *out, differ=[("--recipe", r) for r in recipes])),
        "sample": Writer(pair(hyperrep, "sample", "--hyperrep", rep, "-n", "2", "--sampler", "normal", *out,
                              differ=[("--seed", "0"), ("--seed", "1")])),
        "embed": Writer(pair(hyperrep, "embed", *on_rep, "--out", "OUT/z.parquet",
                             differ=[("--config", "seed"), ("--config", "hyp")])),
        "probe": Writer(pair(hyperrep, "probe", *on_rep, "--recipe", recipes[0], *out,
                             differ=[(), ("--test-on", f"{tiny_dataset}/hyp")])),
        "evaluate": Writer(pair(hyperrep, "evaluate", *evaluation, "--recipe", recipes[0],
                                differ=[(), ("--protocol", folder / "protocol.toml")])),
        "push": Writer(pair("modelzoo-push", "OUT", differ=[("a/b", "--dry-run"), ("a/c", "--dry-run")]), start=rep),
        "demo": Writer(pair("modelzoo-demo", "--recipe", tiny_recipe, "--threads", "1", *out,
                            differ=[("--hyper-recipe", r) for r in recipes])),
    }  # fmt: skip


def contents(out: Path) -> Mapping[str, str]:
    """All files, hidden ones included, but TensorBoard's, which hold the time of day; CPU times count nothing."""
    found = {path: digest for path, digest in hashes(out).items() if "events" not in Path(path).parts}
    seconds = re.compile(r'"cpu_seconds": [^,}]+|\([\d.]+ CPU seconds\)')
    for path in (path for path in found if path.endswith((".json", ".html"))):
        found[path] = seconds.sub("", (out / path).read_text())
    return found


@cache
def undisturbed(writer: Writer, variant: int, folder: Path) -> Mapping[str, str]:
    """What a command writes alone; a finished command that is run again says so, and changes nothing."""
    out = writer.prepare(folder / f"alone-{variant}" / "out")
    first = run(writer.words(variant, out))
    assert first.returncode == 0, first.stderr
    before = contents(out)
    assert not [path for path in out.parent.rglob(".*")], "no lock and no partial file is left"
    again = run([word for word in writer.words(variant, out) if word != "--quiet"])
    assert again.returncode == 0, again.stderr
    assert contents(out) == before
    return before


def run_round(writer: Writer, number: int, folder: Path, generator: random.Random, *, with_lock: bool = True) -> None:
    out = writer.prepare(folder / str(number) / "out")
    variants = (0, number % 2)
    delays = [0.0, generator.random() * generator.choice([0.01, 0.1, 1.0])]
    if generator.random() < 0.5:
        delays.reverse()
    commands = [writer.words(variant, out) for variant in variants]
    results = race(commands, delays if with_lock else [0.0, 0.0], folder / f"{number}-told", with_lock=with_lock)
    done = [variant for variant, result in zip(variants, results, strict=True) if result.returncode == 0]
    told = [result.stderr for result in results]
    assert done, told
    assert contents(out) in [undisturbed(writer, variant, folder) for variant in done], told
    assert not [path for path in out.parent.rglob(".*")], told
    for result in results:
        if result.returncode:
            name, line = result.args[0], result.stderr.splitlines()[-1]
            patterns = (
                rf"{name}: another process is writing \S+: process \d+ on .*; wait until it ends, or choose another "
                "--out",
                rf"{name}: .* (already contains|holds another|already exists|holds a hyper-representation of).*",
            )
            assert result.returncode == 2 and any(re.fullmatch(p, line) for p in patterns), result.stderr
            assert number % 2 or re.fullmatch(patterns[0], line), "the same command again is no error"


@pytest.mark.parametrize("name", [w if w in QUICK else pytest.param(w, marks=pytest.mark.slow) for w in WRITERS])
def test_of_two_writers_one_writes_and_the_other_says_so(name: str, writers: dict[str, Writer], tmp_path: Path) -> None:
    generator = random.Random(name)
    for number in range(2):
        run_round(writers[name], number, tmp_path, generator)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WRITERS)
def test_many_rounds(name: str, writers: dict[str, Writer], tmp_path: Path) -> None:
    generator = random.Random(f"many {name}")
    for number in range(4 if name in ("evaluate", "demo") else 16):
        run_round(writers[name], number, tmp_path, generator)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["generate", "import", "build", "train", "sample"])
def test_without_the_lock_rounds_fail(name: str, writers: dict[str, Writer], tmp_path: Path) -> None:
    generator = random.Random(name)
    for number in range(1, 49, 2):  # two that write the same bytes do each other no harm
        try:
            run_round(writers[name], number, tmp_path, generator, with_lock=False)
        except AssertionError:
            return
    pytest.fail("both commands ran without the lock, and no round of 24 failed")
