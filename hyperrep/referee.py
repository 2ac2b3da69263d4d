"""The referee: networks of any origin, judged beside the models of a zoo by the protocol of `evaluate`.

n samples, P weights.
"""

import dataclasses
import hashlib
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo_datasets.engines import Engine, get_engine, one_thread
from modelzoo_datasets.errors import ArgumentError, FormatError
from modelzoo_datasets.extras import require_extra
from modelzoo_datasets.importers import pack_states, read_state_files
from modelzoo_datasets.loading import Zoo, load_zoo
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.zoo import OutputLock, write_bytes, write_json

from .data import drop_diverged, drop_untrained, group_by_split, parse_source
from .evaluation import (
    EVALUATION_FILE,
    EVALUATION_FORMAT,
    EvaluationResult,
    Evaluator,
    Population,
    Score,
    ScoreEvaluator,
    TrainingStates,
    claim_folder,
    evaluate_scratch,
    hash_targets,
    hash_tensor,
    judge_populations,
    load_targets,
    read_finished,
    renumber_units,
    surround_samples,
)
from .recipe import EvaluationRecipe

States = Tensor | Sequence[Mapping[str, Tensor]] | str | Path
_DEFAULT = EvaluationRecipe(max_ensemble_size=10)
_COLUMNS = ("model_id", "epoch", "split")  # that the judge reads of every zoo
_RESERVED = ("noise", "mixture", "average", "PCA Gaussian", "retrieval", "move", "zoo members", "training members")


@one_thread()
def judge(
    states: States,
    zoo: str | Path | Zoo,
    *,
    out: str | Path | None = None,
    protocol: EvaluationRecipe | None = None,
    engine: str | Engine = "auto",
    images_root: str | Path | None = None,
    score: Score | None = None,
    name: str = "samples",
    gradients: int = 0,
    progress: Progress = NO_PROGRESS,
) -> EvaluationResult:
    """Judge networks of any origin beside the models of a zoo: copies, noise, averages, or new.

    Training states are those of the train split after every epoch but 0; zoo members are the models of the test split.

    Args:
        states: the samples: a tensor (n, P), a list of state dicts, or a folder or file of safetensors or `.pt` state
            dicts, such as a folder that `modelzoo-hyperrep sample` wrote.
        zoo: dataset folder or repo, DATASET or DATASET/CONFIG, or a loaded zoo with all of its splits.
        out: folder to write evaluation.json, report.html and summary.md to; None to write nothing. A judgment that
            was stopped there is resumed.
        protocol: the questions; its samplers are not drawn from. By default those of `EvaluationRecipe`, and
            ensembles of up to 10.
        engine: trains and runs networks; an engine or its name.
        images_root: folder of the images; the user's cache by default.
        score: a function of a module, for networks without images: any real number, higher is better. It stands in
            place of accuracy; there are no error overlap, no fine-tuning, no ensembles and no REPAIR then.
        name: name of the samples. Say in it how they were selected.
        gradients: image gradients that learning the sampler spent, one per network and image: training members are
            fine-tuned with as many. Without them there are no rows of equal work.
        progress: display of the populations.

    Returns:
        The result; `judgments[name]` says what the samples are.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        ArgumentError: the name is that of another population.
        FormatError: states or zoo are not what they must be, or states are not of the architecture of the zoo.
        PluginError: the score fails.
        ModelZooError: the protocol needs something that this zoo does not have.
        FolderInUseError: `out` holds another judgment, or other files, or another process is writing it.

    Example:
        >>> from hyperrep import judge
        >>> from hyperrep.recipe import EvaluationRecipe
        >>> from modelzoo_datasets import load_zoo
        >>> zoo = load_zoo(dataset, "seed")
        >>> states = zoo[zoo.table["split"] == "train"].weights[-6:]
        >>> short = EvaluationRecipe(num_samples=2, num_finetuned=0, noise=(), mixtures=())
        >>> judge(states, zoo, protocol=short).judgments["samples"].kind
        'copies'
    """
    require_extra("judgments", "report")
    _check_name(name)
    zoo = zoo if isinstance(zoo, Zoo) else load_zoo(*parse_source(str(zoo)))
    weights = read_samples(states, zoo)
    protocol = dataclasses.replace(protocol or _DEFAULT, samplers=(), moves=())
    if score is not None:
        protocol = dataclasses.replace(protocol, num_finetuned=0, max_ensemble_size=1, transfer=(), changed=())
    samples = Population(
        name=name,
        description=f"networks of {Path(states).name}" if isinstance(states, str | Path) else "networks",
        weights=weights,
        num_finetuned=protocol.num_finetuned,
        is_sample=True,
        has_nulls=True,
    )
    root = None if images_root is None else Path(images_root)
    options: dict[str, Any] = {"engine": get_engine(engine), "images_root": root, "score": score, "progress": progress}
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return _run(samples, zoo, protocol, gradients, Path(folder) / "judgment", **options)
    with OutputLock(out := Path(out)):
        result = _run(samples, zoo, protocol, gradients, out, **options)
        _write_pages(out, samples, zoo, result)
    return result


