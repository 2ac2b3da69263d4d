"""Where a sampled model comes from, and the cards that say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modelzoo_datasets.builder import describe_features

_TAGS = ["neural-network-weights", "weight-space-learning", "sampled-weights"]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a sample was made from and how; None is what is not known."""

    sampler: str
    promise: str
    quality: float
    bandwidth: float
    sigma: float  # of the sampler `noise`
    share: float  # of the sampler `move`
    seed: int
    zoo: str | None = None  # a repo of the Hub, the parent zoo
    zoo_config: str
    zoo_revision: str | None = None
    states_sha256: str  # of all states of the zoo
    hyperrep: str | None = None  # a repo of the Hub
    hyperrep_revision: str | None = None
    hyperrep_sha256: str  # of its model.safetensors


def model_card(name: str, config: Mapping[str, Any]) -> str:
    """README.md of one sampled model.

    Args:
        name: of its folder.
        config: what its config.json says: architecture, lineage, number, measured, nearest.
    """
    lineage, measured = config["lineage"], config["measured"]
    data = ModelCardData(
        library_name="modelzoo-datasets",
        tags=_TAGS,
        datasets=[lineage["zoo"]] if lineage["zoo"] else None,
        base_model=lineage["hyperrep"],
        model_name=name if "zero_shot" in measured else None,
        eval_results=_results(measured) if "zero_shot" in measured else None,
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in _facts(config).items())
    return str(
        ModelCard(
            f"""---
{data.to_yaml()}
---

# {name}: a sampled {config["architecture"]}

The weights of this network were not trained: they were drawn by the sampler `{lineage["sampler"]}`
({lineage["promise"]}) from a hyper-representation, an auto-encoder of the weights of a model zoo
(Schürholt et al., NeurIPS 2022, arXiv:2209.14733).

```python
from hyperrep import SampledModel
network = SampledModel.from_pretrained("{name}")  # this folder, or ORG/NAME on the Hub: a plain torch.nn.Module
```

`model.safetensors` is a plain state dict of the architecture; `config.json` holds the facts below.

| | |
|---|---|
{rows}

Distances are root mean squares over the weights in layer standard deviations, after alignment of units; a model at a
small distance is a copy. Shared errors are the intersection over union of the sets of test images that this model and
the training state most alike in that get wrong.
"""
        )
    )


def _results(measured: Mapping[str, Any]) -> list[EvalResult]:
    tuned = measured.get("tuned") or {}
    accuracies = {"Zero-shot accuracy": measured["zero_shot"]} | {
        f"Accuracy after {epochs} epochs of fine-tuning": value for epochs, value in tuned.items()
    }
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=measured["images"],
            dataset_name=measured["images"],
            metric_type="accuracy",
            metric_value=value,
            metric_name=name,
        )
        for name, value in accuracies.items()
    ]


def _facts(config: Mapping[str, Any]) -> dict[str, str]:
    lineage, measured, nearest = config["lineage"], config["measured"], config["nearest"]
    facts = {
        "architecture": f"`{config['architecture']}`, activation {config['activation']}",
        "parent zoo": _repo(lineage["zoo"], lineage["zoo_revision"], f"config `{lineage['zoo_config']}`"),
        "states of the zoo, SHA-256": f"`{lineage['states_sha256']}`",
        "hyper-representation": _repo(lineage["hyperrep"], lineage["hyperrep_revision"], ""),
        "its weights, SHA-256": f"`{lineage['hyperrep_sha256']}`",
        "sampler": f"`{lineage['sampler']}`{_option(lineage)}, best {lineage['quality']:.0%} of the training states, "
        f"seed {lineage['seed']}, number {config['number']}",
        "distance to the nearest training state": f"{nearest['distance']:.4f}"
        + ("" if nearest["measured_on_weights"] else " (to the decoded states: training weights were not at hand)"),
        "nearest training state": f"model `{nearest['model_id']}`, epoch {nearest['epoch']}, of the parent zoo"
        if nearest["model_id"]
        else f"number {nearest['index']} of those learned from",
    }
    if "zero_shot" in measured:
        facts["zero-shot test accuracy"] = f"{100 * measured['zero_shot']:.2f} % on {measured['images']}"
        facts["errors shared"] = f"{measured['error_similarity']:.3f}"
    for epochs, value in (measured.get("tuned") or {}).items():
        facts[f"after {epochs} epochs of fine-tuning"] = f"{100 * value:.2f} % (these weights are the ones before it)"
    return facts


def _option(lineage: Mapping[str, Any]) -> str:
    """What the sampler was told beside the quality, where it heeds that."""
    options = {"noise": "sigma", "move": "share"}
    option = options.get(lineage["sampler"], "bandwidth" if lineage["sampler"].startswith("kde") else "")
    return f" with {option} {lineage[option]:g}" if option else ""


def _repo(name: str | None, revision: str | None, what: str) -> str:
    parts = [f"`{name}`" if name else "not published under a known name", what]
    return ", ".join([*filter(None, parts), *([f"revision `{revision}`"] if revision else [])])


def table_card(config: Mapping[str, Any], table: pa.Table) -> str:
    """README.md of the table of all samples of a draw, which makes its folder a dataset."""
    lineage = config["lineage"]
    size = {"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}
    name = lineage["sampler"]
    header = {
        "pretty_name": f"{table.num_rows} {config['architecture']} sampled by {name}",
        "tags": _TAGS,
        "configs": [{"config_name": name, "data_files": [{"split": "train", "path": "samples.parquet"}]}],
        "dataset_info": [{"config_name": name, "features": describe_features(table.schema), "splits": [size]}],
    }
    shown = {key: value for key, value in lineage.items() if value is not None}
    rows = "\n".join(f"| {key} | `{value}` |" for key, value in shown.items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {header["pretty_name"]}

One row is one network whose weights were drawn from a hyper-representation (arXiv:2209.14733) instead of trained:
where it lies (`distance` to the nearest training state in layer standard deviations, `nearest_model_id` and
`nearest_epoch` in the parent zoo), what it is worth where that was measured, its embedding `z`, and last `weights`,
float32 in the order of the architecture's state dict.

```python
from datasets import load_dataset
samples = load_dataset(".", "{name}", split="train")
```

| | |
|---|---|
| architecture | `{config["architecture"]}` |
{rows}
"""
