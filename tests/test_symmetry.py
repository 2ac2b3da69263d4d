"""Symmetries: moved networks are the same functions, and align finds what was moved."""

import pytest
import torch
from torch import Tensor, nn

from modelzoo_datasets.architectures import (
    architecture_names,
    get_architecture,
    initialise,
    module_from_vector,
)
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.layout import Layout
from modelzoo_datasets.recipes import ACTIVATIONS
from modelzoo_datasets.seeds import generator
from modelzoo_datasets.symmetry import (
    Move,
    Symmetry,
    align,
    apply_moves,
    chain_symmetry,
    permute,
    random_permutations,
)

every_architecture = pytest.mark.parametrize("name", architecture_names())


def population(name: str, n: int) -> Tensor:
    """N models with random weights and random biases."""
    module = get_architecture(name).module("tanh")
    layout = get_architecture(name).layout
    rows = []
    for seed in range(n):
        initialise(module, "kaiming_normal", generator(seed, "init"))
        rows.append(layout.pack(module.state_dict()))
    noise = torch.randn(n, layout.size, generator=generator(0, "noise"))
    return torch.stack(rows) + 0.1 * noise


def outputs(name: str, weights: Tensor, activation: str) -> Tensor:
    """Logits of every model on the same images, in float64 so that only real differences show."""
    x = torch.randn(16, *get_architecture(name).input_shape, generator=generator(0, "images"))
    with torch.no_grad():
        return torch.stack(
            [module_from_vector(get_architecture(name), w, activation=activation).double()(x.double()) for w in weights]
        )


def random_signs(symmetry: Symmetry, n: int, *, of_signed_groups: bool) -> list[Move]:
    """Keep every unit in place; negate about half of the units of the groups chosen."""
    draws = generator(5, "signs")
    moves = []
    for group in symmetry:
        sign = torch.randint(2, (n, group.units), generator=draws) * 2.0 - 1
        if group.signed != of_signed_groups:
            sign = torch.ones_like(sign)
        moves.append(Move(torch.arange(group.units).repeat(n, 1), sign))
    return moves


@every_architecture
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_permuted_network_is_the_same_function(name: str, activation: str) -> None:
    weights, symmetry = population(name, 3), get_architecture(name).symmetry
    permuted = permute(weights, symmetry, random_permutations(symmetry, 3, generator(1, "p")))
    assert (permuted != weights).float().mean() > 0.5
    before = outputs(name, weights, activation)
    torch.testing.assert_close(outputs(name, permuted, activation), before, rtol=1e-10, atol=1e-10)


@every_architecture
def test_negated_units_are_the_same_function_with_tanh(name: str) -> None:
    weights, symmetry = population(name, 3), get_architecture(name).symmetry
    moved = apply_moves(weights, symmetry, random_signs(symmetry, 3, of_signed_groups=True))
    assert (moved != weights).any()
    before = outputs(name, weights, "tanh")
    torch.testing.assert_close(outputs(name, moved, "tanh"), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "gelu"])
def test_negated_units_are_another_function_where_the_activation_is_not_odd(
    activation: str,
) -> None:
    weights, symmetry = population("cnn-s", 3), get_architecture("cnn-s").symmetry
    moved = apply_moves(weights, symmetry, random_signs(symmetry, 3, of_signed_groups=True))
    change = (outputs("cnn-s", moved, activation) - outputs("cnn-s", weights, activation)).abs()
    assert (change.flatten(1).max(dim=1).values > 1e-3).all()


def test_units_before_max_pooling_cannot_be_negated_even_with_tanh() -> None:
    weights, symmetry = population("cnn-s", 3), get_architecture("cnn-s").symmetry
    assert [group.signed for group in symmetry] == [False, False, True, True]
    moved = apply_moves(weights, symmetry, random_signs(symmetry, 3, of_signed_groups=False))
    change = (outputs("cnn-s", moved, "tanh") - outputs("cnn-s", weights, "tanh")).abs()
    assert (change.flatten(1).max(dim=1).values > 1e-3).all()


def test_permuting_equals_a_loop_over_units() -> None:
    layout, symmetry = get_architecture("cnn-s").layout, get_architecture("cnn-s").symmetry
    weights = population("cnn-s", 4)
    orders = random_permutations(symmetry, 4, generator(3, "p"))
    fast = permute(weights, symmetry, orders)
    for n in range(4):
        before = {key: t.clone() for key, t in layout.unpack(weights[n]).items()}
        names = [key.removesuffix(".weight") for key in before if key.endswith(".weight")]
        for here, following, order in zip(names[:-1], names[1:], orders, strict=True):
            w, b = before[f"{here}.weight"].clone(), before[f"{here}.bias"].clone()
            v = before[f"{following}.weight"].clone()
            inputs = v.shape[1] // len(b)  # more than one only behind the flatten
            for j, old in enumerate(order[n].tolist()):
                before[f"{here}.weight"][j] = w[old]
                before[f"{here}.bias"][j] = b[old]
                for k in range(inputs):
                    before[f"{following}.weight"][:, j * inputs + k] = v[:, old * inputs + k]
        assert torch.equal(fast[n], layout.pack(before))


