"""Evaluation by a function of the user, for networks that no images of this package test.

n models, P weights.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from modelzoo_datasets._util import one_line
from modelzoo_datasets.architectures import build_module
from modelzoo_datasets.errors import ArgumentError, PluginError
from modelzoo_datasets.progress import NO_PROGRESS, Progress

from ..zoo_values import read_network
from .metrics import BaseEvaluator, measure_weights
from .population import Population
from .result import PopulationResult

Score = Callable[[nn.Module], float]  # any real number; higher is better


@dataclass(frozen=True, kw_only=True)
class ScoreEvaluator(BaseEvaluator):
    """A function that scores modules, in place of images: no errors, no fine-tuning, no ensembles, no REPAIR."""

    score: Score

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.score, "__name__", "score"))

    def check_modules(self) -> None:
        """Raise RecipeError where there is no module to score: nobody registered it, or its activation is missing."""
        zoo = self.states.zoo
        zoo.architecture.check_activation(read_network(zoo).activation)

    def iterate_scores(self, weights: Tensor, name: str) -> Iterator[float]:
        """Yield the score of every model (n, P) of a population with this name.

        Raises:
            PluginError: the function fails.
            ArgumentError: the function returns no finite number.
        """
        zoo, network = self.states.zoo, read_network(self.states.zoo)
        for number, vector in enumerate(weights):
            module = build_module(zoo.architecture, vector, activation=network.activation)
            try:
                with torch.no_grad():
                    value = float(self.score(module))
            except Exception as error:  # it is code of the user
                raise PluginError(
                    f"the score of model {number} of {name} fails: {type(error).__name__}: {one_line(error)}"
                ) from error
            if not math.isfinite(value):
                raise ArgumentError(
                    f"the score of model {number} of {name} is {value}, expected a finite number; return a low one for "
                    "networks that fail"
                )
            yield value


def score_population(
    population: Population, evaluator: ScoreEvaluator, *, progress: Progress = NO_PROGRESS
) -> PopulationResult:
    """Measure scores, novelty and distances of a population; arguments as for `evaluate_population`."""
    scores = []
    with progress.start(f"scoring {population.name}", len(population.weights)) as task:
        for value in evaluator.iterate_scores(population.weights, population.name):
            scores.append(value)
            task.update()
    return replace(measure_weights(population, evaluator.states), zero_shot=scores)