def _run(
    samples: Population,
    zoo: Zoo,
    protocol: EvaluationRecipe,
    gradients: int,
    out: Path,
    *,
    engine: Engine,
    images_root: Path | None,
    score: Score | None,
    progress: Progress,
) -> EvaluationResult:
    """Make `out` hold evaluation.json; see `judge`."""
    claim = {
        "format": EVALUATION_FORMAT,
        "samples": samples.name,
        "samples_sha256": hash_tensor(samples.weights),
        "zoo_sha256": hash_tensor(zoo.weights),
        "protocol": protocol.to_json(),
        "engine": engine.name if score is None else _describe_score(score),
        "gradients": gradients,
        "targets": hash_targets(protocol.transfer),
    }
    if finished := read_finished(out, claim):
        return finished
    # Everything that can be wrong with the request is checked before anything is evaluated or written.
    splits = _split_states(zoo)
    training = TrainingStates.from_zoo(splits["train"])
    evaluator: Evaluator | ScoreEvaluator
    if score is None:
        evaluator = Evaluator.from_states(training, protocol, engine, images_root)
        targets = load_targets(evaluator, images_root)
    else:
        evaluator, targets = ScoreEvaluator(states=training, recipe=protocol, score=score), []
        evaluator.check_modules()
    samples = dataclasses.replace(samples, weights=renumber_units(samples.weights, training))
    populations = surround_samples([samples], splits, evaluator)
    claim_folder(out, claim)
    result = judge_populations(
        populations,
        evaluator,
        out,
        scratch=evaluate_scratch(zoo) if score is None else None,
        offset=int(splits["train"].table["epoch"].max()),
        targets=targets,
        gradients=gradients,
        progress=progress,
    )
    write_json(out / EVALUATION_FILE, result.to_json())
    return EvaluationResult.read(out)


def read_samples(states: States, zoo: Zoo) -> Tensor:
    """Return the weights (n, P) of samples, which must be finite and of the architecture of a zoo.

    Args:
        states: as for `judge`.
        zoo: the zoo that they are judged beside.

    Raises:
        FormatError: they are not.
    """
    architecture, layout = zoo.architecture, zoo.layout
    if isinstance(states, str | Path):
        weights = read_state_files(Path(states), architecture)
    else:
        try:
            parts = [states] if isinstance(states, Tensor) else states
            weights = torch.cat([pack_states(part, layout) for part in parts])
        except FormatError as error:
            raise FormatError(
                f"samples must be models of {architecture.name}, which has {layout.size:,} weights; one {error}"
            ) from error
    is_finite = weights.isfinite().all(dim=1)
    if not is_finite.all():
        bad = (~is_finite).nonzero().squeeze(1)
        raise FormatError(
            f"{len(bad)} of {len(weights)} samples have weights that are not finite, the first is number {int(bad[0])} "
            "from 0; leave them out, and say so in the name of the samples"
        )
    if len(weights) < 2:
        raise FormatError(f"a judgment compares populations: expected 2 or more samples, got {len(weights)}")
    return weights


def _check_name(name: str) -> None:
    """Check that samples have a name that no other population has."""
    if not name or name.startswith(_RESERVED) or name in ("scratch", "random init") or " like " in name:
        raise ArgumentError(f"{name!r} is the name of another population of the judgment; choose another name")


def _describe_score(score: Score) -> str:
    """Return the name of a function and the hash of its source, where it has one."""
    try:
        source = inspect.getsource(score)
    except (OSError, TypeError):  # made in an interpreter, or no plain function
        source = ""
    return f"{getattr(score, '__name__', 'score')} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _split_states(zoo: Zoo) -> dict[str, Zoo]:
    """Return the finite states of trained models by split; raises FormatError without training states."""
    if lacks := [column for column in _COLUMNS if column not in zoo.table]:
        raise FormatError(f"the zoo was loaded without the columns {', '.join(lacks)}; load it with all columns")
    splits = group_by_split(drop_untrained(drop_diverged(zoo)))
    if "train" not in splits:
        raise FormatError("the zoo has no states of the split 'train', which samples are compared with")
    return splits


def _write_pages(out: Path, samples: Population, zoo: Zoo, result: EvaluationResult) -> None:
    """Write report.html and summary.md."""
    from .report import choose_unit, describe_judgment, format_markdown, judgment_table, write_report  # figures

    title = f"Judgment of {samples.name}"
    config = zoo.config or "zoo"
    source = {"samples": f"{len(samples.weights)} {samples.description}", "zoo": Path(zoo.dataset).name or "in memory"}
    write_report(out / "report.html", title, {config: zoo}, result, source)
    unit = choose_unit(result)
    table = format_markdown(judgment_table(result.populations, result.judgments, unit))
    sentence = describe_judgment(samples.name, result.judgments[samples.name], unit)
    write_bytes(out / "summary.md", f"{sentence}\n\n{table}\n".encode())
