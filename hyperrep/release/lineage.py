"""Cards of sampled models: README.md of one sample, and of the table of all samples of one call."""

import pyarrow as pa
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modelzoo_datasets.builder import describe_features

from .sample_info import Lineage, SampleInfo, SampleMetrics

_TAGS = ["neural-network-weights", "weight-space-learning", "sampled-weights"]


def write_model_card(info: SampleInfo) -> str:
    """Return README.md of one sampled model."""
    lineage, metrics = info.lineage, info.metrics
    data = ModelCardData(
        library_name="modelzoo-datasets",
        tags=_TAGS,
        datasets=[lineage.zoo_repo] if lineage.zoo_repo else None,
        base_model=lineage.hyperrep_repo,
        model_name=info.name if metrics else None,
        eval_results=_list_results(metrics) if metrics else None,
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in _describe(info).items())
    return str(
        ModelCard(
            f"""---
{data.to_yaml()}
---

# {info.name}: a sampled {info.architecture}

The weights of this network were sampled, not trained: the sampler `{lineage.sampler}` ({lineage.description}) drew
them from a hyper-representation, an auto-encoder of the weights of a model zoo (Schürholt et al., NeurIPS 2022,
arXiv:2209.14733).

```python
from hyperrep import load_sample
network = load_sample("{info.name}")  # this folder, or ORG/NAME on the Hub: a plain torch.nn.Module
```

`model.safetensors` is a plain state dict of the architecture. `config.json` holds the values of this table.

| | |
|---|---|
{rows}

Distances are root mean squares over the weights in layer standard deviations, after alignment of units; a model at a
small distance is a copy. Error overlap is the intersection over union of the sets of test images that this model and
the most similar training state get wrong.
"""
        )
    )


def _list_results(metrics: SampleMetrics) -> list[EvalResult]:
    accuracies = {"Zero-shot accuracy": metrics.zero_shot}
    if metrics.tuned is not None:
        accuracies[f"Accuracy after {metrics.tuned_epochs} epochs of fine-tuning"] = metrics.tuned
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=metrics.images,
            dataset_name=metrics.images,
            metric_type="accuracy",
            metric_value=value,
            metric_name=name,
        )
        for name, value in accuracies.items()
    ]


def _describe(info: SampleInfo) -> dict[str, str]:
    """Return the rows of the card's table."""
    lineage, metrics, nearest = info.lineage, info.metrics, info.nearest
    option = f" with {lineage.option} {getattr(lineage, lineage.option):g}" if lineage.option else ""
    rows = {
        "architecture": f"`{info.architecture}`, activation {info.activation}",
        "parent zoo": _name_repo(lineage.zoo_repo, lineage.zoo_revision, f"config `{lineage.zoo_config}`"),
        "states of the zoo, SHA-256": f"`{lineage.states_sha256}`",
        "hyper-representation": _name_repo(lineage.hyperrep_repo, lineage.hyperrep_revision, ""),
        "its weights, SHA-256": f"`{lineage.hyperrep_sha256}`",
        "sampler": f"`{lineage.sampler}`{option}, best {lineage.top_fraction:.0%} of the training states, "
        f"seed {lineage.seed}, number {info.number}",
        "distance to the nearest training state": f"{nearest.distance:.4f}"
        + ("" if nearest.measured_on_weights else " (to decoded states: no training weights were available)"),
        "nearest training state": f"model `{nearest.model_id}`, epoch {nearest.epoch}, of the parent zoo"
        if nearest.model_id
        else f"number {nearest.index} of the training states",
    }
    if metrics:
        rows["zero-shot test accuracy"] = f"{100 * metrics.zero_shot:.2f} % on {metrics.images}"
        rows["error overlap (IoU)"] = f"{metrics.error_overlap:.3f}"
        if metrics.tuned is not None:
            rows[f"after {metrics.tuned_epochs} epochs of fine-tuning"] = (
                f"{100 * metrics.tuned:.2f} % (this folder holds the weights before fine-tuning)"
            )
    return rows


def _name_repo(name: str | None, revision: str | None, config: str) -> str:
    parts = [f"`{name}`" if name else "not published under a known name", config]
    return ", ".join([*filter(None, parts), *([f"revision `{revision}`"] if revision else [])])


def write_table_card(info: SampleInfo, table: pa.Table) -> str:
    """Return README.md for the table of all samples of one call, which makes their folder a dataset.

    Args:
        info: any of the samples.
        table: content of samples.parquet.
    """
    lineage: Lineage = info.lineage
    name, size = lineage.sampler, {"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}
    header = {
        "pretty_name": f"{table.num_rows} {info.architecture} sampled by {name}",
        "tags": _TAGS,
        "configs": [{"config_name": name, "data_files": [{"split": "train", "path": "samples.parquet"}]}],
        "dataset_info": [{"config_name": name, "features": describe_features(table.schema), "splits": [size]}],
    }
    rows = "\n".join(f"| {key} | `{value}` |" for key, value in lineage.to_json().items() if value is not None)
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {header["pretty_name"]}

Each row is one network whose weights were sampled from a hyper-representation (arXiv:2209.14733) instead of trained.
Columns: `distance` to the nearest training state in layer standard deviations; `nearest_model_id` and `nearest_epoch`
of that state in the parent zoo; test accuracies where they were measured; the embedding `z`; and last `weights`,
float32 in the order of the architecture's state dict.

```python
from datasets import load_dataset
samples = load_dataset(".", "{name}", split="train")
```

| | |
|---|---|
| architecture | `{info.architecture}` |
{rows}
"""
