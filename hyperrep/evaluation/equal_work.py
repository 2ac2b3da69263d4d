"""Equal work: training members that are fine-tuned with as many image gradients as a hyper-representation learned with.

An image gradient is a forward and a backward pass of one network on one image. The training of the zoo counts on
neither side: samples and members both need it.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelzoo_datasets.analysis import fine_tune
from modelzoo_datasets.progress import NO_PROGRESS, Progress
from modelzoo_datasets.seeds import derive_seed

from .metrics import Evaluator
from .result import AMORTIZED, WHOLE, CurveResult, EqualWorkResult, PopulationResult, SignificanceResult, select_epoch
from .significance import compare_values
from .transfer import evaluate_each


def evaluate_equal_work(
    gradients: int, num_samples: int, evaluator: Evaluator, out: Path, *, progress: Progress = NO_PROGRESS
) -> EqualWorkResult | None:
    """Fine-tune training members by the budget of a sampler: amortized over its samples, and as a whole on one member.

    Members get whole epochs, and so at least the budget. A budget of more epochs than `max_equal_epochs` of the
    protocol is cut, which the result says.

    Args:
        gradients: image gradients that learning the sampler spent.
        num_samples: samples that they are amortized over.
        evaluator: has the training members, fine-tunes them, and has the protocol.
        out: the folder of the evaluation; what has a file there is not trained again.
        progress: reports the models.

    Returns:
        The curves; None where learning spent no image gradients, or the protocol leaves the question out.
    """
    recipe, states = evaluator.recipe, evaluator.states
    if gradients < 1 or num_samples < 1 or recipe.max_equal_epochs == 0:
        return None
    result = EqualWorkResult(
        gradients=gradients, num_samples=num_samples, epoch_gradients=len(evaluator.images.labels("train"))
    )
    best = states.last[states.accuracy[states.last].nan_to_num(-1).argmax()]
    starts = {AMORTIZED: states.weights[states.last[: recipe.num_finetuned]], WHOLE: states.weights[best].unsqueeze(0)}

    def run(name: str) -> CurveResult:
        epochs = min(math.ceil(result.count_budget(name) / result.epoch_gradients), recipe.max_equal_epochs)
        training = dataclasses.replace(evaluator.training, epochs=epochs)
        seeds = [derive_seed(recipe.seed, "equal work", i) for i in range(len(starts[name]))]
        where = evaluator.engine, evaluator.architecture, evaluator.images
        curves, _ = fine_tune(*where, starts[name], training, seeds, progress=progress, what=f"fine-tuning {name}")
        return CurveResult(name=name, n=len(curves), curves=curves.tolist())

    return dataclasses.replace(result, curves=evaluate_each(out / "equal-work", starts, CurveResult, run))


def compare_equal_work(
    result: EqualWorkResult, populations: Sequence[PopulationResult]
) -> Iterator[SignificanceResult]:
    """Compare samples, before fine-tuning, with the members that got as many image gradients.

    Args:
        result: the fine-tuned members.
        populations: all populations.
    """
    for samples in populations:
        if samples.is_sample and samples.curves:
            for rival, members in result.curves.items():
                ends = select_epoch(members.curves, len(members.curves[0]) - 1)
                yield from compare_values("equal work", "", samples.name, rival, 0, samples.zero_shot, ends)
