"""Symmetries: moved networks are the same functions, and align finds what was moved."""

import itertools

import pytest
import torch
from helpers.networks import ALL, SMALL, random_states
from torch import Tensor, nn

from modelzoo_datasets.architectures import build_module, get_architecture
from modelzoo_datasets.errors import FormatError
from modelzoo_datasets.recipes import ACTIVATIONS
from modelzoo_datasets.seeds import keyed_generator
from modelzoo_datasets.weights.layout import Layout
from modelzoo_datasets.weights.symmetry import (
    Symmetry,
    UnitPermutation,
    align_weights,
    apply_permutations,
    chain_symmetry,
    no_symmetry,
    permute_units,
    sample_permutations,
    unit_group,
)

every_architecture = pytest.mark.parametrize("name", ALL)
every_small_one = pytest.mark.parametrize("name", SMALL)  # without those of 11 million weights


def outputs(name: str, weights: Tensor, activation: str) -> Tensor:
    """Logits of every model on the same images, in float64 so that only real differences show."""
    n = 4 if name in SMALL else 1
    x = torch.randn(n, *get_architecture(name).input_shape, generator=keyed_generator(0, "images"))
    with torch.no_grad():
        return torch.stack(
            [build_module(get_architecture(name), w, activation=activation).double()(x.double()) for w in weights]
        )


def random_signs(symmetry: Symmetry, n: int, *, of_signed_groups: bool) -> list[UnitPermutation]:
    """Keep every unit in place; negate about half of the units of the groups chosen."""
    draws = keyed_generator(5, "signs")
    moves = []
    for group in symmetry:
        sign = torch.randint(2, (n, group.units), generator=draws) * 2.0 - 1
        if group.signed != of_signed_groups:
            sign = torch.ones_like(sign)
        moves.append(UnitPermutation(torch.arange(group.units).repeat(n, 1), sign))
    return moves


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        *itertools.product(SMALL, ACTIVATIONS),
        ("resnet18", "relu"),
        pytest.param("resnet18-100", "relu", marks=pytest.mark.slow),
        pytest.param("resnet18-200", "relu", marks=pytest.mark.slow),
    ],
)
def test_a_permuted_network_is_the_same_function(name: str, activation: str) -> None:
    n = 3 if name in SMALL else 1
    weights, symmetry = random_states(name, n), get_architecture(name).symmetry
    permuted = permute_units(weights, symmetry, sample_permutations(symmetry, n, keyed_generator(1, "p")))
    assert (permuted != weights).float().mean() > 0.5
    before = outputs(name, weights, activation)
    torch.testing.assert_close(outputs(name, permuted, activation), before, rtol=1e-10, atol=1e-10)


@every_small_one
def test_every_group_of_units_moves_weights(name: str) -> None:
    symmetry = get_architecture(name).symmetry
    size = max(place.start + place.before * place.units * place.after for group in symmetry for place in group.axes)
    for group in symmetry:
        numbers = torch.arange(size).unsqueeze(0)
        moved = permute_units(numbers, (group,), [torch.arange(group.units).roll(1).unsqueeze(0)])
        places = sum(place.before * place.units * place.after for place in group.axes)
        assert (moved != numbers).sum() == places  # all that the group says, each number once


@every_architecture
def test_all_units_but_the_outputs_are_in_a_group(name: str) -> None:
    layout, symmetry = get_architecture(name).layout, get_architecture(name).symmetry
    starts = [place.start for group in symmetry for place in group.axes if place.before == 1]
    outputs = [layer for layer in layout.layers if layer.weight.start not in starts]
    assert [layer.units for layer in outputs] == [get_architecture(name).classes]
    assert len(starts) == len(set(starts))  # and in one only
    moving = sum(len(layer.slots) for layer in layout.layers) - len(outputs[0].slots)
    assert len(starts) == moving  # with everything that goes with a unit


@every_small_one
def test_negated_units_are_the_same_function_with_tanh(name: str) -> None:
    weights, symmetry = random_states(name, 3), get_architecture(name).symmetry
    moved = apply_permutations(weights, symmetry, random_signs(symmetry, 3, of_signed_groups=True))
    assert (moved != weights).any()
    before = outputs(name, weights, "tanh")
    torch.testing.assert_close(outputs(name, moved, "tanh"), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in ALL if name not in SMALL])
