"""What the folder of a hyper-representation gets before it is pushed: a card that says where it came from."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import read_json, write_bytes

from ..evaluation import EVALUATION_FORMAT
from ..model import THIS_FOLDER, HyperRepresentation
from ..report import accuracy_table, novelty_table, verdicts
from ..storage import CARD_FILE
from ..training_info import TrainingInfo
from .cards import markdown, not_evaluated, representation_card


def write_card(folder: Path, repo_id: str, evaluation: Path | None = None) -> None:
    """Write the card of a hyper-representation under the name that it will have; one that others wrote stays.

    Args:
        evaluation: what modelzoo-hyperrep evaluate wrote: the card is written anew, with its table.

    Raises:
        FormatError: the folder holds no whole hyper-representation, or the evaluation is not whole or of another one.
    """
    found = None if evaluation is None else _evaluation_of(folder, evaluation)
    path = folder / CARD_FILE
    if found is None and path.is_file() and path.read_text(encoding="utf-8") != _card(folder, THIS_FOLDER, None):
        return
    write_bytes(path, _card(folder, repo_id, found).encode())


def _card(folder: Path, name: str, evaluation: dict[str, Any] | None) -> str:
    rep, info = HyperRepresentation.from_pretrained(folder), TrainingInfo.read(folder)
    worth = not_evaluated(_validation_r2(folder)) if evaluation is None else _evaluated(evaluation)
    return representation_card(name, rep, info, worth)


def _validation_r2(folder: Path) -> float:
    """After the last epoch of training."""
    path = folder / "metrics.csv"
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return float(rows[-1]["validation_r2"])
    except (OSError, ValueError, LookupError) as error:
        told = "no R² can be read from metrics.csv; make it again with modelzoo-hyperrep train"
        raise FormatError(f"{folder} is incomplete: {told}") from error


def _evaluation_of(folder: Path, evaluation: Path) -> dict[str, Any]:
    """What evaluation.json says; raises FormatError unless it is whole and of what this folder holds."""
    for name in ("facts.json", "evaluation.json"):
        if not (evaluation / name).is_file():
            told = f"{evaluation} is no finished evaluation: it has no {name}; run modelzoo-hyperrep evaluate"
            raise FormatError(told)
    found: dict[str, Any] = read_json(evaluation / "evaluation.json")
    if found.get("format") != EVALUATION_FORMAT:
        raise FormatError(
            f"{evaluation} has format {found.get('format')!r}, expected {EVALUATION_FORMAT!r}; "
            "evaluate again with this release"
        )
    trained = TrainingInfo.from_json(read_json(evaluation / "facts.json").get("trained"))
    if not trained.is_same_training(TrainingInfo.read(folder)):
        raise FormatError(f"{evaluation} is the evaluation of another hyper-representation than {folder}")
    return found


def _evaluated(evaluation: Mapping[str, Any]) -> str:
    """The measured table of all populations, R² by split, and what follows from them in words."""
    protocol, populations = evaluation["protocol"], evaluation["populations"]
    table = accuracy_table(populations, protocol["fine_tune"])
    novel = novelty_table(populations)[["population", "errors shared"]]
    r2 = [
        {"reconstructed split": split, "states": f"{found['n']:,}", "R²": f"{found['total']:.4f}"}
        for split, found in evaluation["reconstruction"].items()
    ]
    sentences = "\n".join(f"- {sentence}" for sentence in verdicts(evaluation))
    return f"""{markdown(table.merge(novel, on="population", how="left").fillna("-"))}

Test accuracy in percent, mean ± standard deviation over n models, as they are drawn (zero-shot) and after epochs of
fine-tuning. Distance to the nearest training state: root mean square over the weights in layer standard deviations,
after alignment of units; a model at a small distance is a copy. Errors shared: intersection over union of the sets of
test images that a model and the training state most alike in that get wrong. Samples are drawn from the best
{protocol["quality"]:.0%} of the training states.

{sentences}

{markdown(pd.DataFrame(r2))}

R² of reconstructed weights in layer standard deviations, against the training mean."""