@every_architecture
def test_the_inverse_permutation_undoes_a_permutation_to_the_bit(name: str) -> None:
    weights, symmetry = population(name, 5), get_architecture(name).symmetry
    orders = random_permutations(symmetry, 5, generator(4, "p"))
    back = [order.argsort(dim=1) for order in orders]
    assert torch.equal(permute(permute(weights, symmetry, orders), symmetry, back), weights)


def test_permuting_leaves_its_input_alone() -> None:
    weights, symmetry = population("cnn-s", 2), get_architecture("cnn-s").symmetry
    before = weights.clone()
    permute(weights, symmetry, random_permutations(symmetry, 2, generator(4, "p")))
    align(weights, weights[0], symmetry, signs=True)
    assert torch.equal(weights, before)


def test_random_permutations_are_permutations_and_reach_every_order() -> None:
    symmetry = get_architecture("cnn-s").symmetry
    orders = random_permutations(symmetry, 2000, generator(0, "p"))
    for group, order in zip(symmetry, orders, strict=True):
        assert torch.equal(order.sort(dim=1).values, torch.arange(group.units).repeat(2000, 1))
    of_four = [tuple(row) for row in orders[2].tolist()]
    counts = torch.tensor([of_four.count(order) for order in sorted(set(of_four))]).double()
    assert len(counts) == 24
    chi2 = ((counts - 2000 / 24) ** 2 / (2000 / 24)).sum()
    assert chi2 < 23 + 6 * (2 * 23) ** 0.5  # mean and six standard deviations of chi² with 23 degrees


@every_architecture
@pytest.mark.parametrize("signs", [False, True])
def test_align_recovers_planted_moves_exactly(name: str, signs: bool) -> None:
    symmetry, n = get_architecture(name).symmetry, 10
    reference = population(name, 1)
    moved = permute(reference.repeat(n, 1), symmetry, random_permutations(symmetry, n, generator(6, "p")))
    if signs:
        moved = apply_moves(moved, symmetry, random_signs(symmetry, n, of_signed_groups=True))
    moves = align(moved, reference[0], symmetry, signs=signs)
    assert torch.equal(apply_moves(moved, symmetry, moves), reference.repeat(n, 1))


def test_align_recovers_permutations_through_noise() -> None:
    symmetry, n = get_architecture("cnn-s").symmetry, 5
    reference = population("cnn-s", 1)
    noisy = reference + 0.02 * torch.randn(n, 2464, generator=generator(8, "noise"))
    orders = random_permutations(symmetry, n, generator(7, "p"))
    moves = align(permute(noisy, symmetry, orders), reference[0], symmetry)
    for move, order in zip(moves, orders, strict=True):
        assert torch.equal(move.order, order.argsort(dim=1))


def test_align_brings_strangers_closer_in_the_scale_it_was_given_and_keeps_their_functions() -> None:
    symmetry, weights = get_architecture("cnn-s").symmetry, population("cnn-s", 4)
    scale = torch.rand(2464, generator=generator(1, "scale")) + 0.5
    aligned = apply_moves(weights, symmetry, align(weights, weights[0], symmetry, scale=scale, signs=True))

    def distance(w: Tensor) -> Tensor:
        return (((w - weights[0]) / scale) ** 2).sum(dim=1)

    assert torch.equal(aligned[0], weights[0])
    assert (distance(aligned)[1:] < distance(weights)[1:]).all()
    before = outputs("cnn-s", weights, "tanh")
    torch.testing.assert_close(outputs("cnn-s", aligned, "tanh"), before, rtol=1e-10, atol=1e-10)


def test_without_signs_no_unit_is_negated() -> None:
    symmetry, weights = get_architecture("cnn-s").symmetry, population("cnn-s", 3)
    assert all((move.sign == 1).all() for move in align(weights, -weights[0], symmetry))


def test_layers_that_do_not_fit_together_are_refused() -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
    with pytest.raises(FormatError) as caught:
        chain_symmetry(layout, pooled=(False,))
    assert str(caught.value) == "1.weight of shape (2, 5) does not take 4 units"
