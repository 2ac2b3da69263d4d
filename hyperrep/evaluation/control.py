"""Control test of targeted samplers: does a property of the samples follow what was asked for, at a fixed epoch?

n requests, L training states of the last epoch.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modelzoo_datasets.errors import ArgumentError, unknown
from modelzoo_datasets.seeds import keyed_generator

from ..model import HyperRepresentation, draw_embeddings
from .metrics import Evaluator
from .populations import RETRIEVAL
from .result import Control, ControlResult

TARGETED = "normal near the target"
_ACCURACY, _LOSS, _RECALL, _SPARSITY = "test_acc", "test_loss", "test_recall_", "sparsity"
_RANGE = (0.05, 0.95)  # quantiles of the members, between which requests are spread
_NUM_NEAREST = 8  # states that a targeted draw is made from
_LEVEL = 0.975  # two-sided intervals of 95 %
_log = logging.getLogger(__name__)


def measure_control(requests: Sequence[float], measured: Sequence[float]) -> ControlResult:
    """Fit a line through measured against asked values; a sampler in full control has slope 1, R² 1 and bias 0.

    Requests or measurements that are not finite are left out.

    Args:
        requests: the values that were asked for (n,).
        measured: the values of the samples (n,).

    Returns:
        Slope with its t-interval, R² (the squared correlation) with its interval by Fisher's z, and the mean error.

    Raises:
        ArgumentError: the lengths differ, or fewer than four requests, or only equal ones, are left.
    """
    from scipy import stats  # here, so that only a control test imports scipy

    x, y = np.asarray(requests, dtype=float), np.asarray(measured, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ArgumentError(f"expected one measured value per request, got {x.shape} requests and {y.shape} values")
    is_finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[is_finite], y[is_finite]
    if len(x) < 4 or x.min() == x.max():
        raise ArgumentError(
            f"a control test needs at least 4 requests with finite results, not all equal; got {len(x)}"
        )
    line = stats.linregress(x, y)
    margin = float(stats.t.ppf(_LEVEL, len(x) - 2) * line.stderr)
    center = np.arctanh(np.clip(line.rvalue, -1 + 1e-12, 1 - 1e-12))
    ends = np.tanh(center + np.array([-1, 1]) * stats.norm.ppf(_LEVEL) / (len(x) - 3) ** 0.5)
    return ControlResult(
        requests=x.tolist(),
        measured=y.tolist(),
        slope=float(line.slope),
        slope_low=float(line.slope - margin),
        slope_high=float(line.slope + margin),
        r2=float(line.rvalue**2),
        r2_low=float(min(ends**2)) if ends[0] * ends[1] > 0 else 0.0,
        r2_high=float(max(ends**2)),
        bias=float((y - x).mean()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlTest:
    """The training states of the last epoch: the range of requests, and what targeted draws are made from.

    States are chosen by properties on the validation images, or on the training images where there are none. Members
    and samples are measured on the test images, which choose nothing.
    """

    evaluator: Evaluator

    @cached_property
    def conditions(self) -> dict[str, Tensor]:
        """Property -> values (L,) by which states are chosen."""
        images = self.evaluator.images
        split = "validation" if "validation" in images.splits and len(images.labels("validation")) else "train"
        return self._measure_states(split)

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        """Property -> values (L,) on the test images."""
        return self._measure_states("test")

    def _measure_states(self, split: str) -> dict[str, Tensor]:
        states = self.evaluator.states
        return measure_properties(states.weights[states.last], self.evaluator, split)

    def spread_requests(self, n: int) -> dict[str, Tensor]:
        """Return n requests for accuracy, loss, the recall that differs the most, and sparsity, where members differ.

        Args:
            n: number of requests; they are spread evenly over the 5 to 95 % range of the members.
        """
        requests = {}
        for name, values in self.truth.items():
            low, high = torch.nanquantile(values, torch.tensor(_RANGE, dtype=values.dtype)).tolist()
            if low < high:
                requests[name] = torch.linspace(low, high, n, dtype=values.dtype)
        recalls = [name for name in requests if name.startswith(_RECALL)]
        widest = max(recalls, key=lambda name: float(requests[name][-1] - requests[name][0]), default="")
        return {name: values for name, values in requests.items() if name not in recalls or name == widest}

    def draw_targeted(
        self, rep: HyperRepresentation, name: str, requests: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw, for each request, from the normal distribution of the embeddings of the states nearest to it.

        Args:
            rep: the hyper-representation that learned from the training states.
            name: name of the property.
            requests: the values that are asked for (n,).
            generator: source of all randomness.

        Returns:
            Weights (n, P).
        """
        distance = (self.conditions[name] - requests.unsqueeze(1)).abs()
        nearest = distance.topk(min(_NUM_NEAREST, distance.shape[1]), largest=False).indices
        embeddings = rep.embeddings[self.evaluator.states.last]
        z = [draw_embeddings("normal", embeddings[rows], 1, 0.0, generator) for rows in nearest]
        return rep.decode(torch.cat(z))

    def judge(self, sampler: str, weights: Tensor, table: pd.DataFrame) -> Control:
        """Compare samples with what was asked for, beside retrieval: the training state that is nearest to a request.

        Args:
            sampler: name of the sampler.
            weights: samples (n, P).
            table: a column of requests per property, a row per sample; NaN where a sample has no such request.

        Returns:
            Property -> sampler, and retrieval -> result.

        Raises:
            ArgumentError: a property is unknown, or there is not one row per sample.
        """
        if len(table) != len(weights):
            raise ArgumentError(f"expected a row of requests per sample, got {len(table)} for {len(weights)} samples")
        measured = measure_properties(weights, self.evaluator, "test")
        control: dict[str, dict[str, ControlResult]] = {}
        for name in table.columns:
            if name not in measured:
                raise ArgumentError(unknown("property", name, measured))
            requests = torch.from_numpy(table[name].to_numpy(dtype="float64", copy=True))
            nearest = (self.conditions[name] - requests.unsqueeze(1)).abs().nan_to_num(torch.inf).argmin(dim=1)
            results = {sampler: measured[name], RETRIEVAL: self.truth[name][nearest]}
            control[name] = {
                kind: measure_control(requests.tolist(), values.tolist()) for kind, values in results.items()
            }
        return control


