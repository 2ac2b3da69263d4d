"""The losses against slow loops that are obviously right."""

import math

import pytest
import torch
from torch import Tensor

from hyperrep.trainer.losses import contrastive_loss, reconstruction_loss
from modelzoo_datasets.architectures import cnn_s
from modelzoo_datasets.seeds import keyed_generator

LAYOUT = cnn_s.layout


def drawn(purpose: str, *shape: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=keyed_generator(0, purpose))


def scale_of(deviations: list[float]) -> Tensor:
    """(P,): the deviation of every weight's layer."""
    scale = torch.empty(LAYOUT.size)
    for layer, deviation in zip(LAYOUT.layers, deviations, strict=True):
        assert layer.bias is not None
        scale[layer.weight.start : layer.bias.stop] = deviation
    return scale


def test_the_layer_wise_loss_is_a_loop_over_layers_models_and_weights() -> None:
    decoded, target = drawn("decoded", 3, LAYOUT.size), drawn("target", 3, LAYOUT.size)
    deviations = [0.1, 0.5, 2.0, 1.0, 0.3]
    total, count = 0.0, 0
    for layer, deviation in zip(LAYOUT.layers, deviations, strict=True):
        assert layer.bias is not None
        for model in range(3):
            for slot in (layer.weight, layer.bias):
                pairs = zip(
                    decoded[model, slot.start : slot.stop].tolist(),
                    target[model, slot.start : slot.stop].tolist(),
                    strict=True,
                )
                for found, wanted in pairs:
                    total += ((found - wanted) / deviation) ** 2
                    count += 1
    loss = reconstruction_loss(decoded, target, scale_of(deviations))
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


def test_with_a_scale_of_one_it_is_the_mean_squared_error() -> None:
    decoded, target = drawn("decoded", 3, 50), drawn("target", 3, 50)
    expected = torch.nn.functional.mse_loss(decoded, target)
    torch.testing.assert_close(reconstruction_loss(decoded, target, torch.ones(50)), expected)


def test_equal_errors_in_layer_units_count_equally_per_weight_in_every_layer() -> None:
    deviations = [0.1, 0.5, 2.0, 1.0, 0.3]
    scale = scale_of(deviations)
    target = drawn("target", 4, LAYOUT.size)
    for layer in LAYOUT.layers:
        assert layer.bias is not None
        block = slice(layer.weight.start, layer.bias.stop)
        decoded = target.clone()
        decoded[:, block] += 0.7 * scale[block]
        share = (block.stop - block.start) / LAYOUT.size
        loss = float(reconstruction_loss(decoded, target, scale))
        assert loss == pytest.approx(0.49 * share, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_is_a_double_loop_over_the_views(temperature: float) -> None:
    first, second = drawn("first", 5, 7), drawn("second", 5, 7)
    views = [row / row.norm() for row in (*first.double(), *second.double())]
    total = 0.0
    for i, view in enumerate(views):
        partner = i + 5 if i < 5 else i - 5
        similar = {k: float(view @ views[k]) / temperature for k in range(10) if k != i}
        total -= math.log(math.exp(similar[partner]) / sum(math.exp(value) for value in similar.values()))
    found = float(contrastive_loss(first, second, temperature))
    assert found == pytest.approx(total / 10, rel=1e-5)


def test_contrast_depends_on_directions_alone_and_on_who_is_whose_partner() -> None:
    first, second = drawn("first", 5, 7), drawn("second", 5, 7)
    loss = contrastive_loss(first, second, 0.1)
    torch.testing.assert_close(contrastive_loss(3 * first, 0.2 * second, 0.1), loss)
    torch.testing.assert_close(contrastive_loss(second, first, 0.1), loss)
    assert not torch.isclose(contrastive_loss(first, second.roll(1, 0), 0.1), loss)


def test_contrast_vanishes_where_partners_agree_and_all_others_are_apart() -> None:
    axes = torch.eye(4)
    assert float(contrastive_loss(axes, axes, 0.01)) < 1e-6
    apart = torch.zeros(4, 1) + 1.0  # all views equal: each of the 7 others is as likely
    assert float(contrastive_loss(apart, apart, 0.1)) == pytest.approx(math.log(7), rel=1e-5)
