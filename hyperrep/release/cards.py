"""The card of a hyper-representation: what it was learned from and how, and what it was measured to be worth."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from ..model import HyperRepresentation

_TAGS = ["hyper-representation", "neural-network-weights", "weight-space-learning"]
_UNKNOWN = "unknown"  # the Hub's word for a licence that nobody named


def representation_card(name: str, rep: HyperRepresentation, facts: Mapping[str, Any], worth: str) -> str:
    """README.md of a hyper-representation.

    Args:
        name: ORG/NAME, or . for an example that runs in the folder itself.
        facts: what its training.json says.
        worth: what was measured, in Markdown.
    """
    origin = facts.get("learned_from") or {}  # earlier releases did not note it
    learned = markdown(pd.DataFrame(_facts(rep, facts, origin).items(), columns=["", ""]))
    return _card(name, rep, origin, f"## What it was learned from\n\n{learned}\n\n## What it is worth\n\n{worth}")


def object_card(rep: HyperRepresentation) -> str:
    """README.md of one that is saved from memory, where nothing but its own tensors and sizes is known."""
    sizes = markdown(pd.DataFrame(_sizes(rep).items(), columns=["", ""]))
    return _card(
        ".",
        rep,
        {},
        f"""{sizes}

It was saved by `save_pretrained` or `push_to_hub`, which know neither the dataset nor the recipe that it was learned
with, and what it is worth was not measured. `modelzoo-push` publishes the folder that `modelzoo-hyperrep train` wrote,
with all of that on its card.""",
    )


def _card(name: str, rep: HyperRepresentation, origin: Mapping[str, Any], rest: str) -> str:
    data = ModelCardData(
        license=origin.get("license") or _UNKNOWN,
        library_name="modelzoo-datasets",
        tags=_TAGS,
        datasets=[origin["dataset"]] if origin.get("dataset") else None,
    )
    return str(
        ModelCard(
            f"""---
{data.to_yaml()}
---

# A hyper-representation of {rep.architecture.name}

An auto-encoder of the weights of a model zoo (Schürholt et al., NeurIPS 2022, arXiv:2209.14733): it makes one vector of
{rep.latent:,} numbers of the {rep.layout.size:,} weights of a network, and new networks of vectors that are drawn
around those that it has seen.

```python
import torch
from hyperrep import HyperRepresentation

rep = HyperRepresentation.from_pretrained("{name}", strict=True)  # a folder, or ORG/NAME on the Hub
draws = torch.Generator().manual_seed(0)
weights = rep.sample(10, sampler="kde", quality=0.3, generator=draws)  # (10, {rep.layout.size})
z = rep.embed(weights)  # (10, {rep.latent})
network = rep.architecture.module(rep.activation, rep.dropout)  # a plain torch.nn.Module
network.load_state_dict(rep.layout.unpack(weights[0]))
```

{rest}
"""
        )
    )


def _facts(rep: HyperRepresentation, facts: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, str]:
    recipe = facts["recipe"]
    first, last = recipe["data"]["epochs"]
    dataset = f"`{origin['dataset']}`" if origin.get("dataset") else "not published under a known name"
    revision = [f"revision `{origin['revision']}`"] if origin.get("revision") else []
    sections = {key: recipe[key] for key in ("data", "model", "learning") if recipe.get(key)}
    return {
        "dataset": ", ".join([dataset, f"config `{recipe['data']['config']}`", *revision]),
        "states of that config, SHA-256": f"`{facts['states_sha256']}`",
        **({"images": f"`{origin['images']}`"} if origin.get("images") else {}),
        **_sizes(rep),
        "epochs": f"{first} to {last} of the models of split `train`",
        "recipe": f"`{recipe['name']}`",
        **{f"its [{key}]": ", ".join(f"{k} {_said(v)}" for k, v in said.items()) for key, said in sections.items()},
        "made with": ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items()),
    }


def _sizes(rep: HyperRepresentation) -> dict[str, str]:
    return {
        "networks": f"`{rep.architecture.name}`, activation {rep.activation}, {rep.layout.size:,} weights",
        "training states": f"{len(rep.accuracy):,}",
        "auto-encoder": f"{sum(p.numel() for p in rep.parameters()):,} parameters, {rep.latent:,} latent numbers",
    }


def _said(value: Any) -> str:
    return " / ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def not_evaluated(validation_r2: float) -> str:
    """What is known where training alone has measured: R² of reconstructed validation states after its last epoch."""
    return f"""R² of reconstructed weights of validation models after the last epoch of training, in layer standard
deviations, against the training mean: **{validation_r2:.4f}**.

It was not evaluated: what networks sampled from it are worth, and how new they are, was not measured."""


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown has it."""
    lines = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    lines += [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