def test_no_unit_of_a_resnet_can_be_negated(name: str) -> None:
    assert not any(group.signed for group in get_architecture(name).symmetry)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "gelu"])
def test_negated_units_are_another_function_where_the_activation_is_not_odd(
    activation: str,
) -> None:
    weights, symmetry = random_states("cnn-s", 3), get_architecture("cnn-s").symmetry
    moved = apply_permutations(weights, symmetry, random_signs(symmetry, 3, of_signed_groups=True))
    change = (outputs("cnn-s", moved, activation) - outputs("cnn-s", weights, activation)).abs()
    assert (change.flatten(1).max(dim=1).values > 1e-3).all()


@every_small_one
def test_units_before_max_pooling_cannot_be_negated_even_with_tanh(name: str) -> None:
    weights, symmetry = random_states(name, 3), get_architecture(name).symmetry
    for group in symmetry:
        if not group.signed:
            move = UnitPermutation(torch.arange(group.units).repeat(3, 1), -torch.ones(3, group.units))
            moved = apply_permutations(weights, (group,), [move])
            change = (outputs(name, moved, "tanh") - outputs(name, weights, "tanh")).abs()
            assert (change.flatten(1).max(dim=1).values > 1e-3).all()


@pytest.mark.parametrize(
    ("name", "signed"),
    [
        ("cnn-s", [False, False, True, True]),
        ("cnn-s-rgb", [False, False, True, True]),
        ("cnn-m", [False, False, False, True]),
        ("res-cnn", [False, False, True, True]),
        ("cnn-more-layers", [False, True, True, True, True]),
        ("cnn-more-layers-residual", [False, True, True, True]),
        ("cnn-residual", [False, False, True, True]),
    ],
)
def test_groups_are_signed_where_no_pooling_follows(name: str, signed: list[bool]) -> None:
    assert [group.signed for group in get_architecture(name).symmetry] == signed


def test_a_residual_stream_is_one_group_of_all_its_layers() -> None:
    layout, symmetry = get_architecture("resnet18").layout, get_architecture("resnet18").symmetry
    assert [group.units for group in symmetry] == [64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512]
    at = {slot.start: slot.name for slot in layout.slots}
    stream = [at[place.start] for place in symmetry[3].axes]
    expected = []
    for conv, norm in (("0.downsample.0", "0.downsample.1"), ("0.conv2", "0.bn2"), ("1.conv2", "1.bn2")):
        kinds = ("weight", "bias", "running_mean", "running_var")
        expected += [f"layer2.{conv}.weight", *(f"layer2.{norm}.{kind}" for kind in kinds)]
    expected += [f"{name}.weight" for name in ("layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0")]
    assert stream == expected


def test_permuting_equals_a_loop_over_units() -> None:
    layout, symmetry = get_architecture("cnn-s").layout, get_architecture("cnn-s").symmetry
    weights = random_states("cnn-s", 4)
    orders = sample_permutations(symmetry, 4, keyed_generator(3, "p"))
    fast = permute_units(weights, symmetry, orders)
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


@every_small_one
def test_the_inverse_permutation_undoes_a_permutation_to_the_bit(name: str) -> None:
    weights, symmetry = random_states(name, 5), get_architecture(name).symmetry
    orders = sample_permutations(symmetry, 5, keyed_generator(4, "p"))
    back = [order.argsort(dim=1) for order in orders]
    assert torch.equal(permute_units(permute_units(weights, symmetry, orders), symmetry, back), weights)


def test_permuting_leaves_its_input_alone() -> None:
    weights, symmetry = random_states("cnn-s", 2), get_architecture("cnn-s").symmetry
    before = weights.clone()
    permute_units(weights, symmetry, sample_permutations(symmetry, 2, keyed_generator(4, "p")))
    align_weights(weights, weights[0], symmetry, signs=True)
    assert torch.equal(weights, before)


def test_random_permutations_are_permutations_and_reach_every_order() -> None:
    symmetry = get_architecture("cnn-s").symmetry
    orders = sample_permutations(symmetry, 2000, keyed_generator(0, "p"))
    for group, order in zip(symmetry, orders, strict=True):
        assert torch.equal(order.sort(dim=1).values, torch.arange(group.units).repeat(2000, 1))
    of_four = [tuple(row) for row in orders[2].tolist()]
    counts = torch.tensor([of_four.count(order) for order in sorted(set(of_four))]).double()
    assert len(counts) == 24
    chi2 = ((counts - 2000 / 24) ** 2 / (2000 / 24)).sum()
    assert chi2 < 23 + 6 * (2 * 23) ** 0.5  # mean and six standard deviations of chi² with 23 degrees


