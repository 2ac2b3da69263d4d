"""Cards for the Hub: of a hyper-representation, of one sampled model, and of the table of all samples of one call."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from modelzoo_datasets._util import format_versions
from modelzoo_datasets.builder import describe_features
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.zoo import OutputLock, write_bytes

from ..evaluation import EvaluationResult, read_evaluated_training
from ..json_record import describe_record
from ..model import LIBRARY, THIS_FOLDER, HyperRepresentation, make_card, render_template
from ..report import accuracy_table, novelty_table, write_verdicts
from ..storage import CARD_FILE, DatasetOrigin, TrainingInfo
from .sampled_model import SampleInfo, SampleMetrics

_TAGS = ["neural-network-weights", "weight-space-learning", "sampled-weights"]


def representation_card(name: str, rep: HyperRepresentation, info: TrainingInfo, results: str) -> str:
    """Return the README.md of a hyper-representation.

    Args:
        name: ORG/NAME, or "." for an example that runs in the folder itself.
        rep: the hyper-representation.
        info: the content of its training.json.
        results: measurements, in Markdown.
    """
    origin = info.origin or DatasetOrigin()
    text = _render("training.md.j2", info=info, origin=origin, sizes=rep.describe_sizes(), results=results)
    datasets = [origin.dataset] if origin.dataset else []
    return str(rep.generate_model_card(name=name, text=text, license=origin.license, datasets=datasets))


def _render(template: str, **values: Any) -> str:
    functions = {"name_repo": _name_repo, "describe_record": describe_record, "format_versions": format_versions}
    return render_template("hyperrep.release", template, **functions, **values)


def _name_repo(name: str | None, revision: str | None, config: str = "") -> str:
    parts = f"`{name}`" if name else "not published under a known name", config and f"config `{config}`"
    return ", ".join([*filter(None, parts), *([f"revision `{revision}`"] if revision else [])])


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
    if result is None and path.is_file() and path.read_text(encoding="utf-8") != _make_card(folder, THIS_FOLDER, None):
        return
    with OutputLock(folder):
        write_bytes(path, _make_card(folder, repo_id, result).encode())


def _make_card(folder: Path, name: str, evaluation: EvaluationResult | None) -> str:
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
    if not read_evaluated_training(evaluation).is_same_training(TrainingInfo.read(folder)):
        raise FormatError(f"{evaluation} is the evaluation of another hyper-representation than {folder}")
    return result


def _describe_results(evaluation: EvaluationResult) -> str:
    """Return the table of all populations, R² by split, and the verdicts, in Markdown."""
    table = accuracy_table(evaluation.populations, evaluation.protocol.finetune_epochs)
    overlap = novelty_table(evaluation.populations)[["population", "error overlap (IoU)"]]
    table = table.merge(overlap, on="population", how="left").fillna("-")
    verdicts = write_verdicts(evaluation)
    return _render("results.md.j2", populations=format_markdown(table), verdicts=verdicts, evaluation=evaluation)


def sample_card(info: SampleInfo) -> str:
    """Return the README.md of one sampled model."""
    lineage, metrics = info.lineage, info.metrics
    data = ModelCardData(
        library_name=LIBRARY,
        tags=_TAGS,
        datasets=[lineage.zoo_repo] if lineage.zoo_repo else None,
        base_model=lineage.hyperrep_repo,
        model_name=info.name if metrics else None,
        eval_results=_list_results(metrics) if metrics else None,
    )
    option = f" with {lineage.option} {getattr(lineage, lineage.option):g}" if lineage.option else ""
    return str(make_card(data, _render("sample.md.j2", info=info, option=option)))


def _list_results(metrics: SampleMetrics) -> list[EvalResult]:
    tuned = {f"Accuracy after {epochs} epochs of fine-tuning": value for epochs, value in metrics.tuned.items()}
    task: dict[str, Any] = {
        "task_type": "image-classification",
        "dataset_type": metrics.images,
        "dataset_name": metrics.images,
    }
    return [
        EvalResult(**task, metric_type="accuracy", metric_value=value, metric_name=name)
        for name, value in {"Zero-shot accuracy": metrics.zero_shot, **tuned}.items()
    ]


def samples_card(info: SampleInfo, table: pa.Table) -> str:
    """Return the README.md of all samples of one call, which makes their folder a dataset.

    Args:
        info: any of the samples.
        table: content of samples.parquet.
    """
    name = info.lineage.sampler
    size = {"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}
    data = DatasetCardData(
        pretty_name=f"{table.num_rows} {info.architecture} sampled by {name}",
        tags=_TAGS,
        configs=[{"config_name": name, "data_files": [{"split": "train", "path": "samples.parquet"}]}],
        dataset_info=[{"config_name": name, "features": describe_features(table.schema), "splits": [size]}],
    )
    return str(make_card(data, _render("samples.md.j2", info=info, title=data.pretty_name)))
