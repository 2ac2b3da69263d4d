"""Cards for the Hub: of a hyper-representation, of one sampled model, and of the table of all samples of one call."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from modelzoo_datasets._util import format_versions
from modelzoo_datasets.architectures import ACTIVATION_MODULES, is_own
from modelzoo_datasets.builder import UNPACKING, ModuleCode, describe_features, format_type, write_module_code
from modelzoo_datasets.errors import FormatError

from ..evaluation import EvaluationResult, read_evaluated_training
from ..json_record import describe_record
from ..model import LIBRARY, UNKNOWN, HyperRepresentation, make_card, render_template
from ..report import accuracy_table, format_markdown, judgment_table, novelty_table, write_verdicts
from ..storage import CARD_FILE, DatasetOrigin, TrainingInfo
from .sampled_model import SampleInfo, SampleMetrics

_DISTANCE = "layer standard deviations"
_SAMPLE_COLUMNS = {  # column of samples.parquet -> unit and meaning
    "sample": ("", "Name of the sample: its sampler and its number"),
    "sampler": ("", "Sampler that drew it"),
    "seed": ("", "Seed of the call that drew it"),
    "distance": (
        _DISTANCE,
        "Root mean square distance to the nearest training state; a model at a small one is a copy",
    ),
    "nearest_model_id": ("", "`model_id` of that state in the parent zoo"),
    "nearest_epoch": ("epochs", "Epoch of that state"),
    "error_similarity": (
        "fraction",
        "Intersection over union of its errors and those of the most similar training state",
    ),
    "test_acc": ("fraction", "Accuracy on the test images of the zoo, as drawn"),
    "tuned_epochs": ("epochs", "Fine-tuning before `tuned_test_acc`"),
    "tuned_test_acc": ("fraction", "Accuracy on the test images after fine-tuning; `weights` are those before it"),
    "lineage": ("", "Origin as JSON: zoo, hyper-representation, sampler and its options"),
    "sha256": ("hexadecimal", "SHA-256 of the weights as little-endian float32"),
    "z": ("", "Embedding of the weights"),
    "weights": ("", "All weights, in the order of `layout` in samples.json"),
}
_TAGS = ["neural-network-weights", "weight-space-learning", "sampled-weights"]


def representation_card(rep: HyperRepresentation, info: TrainingInfo, results: str) -> str:
    """Return the README.md of a hyper-representation, whose example runs in its folder.

    Args:
        rep: the hyper-representation.
        info: the content of its training.json.
        results: measurements, in Markdown.
    """
    origin = info.origin or DatasetOrigin()
    values = {"sizes": rep.describe_sizes(), "results": results, "ending": _write_ending(origin.license)}
    text = _render("training.md.j2", info=info, origin=origin, **values)
    datasets = [origin.dataset] if origin.dataset else []
    return str(rep.generate_model_card(text=text, license=origin.license, datasets=datasets))


def _render(template: str, **values: Any) -> str:
    functions = {"name_repo": _name_repo, "describe_record": describe_record, "format_versions": format_versions}
    return render_template("hyperrep.release", template, **functions, **values)


def _write_ending(license: str | None) -> str:
    """Return links and license, in Markdown."""
    return _render("ending.md.j2", license=license)


def _name_repo(name: str | None, revision: str | None, config: str = "") -> str:
    parts = f"`{name}`" if name else "not published under a known name", config and f"config `{config}`"
    return ", ".join([*filter(None, parts), *([f"revision `{revision}`"] if revision else [])])


def not_evaluated(validation_r2: float) -> str:
    """Return the results of a hyper-representation that was only trained: R² of reconstructed validation states."""
    return f"""R² of reconstructed weights of validation models after the last epoch of training, in layer standard
deviations, relative to the training mean: **{validation_r2:.4f}**.

It was not evaluated: accuracy and novelty of sampled networks were not measured."""


def render_card(folder: Path, evaluation: Path | None = None) -> str | None:
    """Return a card for a hyper-representation that is published; None for the one in its folder.

    Args:
        folder: folder of the hyper-representation, which stays as it is.
        evaluation: folder of its evaluation; with it the card is written anew, with the measured table.

    Raises:
        FormatError: the hyper-representation is incomplete, or the evaluation is unfinished or of another one.
    """
    if evaluation is None and (folder / CARD_FILE).is_file():
        return None
    result = None if evaluation is None else _read_evaluation(folder, evaluation)
    rep, info = HyperRepresentation.from_pretrained(folder), TrainingInfo.read(folder)
    results = not_evaluated(_read_validation_r2(folder)) if result is None else _describe_results(result)
    return representation_card(rep, info, results)


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
    shown = [population for population in evaluation.populations if not population.matched_to]
    table = accuracy_table(shown, evaluation.protocol.finetune_epochs)
    overlap = novelty_table(shown)[["population", "error overlap (IoU)"]]
    table = table.merge(overlap, on="population", how="left").fillna("-")
    judgments = judgment_table(evaluation.populations, evaluation.judgments)
    return _render(
        "results.md.j2",
        judgments=format_markdown(judgments),
        populations=format_markdown(table),
        verdicts=write_verdicts(evaluation),
        evaluation=evaluation,
    )


def write_sample_code(rep: HyperRepresentation) -> ModuleCode | None:
    """Return plain PyTorch code of the networks of a hyper-representation, None where that cannot be written."""
    if not rep.architecture.has_module or rep.activation not in ACTIVATION_MODULES:
        return None
    return write_module_code(rep.architecture, rep.dropout)


def sample_card(info: SampleInfo, code: ModuleCode | None) -> str:
    """Return the README.md of one sampled model.

    Args:
        info: the sample.
        code: code of its network, if there is one.
    """
    lineage, metrics = info.lineage, info.metrics
    data = ModelCardData(
        license=lineage.license or UNKNOWN,
        library_name=LIBRARY,
        tags=_TAGS,
        datasets=[lineage.zoo_repo] if lineage.zoo_repo else None,
        base_model=lineage.hyperrep_repo,
        model_name=info.name if metrics else None,
        eval_results=_list_results(metrics) if metrics else None,
    )
    option = f" with {lineage.option} {getattr(lineage, lineage.option):g}" if lineage.option else ""
    ending = _write_ending(lineage.license)
    values = {"option": option, "code": code, "is_own": is_own(info.architecture), "ending": ending}
    return str(make_card(data, _render("sample.md.j2", info=info, **values)))


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


def samples_card(info: SampleInfo, table: pa.Table, code: ModuleCode | None) -> str:
    """Return the README.md of all samples of one call, which makes their folder a dataset.

    Args:
        info: any of the samples.
        table: content of samples.parquet.
        code: code of the networks, if there is one.
    """
    name, license = info.lineage.sampler, info.lineage.license
    features = describe_features(table.schema)
    size = {"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}
    data = DatasetCardData(
        license=license or UNKNOWN,
        pretty_name=f"{table.num_rows} {info.architecture} sampled by {name}",
        tags=_TAGS,
        configs=[{"config_name": name, "data_files": [{"split": "train", "path": "samples.parquet"}]}],
        dataset_info=[{"config_name": name, "features": features, "splits": [size]}],
    )
    columns = [
        {"name": column["name"], "type": format_type(column), "unit": unit, "meaning": meaning}
        for column in features
        for unit, meaning in [_SAMPLE_COLUMNS[column["name"]]]
    ]
    text = _render(
        "samples.md.j2",
        title=data.pretty_name,
        info=info,
        lineage=vars(info.lineage),
        code=code,
        unpacking=UNPACKING,
        columns=columns,
        ending=_write_ending(license),
    )
    return str(make_card(data, text))
