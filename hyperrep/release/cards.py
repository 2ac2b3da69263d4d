"""The card of a hyper-representation: what it was learned from and how, and what it was measured to be worth."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..model import HyperRepresentation, describe_sizes, markdown_table


def representation_card(name: str, rep: HyperRepresentation, facts: Mapping[str, Any], worth: str) -> str:
    """README.md of a hyper-representation.

    Args:
        name: ORG/NAME, or . for an example that runs in the folder itself.
        facts: what its training.json says.
        worth: what was measured, in Markdown.
    """
    origin = facts.get("learned_from") or {}  # earlier releases did not note it
    rows = markdown_table(_facts(rep, facts, origin))
    text = f"## Training\n\n{rows}\n\n## Results\n\n{worth}"
    datasets = [origin["dataset"]] if origin.get("dataset") else []
    return str(rep.generate_model_card(name=name, text=text, license=origin.get("license"), datasets=datasets))


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
        **describe_sizes(rep),
        "epochs": f"{first} to {last} of the models of split `train`",
        "recipe": f"`{recipe['name']}`",
        **{f"its [{key}]": ", ".join(f"{k} {_said(v)}" for k, v in said.items()) for key, said in sections.items()},
        "made with": ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items()),
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
