"""Augmentation: permuted views are the same function, noise and erasure are what they say, nothing is written into."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyperrep.trainer.losses import add_noise, erase_blocks, mix_pairs, permute_randomly
from modelzoo_datasets.architectures import build_module, cnn_s
from modelzoo_datasets.seeds import keyed_generator

SIZE = cnn_s.layout.size
AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "permuted": lambda w, draws: permute_randomly(w, cnn_s.symmetry, draws),
    "mixed": lambda w, draws: mix_pairs(w, 0.5, draws),
    "noisy": lambda w, draws: add_noise(w, 0.1, draws),
    "erased": lambda w, draws: erase_blocks(w, 1.0, draws),
}


def models(n: int = 6) -> Tensor:
    """Random networks (n, P)."""
    return 0.3 * torch.randn(n, SIZE, generator=keyed_generator(0, "models"))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_permuted_view_is_the_same_function(activation: str) -> None:
    weights = models()
    views = permute_randomly(weights, cnn_s.symmetry, keyed_generator(0, "views"))
    inputs = torch.randn(5, 1, 28, 28, generator=keyed_generator(0, "inputs"))
    for model, view in zip(weights, views, strict=True):
        assert not torch.equal(model, view)
        assert torch.equal(model.sort().values, view.sort().values)
        runs = [build_module(cnn_s, w, activation=activation)(inputs) for w in (model, view)]
        torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-5)


def test_every_model_of_a_batch_has_an_order_of_its_own() -> None:
    views = permute_randomly(models(1).repeat(6, 1), cnn_s.symmetry, keyed_generator(0, "views"))
    assert len(views.unique(dim=0)) == 6


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_views_are_fresh_every_draw_and_repeat_with_their_generator(name: str) -> None:
    augment, weights = AUGMENTATIONS[name], models()
    draws = keyed_generator(0, "views")
    first, second = augment(weights, draws), augment(weights, draws)
    assert not torch.equal(first, second)
    assert torch.equal(augment(weights, keyed_generator(0, "views")), first)
    assert not torch.equal(augment(weights, keyed_generator(1, "views")), first)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_inputs_stay_as_they_were(name: str) -> None:
    weights = models()
    before = weights.clone()
    view = AUGMENTATIONS[name](weights, keyed_generator(0, "views"))
    assert not torch.equal(view, before)
    assert torch.equal(weights, before)


def test_noise_is_normal_with_the_deviation_asked_for() -> None:
    x = models(40)
    added = (add_noise(x, 0.25, keyed_generator(0, "noise")) - x).double()
    assert abs(float(added.mean())) < 4 * 0.25 / added.numel() ** 0.5
    assert abs(float(added.std()) / 0.25 - 1) < 0.01
    inside = float((added.abs() < 0.25).double().mean())
    assert abs(inside - 0.6827) < 0.01


def test_no_noise_no_erasure_and_no_mixing_give_back_the_input() -> None:
    x, draws = models(), keyed_generator(0, "none")
    assert torch.equal(add_noise(x, 0.0, draws), x)
    assert torch.equal(erase_blocks(x, 0.0, draws), x)
    assert torch.equal(mix_pairs(x, 0.0, draws), x)


def test_what_is_erased_is_one_block_of_2_to_33_per_cent() -> None:
    x = torch.ones(2000, 1000)
    view = erase_blocks(x, 1.0, keyed_generator(0, "blocks"))
    lengths = []
    for row in view:
        gone = (row == 0).nonzero().squeeze(1)
        lengths.append(len(gone))
        assert torch.equal(gone, torch.arange(int(gone[0]), int(gone[0]) + len(gone)))
    assert 20 <= min(lengths) < 30  # shares are uniform: 2000 draws come near both ends
    assert 320 < max(lengths) <= 330
    assert abs(sum(lengths) / len(lengths) - 175) < 6


def test_every_place_can_be_erased_and_no_block_leaves_the_row() -> None:
    view = erase_blocks(torch.ones(4000, 100), 1.0, keyed_generator(0, "blocks"))
    share = (view == 0).float().mean(dim=0)
    assert float(share[50]) > 0.1
    for end in (share[0], share[-1]):  # only one of about 83 places that a block can have reaches an end
        assert float(end) == pytest.approx(1 / 83, rel=0.5)


def test_a_row_is_erased_with_the_probability_asked_for() -> None:
    view = erase_blocks(torch.ones(4000, 200), 0.3, keyed_generator(0, "blocks"))
    assert abs(float((view == 0).any(dim=1).float().mean()) - 0.3) < 4 * (0.21 / 4000) ** 0.5


def test_what_is_not_erased_stays_to_the_bit() -> None:
    x = models()
    view = erase_blocks(x, 1.0, keyed_generator(0, "blocks"))
    assert torch.equal(view[view != 0], x[view != 0])


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_mixed_models_lie_on_the_way_to_another_model_of_the_batch(share: float) -> None:
    weights = models(20).double()
    mixed = mix_pairs(weights, share, keyed_generator(0, "mix"))
    moved = 0
    for i, result in enumerate(mixed):
        shares = []  # how far towards which partner, for partners that explain the result
        for partner in weights:
            way = partner - weights[i]
            part = float((result - weights[i]) @ way / (way @ way).clamp_min(1e-12))
            if torch.allclose(weights[i] + part * way, result, atol=1e-6):
                shares.append(part)
        assert shares, f"model {i} lies on no segment"
        assert any(-1e-6 <= part <= share + 1e-6 for part in shares)
        moved += int(not torch.equal(result, weights[i]))
    assert moved >= 15  # at most a few are their own partner
