"""Measure again what the table of states records.

Where engine and versions are those that made the zoo, accuracies must be equal and losses to 1e-6. Others round in
other ways: then 3 images may be recognised or not, and losses be off by 1e-3. Of imported models only what their
originals recorded, and measured as it is measured here, is compared.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .._util import METRIC_PREFIX, versions
from ..engines import Engine, NetworkSpec
from ..images import Images, load_images
from .check import Check, Request, number, short
from .target import Key, Target


@dataclass(frozen=True)
class Tolerance:
    """By how much a metric measured again may be another; what came out as no finite number is missing in the table."""

    images: int  # that may be recognised or not
    loss: float  # relative
    words: str

    def accuracy(self, found: float, recorded: float, images: int) -> bool:
        """Whether two shares of so many images agree."""
        if found == recorded or (math.isnan(found) and math.isnan(recorded)):
            return True
        return self.images > 0 and abs(found - recorded) * images <= self.images + 1e-6  # of rounding

    def losses(self, found: float, recorded: float) -> bool:
        """Whether two mean losses agree."""
        if not math.isfinite(found) or math.isnan(recorded):
            return not math.isfinite(found) and math.isnan(recorded)
        return math.isclose(found, recorded, rel_tol=self.loss, abs_tol=self.loss * 1e-3)


EXACT = Tolerance(0, 1e-6, "equal")
LOOSE = Tolerance(3, 1e-3, "to 3 images")


def same_engine(subject: Target, engine: Engine) -> bool:
    """Whether results must be equal to the bit: same engine, same versions."""
    return bool(subject.info.engine == engine.name and subject.info.versions == versions())


def check_images(subject: Target, request: Request) -> tuple[Check, Images]:
    """The images are those that the zoo was trained on. Raises MissingImagesError where there are none."""
    images = load_images(subject.info.images, request.images_root)
    if images.fingerprint == subject.info.images_sha256:
        return Check("images", 1, []), images
    problem = (
        f"images {images.name} below {request.images_root} are not those of {subject.name}: sha256 "
        f"{short(images.fingerprint)}, recorded {short(subject.info.images_sha256)}; name theirs with --images-root"
    )
    return Check("images", 1, [problem]), images


def unmeasured(subject: Target) -> Check:
    """Of a population of any kind there may be nothing here to measure with."""
    what = "no module of its architecture is known here, or no images that it was trained on"
    return Check("metrics", 0, [], [f"{subject.name} is not measured again: {what}"])


def check_metrics(subject: Target, sound: Sequence[Key], images: Images, request: Request) -> Check:
    """Loss, accuracy and recall of random states, measured again; train metrics are measured at epoch 0 alone."""
    engine = request.engine_for(subject.info)
    tolerance = EXACT if same_engine(subject, engine) else LOOSE
    chosen = request.drawn(sound, request.states, subject.name, "states")
    problems = []
    with request.progress.start(f"measuring {subject.name}", len(chosen)) as task:
        for first in range(0, len(chosen), subject.at_once):
            part = chosen[first : first + subject.at_once]
            for key, said in _deviations(subject, part, images, engine, tolerance).items():
                if said:
                    problems.append(f"{subject.where(*key)}: {', '.join(said)}; {subject.remedy(key[0])}")
            task.update(len(part))
    return Check(f"metrics, {tolerance.words}", len(chosen), problems)


def _deviations(
    subject: Target, keys: Sequence[Key], images: Images, engine: Engine, tolerance: Tolerance
) -> dict[Key, list[str]]:
    """Measure these states on every split and list for each state which metrics differ from the recorded ones."""
    wrong: dict[Key, list[str]] = {key: [] for key in keys}
    for split in images.splits:
        if split in subject.measured_otherwise:
            continue
        measured = [key for key in keys if split != "train" or key[1] == 0]
        for key, said in _compared(subject, measured, split, images, engine, tolerance):
            wrong[key].append(said)
    return wrong


def _compared(
    subject: Target, keys: Sequence[Key], split: str, images: Images, engine: Engine, tolerance: Tolerance
) -> Iterator[tuple[Key, str]]:
    """Measure these states on a split and say which metrics are others than recorded."""
    if not keys:
        return
    trainings = [subject.members[model].training for model, _ in keys]
    networks = [NetworkSpec(training.activation, training.dropout) for training in trainings]
    weights = torch.stack([subject.weights(*key) for key in keys])
    found = engine.evaluate(subject.info.architecture, images, weights, networks, split)
    name, labels = METRIC_PREFIX[split], images.labels(split)
    for i, key in enumerate(keys):
        row, loss, accuracy = subject.rows[key], found.loss[i].item(), found.accuracy[i].item()
        recorded = {kind: number(row[f"{name}_{kind}"]) for kind in ("loss", "acc")}
        compared = {
            kind: not (subject.imported and math.isnan(value)) and f"{name}_{kind}" not in subject.measured_otherwise
            for kind, value in recorded.items()
        }
        if compared["acc"] and not tolerance.accuracy(accuracy, recorded["acc"], len(labels)):
            yield key, f"{name}_acc is {accuracy:.6g}, recorded {recorded['acc']:.6g}"
        if compared["loss"] and not tolerance.losses(loss, recorded["loss"]):
            yield key, f"{name}_loss is {loss:.6g}, recorded {recorded['loss']:.6g}"
        if split == "test" and not subject.imported:  # no original has recall per class
            per_class = torch.bincount(labels, minlength=images.classes).tolist()
            recall, known = found.recall[i].tolist(), row["test_recall"]
            if not _same_recall(recall, known, per_class, tolerance):
                yield key, "test_recall is another than recorded"


def _same_recall(found: list[float], recorded: Any, per_class: list[int], tolerance: Tolerance) -> bool:
    if recorded is None or isinstance(recorded, float) or len(recorded) != len(found):
        return False
    pairs = zip(found, map(number, recorded), per_class, strict=True)
    return all(tolerance.accuracy(a, b, n) for a, b, n in pairs)
