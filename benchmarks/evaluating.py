"""How fast many small models are evaluated and fine-tuned: engine calls, and loops over modules, taking turns.

    python benchmarks/evaluating.py    prints Markdown; about ten minutes on two cores

Both are sized down and stated per model-image: one image through one model. The last column is what the whole job
would take at that rate; it is computed, not measured.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from live import Rival, Team, Work
from rivals import ACTIVATION, LR, Case, fresh_module, random_images, step, training
from tables import markdown, measured, parser_of, ratio, report
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from modelzoo_datasets.analysis import fine_tune
from modelzoo_datasets.engines import NetworkSpec, get_engine

EVALUATED = ("cnn-s", "cnn-m")
FINE_TUNED = ("cnn-s/32", "cnn-s/10", "cnn-m/32")
MODELS, TEST_IMAGES = 1_000, 10_000  # of the whole job that evaluation is extrapolated to
DIFFERENT = 16  # models
SAMPLES, TRAINING_IMAGES = 200, 50_000  # and of fine-tuning, with an evaluation on the test images after every epoch


def population(case: Case) -> Callable[[int], Tensor]:
    """Gives weights (N, P) of so many models; they repeat themselves, which nobody makes use of."""
    few = [parameters_to_vector(fresh_module(case.architecture, seed).parameters()) for seed in range(DIFFERENT)]
    stacked = torch.stack(few).detach()
    return lambda models: stacked[torch.arange(models) % DIFFERENT]


def evaluate_ours(case: Case) -> Work:
    """`engine.evaluate`: loss, accuracy and recall."""
    engine, images, weights = get_engine(case.engine, case.cores), random_images(case), population(case)

    def work(model_images: int) -> int:
        models = max(case.models, -(-model_images // case.test_images))
        engine.evaluate(case.architecture, images, weights(models), [NetworkSpec(ACTIVATION)] * models, "test")
        return models * case.test_images

    return work


def evaluate_loop(case: Case, batch: int, memory_format: torch.memory_format) -> Work:
    """One module after the other: accuracy."""
    (x, y), some = _split(case, "test", memory_format), population(case)

    def work(model_images: int) -> int:
        models = -(-model_images // case.test_images)
        for weights in some(models):
            accuracy(_loaded(case, weights, memory_format), x, y, batch)
        return models * case.test_images

    return work


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> float:
    """The share of images that a model recognises."""
    model.eval()
    parts = zip(x.split(batch), y.split(batch), strict=True)
    return sum(int((model(images).argmax(dim=1) == labels).sum()) for images, labels in parts) / len(y)


def fine_tune_ours(case: Case) -> Work:
    """`population.fine_tune`: training, and evaluation before it and after every epoch."""
    engine, images, how = get_engine(case.engine, case.cores), random_images(case), training(case, case.epochs)
    each, weights = case.images * case.epochs, population(case)

    def work(model_images: int) -> int:
        models = max(case.models, -(-model_images // each))
        fine_tune(engine, case.architecture, images, weights(models), how, range(models))
        return models * each

    return work


def fine_tune_loop(case: Case, batch: int, memory_format: torch.memory_format) -> Work:
    """One module after the other, the same; evaluated in batches of `batch`."""
    (x, y), (test_x, test_y) = (_split(case, split, memory_format) for split in ("train", "test"))
    each, some, draws = case.images * case.epochs, population(case), torch.Generator().manual_seed(0)

    def one(model: nn.Module) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
        accuracy(model, test_x, test_y, batch)
        for _ in range(case.epochs):
            model.train()
            for index in torch.randperm(len(y), generator=draws).split(case.batch):
                step(model, optimizer, x[index], y[index])
            accuracy(model, test_x, test_y, batch)

    def work(model_images: int) -> int:
        models = -(-model_images // each)
        for weights in some(models):
            one(_loaded(case, weights, memory_format))
        return models * each

    return work


def _split(case: Case, split: str, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
    images = random_images(case)
    return images.inputs(split).contiguous(memory_format=memory_format), images.labels(split)


def _loaded(case: Case, weights: Tensor, memory_format: torch.memory_format) -> nn.Module:
    """A module with these weights (P,)."""
    model = fresh_module(case.architecture, 0)
    vector_to_parameters(weights.clone(), model.parameters())
    return model.to(memory_format=memory_format)


_NCHW, _LAST = torch.contiguous_format, torch.channels_last
TUNED = "tuned"
EVALUATE: dict[str, Rival[Case]] = {
    "loop": Rival("loop, batches of 100", partial(evaluate_loop, batch=100, memory_format=_NCHW)),
    "loop-10": Rival("loop, batches of 10", partial(evaluate_loop, batch=10, memory_format=_NCHW)),
    "loop-500": Rival("loop, batches of 500", partial(evaluate_loop, batch=500, memory_format=_NCHW)),
    TUNED: Rival("loop, channels last, 500", partial(evaluate_loop, batch=500, memory_format=_LAST)),
    "ours": Rival("**ours**", evaluate_ours, whole=True),
}
FINE_TUNE: dict[str, Rival[Case]] = {
    "loop": Rival("loop", partial(fine_tune_loop, batch=100, memory_format=_NCHW)),
    TUNED: Rival("loop, channels last", partial(fine_tune_loop, batch=500, memory_format=_LAST)),
    "ours": Rival("**ours**", fine_tune_ours, whole=True),
}


def table(teams: Mapping[str, Team], whole_job: str, model_images: int, unit: tuple[str, int]) -> str:
    """Medians over the rounds, ratios within a round; `unit` of the last column in seconds."""
    columns = ["rival", "processes", "model-images/s", "x loop (min to max)", "x loop by CPU", "x channels last"]
    columns += ["MB per process", "first call s", f"{whole_job}: {unit[0]}"]
    lines = []
    for team in teams.values():
        rate, loop = statistics.median(turn.rate for turn in team.turns), teams.get("loop")
        ratios = [ratio(team.turns, loop, spread=True), ratio(team.turns, loop, by_cpu=True)]
        ratios.append(ratio(team.turns, teams.get(TUNED)))
        numbers = [f"{team.megabytes:,.0f}", f"{team.first_call:.1f}", f"{model_images / rate / unit[1]:,.2f}"]
        lines.append([team.label, str(len(team.processes)), f"{rate:,.0f}", *ratios, *numbers])
    return markdown(columns, lines)


def evaluation(architecture: str, options: argparse.Namespace) -> str:
    """The table of one architecture."""
    case = Case(architecture, 0, 1, options.test_images, options.engine, options.cores, options.models)
    teams = measured({name: EVALUATE[name] for name in options.rivals}, case, options)
    whole = f"{MODELS:,} models on {TEST_IMAGES:,} images"
    numbers = table(teams, whole, MODELS * TEST_IMAGES, ("minutes", 60))
    return f"\nEvaluation, {architecture}, {case.test_images:,} images\n\n{numbers}"


def fine_tuning(row: str, options: argparse.Namespace) -> str:
    """The table of one architecture and batch size; to five training images there is one of testing, as in MNIST."""
    (architecture, batch), images = row.split("/"), options.images
    case = Case(
        architecture, int(batch), images, images // 5, options.engine, options.cores, options.models, options.epochs
    )
    teams = measured({name: FINE_TUNE[name] for name in options.rivals if name in FINE_TUNE}, case, options)
    whole = f"{SAMPLES} models, {case.epochs} epochs of {TRAINING_IMAGES:,} images"
    numbers = table(teams, whole, SAMPLES * case.epochs * TRAINING_IMAGES, ("hours", 3600))
    return (
        f"\nFine-tuning, {case}, {case.epochs} epochs of {images:,} images, evaluated on {images // 5:,}\n\n{numbers}"
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__, tuple(EVALUATE), seconds=4.0)
    parser.add_argument("--evaluated", nargs="*", default=EVALUATED, metavar="ARCHITECTURE")
    parser.add_argument("--fine-tuned", nargs="*", default=FINE_TUNED, metavar="ARCHITECTURE/BATCH")
    parser.add_argument("--test-images", type=int, default=TEST_IMAGES, help="that models are evaluated on")
    parser.add_argument("--images", type=int, default=1_000, help="that models are fine-tuned on")
    parser.add_argument("--epochs", type=int, default=25, help="of fine-tuning")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(evaluated=EVALUATED[:1], fine_tuned=FINE_TUNED[:1], test_images=500, images=100, epochs=2)
        vars(options).update(rounds=1, seconds=0.05, models=4)
    with report(options.cores, options.rounds):
        for architecture in options.evaluated:
            print(evaluation(architecture, options), flush=True)
        for row in options.fine_tuned:
            print(fine_tuning(row, options), flush=True)


if __name__ == "__main__":
    main()
