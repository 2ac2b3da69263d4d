"""What the package does without any extra, as a program: `core_paths.py ZOO DATASET REPRESENTATION`.

It prints JSON: what each path gave, and what each path that needs an extra says. Run it in an environment that has
none of OPTIONAL, or with `--hide`.
"""

import contextlib
import importlib.metadata
import io
import json
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

OPTIONAL = ("torchvision", "PIL", "sklearn", "matplotlib", "mpl_toolkits", "ray", "umap", "tensorboard", "cupy")
CORE = {"load_dataset": 6, "load_zoo": 6, "stream_zoo": 6, "models": 6, "encode": 6, "decode": True, "sample": 3}
MISSING = {  # what is asked for -> the package that is named, and its extra
    "images": ("torchvision", "generate"),
    "figures": ("matplotlib", "report"),
    "probe": ("sklearn", "learn"),
    "evaluate": ("sklearn", "learn"),
    "neighbour": ("umap", "umap"),
    "modelzoo-build": ("matplotlib", "report"),
    "modelzoo-generate": ("ray", "ray"),
    "modelzoo-hyperrep": ("sklearn", "learn"),
    "modelzoo-demo": ("sklearn", "learn"),
}


class InstalledCore(PathFinder):
    """Finds everything but the optional packages, as where they were never installed."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        """Find a module; none of an optional package."""
        return None if fullname.partition(".")[0] in OPTIONAL else PathFinder.find_spec(fullname, path, target)


def hide_optional_packages() -> None:
    """Make this process one that has the core alone."""
    assert not {*OPTIONAL} & {*sys.modules}
    sys.meta_path = [InstalledCore if finder is PathFinder else finder for finder in sys.meta_path]


def run_core(dataset: str, representation: str) -> dict[str, Any]:
    """Load, stream, encode, decode and sample: the six states of the split `test`."""
    import torch
    from datasets import load_dataset

    from hyperrep import HyperRepresentation
    from modelzoo_datasets import load_zoo, stream_zoo

    zoo = load_zoo(dataset, "seed", split="test", epochs=(1, 2))
    rep = HyperRepresentation.from_pretrained(representation)
    z = rep.encode(zoo.weights)
    return {
        "load_dataset": len(load_dataset(dataset, "seed", split="test").filter(lambda row: row["epoch"] > 0)),
        "load_zoo": len(zoo),
        "stream_zoo": sum(len(part) for part in stream_zoo(dataset, "seed", split="test", epochs=(1, 2))),
        "models": len([zoo.model(i) for i in range(len(zoo))]),
        "encode": len(z),
        "decode": rep.decode(z).shape == zoo.weights.shape,
        "sample": len(rep.sample(3, generator=torch.Generator().manual_seed(0))),
    }


def ask_for_extras(dataset: str, representation: str) -> dict[str, str]:
    """Ask for what needs an extra, and return what each error says."""
    import torch

    from hyperrep import HyperRepresentation, evaluate, probe
    from modelzoo_datasets import plots
    from modelzoo_datasets.images import load_images

    rep = HyperRepresentation.from_pretrained(representation)
    generator = torch.Generator().manual_seed(0)
    calls: dict[str, Callable[[], Any]] = {
        "images": lambda: load_images("mnist", Path("images")),
        "figures": lambda: plots.new_figure,
        "probe": lambda: probe(dataset, representation, "demo"),
        "evaluate": lambda: evaluate(dataset, representation, "demo", "evaluation"),
        "neighbour": lambda: rep.sample(3, sampler="neighbour", generator=generator),
    }
    return {name: _describe_error(call) for name, call in calls.items()}


def _describe_error(call: Callable[[], Any]) -> str:
    from modelzoo_datasets import ModelZooError

    try:
        call()
    except ModelZooError as error:
        return str(error)
    return "no error"


def run_commands(zoo: str, dataset: str, representation: str) -> dict[str, Any]:
    """Run every command for its help, those that need nothing else, and those that need an extra."""
    able = (
        ["modelzoo-verify", dataset],
        ["modelzoo-hyperrep", "sample", "--hyperrep", representation, "-n", "3", "--out", "samples"],
        ["modelzoo-hyperrep", "embed", dataset, "--hyperrep", representation, "--config", "seed", "--out", "z.parquet"],
    )
    needy = (
        ["modelzoo-build", zoo, "--out", "built"],
        ["modelzoo-generate", "mnist-cnn-s/seed", "--out", "zoo", "--ray", "local"],
        ["modelzoo-hyperrep", "evaluate", dataset, "--hyperrep", representation, "--out", "evaluation"],
        ["modelzoo-demo", "--out", "demo"],
    )
    points = {p.name: p for p in importlib.metadata.distribution("modelzoo-datasets").entry_points}
    results = {" ".join(words[:2]): _call(words, points[words[0]]) for words in able}
    results |= {f"{name} --help": _call([name, "--help"], points[name]) for name in points}
    return {"commands": results, **{words[0]: _call(words, points[words[0]])[1] for words in needy}}


def _call(words: Sequence[str], point: Any) -> tuple[int, str]:
    sys.argv, stderr, status = list(words), io.StringIO(), 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        try:
            point.load()()
        except SystemExit as error:
            status = int(error.code or 0)
    return status, stderr.getvalue().strip()


if __name__ == "__main__":
    folders = sys.argv[1:4]
    if sys.argv[4:] == ["--hide"]:
        hide_optional_packages()
    commands = run_commands(*folders)
    result = {"core": run_core(*folders[1:]), "missing": {**ask_for_extras(*folders[1:]), **commands}}
    result["commands"] = result["missing"].pop("commands")
    result["modules"] = sorted({*OPTIONAL} & {*sys.modules})
    print(json.dumps(result))
