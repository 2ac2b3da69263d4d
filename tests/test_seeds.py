"""Random streams: one per purpose, the same everywhere, and none of them global."""

import hashlib
import itertools

import torch

from modelzoo_datasets.seeds import derive_seed, keyed_generator


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
