"""Trains random models again from their rows alone.

With the engine and versions that made the zoo, every state must be equal bit for bit, and so must its metrics. With
others, rounding errors grow from step to step: then accuracy and sparsity after the last epoch may differ by 0.05.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from .._util import SPLITS
from ..engines import METRICS, SPARSITY, Job, States
from ..errors import FormatError
from ..images import Images
from ..zoo import hash_weights
from .check import Check, Request, shorten_hash, to_number
from .metrics import EXACT, is_same_engine
from .target import Key, Target

_TOLERANCE = 0.05  # for accuracy and sparsity of another engine or version


def check_retrained(target: Target, parent: Target | None, images: Images, request: Request) -> Check:
    """Train models again and compare them with their states.

    Args:
        target: the zoo.
        parent: the zoo of the parents of sparsified twins. Twins start from the last state of their parent, or without
            this zoo from their own epoch 0.
        images: the images to train on.
        request: how many models to train, with which engine.
    """
    exact = is_same_engine(target, request.select_engine(target.info))
    models = request.sample(list(target.last_epochs), request.retrain, target.name, "models")
    problems: dict[str, str] = {}
    with request.progress.start(f"training {target.name} again", len(models)) as task:
        for key, difference in _compare_models(target, parent, models, images, request, exact=exact):
            if difference:
                where, repair = target.locate(*key), target.suggest_repair(key[0])
                problems.setdefault(key[0], f"{where} trained again: {difference}; {repair}")
            task.update(key[1] == target.members[key[0]].training.epochs)
    tolerance = "bit for bit" if exact else f"to {100 * _TOLERANCE:.0f} points"
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
        agrees = EXACT.allows_loss if name.endswith("_loss") else lambda a, b: EXACT.allows_accuracy(a, b, 1)
        if not agrees(value, to_number(row[name])):
            return f"{name} is {value:.6g}, recorded {to_number(row[name]):.6g}"
    return ""


def _compare_roughly(target: Target, key: Key, states: States, i: int) -> str:
    row = target.rows.get(key)
    if row is None or key[1] < target.members[key[0]].training.epochs:
        return ""
    for name, value in _read_metrics(states, i).items():
        recorded = to_number(row[name])
        if name in ("val_acc", "test_acc", SPARSITY) and abs(value - recorded) > _TOLERANCE:
            return f"{name} is {value:.4f}, recorded {recorded:.4f}"
    return ""


def _read_metrics(states: States, i: int) -> Mapping[str, float]:
    return {name: states.metrics[name][i].item() for name in (*METRICS, SPARSITY) if name in states.metrics}
