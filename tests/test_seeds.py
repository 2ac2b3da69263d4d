"""Random streams: one per purpose, the same everywhere, and none of them global."""

import hashlib
import itertools

import pytest
import torch

from modelzoo_datasets.architectures import cnn_s, initialize_weights
from modelzoo_datasets.errors import ArgumentError
from modelzoo_datasets.seeds import derive_seed, keyed_generator
from modelzoo_datasets.weights import sample_permutations


def test_a_stream_depends_on_its_seed_and_purpose_alone() -> None:
    first, again = (torch.rand(100, generator=keyed_generator(7, "order", 3)) for _ in range(2))
    assert torch.equal(first, again)


def test_streams_of_other_seeds_or_purposes_are_others() -> None:
    keys = [(seed, what, epoch) for seed, what, epoch in itertools.product(range(10), ("order", "dropout"), range(10))]
    draws = {tuple(torch.rand(4, generator=keyed_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_a_derived_seed_is_the_first_63_bits_of_the_sha256_of_its_key() -> None:
    digest = hashlib.sha256(b"7/order/3").digest()
    bits = sum(byte << (8 * place) for place, byte in enumerate(digest[:8]))
    assert derive_seed(7, "order", 3) == bits // 2


def test_derived_seeds_fit_into_63_bits_and_use_them_all() -> None:
    used = 0
    for seed in range(200):
        value = derive_seed(seed, "x")
        assert 0 <= value < 2**63
        used |= value
    assert used == 2**63 - 1


def test_neighbouring_seeds_give_unrelated_numbers() -> None:
    draws = torch.stack([torch.randn(1000, generator=keyed_generator(s, "init")) for s in range(20)])
    correlation = torch.corrcoef(draws) - torch.eye(20)
    assert correlation.abs().max() < 6 / 1000**0.5  # six standard deviations


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    torch.rand(10, generator=keyed_generator(1, "init"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_stands_for_the_generator_of_its_purpose() -> None:
    module = torch.nn.Linear(4, 3)
    initialize_weights(module, "kaiming_uniform", keyed_generator(3, "init"))
    expected = module.weight.detach().clone()
    initialize_weights(module, "kaiming_uniform", seed=3)
    assert module.weight.equal(expected)
    seeded = sample_permutations(cnn_s.symmetry, 2, seed=3)
    drawn_by_hand = sample_permutations(cnn_s.symmetry, 2, keyed_generator(3, "permutations"))
    assert all(a.equal(b) for a, b in zip(seeded, drawn_by_hand, strict=True))
    with pytest.raises(ArgumentError, match="^pass generator or seed, not both; got a generator and seed 3$"):
        sample_permutations(cnn_s.symmetry, 2, keyed_generator(3, "permutations"), seed=3)
