"""Plugins: an architecture and images of one's own are used like those that ship, in every process."""

import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import run

from modelzoo_datasets import load_zoo, plugins, stream_zoo
from modelzoo_datasets.architectures import get_architecture
from modelzoo_datasets.architectures import registry as architectures
from modelzoo_datasets.engines import Job
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.errors import ModelZooError, RecipeError
from modelzoo_datasets.images import get_image_dataset, load_images
from modelzoo_datasets.images import registry as images_registry
from modelzoo_datasets.plugins import VARIABLE, PluginError, has_plugins, use_plugin
from modelzoo_datasets.recipes import Training

EXAMPLE = ROOT / "generation" / "example"
PLUGIN = '''\
import torch
from torch import nn

from modelzoo_datasets.architectures import ACTIVATION_MODULES, Architecture, register_architecture
from modelzoo_datasets.images import ImageDataset, Split, register_images


def build(activation, dropout):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), ACTIVATION_MODULES[activation](), nn.Linear(8, 2))


def halves(root):
    """Is the upper half the bright one?"""
    pixels = torch.randint(128, (600, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(600) % 2
    pixels[labels == 1, :, :2] += 100
    pixels[labels == 0, :, 2:] += 100
    pixels = pixels.to(torch.uint8)
    return {"train": Split(pixels[:500], labels[:500]), "test": Split(pixels[500:], labels[500:])}


register_architecture(Architecture("tiny-NAME", input_shape=(1, 4, 4), classes=2, build=build))
register_images(
    ImageDataset("halves-NAME", halves, sizes=(400, 100, 100), mean=(0.5,), std=(0.25,), classes=2, size=(4, 4))
)
'''

TAKEN = PLUGIN.replace("tiny-NAME", "cnn-s")


def written(folder: Path, name: str, text: str = PLUGIN) -> Path:
    """A plugin that registers names of its own."""
    path = folder / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    return path


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin registers here is unknown to other tests."""
    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    monkeypatch.setattr(images_registry, "_DATASETS", dict(images_registry._DATASETS))
    monkeypatch.setattr(plugins, "_loaded", set(plugins._loaded))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin is named, before and after."""
    monkeypatch.setenv(VARIABLE, "")


