"""Train random models again from their rows alone.

Where engine and versions are those that made the zoo, every state must be equal to the bit, and so must its metrics.
With others every rounding error grows from step to step: then accuracy and sparsity after the last epoch may be off by
0.05.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from .._util import SPLITS
from ..engines import METRICS, SPARSITY, Job, States
from ..errors import FormatError
from ..images import Images
from ..zoo import weights_sha256
from .check import Check, Request, number, short
from .metrics import EXACT, same_engine
from .target import Key, Target

_ELSEWHERE = 0.05  # of accuracy


def check_retrained(subject: Target, parent: Target | None, images: Images, request: Request) -> Check:
    """Models trained again; twins from the last state of their parent, from their own epoch 0 where it is not there."""
    exact, what = same_engine(subject, request.engine_for(subject.info)), f"training {subject.name} again"
    models = request.drawn(list(subject.last_epochs), request.retrain, subject.name, "models")
    wrong: dict[str, str] = {}
    with request.progress.start(what, len(models)) as task:
        for key, said in _trained(subject, parent, models, images, request, exact=exact):
            if said:
                wrong.setdefault(key[0], f"{subject.where(*key)} trained again: {said}; {subject.remedy(key[0])}")
            task.update(key[1] == subject.members[key[0]].training.epochs)
    words = "bit for bit" if exact else f"to {100 * _ELSEWHERE:.0f} points"
    return Check(f"retrained, {words}", len(models), [wrong[model] for model in models if model in wrong])


def _trained(
    subject: Target, parent: Target | None, models: Sequence[str], images: Images, request: Request, *, exact: bool
) -> Iterator[tuple[Key, str]]:
    """Every state of these models as it comes, with what is another than recorded, empty if nothing is."""
    compare = _exactly if exact else _nearly
    for first in range(0, len(models), subject.at_once):
        part, jobs = list[str](), list[Job]()
        for model in models[first : first + subject.at_once]:
            try:
                jobs.append(_job(subject, parent, model))
                part.append(model)
            except FormatError as error:
                yield (model, subject.members[model].training.epochs), f"what it starts from cannot be read: {error}"
        engine = request.engine_for(subject.info)
        with closing(engine.train(subject.info.architecture, images, jobs, metrics_on=SPLITS)) as trained:
            for states in trained:
                for i, (job, epoch) in enumerate(zip(states.jobs.tolist(), states.epochs.tolist(), strict=True)):
                    yield (part[job], epoch), compare(subject, (part[job], epoch), states, i)


def _job(subject: Target, parent: Target | None, model_id: str) -> Job:
    member = subject.members[model_id]
    if not subject.twins:
        return Job(training=member.training, seed=member.seed)
    start = parent.last_weights(member.parent_id or "") if parent else None
    start = subject.weights(model_id, 0) if start is None else start
    return Job(training=member.training, seed=member.seed, initial_weights=start, sparsify=True)


def _exactly(subject: Target, key: Key, states: States, i: int) -> str:
    row = subject.rows.get(key)
    if row is None:  # said of the tables
        return ""
    if (sha256 := weights_sha256(states.weights[i])) != row["sha256"]:
        return f"other weights (sha256 {short(sha256)}, recorded {short(row['sha256'])})"
    for name, value in _metrics(states, i).items():
        agrees = EXACT.losses if name.endswith("_loss") else lambda a, b: EXACT.accuracy(a, b, 1)
        if not agrees(value, number(row[name])):
            return f"{name} is {value:.6g}, recorded {number(row[name]):.6g}"
    return ""


def _nearly(subject: Target, key: Key, states: States, i: int) -> str:
    row = subject.rows.get(key)
    if row is None or key[1] < subject.members[key[0]].training.epochs:
        return ""
    for name, value in _metrics(states, i).items():
        recorded = number(row[name])
        if name in ("val_acc", "test_acc", SPARSITY) and abs(value - recorded) > _ELSEWHERE:
            return f"{name} is {value:.4f}, recorded {recorded:.4f}"
    return ""


def _metrics(states: States, i: int) -> Mapping[str, float]:
    return {name: states.metrics[name][i].item() for name in (*METRICS, SPARSITY) if name in states.metrics}
