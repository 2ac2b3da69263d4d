"""Reproduction: recorded metrics are measured again, and models are trained again from their rows alone.

With the engine and versions that made the zoo, accuracies must be equal and losses equal to a relative 1e-6. Others,
and the engine of a GPU, may round differently: then the predictions of 3 images may differ, and losses by 1e-3. For
imported models, only metrics that their originals recorded, on the same data as here, are compared.

Of models that are trained again with the same engine and versions, every state must be equal bit for bit, and so must
its metrics. With others, rounding errors grow from step to step: then accuracy and sparsity after the last epoch may
differ by 0.05.

The statistics of a zoo are computed again from its states.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from .._util import METRIC_PREFIX, SPLITS, one_line
from ..analysis import compute_statistics, describe_tables, read_statistics
from ..engines import METRICS, SPARSITY, Engine, Job, NetworkSpec, SplitMetrics, States
from ..errors import FormatError
from ..images import Images, image_dataset_names, load_images
from ..zoo import PAIRS_FILE, STATISTICS_FILE, ZooFolder, hash_weights
from .base import Check, Key, Request, Target, shorten_hash, to_number

_RETRAIN_TOLERANCE = 0.05  # for accuracy and sparsity of another engine or version
_EXACT_STATISTICS, _LOOSE_STATISTICS = 1e-5, 0.02  # relative and absolute, for agreement, CKA, distances and layers
_MAX_COST = 10**12  # weights times images that are run for statistics; 1,000 small CNNs on 10,000 images are 2.5e10


@dataclass(frozen=True)
class Tolerance:
    """The tolerated difference between a measured metric and the recorded one, which is missing if not finite."""

    images: int  # number of images with another prediction
    loss: float  # relative
    label: str

    def allows(self, name: str, value: float, recorded: float, images: int) -> bool:
        """Return True if two values of a metric agree.

        Args:
            name: name of the metric: a mean loss, or else an accuracy, a recall or a sparsity.
            value: the measured value.
            recorded: the recorded value.
            images: number of images that it was measured on.
        """
        if name.endswith("_loss"):
            if not math.isfinite(value) or math.isnan(recorded):
                return not math.isfinite(value) and math.isnan(recorded)
            return math.isclose(value, recorded, rel_tol=self.loss, abs_tol=self.loss * 1e-3)
        if value == recorded or (math.isnan(value) and math.isnan(recorded)):
            return True
        rounding = 1e-6
        return self.images > 0 and abs(value - recorded) * images <= self.images + rounding


_EXACT = Tolerance(0, 1e-6, "equal")
_LOOSE = Tolerance(3, 1e-3, "to 3 images")


def _repeats_bits(target: Target, engine: Engine) -> bool:
    """Return True if results must be equal bit for bit, because engine and versions are those that made the zoo.

    On a GPU, stacked tensors round differently in another cohort, and metrics always come from them.
    """
    environment = engine.environment(target.info.architecture)
    is_same = target.info.engine == engine.name and dict(target.info.versions) == dict(environment)
    return is_same and engine.name != "cuda"


def check_images(target: Target, request: Request) -> tuple[Check, Images]:
    """Check that the images are those that the zoo was trained on.

    Returns:
        The check, and the images.

    Raises:
        MissingImagesError: the images are neither on disk nor can they be downloaded.
    """
    images = load_images(target.info.images, request.images_root)
    if images.fingerprint == target.info.images_sha256:
        return Check("images", 1, []), images
    problem = (
        f"images {images.name} in {request.images_root} are not the images of {target.name}: sha256 "
        f"{shorten_hash(images.fingerprint)}, recorded {shorten_hash(target.info.images_sha256)}; pass their folder by "
        "--images-root"
    )
    return Check("images", 1, [problem]), images


def skip_metrics(target: Target) -> Check:
    """Return the check of a population that cannot be measured, with a note that says why."""
    architecture, images = target.info.find_architecture(), target.info.images
    if not architecture.has_module:
        reason = f"architecture {architecture.name!r} is not registered here; --plugin FILE names a file that does"
    elif architecture.stored_layout is not None:
        reason = "its tensors are stored in another order than those of the registered module"
    elif images not in image_dataset_names():
        reason = f"images {images!r} are not registered here"
    else:
        reason = f"images {images} were not there when it was imported; import it again, and pass --images-root"
    return Check("metrics", 0, [], [f"{target.name} is not measured again: {reason}"])


def check_metrics(target: Target, sound: Sequence[Key], images: Images, request: Request) -> Check:
    """Measure loss, accuracy and recall of random states again; metrics on the train split only at epoch 0.

    Args:
        target: the zoo.
        sound: the states to choose from.
        images: the images to measure on.
        request: how many states to measure, with which engine.
    """
    engine = request.select_engine(target.info)
    tolerance = _EXACT if _repeats_bits(target, engine) else _LOOSE
    sample = request.sample(sound, request.states, target.name, "states")
    problems = []
    with request.progress.start(f"measuring {target.name}", len(sample)) as task:
        for first in range(0, len(sample), target.batch_size):
            batch = sample[first : first + target.batch_size]
            for key, deviations in _find_deviations(target, batch, images, engine, tolerance).items():
                if deviations:
                    repair = target.suggest_repair(key[0])
                    problems.append(f"{target.locate(*key)}: {', '.join(deviations)}; {repair}")
            task.update(len(batch))
    return Check(f"metrics, {tolerance.label}", len(sample), problems)


def _find_deviations(
    target: Target, keys: Sequence[Key], images: Images, engine: Engine, tolerance: Tolerance
) -> dict[Key, list[str]]:
    """Measure these states on every split and list for each state which metrics differ from the recorded ones."""
    deviations: dict[Key, list[str]] = {key: [] for key in keys}
    weights = torch.stack([target.read_weights(*key) for key in keys])
    trainings = [target.members[model].training for model, _ in keys]
    networks = [NetworkSpec(training.activation, training.dropout) for training in trainings]
    for split in (split for split in images.splits if split not in target.incomparable):
        rows = [row for row, (_, epoch) in enumerate(keys) if split != "train" or epoch == 0]
        if rows:
            specs = [networks[row] for row in rows]
            metrics = engine.evaluate(target.info.architecture, images, weights[rows], specs, split)
            for i, row in enumerate(rows):
                deviations[keys[row]] += _compare_metrics(target, keys[row], metrics, i, split, images, tolerance)
    return deviations


def _compare_metrics(
    target: Target, key: Key, metrics: SplitMetrics, i: int, split: str, images: Images, tolerance: Tolerance
) -> Iterator[str]:
    """Yield the metrics of a state on a split that differ from the recorded ones; it is state i of those measured."""
    row, prefix, labels = target.rows[key], METRIC_PREFIX[split], images.labels(split)
    for name, value in ((f"{prefix}_acc", metrics.accuracy[i].item()), (f"{prefix}_loss", metrics.loss[i].item())):
        recorded = to_number(row[name])
        if (target.is_imported and math.isnan(recorded)) or name in target.incomparable:
            continue
        if not tolerance.allows(name, value, recorded, len(labels)):
            yield f"{name} is {value:.6g}, recorded {recorded:.6g}"
    if split == "test" and not target.is_imported:  # no published zoo records the recall of each class
        class_sizes = torch.bincount(labels, minlength=images.classes).tolist()
        if not _is_same_recall(metrics.recall[i].tolist(), row["test_recall"], class_sizes, tolerance):
            yield "test_recall differs from the recorded one"


def _is_same_recall(recall: list[float], recorded: Any, class_sizes: list[int], tolerance: Tolerance) -> bool:
    if recorded is None or isinstance(recorded, float) or len(recorded) != len(recall):
        return False
    pairs = zip(recall, map(to_number, recorded), class_sizes, strict=True)
    return all(tolerance.allows("recall", a, b, n) for a, b, n in pairs)


def check_retrained(target: Target, parent: Target | None, images: Images, request: Request) -> Check:
    """Train models again and compare them with their states.

    Args:
        target: the zoo.
        parent: the zoo of the parents of sparsified twins. Twins start from the last state of their parent, or without
            this zoo from their own epoch 0.
        images: the images to train on.
        request: how many models to train, with which engine.
    """
    exact = _repeats_bits(target, request.select_engine(target.info))
    models = request.sample(list(target.last_epochs), request.retrain, target.name, "models")
    problems: dict[str, str] = {}
    with request.progress.start(f"training {target.name} again", len(models)) as task:
        for key, difference in _compare_models(target, parent, models, images, request, exact=exact):
            if difference:
                where, repair = target.locate(*key), target.suggest_repair(key[0])
                problems.setdefault(key[0], f"{where} trained again: {difference}; {repair}")
            task.update(key[1] == target.members[key[0]].training.epochs)
    tolerance = "bit for bit" if exact else f"to {100 * _RETRAIN_TOLERANCE:.0f} points"
    return Check(f"retrained, {tolerance}", len(models), [problems[model] for model in models if model in problems])


def _compare_models(
    target: Target, parent: Target | None, models: Sequence[str], images: Images, request: Request, *, exact: bool
) -> Iterator[tuple[Key, str]]:
    """Yield every state of these models as it is trained, with its difference from the recorded one, if any."""
    compare = _compare_exactly if exact else _compare_roughly
    for first in range(0, len(models), target.batch_size):
        batch, jobs = list[str](), list[Job]()
        for model in models[first : first + target.batch_size]:
            try:
                jobs.append(_make_job(target, parent, model))
                batch.append(model)
            except FormatError as error:
                yield (model, target.members[model].training.epochs), f"its initial weights cannot be read: {error}"
        engine = request.select_engine(target.info)
        with closing(engine.train(target.info.architecture, images, jobs, metrics_on=SPLITS)) as training:
            for states in training:
                for i, (job, epoch) in enumerate(zip(states.jobs.tolist(), states.epochs.tolist(), strict=True)):
                    yield (batch[job], epoch), compare(target, (batch[job], epoch), states, i)


def _make_job(target: Target, parent: Target | None, model_id: str) -> Job:
    member = target.members[model_id]
    if not target.is_twins:
        return Job(training=member.training, seed=member.seed)
    start = parent.read_last_weights(member.parent_id or "") if parent else None
    start = target.read_weights(model_id, 0) if start is None else start
    return Job(training=member.training, seed=member.seed, initial_weights=start, sparsify=True)


def _compare_exactly(target: Target, key: Key, states: States, i: int) -> str:
    row = target.rows.get(key)
    if row is None:  # the check of the tables reports it
        return ""
    if (sha256 := hash_weights(states.weights[i])) != row["sha256"]:
        return f"other weights (sha256 {shorten_hash(sha256)}, recorded {shorten_hash(row['sha256'])})"
    for name, value in _read_metrics(states, i).items():
        recorded = to_number(row[name])
        if not _EXACT.allows(name, value, recorded, 1):
            return f"{name} is {value:.6g}, recorded {recorded:.6g}"
    return ""


def _compare_roughly(target: Target, key: Key, states: States, i: int) -> str:
    row = target.rows.get(key)
    if row is None or key[1] < target.members[key[0]].training.epochs:
        return ""
    for name, value in _read_metrics(states, i).items():
        recorded = to_number(row[name])
        if name in ("val_acc", "test_acc", SPARSITY) and abs(value - recorded) > _RETRAIN_TOLERANCE:
            return f"{name} is {value:.4f}, recorded {recorded:.4f}"
    return ""


def _read_metrics(states: States, i: int) -> Mapping[str, float]:
    return {name: states.metrics[name][i].item() for name in (*METRICS, SPARSITY) if name in states.metrics}


def check_statistics(folder: ZooFolder, target: Target, images: Images | None, request: Request) -> Check:
    """Compute statistics.json and pairs.parquet again and compare them, if the folder has them.

    Args:
        folder: the zoo folder.
        target: its states.
        images: the images of the zoo; without them, or for large networks, only what follows from the tables is
            compared.
        request: which engine computes the outputs of models.
    """
    engine = request.select_engine(target.info)
    tolerance = _EXACT_STATISTICS if _repeats_bits(target, engine) else _LOOSE_STATISTICS
    repair = f"delete {STATISTICS_FILE} and {PAIRS_FILE} there and run its {folder.maker} command again"
    notes: list[str] = []
    try:
        if (stored := read_statistics(folder.path)) is None:
            return Check("statistics", 0, [])
        if images is not None and len(folder.models) * len(images.labels("test")) * folder.layout.size < _MAX_COST:
            pairs, computed = compute_statistics(folder, engine, images, progress=request.progress)
        else:
            pairs, computed = stored[1], {**stored[0], **describe_tables(folder)}
            reason = "--states 1 does it" if images is None else "that takes long for networks of this size"
            notes = [f"{PAIRS_FILE}, and layers and pairs of {STATISTICS_FILE}, are not computed again: {reason}"]
        expected, values = _label_values(computed, pairs), _label_values(*stored)
    except (FormatError, AttributeError, TypeError) as error:
        return Check("statistics", 1, [f"{folder.path}: statistics cannot be compared: {one_line(error)}; {repair}"])
    different = [
        name
        for name in expected | values
        if name not in expected or name not in values or not _is_close(values[name], expected[name], tolerance)
    ]
    return Check(
        "statistics", 2, [f"{folder.path / name} is not what the states give; {repair}" for name in different], notes
    )


def _label_values(statistics: Mapping[str, Any], pairs: pd.DataFrame) -> dict[str, Any]:
    """Return file and key -> value, and file and column -> values."""
    values = {f"{STATISTICS_FILE}: {key}": value for key, value in statistics.items()}
    return values | {f"{PAIRS_FILE}: {name}": column for name, column in pairs.to_dict("list").items()}


def _is_close(stored: Any, computed: Any, tolerance: float) -> bool:
    """Return True if two values of JSON are equal, apart from rounding."""
    if type(stored) is not type(computed):
        return False
    if isinstance(computed, float):
        close = math.isclose(stored, computed, rel_tol=tolerance, abs_tol=tolerance)
        return close or (math.isnan(stored) and math.isnan(computed))
    if isinstance(computed, dict):
        return stored.keys() == computed.keys() and all(_is_close(stored[k], computed[k], tolerance) for k in computed)
    if isinstance(computed, list):
        return len(stored) == len(computed) and all(map(partial(_is_close, tolerance=tolerance), stored, computed))
    return bool(stored == computed)