def test_the_example_is_generated_by_two_processes_and_built(tmp_path: Path) -> None:
    for name in ("stripes.py", "stripes.toml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    zoo, plugin = tmp_path / "zoo", tmp_path / "stripes.py"
    result = run(
        [
            *("modelzoo-generate", f"{tmp_path / 'stripes.toml'}/seed", "--plugin", plugin),
            *("--models", "1-4", "--threads", "2", "--quiet", "--out", zoo),
        ]
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{zoo}: stripes/seed, 4 models trained\n"
    states = pd.read_parquet(zoo / "states.parquet")
    accuracy = [states.loc[states["epoch"] == epoch, "test_acc"].mean() for epoch in (0, states["epoch"].max())]
    assert accuracy[0] < 0.7 < accuracy[1]

    result = run(["modelzoo-build", zoo, "--plugin", plugin, "--out", tmp_path / "dataset"])
    assert result.returncode == 0, result.stderr
    rows = pd.concat(pd.read_parquet(path) for path in (tmp_path / "dataset" / "seed").glob("*.parquet"))
    assert sorted(rows["sha256"]) == sorted(states["sha256"])
    assert {len(weights) for weights in rows["weights"]} == {64 * 16 + 16 + 16 * 2 + 2}


def test_worker_processes_know_a_plugin_that_was_named_after_their_server_began(clean: None, tmp_path: Path) -> None:
    engine = TorchEngine(num_workers=2)
    training = Training(epochs=1, batch_size=20, activation="tanh", init="normal", optimizer="sgd", lr=1e-2)
    jobs = [Job(training=training, seed=seed) for seed in range(3)]
    for name in ("first", "second"):
        use_plugin(written(tmp_path, name))
        images = load_images(f"halves-{name}", tmp_path)
        found = [
            {(int(s.jobs), int(s.epochs)): s.weights for s in some.train(f"tiny-{name}", images, jobs, metrics_on=())}
            for some in (engine, TorchEngine(num_workers=1))
        ]
        assert len(found[0]) == 6
        for key, weights in found[0].items():
            assert torch.equal(weights, found[1][key])


def test_names_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [written(tmp_path, name) for name in ("one", "two")]
    monkeypatch.setenv(VARIABLE, os.pathsep.join(map(str, paths)))
    for name in ("one", "two"):
        assert get_architecture(f"tiny-{name}").layout.size == 154
        assert get_image_dataset(f"halves-{name}").input_shape == (1, 4, 4)


def test_a_plugin_is_imported_once(clean: None, tmp_path: Path) -> None:
    counted = "from pathlib import Path\nwith Path(__file__).with_suffix('.log').open('a') as log: log.write('x')\n"
    plugin = written(tmp_path, "counted", counted + PLUGIN)
    for _ in range(2):
        use_plugin(plugin)
        get_architecture("tiny-counted")
    assert plugin.with_suffix(".log").read_text() == "x"
    assert os.environ[VARIABLE].split(os.pathsep).count(str(plugin)) == 1


def test_without_its_plugin_a_name_is_unknown(clean: None) -> None:
    with pytest.raises(
        RecipeError, match="^unknown architecture 'tiny-none'; .*; to use your own, pass --plugin FILE, a"
    ):
        get_architecture("tiny-none")


def install(folder: Path, name: str, code: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package of one module, whose entry point is `target`."""
    monkeypatch.syspath_prepend(folder)
    (folder / f"{name}.py").write_text(code.replace("NAME", name))
    record = folder / f"{name}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[modelzoo_datasets.plugins]\nmine = {target}\n")


def test_a_package_registers_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_plugins()
    install(tmp_path, "packaged_zoo", PLUGIN, "packaged_zoo", monkeypatch)
    assert has_plugins()
    monkeypatch.setattr(plugins, "_loaded", set())
    assert get_architecture("tiny-packaged_zoo").layout.size == 154
    assert get_image_dataset("halves-packaged_zoo").input_shape == (1, 4, 4)
    del sys.modules["packaged_zoo"]


def test_an_entry_point_may_be_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, register = PLUGIN.split("\n\nregister_architecture")
    register = "\ndef register():\n    " + "register_architecture" + register.split("\nregister_images")[0]
    install(tmp_path, "called_zoo", top + register, "called_zoo:register", monkeypatch)
    monkeypatch.setattr(plugins, "_loaded", set())
    for _ in range(2):  # it is called once
        assert get_architecture("tiny-called_zoo").layout.size == 154
    del sys.modules["called_zoo"]


def test_a_broken_package_is_a_line_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "broken_zoo", "raise ValueError('no\\nluck')", "broken_zoo", monkeypatch)
    monkeypatch.setattr(plugins, "_loaded", set())
    for _ in range(2):
        assert get_architecture("cnn-s").layout.size == 2464
    assert [record.getMessage() for record in caplog.records] == [
        "plugin mine of package broken_zoo registers nothing: ValueError: no luck; update or remove the package"
    ]


def test_a_zoo_of_a_plugin_is_loaded_without_it_and_built_with_it(tmp_path: Path, clean: None) -> None:
    plugin, zoo, dataset = written(tmp_path, "apart"), tmp_path / "zoo", tmp_path / "dataset"
    recipe = (EXAMPLE / "stripes.toml").read_text().replace('"stripes"', '"halves-apart"')
    (tmp_path / "apart.toml").write_text(recipe.replace('"perceptron"', '"tiny-apart"'))
    generate = ("modelzoo-generate", f"{tmp_path / 'apart.toml'}/seed", "--models", "1-4", "--quiet", "--out", zoo)
    unknown = run([*generate])
    assert unknown.returncode == 2
    assert unknown.stderr.endswith("; to use your own, pass --plugin FILE, a Python file that registers it\n")
    assert run([*generate, "--plugin", plugin]).returncode == 0
    build = run(["modelzoo-build", zoo, "--out", dataset, "--quiet"])
    assert (build.returncode, build.stderr) == (
        0,
        "modelzoo-build: architecture 'tiny-apart' is not registered, so that the card has no code of its module; "
        "build again with --plugin FILE to add it\n",
    )
    again = run(["modelzoo-build", zoo, "--out", tmp_path / "again", "--quiet", "--plugin", plugin])
    assert (again.returncode, again.stderr) == (0, "")
    for folder in (dataset, tmp_path / "again"):
        card = (folder / "README.md").read_text()
        assert "`modelzoo-datasets` does not have the architecture `tiny-apart`.\n" in card
        assert "`load_zoo(..., plugin=FILE)` runs a Python file that you name" in card
        assert "zoo.model(0)  #" not in card, "it would fail for whoever has no plugin"
    loaded = load_zoo(dataset)
    assert loaded.weights.shape[1] == loaded.layout.size == 154
    assert loaded.tokens().values.shape[0] == len(loaded)
    with pytest.raises(RecipeError) as caught:
        loaded.model(0)
    assert str(caught.value) == (
        "architecture 'tiny-apart' is not registered, so that only its tensors are known: pass your own module, "
        "zoo.model(i, module), or name a file that registers it, load_zoo(..., plugin=FILE) or --plugin FILE"
    )
    (dataset / "code").mkdir(exist_ok=True)
    (dataset / "code" / "tiny-apart.py").write_text("raise ValueError('never run by itself')")
    with pytest.raises(RecipeError) as caught:
        loaded.model(0)
    assert str(caught.value) == (
        "architecture 'tiny-apart' is not registered here, and no dataset runs code by itself: pass your own module, "
        f"zoo.model(i, module), or read {dataset / 'code' / 'tiny-apart.py'} and name it, load_zoo(..., plugin=FILE)"
    )
    with pytest.raises(PluginError, match="^there is no plugin file"):
        load_zoo(dataset, plugin=tmp_path / "nowhere.py")
    streamed = next(stream_zoo(dataset, batch_size=2, plugin=plugin))
    for each in (load_zoo(dataset, plugin=str(plugin)), streamed):
        module = each.model(1)
        assert torch.equal(torch.nn.utils.parameters_to_vector(module.parameters()), each.weights[1])


@pytest.mark.parametrize(
    "command",
    [
        *("modelzoo-generate", "modelzoo-import", "modelzoo-build", "modelzoo-verify", "modelzoo-push"),
        *("modelzoo-demo", "modelzoo-hyperrep train", "modelzoo-hyperrep embed", "modelzoo-hyperrep probe"),
        *("modelzoo-hyperrep sample", "modelzoo-hyperrep evaluate"),
    ],
)
def test_every_command_that_meets_architectures_takes_a_plugin(command: str, tmp_path: Path) -> None:
    plugin = tmp_path / "raises.py"
    plugin.write_text("import zoology")
    told = run([*command.split(), "--plugin", plugin])
    assert (told.returncode, told.stdout) == (2, "")
    name = command.split()[0]
    assert told.stderr == f"{name}: plugin {plugin}: ModuleNotFoundError: No module named 'zoology'\n"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("raises.py", "import zoology", "plugin {}: ModuleNotFoundError: No module named 'zoology'"),
        ("syntax.py", "def\n", "plugin {}: SyntaxError: invalid syntax (syntax.py, line 1)"),
        (
            "twice.py",
            PLUGIN.replace("tiny-NAME", "cnn-s"),
            "plugin {}: ArgumentError: architecture 'cnn-s' is already registered; choose another name",
        ),
        ("plugin.txt", "", "plugin {} is not a Python file; its name must end in .py"),
        (
            "missing.py",
            None,
            "there is no plugin file {}; pass the Python file that registers your architectures or images",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said(
    name: str, text: str | None, told: str, clean: None, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    for _ in range(2):  # whoever asks next is told the same
        with pytest.raises(PluginError) as caught:
            use_plugin(tmp_path / name)
        assert str(caught.value) == told.format(tmp_path / name)
    assert isinstance(caught.value, ModelZooError)
    assert f"modelzoo_plugin_{Path(name).stem}" not in sys.modules


def test_a_plugin_that_is_not_there_is_one_line_of_the_command(tmp_path: Path) -> None:
    result = run(["modelzoo-generate", "mine/seed", "--plugin", tmp_path / "no.py", "--out", tmp_path / "zoo"])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"modelzoo-generate: there is no plugin file {tmp_path / 'no.py'}; pass the Python file that registers your "
        "architectures or images\n"
    )
