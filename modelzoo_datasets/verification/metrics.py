"""Measures again the metrics that the table of states records.

With the engine and versions that made the zoo, accuracies must be equal and losses equal to a relative 1e-6. Others may
round differently: then the predictions of 3 images may differ, and losses by 1e-3. For imported models, only metrics
that their originals recorded, on the same data as here, are compared.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .._util import METRIC_PREFIX, versions
from ..engines import Engine, NetworkSpec
from ..images import Images, load_images
from .check import Check, Request, shorten_hash, to_number
from .target import Key, Target


@dataclass(frozen=True)
class Tolerance:
    """The tolerated difference between a measured metric and the recorded one, which is missing if not finite."""

    images: int  # number of images with another prediction
    loss: float  # relative
    label: str

    def allows_accuracy(self, value: float, recorded: float, images: int) -> bool:
        """Return True if two accuracies on this number of images agree."""
        if value == recorded or (math.isnan(value) and math.isnan(recorded)):
            return True
        rounding = 1e-6
        return self.images > 0 and abs(value - recorded) * images <= self.images + rounding

    def allows_loss(self, value: float, recorded: float) -> bool:
        """Return True if two mean losses agree."""
        if not math.isfinite(value) or math.isnan(recorded):
            return not math.isfinite(value) and math.isnan(recorded)
        return math.isclose(value, recorded, rel_tol=self.loss, abs_tol=self.loss * 1e-3)


EXACT = Tolerance(0, 1e-6, "equal")
LOOSE = Tolerance(3, 1e-3, "to 3 images")


def is_same_engine(target: Target, engine: Engine) -> bool:
    """Return True if results must be equal bit for bit, because engine and versions are those that made the zoo."""
    return bool(target.info.engine == engine.name and target.info.versions == versions())


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
    reason = "its architecture or the images that it was trained on are not registered here"
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
    tolerance = EXACT if is_same_engine(target, engine) else LOOSE
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
    for split in images.splits:
        if split in target.incomparable:
            continue
        measurable = [key for key in keys if split != "train" or key[1] == 0]
        for key, deviation in _measure_split(target, measurable, split, images, engine, tolerance):
            deviations[key].append(deviation)
    return deviations


def _measure_split(
    target: Target, keys: Sequence[Key], split: str, images: Images, engine: Engine, tolerance: Tolerance
) -> Iterator[tuple[Key, str]]:
    """Measure these states on a split and yield the metrics that differ from the recorded ones."""
    if not keys:
        return
    trainings = [target.members[model].training for model, _ in keys]
    networks = [NetworkSpec(training.activation, training.dropout) for training in trainings]
    weights = torch.stack([target.read_weights(*key) for key in keys])
    metrics = engine.evaluate(target.info.architecture, images, weights, networks, split)
    prefix, labels = METRIC_PREFIX[split], images.labels(split)
    for i, key in enumerate(keys):
        row, loss, accuracy = target.rows[key], metrics.loss[i].item(), metrics.accuracy[i].item()
        recorded = {kind: to_number(row[f"{prefix}_{kind}"]) for kind in ("loss", "acc")}
        comparable = {
            kind: not (target.is_imported and math.isnan(value)) and f"{prefix}_{kind}" not in target.incomparable
            for kind, value in recorded.items()
        }
        if comparable["acc"] and not tolerance.allows_accuracy(accuracy, recorded["acc"], len(labels)):
            yield key, f"{prefix}_acc is {accuracy:.6g}, recorded {recorded['acc']:.6g}"
        if comparable["loss"] and not tolerance.allows_loss(loss, recorded["loss"]):
            yield key, f"{prefix}_loss is {loss:.6g}, recorded {recorded['loss']:.6g}"
        if split == "test" and not target.is_imported:  # no published zoo records the recall of each class
            class_sizes = torch.bincount(labels, minlength=images.classes).tolist()
            if not _is_same_recall(metrics.recall[i].tolist(), row["test_recall"], class_sizes, tolerance):
                yield key, "test_recall differs from the recorded one"


def _is_same_recall(recall: list[float], recorded: Any, class_sizes: list[int], tolerance: Tolerance) -> bool:
    if recorded is None or isinstance(recorded, float) or len(recorded) != len(recall):
        return False
    pairs = zip(recall, map(to_number, recorded), class_sizes, strict=True)
    return all(tolerance.allows_accuracy(a, b, n) for a, b, n in pairs)