def measure_properties(weights: Tensor, evaluator: Evaluator, split: str) -> dict[str, Tensor]:
    """Return accuracy, loss, the recall of each class, and sparsity of models, (n,) each, under the names of columns.

    Args:
        weights: models (n, P).
        evaluator: runs them.
        split: the images they are run on; the names say test whatever the split.
    """
    networks = [evaluator.network] * len(weights)
    metrics = evaluator.engine.evaluate(evaluator.architecture, evaluator.images, weights, networks, split)
    matrices = [slot.select(weights) == 0 for slot in evaluator.states.zoo.layout.slots if len(slot.shape) > 1]
    return {
        _ACCURACY: metrics.accuracy.double(),
        _LOSS: metrics.loss.double(),
        **{f"{_RECALL}{i}": values.double() for i, values in enumerate(metrics.recall.unbind(1))},
        _SPARSITY: torch.cat(matrices, dim=1).double().mean(dim=1),
    }


def evaluate_control(rep: HyperRepresentation, evaluator: Evaluator) -> Control:
    """Run the control test of the targeted sampler that every hyper-representation has.

    Args:
        rep: the hyper-representation that learned from the training states.
        evaluator: runs the networks, and has the protocol; without `num_control` the test is left out.
    """
    test, recipe = ControlTest(evaluator=evaluator), evaluator.recipe
    control: dict[str, Mapping[str, ControlResult]] = {}
    for name, values in test.spread_requests(recipe.num_control).items() if recipe.num_control else ():
        samples = test.draw_targeted(rep, name, values, keyed_generator(recipe.seed, "control", name))
        try:
            control |= test.judge(TARGETED, samples, pd.DataFrame({name: values.numpy()}))
        except ArgumentError as error:
            _log.warning("the control test leaves out %s: %s", name, error)
    return control
