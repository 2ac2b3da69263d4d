"""Publication of a hyper-representation: its card gets the name of the repo and the measured results."""

import csv
from pathlib import Path

import pandas as pd

from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import write_bytes

from ..evaluation import EvaluationResult, read_training_info
from ..model import THIS_FOLDER, HyperRepresentation
from ..report import accuracy_table, novelty_table, write_verdicts
from ..storage import CARD_FILE
from ..training_info import TrainingInfo
from .cards import format_markdown, not_evaluated, representation_card


def write_card(folder: Path, repo_id: str, evaluation: Path | None = None) -> None:
    """Write the card of a hyper-representation for a repo; a card that somebody edited stays.

    Args:
        folder: folder of the hyper-representation.
        repo_id: name of the repo, ORG/NAME.
        evaluation: folder of its evaluation; with it the card is written again, with the measured table.

    Raises:
        FormatError: the hyper-representation is incomplete, or the evaluation is unfinished or of another one.
    """
    result = None if evaluation is None else _read_evaluation(folder, evaluation)
    path = folder / CARD_FILE
    if result is None and path.is_file() and path.read_text(encoding="utf-8") != _render(folder, THIS_FOLDER, None):
        return
    write_bytes(path, _render(folder, repo_id, result).encode())


def _render(folder: Path, name: str, evaluation: EvaluationResult | None) -> str:
    rep, info = HyperRepresentation.from_pretrained(folder), TrainingInfo.read(folder)
    results = not_evaluated(_read_validation_r2(folder)) if evaluation is None else _describe_results(evaluation)
    return representation_card(name, rep, info, results)


def _read_validation_r2(folder: Path) -> float:
    """Return R² of reconstructed validation states after the last epoch of training."""
    try:
        rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
        return float(rows[-1]["validation_r2"])
    except (OSError, ValueError, LookupError) as error:
        raise FormatError(
            f"{folder} is incomplete: metrics.csv has no validation R²; run modelzoo-hyperrep train again"
        ) from error


def _read_evaluation(folder: Path, evaluation: Path) -> EvaluationResult:
    """Read an evaluation; raise FormatError unless it is finished and of the hyper-representation in `folder`."""
    result = EvaluationResult.read(evaluation)
    if not read_training_info(evaluation).is_same_training(TrainingInfo.read(folder)):
        raise FormatError(f"{evaluation} is the evaluation of another hyper-representation than {folder}")
    return result


def _describe_results(evaluation: EvaluationResult) -> str:
    """Return the table of all populations, R² by split, and the verdicts, in Markdown."""
    table = accuracy_table(evaluation.populations, evaluation.protocol.finetune_epochs)
    overlap = novelty_table(evaluation.populations)[["population", "error overlap (IoU)"]]
    r2 = [
        {"reconstructed split": split, "states": f"{result.n:,}", "R²": f"{result.total:.4f}"}
        for split, result in evaluation.reconstruction.items()
    ]
    sentences = "\n".join(f"- {sentence}" for sentence in write_verdicts(evaluation))
    return f"""{format_markdown(table.merge(overlap, on="population", how="left").fillna("-"))}

Test accuracy in percent, mean ± standard deviation over n models, before fine-tuning (zero-shot) and after epochs of
it. Distance to the nearest training state: root mean square over the weights in layer standard deviations, after
alignment of units; a model at a small distance is a copy. Error overlap: intersection over union of the sets of test
images that a model and the most similar training state get wrong. Samples are drawn from the best
{evaluation.protocol.top_fraction:.0%} of the training states.

{sentences}

{format_markdown(pd.DataFrame(r2))}

R² of reconstructed weights in layer standard deviations, relative to the training mean."""
