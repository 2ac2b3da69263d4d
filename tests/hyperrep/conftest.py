"""What the tests of hyperrep share.

tiny_hyper    HyperRecipe of the `seed` config of tiny_dataset, epochs 1 and 2; learned in a second
trained       Path of the folder of a hyper-representation that was learned by it
rep           the hyper-representation itself
learned       split -> Zoo of the states that it learned from, and of the other splits
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.tiny_learning import recipe

from hyperrep import HyperRepresentation, train
from hyperrep.evaluation.baselines import SamplingContext
from hyperrep.evaluation.metrics import Evaluator
from hyperrep.evaluation.population import Population
from hyperrep.evaluation.populations import draw_samples, make_reconstructions, surround_samples
from hyperrep.evaluation.training_states import TrainingStates
from hyperrep.recipe import EvaluationRecipe, HyperRecipe
from modelzoo_datasets.engines import one_thread
from modelzoo_datasets.engines.torch_engine import TorchEngine
from modelzoo_datasets.images import Images
from modelzoo_datasets.loading import Zoo, load_zoo


@pytest.fixture(scope="module", autouse=True)
def on_one_thread() -> Iterator[None]:
    """Equal bits and equal speed whatever else runs."""
    with one_thread():
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_kept_of_earlier_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this run alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_hyper() -> HyperRecipe:
    """A hyper-representation so small that it is learned in a second."""
    judged = EvaluationRecipe(
        num_samples=2,
        samplers=("kde", "kde-shared"),
        top_fraction=0.5,
        num_finetuned=2,
        finetune_epochs=(1,),
        num_control=5,
    )
    return dataclasses.replace(recipe(), evaluation=judged)


@pytest.fixture(scope="session")
def trained(tiny_dataset: Path, tiny_hyper: HyperRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny hyper-representation."""
    folder = tmp_path_factory.mktemp("hyperrep") / "hyperrep"
    train(tiny_dataset, tiny_hyper, folder)
    return folder


@pytest.fixture(scope="session")
def rep(trained: Path) -> HyperRepresentation:
    """The tiny hyper-representation."""
    return HyperRepresentation.from_pretrained(trained)


@pytest.fixture(scope="session")
def learned(tiny_dataset: Path) -> dict[str, Zoo]:
    """The states it was learned from, and those of the other splits."""
    splits = ("train", "validation", "test")
    return {s: load_zoo(tiny_dataset, "seed", split=s, epochs=(1, 2)) for s in splits}


@pytest.fixture(scope="session")
def protocol(tiny_hyper: HyperRecipe) -> HyperRecipe:
    """All questions, small."""
    asked = dataclasses.replace(
        tiny_hyper.evaluation,
        noise=(0.2,),
        mixtures=(0.1,),
        moves=(0.3,),
        max_ensemble_size=3,
        transfer=("fashion-mnist-5k",),
        changed=("res-cnn",),
    )
    return dataclasses.replace(tiny_hyper, evaluation=asked)


@pytest.fixture(scope="session")
def bench(
    rep: HyperRepresentation, learned: dict[str, Zoo], engine: TorchEngine, few_images: Images, protocol: HyperRecipe
) -> Evaluator:
    """What populations are judged with, on few images."""
    return Evaluator(
        states=TrainingStates.from_representation(rep, learned["train"]),
        engine=engine,
        images=few_images,
        training=learned["train"].hyperparameters(0),
        recipe=dataclasses.replace(protocol.evaluation, finetune_epochs=(2,)),
    )


@pytest.fixture(scope="session")
def populated(rep: HyperRepresentation, learned: dict[str, Zoo], bench: Evaluator) -> dict[str, Population]:
    """All populations by name."""
    splits = {s: learned[s] for s in ("train", "test")}
    samples = draw_samples(SamplingContext(rep=rep, training=bench.states), bench)
    found = [*surround_samples(samples, splits, bench), *make_reconstructions(rep, splits, bench)]
    assert len({population.name for population in found}) == len(found)
    return {population.name: population for population in found}