@every_small_one
@pytest.mark.parametrize("signs", [False, True])
def test_align_recovers_planted_moves_exactly(name: str, signs: bool) -> None:
    symmetry, n = get_architecture(name).symmetry, 10
    reference = random_states(name, 1)
    moved = permute_units(reference.repeat(n, 1), symmetry, sample_permutations(symmetry, n, keyed_generator(6, "p")))
    if signs:
        moved = apply_permutations(moved, symmetry, random_signs(symmetry, n, of_signed_groups=True))
    moves = align_weights(moved, reference[0], symmetry, signs=signs)
    assert torch.equal(apply_permutations(moved, symmetry, moves), reference.repeat(n, 1))


def test_align_recovers_permutations_through_noise() -> None:
    symmetry, n = get_architecture("cnn-s").symmetry, 5
    reference = random_states("cnn-s", 1)
    noisy = reference + 0.02 * torch.randn(n, 2464, generator=keyed_generator(8, "noise"))
    orders = sample_permutations(symmetry, n, keyed_generator(7, "p"))
    moves = align_weights(permute_units(noisy, symmetry, orders), reference[0], symmetry)
    for move, order in zip(moves, orders, strict=True):
        assert torch.equal(move.order, order.argsort(dim=1))


def test_align_brings_strangers_closer_in_the_scale_it_was_given_and_keeps_their_functions() -> None:
    symmetry, weights = get_architecture("cnn-s").symmetry, random_states("cnn-s", 4)
    scale = torch.rand(2464, generator=keyed_generator(1, "scale")) + 0.5
    aligned = apply_permutations(
        weights, symmetry, align_weights(weights, weights[0], symmetry, scale=scale, signs=True)
    )

    def distance(w: Tensor) -> Tensor:
        return (((w - weights[0]) / scale) ** 2).sum(dim=1)

    assert torch.equal(aligned[0], weights[0])
    assert (distance(aligned)[1:] < distance(weights)[1:]).all()
    before = outputs("cnn-s", weights, "tanh")
    torch.testing.assert_close(outputs("cnn-s", aligned, "tanh"), before, rtol=1e-10, atol=1e-10)


def test_without_signs_no_unit_is_negated() -> None:
    symmetry, weights = get_architecture("cnn-s").symmetry, random_states("cnn-s", 3)
    assert all((move.sign == 1).all() for move in align_weights(weights, -weights[0], symmetry))


def test_layers_that_do_not_fit_together_are_refused() -> None:
    layout = Layout.from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
    with pytest.raises(FormatError) as caught:
        chain_symmetry(layout, pooled=(False,))
    assert str(caught.value) == "1.weight of shape (2, 5) does not take 4 units"


def test_makers_of_one_stream_must_have_as_many_units() -> None:
    first, second, third = Layout.from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2), nn.Linear(4, 2))).layers
    with pytest.raises(FormatError) as caught:
        unit_group([first, second], [third])
    assert str(caught.value) == "1.weight of shape (2, 3) does not give 4 units"


def test_a_normalised_layer_is_never_signed() -> None:
    layout = Layout.from_module(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5), nn.Linear(5, 2)))
    assert [group.signed for group in chain_symmetry(layout, pooled=(False, False))] == [False, True]
    assert [len(group.axes) for group in chain_symmetry(layout, pooled=(False, False))] == [7, 3]


def test_without_symmetry_nothing_moves() -> None:
    weights = random_states("cnn-s", 2)
    symmetry = no_symmetry(get_architecture("cnn-s").layout)
    assert torch.equal(
        permute_units(weights, symmetry, sample_permutations(symmetry, 2, keyed_generator(0, "p"))), weights
    )
    assert align_weights(weights, weights[0], symmetry) == []


@pytest.mark.slow
def test_align_recovers_planted_permutations_of_a_resnet_exactly() -> None:
    symmetry, reference = get_architecture("resnet18").symmetry, random_states("resnet18", 1)
    moved = permute_units(reference, symmetry, sample_permutations(symmetry, 1, keyed_generator(6, "p")))
    assert torch.equal(apply_permutations(moved, symmetry, align_weights(moved, reference[0], symmetry)), reference)
