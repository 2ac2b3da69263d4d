"""Probes of a dataset as a step of the commands: read, probe, write."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo_datasets._util import file_sha256
from modelzoo_datasets.engines import Engine, get_engine, one_thread
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.images import load_images
from modelzoo_datasets.loading import load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import OutputLock, read_json, write_json

from .data import (
    check_trained_on,
    drop_untrained,
    group_by_split,
    locate_representation,
    parse_source,
    read_stored_recipe,
)
from .model import WEIGHTS_FILE, HyperRepresentation
from .probes import MAX_WEIGHT, AnswerOptions, AnswerSource, Probe, probe_properties
from .recipe import HyperRecipe
from .recipe_toml import resolve_recipe
from .storage import check_unused, write_csv

PROBES_FILE = "probes.json"
_log = logging.getLogger(__name__)


@one_thread()
def probe(
    dataset: str | Path,
    representation: str | Path | None = None,
    recipe: str | HyperRecipe | None = None,
    *,
    config: str | None = None,
    test_on: str | None = None,
    out: str | Path | None = None,
    max_weight: float | None = MAX_WEIGHT,
    answers: AnswerSource = "noise",
    engine: str | Engine = "auto",
    images_root: str | Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[Probe]:
    """Predict properties of test models from W, s(W), z and answers, beside baselines.

    Args:
        dataset: dataset folder or repo, or DATASET/CONFIG; the one that the hyper-representation was trained on.
        representation: folder of the hyper-representation that computes z, or its model repo on the Hub; without one
            there is no z.
        recipe: recipe that it was trained by, or its name or file; by default the one that the folder stores.
        config: config of the dataset; by default that of the recipe, or the only one.
        test_on: another dataset, or DATASET/CONFIG, whose test models are predicted instead.
        out: folder for `probes.json` and `probes.csv`.
        max_weight: states with a weight beyond it are left out; None keeps all.
        answers: images that networks answer: "noise", smooth noise that needs no data, or "training", the first
            training images without their labels. With the images of the zoo the ceilings are measured.
        engine: runs networks; an engine or its name.
        images_root: folder of the images; the user's cache by default.
        progress: display of the properties.

    Returns:
        One row per property and representation.

    Raises:
        MissingExtraError: the extra `learn` is not installed.
        FormatError: a folder is not what it must be, holds another architecture, or has too few models.
        MissingImagesError: training images are asked for and are not there.
        FolderInUseError: `out` already contains other files.

    Example:
        >>> from hyperrep import probe
        >>> rows = probe(dataset, config="seed")
        >>> {row.representation for row in rows} >= {"W", "s(W)", "answers", "answers, boosted"}
        True
    """
    require_extra("probes", "learn")
    source, named = parse_source(str(dataset))
    out = None if out is None else Path(out)
    if out is not None and not (out / PROBES_FILE).is_file():
        check_unused(out)
    request = _ProbeRequest(source, config or named, max_weight=max_weight, answers=answers, test_on=test_on)
    rep = None
    if representation is not None:
        folder = locate_representation(representation)
        rep = HyperRepresentation.from_pretrained(folder)
        recipe = read_stored_recipe(representation) if recipe is None else resolve_recipe(recipe)
        check_trained_on(folder, recipe, source)
        request = request.with_representation(recipe, file_sha256(folder / WEIGHTS_FILE))
    runner, root = get_engine(engine), None if images_root is None else Path(images_root)
    if out is None:
        return _probe(request, rep, runner, root, progress)
    inputs = dataclasses.asdict(request)
    with OutputLock(out):
        if rows := _read_probes(out, inputs):
            _log.info("%s is finished already; nothing was probed", out)
            return rows
        check_unused(out)
        rows = _probe(request, rep, runner, root, progress)
        write_csv(out / "probes.csv", Probe, rows)
        write_json(out / PROBES_FILE, {**inputs, "probes": [row.to_json() for row in rows]})
    return rows


@dataclass(frozen=True)
class _ProbeRequest:
    """The inputs that decide the result of `probe`, as probes.json notes them."""

    dataset: str
    config: str | None
    max_weight: float | None
    answers: AnswerSource
    test_on: str | None
    hyperrep_sha256: str | None = None
    seed: int = 0

    def with_representation(self, recipe: HyperRecipe, sha256: str) -> "_ProbeRequest":
        """Add the hyper-representation, whose config counts."""
        if self.config not in (None, recipe.data.config):
            raise FormatError(
                f"the hyper-representation was trained on config {recipe.data.config!r}, got {self.config!r}; "
                "name no config, or probe it without the hyper-representation"
            )
        config, seed = recipe.data.config, recipe.evaluation.seed
        return dataclasses.replace(self, config=config, hyperrep_sha256=sha256, seed=seed)


def _read_probes(out: Path, inputs: Mapping[str, Any]) -> list[Probe]:
    """Return the probes that a folder holds of these inputs; none of others."""
    if not (out / PROBES_FILE).is_file():
        return []
    values: Any = read_json(out / PROBES_FILE)
    is_same = isinstance(values, dict) and all(values.get(key, "") == value for key, value in inputs.items())
    return [Probe.from_json(row) for row in values["probes"]] if is_same else []


def _probe(
    request: _ProbeRequest,
    rep: HyperRepresentation | None,
    engine: Engine,
    images_root: Path | None,
    progress: Progress,
) -> list[Probe]:
    """Probe the states of a dataset; see `probe`."""
    whole = drop_untrained(load_zoo(request.dataset, request.config))
    zoo = group_by_split(whole)
    images = load_images(whole.images, images_root) if request.answers == "training" else None
    options = AnswerOptions(source=request.answers, engine=engine, images=images)
    if request.test_on is not None:
        source, config = parse_source(request.test_on)
        other = load_zoo(source, config, split="test")
        if rep is not None:
            rep.check_architecture(other.architecture, request.test_on)
        elif other.layout != whole.layout:
            raise FormatError(
                f"{request.dataset} holds models of {whole.architecture.name}, {request.test_on} models of "
                f"{other.architecture.name}; name a zoo of the same architecture"
            )
        zoo["test"] = drop_untrained(other)
    return probe_properties(
        rep, zoo, seed=request.seed, max_weight=request.max_weight, answers=options, progress=progress
    )
