"""The card of a hyper-representation: data, training and results."""

from typing import Any

import pandas as pd

from ..model import HyperRepresentation, describe_sizes, markdown_table
from ..training_info import DatasetOrigin, TrainingInfo


def representation_card(name: str, rep: HyperRepresentation, info: TrainingInfo, results: str) -> str:
    """Return the README.md of a hyper-representation.

    Args:
        name: ORG/NAME, or "." for an example that runs in the folder itself.
        rep: the hyper-representation.
        info: the content of its training.json.
        results: measurements, in Markdown.
    """
    origin = info.origin or DatasetOrigin()
    text = f"## Training\n\n{markdown_table(_describe_training(rep, info))}\n\n## Results\n\n{results}"
    datasets = [origin.dataset] if origin.dataset else []
    return str(rep.generate_model_card(name=name, text=text, license=origin.license, datasets=datasets))


def _describe_training(rep: HyperRepresentation, info: TrainingInfo) -> dict[str, str]:
    """Return the rows of the table on the card."""
    recipe, origin = info.recipe, info.origin or DatasetOrigin()
    first, last = recipe.data.epochs
    dataset = f"`{origin.dataset}`" if origin.dataset else "not published under a known name"
    revision = [f"revision `{origin.revision}`"] if origin.revision else []
    sections = {"data": recipe.data, "model": recipe.model, "learning": recipe.learning}
    return {
        "dataset": ", ".join([dataset, f"config `{recipe.data.config}`", *revision]),
        "states of that config, SHA-256": f"`{info.states_sha256}`",
        **({"images": f"`{origin.images}`"} if origin.images else {}),
        **describe_sizes(rep),
        "epochs": f"{first} to {last} of the models of split `train`",
        "recipe": f"`{recipe.name}`",
        **{
            f"its [{key}]": ", ".join(f"{name} {_format_value(value)}" for name, value in section.to_json().items())
            for key, section in sections.items()
        },
        "made with": ", ".join(f"{name} {version}" for name, version in (info.versions or {}).items()),
    }


def _format_value(value: Any) -> str:
    return " / ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def not_evaluated(validation_r2: float) -> str:
    """Return the results of a hyper-representation that was only trained: R² of reconstructed validation states."""
    return f"""R² of reconstructed weights of validation models after the last epoch of training, in layer standard
deviations, relative to the training mean: **{validation_r2:.4f}**.

It was not evaluated: accuracy and novelty of sampled networks were not measured."""


def format_markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    lines += [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
